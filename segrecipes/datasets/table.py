"""Where a dataset keeps its images and masks, and what its labels mean: one row a dataset."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from errors import MissingPathError, UserError, choice

IGNORE_LABEL = 255  # in a mask file: never scored, never trained on; padding is filled with it
SPLITS = ('train', 'val')
IMAGE_SUFFIXES = frozenset({'.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff'})


@dataclass(frozen=True)
class Layout:
    """Folders, file names and labels of a dataset.

    ``folders`` maps a split to the name that replaces ``{split}`` in ``images`` and ``masks``. ``prefix`` is taken
    off a file's stem to give the sample's uid. A mask holds uint8 labels: ``label_offset`` is the label of class 0,
    smaller ones and 255 are ignored. ``excluded`` are uids of the training split that are left out.
    """

    classes: tuple[str, ...]
    root: str = 'ADEChallengeData2016'
    images: str = 'images/{split}'
    masks: str = 'annotations/{split}'
    folders: tuple[tuple[str, str], ...] = (('train', 'training'), ('val', 'validation'))
    prefix: str = r'ADE_(train|val)_'
    label_offset: int = 1
    excluded: frozenset[str] = frozenset()


class Pair(NamedTuple):
    uid: str
    image: Path
    mask: Path


_ADE20K_CLASSES = """
wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth,
door, table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug,
field, armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column,
signboard, chest of drawers, counter, sand, sink, skyscraper, fireplace, refrigerator, grandstand, path,
stairs, runway, case, pool table, pillow, screen door, stairway, river, bridge, bookcase, blind, coffee table,
toilet, flower, book, hill, bench, countertop, stove, palm, kitchen island, computer, swivel chair, boat, bar,
arcade machine, hovel, bus, towel, light, truck, tower, chandelier, awning, streetlight, booth, television
receiver, airplane, dirt track, apparel, pole, land, bannister, escalator, ottoman, bottle, buffet, poster,
stage, van, ship, fountain, conveyer belt, canopy, washer, plaything, swimming pool, stool, barrel, basket,
waterfall, tent, bag, minibike, cradle, oven, ball, food, step, tank, trade name, microwave, pot, animal,
bicycle, lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase, traffic light, tray, ashcan, fan,
pier, crt screen, plate, monitor, bulletin board, shower, radiator, glass, clock, flag
"""

LAYOUTS = {
    'ade20k': Layout(
        classes=tuple(name.strip() for name in _ADE20K_CLASSES.replace('\n', ' ').split(',')),
        # Three grayscale images and a damaged one, which streaming's converter and upstream leave out too.
        excluded=frozenset({'00001701', '00003020', '00008455', '00013508'}),
    ),
    'synthetic': Layout(classes=('sky', 'ground', 'tree', 'house', 'car', 'ball', 'fence', 'sign')),
    'camvid': Layout(
        classes=(
            'sky', 'building', 'pole', 'road', 'pavement', 'tree', 'sign', 'fence', 'car', 'pedestrian', 'bicyclist',
        )
    ),
}  # fmt: skip


def get_layout(name: str) -> Layout:
    if name not in LAYOUTS:
        raise choice('train_dataset.name', name, LAYOUTS)
    return LAYOUTS[name]


def find_pairs(path: str | Path, split: str, layout: Layout, missing: list[str] | None = None) -> list[Pair]:
    """Every image of a split with its mask, sorted by file name.

    ``path`` is the dataset's folder, with or without ``layout.root`` inside it. With ``missing``, images without a mask
    are described in that list and left out.

    Raises:
        MissingPathError: the folder, or the mask of an image, does not exist.
        UserError: the folder holds no image, or two images share a stem.
    """
    images, masks = split_folders(path, split, layout)
    mask_of = {mask.stem: mask for mask in sorted(masks.iterdir()) if mask.suffix.lower() == '.png'}
    pairs: dict[str, Pair] = {}
    for image in sorted(images.iterdir()):
        if image.suffix.lower() not in IMAGE_SUFFIXES or image.name.startswith('.'):
            continue
        uid = re.sub(f'^{layout.prefix}', '', image.stem)
        if split == 'train' and uid in layout.excluded:
            continue
        if image.stem not in mask_of:
            fault = f'image without mask: {image} needs {masks / image.stem}.png'
            if missing is None:
                raise MissingPathError(fault)
            missing.append(fault)
            continue
        if uid in pairs:
            raise UserError(f'two images with one name: {pairs[uid].image} and {image}; rename one of them')
        pairs[uid] = Pair(uid, image, mask_of[image.stem])
    if not pairs:
        raise UserError(f'no image in {images}; expected files ending in {", ".join(sorted(IMAGE_SUFFIXES))}')
    return list(pairs.values())


def split_folders(path: str | Path, split: str, layout: Layout) -> tuple[Path, Path]:
    """The folders of images and of masks of a split; MissingPathError where one does not exist."""
    folders = dict(layout.folders)
    if split not in folders:
        raise choice('split', split, folders)
    path = Path(path).expanduser()
    if not path.is_dir():
        raise MissingPathError(f'dataset folder does not exist: {path}')
    root = path / layout.root if (path / layout.root).is_dir() else path
    found = root / layout.images.format(split=folders[split]), root / layout.masks.format(split=folders[split])
    for folder in found:
        if not folder.is_dir():
            raise MissingPathError(f'dataset folder does not exist: {folder} (looked in {path} for the {split} split)')
    return found


def has_split(path: str | Path, split: str, layout: Layout) -> bool:
    try:
        split_folders(path, split, layout)
    except MissingPathError:
        return False
    return True


def palette(num_colors: int) -> np.ndarray:
    """The PASCAL VOC colour map without its black: (num_colors, 3) uint8, neighbours easily told apart."""
    index = np.arange(1, num_colors + 1, dtype=np.uint8)[:, None]
    colors = np.zeros((num_colors, 3), np.uint8)
    for bit in range(8):  # VOC: bit 3k+c of the label becomes bit 7-k of channel c
        colors[:, bit % 3] |= (((index[:, 0] >> bit) & 1) << (7 - bit // 3)).astype(np.uint8)
    return colors
