"""Masks of classes from COCO's instances: https://cocodataset.org/#format-data"""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from glob import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as rle
from tqdm import tqdm

from segrecipes.base.errors import MissingPathError, UserError, unknown_name
from segrecipes.base.files import write_text
from segrecipes.datasets.file import FILE, to_yaml
from segrecipes.datasets.row import IGNORED, MOST_CLASSES, SPLITS, DatasetRow, Split
from segrecipes.storage.decode import encode_mask
from segrecipes.storage.targets import FolderTarget

BACKGROUND = 'background'
MASKS = 'masks'
# By the name of the classes, the key of a category that names its class
CLASSES = {'coco80': 'name', 'coco12': 'supercategory'}
CONFIG = {
    'eval_protocol': 'fit-ss',
    'train_dataset': {'base_size': 512, 'final_size': 512, 'keep_ratio': True, 'batch_size': 16},
}


class Scene(NamedTuple):
    """An image, by its path, the size that its masks have, and what is annotated in it."""

    image: Path
    size: tuple[int, int]  # (height, width)
    annotations: list[dict[str, Any]]


class Instances(NamedTuple):
    """What a file of annotations holds: its images, and the class of each category."""

    scenes: list[Scene]
    names: tuple[str, ...]
    class_of: dict[int, int]


def convert_coco(
    annotations: Sequence[Path],
    images: Path,
    out: Path,
    *,
    classes: str = 'coco80',
    num_workers: int | None = None,
    progress_bar: bool = True,
) -> dict[str, int]:
    """Write a mask for each image that is listed, and a ``dataset.yaml``; returns the number of images of each file.

    Class 0 is the background, the others follow in the order of their categories' ids: ``coco80`` are the categories,
    ``coco12`` the super-categories, each where its first category is. Of regions that overlap the smaller one is seen;
    crowds are ignored. Of one file, four fifths of the images train; of several each is the split that its name says.

    Raises:
        MissingPathError: a file, the folder of images or an image does not exist.
        UserError: a file is not of this form, or ``out`` is not empty.
    """
    if classes not in CLASSES:
        raise unknown_name('--classes', classes, CLASSES)
    if not images.is_dir():
        raise MissingPathError(f'--images={images} is no folder')
    found = {file: read_instances(file, images, CLASSES[classes]) for file in annotations}
    first, *others = found.values()
    if any((other.names, other.class_of) != (first.names, first.class_of) for other in others):
        raise UserError(f'{" and ".join(map(str, found))} do not have the same categories')
    splits = {name: found[file].scenes for name, file in split_files(annotations).items()}
    check_masks([scene.image for scenes in splits.values() for scene in scenes], images)

    target = FolderTarget(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f'not empty: {out}')
    root = Path(os.path.commonpath([images.resolve(), out.resolve()]))
    with target.staging([]) as staging:
        scenes = [scene for of_split in splits.values() for scene in of_split]
        write_masks(partial(write_mask, images, staging / MASKS, first.class_of), scenes, num_workers, progress_bar)
        for name, of_split in splits.items():
            write_text(staging / f'{name}.txt', ''.join(f'{below(root, scene.image)}\n' for scene in of_split))
        for name in (MASKS, *(f'{name}.txt' for name in splits)):
            (staging / name).replace(out / name)
        row = describe(classes, first.names, [*splits], below(root, images), below(root, out))
        write_text(out / FILE, to_yaml(row, CONFIG, os.path.relpath(root, out.resolve())))
    return {name: len(scenes) for name, scenes in splits.items()}


def read_instances(file: Path, images: Path, key: str) -> Instances:
    """A file of annotations; ``key`` of a category names its class."""
    if not file.is_file():
        raise MissingPathError(f'file of annotations does not exist: {file}')
    try:
        content = json.loads(file.read_text())
        categories = sorted(content['categories'], key=lambda category: category['id'])
        names = (BACKGROUND, *dict.fromkeys(str(category[key]) for category in categories))
        class_of = {category['id']: names.index(str(category[key]), 1) for category in categories}
        of_image: dict[Any, list[dict[str, Any]]] = {entry['id']: [] for entry in content['images']}
        for annotation in content['annotations']:
            if annotation['image_id'] not in of_image or annotation['category_id'] not in class_of:
                raise ValueError(f'annotation {annotation.get("id")} is of an image or a category that is not listed')
            of_image[annotation['image_id']].append(annotation)
        folder = folder_of(file, images)
        if outside := [entry['file_name'] for entry in content['images'] if not is_below(entry['file_name'])]:
            raise ValueError(f'file_name {outside[0]} leads out of the folder of the images')
        scenes = [
            Scene(folder / entry['file_name'], (int(entry['height']), int(entry['width'])), of_image[entry['id']])
            for entry in content['images']
        ]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f'{file} is no JSON: {error}') from error
    except (KeyError, TypeError, ValueError) as error:
        what = f'{error} is missing' if isinstance(error, KeyError) else str(error)
        raise UserError(f"{file} is not of the form of COCO's instances: {what}") from error
    if len({*names}) != len(names) or len(names) > MOST_CLASSES:
        raise UserError(
            f'{file}: {len(names)} classes with the background, each by another name; legal: {MOST_CLASSES}'
        )
    return Instances(scenes, names, class_of)


