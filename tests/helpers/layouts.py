"""Folders of pictures as people lay them out, each with what it is: pairs, labels, classes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

SIDES = (40, 48)  # height, width
Pairs = dict[str, str]  # image → mask, below the folder


@dataclass(frozen=True)
class Layout:
    """
    Args:
        write: lays the pictures out in a folder; the pairs of each split, or of all where none is said.
        labels: those in the masks.
        classes: what each label is: the index of its class, None for ignored.
        names: of the classes.
        more: other fields of the row.
    """

    write: Callable[[Path], dict[str, Pairs]]
    labels: Sequence[int]
    classes: Mapping[int, int | None]
    names: tuple[str, ...]
    more: Mapping[str, object] = field(default_factory=dict)


def draw(folder: Path, image: str, mask: str, stems: Sequence[str], labels: Sequence[int], mode: str = 'L') -> Pairs:
    """Bands, one a label, brighter from one to the next; in another order in each picture. ``{}`` is a stem."""
    pairs = {image.format(stem): mask.format(stem) for stem in stems}
    for number, (image, mask) in enumerate(pairs.items()):
        rng = np.random.default_rng(number)
        bands = np.array_split(np.arange(SIDES[1]), len(labels))
        pixels, indices = np.zeros((*SIDES, 3)), np.zeros(SIDES, np.uint8)
        for band, place in zip(bands, rng.permutation(len(labels))):
            pixels[:, band], indices[:, band] = 30 + 200 * place / len(labels), labels[place]
        noisy = np.clip(pixels + rng.normal(0, 8, pixels.shape), 0, 255).astype(np.uint8)
        save(Image.fromarray(noisy), folder / image)
        save(Image.fromarray(indices).convert('L') if mode == 'L' else palette_image(indices), folder / mask)
    return pairs


def palette_image(indices: np.ndarray) -> Image.Image:
    picture = Image.fromarray(indices, 'P')
    picture.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
    return picture


def save(picture: Image.Image, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    picture.save(file)


def write_text(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def stems(count: int, form: str) -> list[str]:
    return [form.format(index) for index in range(count)]


def splits_below(folder: Path) -> dict[str, Pairs]:
    """images/train and masks/train; an image without a mask, and a mask without an image."""
    draw(folder, 'images/train/{}.jpg', 'masks/val/left.png', ['lonely'], (0, 255))
    return {
        split: draw(folder, f'images/{split}/{{}}.jpg', f'masks/{split}/{{}}.png', stems(count, '{:03}'), (0, 255))
        for split, count in (('train', 10), ('val', 4))
    }


def splits_above(folder: Path) -> dict[str, Pairs]:
    """train/images and train/labels, with Ultralytics' data.yaml; test has no masks."""
    write_text(folder / 'data.yaml', 'path: .\nnames: {0: field, 1: weed}\n')
    draw(folder, 'test/images/{}.jpeg', 'away.png', stems(3, 'field {}'), (0, 1))
    (folder / 'away.png').unlink()
    return {
        split: draw(folder, f'{place}/images/{{}}.jpeg', f'{place}/labels/{{}}.png', stems(count, 'field {}'), (0, 1))
        for split, place, count in (('train', 'train', 9), ('val', 'valid', 4))
    }


def voc(folder: Path) -> dict[str, Pairs]:
    """List files that name a part of the images; palette masks; instances and detection's lists beside."""
    years = stems(20, '2007_{:06}')
    pairs = draw(folder, 'JPEGImages/{}.jpg', 'SegmentationClass/{}.png', years, (0, 1, 2, 255), mode='P')
    draw(folder, 'JPEGImages/{}.jpg', 'SegmentationObject/{}.png', years, (0, 1, 2, 255), mode='P')
    for stem in years[16:]:  # for detection only
        (folder / f'SegmentationClass/{stem}.png').unlink()
        (folder / f'SegmentationObject/{stem}.png').unlink()
    for file, lines in {
        'Main/train': years[:18], 'Main/val': years[18:], 'Segmentation/train': years[:11],
        'Segmentation/val': years[11:15], 'Segmentation/trainval': years[:15],
    }.items():  # fmt: skip
        write_text(folder / f'ImageSets/{file}.txt', '\n'.join(lines) + '\n')
    write_text(folder / 'classes.txt', 'background\ncat\ndog\n')
    return {
        split: {image: mask for image, mask in pairs.items() if Path(image).stem in listed}
        for split, listed in (('train', years[:11]), ('val', years[11:15]))
    }