def is_below(name: str) -> bool:
    return not Path(name).is_absolute() and '..' not in Path(name).parts


def folder_of(file: Path, images: Path) -> Path:
    """``images/train2017`` for ``instances_train2017.json``, where there is such a folder."""
    own = images / file.stem.partition('_')[2]
    return own if own.is_dir() else images


def split_files(annotations: Sequence[Path]) -> dict[str, Path]:
    """The splits that the files are; a single one is called ``all``."""
    if len(annotations) == 1:
        return {'all': annotations[0]}
    splits = {}
    for file in annotations:
        found = re.search('train|val|test', file.stem)
        if found is None or found[0] in splits:
            raise UserError(f'{file}: of several files each must be named after its split: train, val or test')
        splits[found[0]] = file
    if absent := [split for split in SPLITS if split not in splits]:
        raise UserError(f'no file of annotations is named after the {absent[0]} split')
    return splits


def check_masks(files: Sequence[Path], images: Path) -> None:
    """Whether all images are there, and each has a mask to itself."""
    masks: dict[Path, Path] = {}
    for file in files:
        if not file.is_file():
            raise MissingPathError(f'image does not exist: {file}')
        mask = mask_place(file, images)
        if masks.setdefault(mask, file) != file:
            raise UserError(f'two images with one name: {masks[mask]} and {file}; rename one of them')


def mask_place(image: Path, images: Path) -> Path:
    return image.relative_to(images).with_suffix('.png')


def write_masks(
    write: Callable[[Scene], None], scenes: Sequence[Scene], num_workers: int | None, progress_bar: bool
) -> None:
    pool = ProcessPoolExecutor(num_workers)
    try:
        written = pool.map(write, scenes, chunksize=16)
        for _ in tqdm(written, total=len(scenes), unit='mask', disable=not progress_bar):
            pass
    finally:
        pool.shutdown(cancel_futures=True)  # waits for the workers, which write to the staging folder


def write_mask(images: Path, masks: Path, class_of: Mapping[int, int], scene: Scene) -> None:
    file = masks / mask_place(scene.image, images)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(encode_mask(paint(scene, class_of)))


def paint(scene: Scene, class_of: Mapping[int, int]) -> np.ndarray:
    """(H, W) uint8 classes: the background, large regions, smaller ones on top; crowds are ``IGNORED``."""
    mask = np.zeros(scene.size, np.uint8)
    regions = [(region(annotation, scene), annotation) for annotation in scene.annotations]
    for pixels, annotation in sorted(regions, key=lambda pair: -np.count_nonzero(pair[0])):
        mask[pixels] = IGNORED if annotation.get('iscrowd') else class_of[annotation['category_id']]
    return mask


def region(annotation: Mapping[str, Any], scene: Scene) -> np.ndarray:
    """(H, W) bool: the pixels of an annotation, which are polygons or run lengths, compressed or not."""
    try:
        form = annotation['segmentation']
        if isinstance(form, list):
            form = rle.merge(rle.frPyObjects(form, *scene.size))
        elif isinstance(form['counts'], list):
            form = rle.frPyObjects(form, *scene.size)
        pixels = rle.decode(form).astype(bool)
        if pixels.shape != scene.size:
            raise ValueError(f'it is of {pixels.shape} pixels')
        return pixels
    except Exception as error:  # whatever the library's C code makes of it
        what = f'{type(error).__name__}: {error}'
        raise UserError(
            f'{scene.image}: annotation {annotation.get("id")} has no segmentation of {scene.size} pixels ({what})'
        ) from error


def below(root: Path, path: Path) -> str:
    """A path from ``root``, with ``/`` at its end of a folder and nothing for ``root`` itself."""
    found = path.resolve().relative_to(root).as_posix()
    return '' if found == '.' else f'{found}/' if path.is_dir() else found


def describe(name: str, classes: tuple[str, ...], splits: Sequence[str], images: str, out: str) -> DatasetRow:
    """The row of what is written, by the folders of images and masks."""
    glob = f'{escape(images)}**/*'
    shares = {'train': (0.2, 1.0), 'val': (0.0, 0.2)}  # of a single file
    return DatasetRow(
        name=name,
        classes=classes,
        splits={split: Split(glob, f'{out}{split}.txt') for split in splits}
        if 'train' in splits
        else {split: Split(glob, f'{out}{splits[0]}.txt', share, permuted=0) for split, share in shares.items()},
        mask=(rf'^{re.escape(images)}(.+)\.\w+$', rf'{out}{MASKS}/\1.png'),
        uid=rf'^/{re.escape(images)}(.+)\.\w+$',
        skipped=f'^{re.escape(out)}{MASKS}/',
        labels=0,
    )