def camvid(folder: Path) -> dict[str, Pairs]:
    """train and trainannot; a file of colours, in which 0 has no name."""
    write_text(folder / 'label_colors.txt', '128 128 128\tSky\n128 0 0\tBuilding\n192 192 128\tPole\n')
    return {
        split: draw(folder, f'{split}/{{}}.png', f'{split}annot/{{}}.png', stems(count, '0016E5_{:05}'), (0, 1, 2, 3))
        for split, count in (('train', 8), ('val', 4), ('test', 4))
    }


def beside(folder: Path) -> dict[str, Pairs]:
    """Frames of films and their masks in one folder."""
    films = [f'film{film}_{frame}' for film in 'abcdef' for frame in stems(4, '{:04}')]
    return {'': draw(folder, '{}.png', '{}_mask.png', films, (0, 38, 75))}


def patients(folder: Path) -> dict[str, Pairs]:
    """A folder a patient, as LGG MRI has them."""
    slices = [f'TCGA_{patient}/TCGA_{patient}_{n}' for patient in range(8) for n in stems(3, '{}')]
    return {'': draw(folder, '{}.tif', '{}_mask.tif', slices, (0, 255))}


def ade20k(folder: Path) -> dict[str, Pairs]:
    return {
        split: draw(
            folder, f'images/{place}/{{}}.jpg', f'annotations/{place}/{{}}.png', stems(count, f'ADE_{split}_{{:08}}'),
            (0, 1, 2, 3),
        )
        for split, place, count in (('train', 'training', 8), ('val', 'validation', 4))
    }  # fmt: skip


def sisters(folder: Path) -> dict[str, Pairs]:
    """train_images and train_masks, with CamVid's _L; only what is to be trained on."""
    return {'': draw(folder, 'train_images/{}.jpg', 'train_masks/{}_L.png', stems(15, 'p{}x'), (1, 2, 3))}


def unnamed(folder: Path) -> dict[str, Pairs]:
    """No name says what is a mask."""
    return {'': draw(folder, 'one/{}.jpg', 'two/{}.png', stems(12, '{}'), (0, 1, 2, 255))}


LAYOUTS = {
    'splits below': Layout(
        splits_below, (0, 255), {0: 0, 255: 1}, ('background', 'object'),
        {'excluded': {'train': {'images/train/lonely'}}},
    ),
    'splits above': Layout(splits_above, (0, 1), {0: 0, 1: 1, 255: None}, ('field', 'weed')),
    'voc': Layout(voc, (0, 1, 2, 255), {0: 0, 1: 1, 2: 2, 255: None}, ('background', 'cat', 'dog')),
    'camvid': Layout(
        camvid, (0, 1, 2, 3), {0: 0, 1: 1, 2: 2, 3: 3, 255: None}, ('background', 'Sky', 'Building', 'Pole'),
        {'colors': ((0, 0, 0), (128, 128, 128), (128, 0, 0), (192, 192, 128))},
    ),
    'beside': Layout(
        beside, (0, 38, 75), {0: 0, 38: 1, 75: 2, 255: None}, ('class0', 'class38', 'class75'),
        {'skipped': r'_mask\.png$'},
    ),
    'patients': Layout(
        patients, (0, 255), {0: 0, 255: 1}, ('background', 'object'),
        {'skipped': r'_mask\.tif$', 'group': '^([^/]+)/'},
    ),
    'ade20k': Layout(ade20k, (0, 1, 2, 3), {0: None, 1: 0, 2: 1, 3: 2, 255: None}, ('class1', 'class2', 'class3')),
    'sisters': Layout(sisters, (1, 2, 3), {0: None, 1: 0, 2: 1, 3: 2, 255: None}, ('class1', 'class2', 'class3')),
    'unnamed': Layout(unnamed, (0, 1, 2, 255), {0: 0, 1: 1, 2: 2, 255: None}, ('class0', 'class1', 'class2')),
}  # fmt: skip
