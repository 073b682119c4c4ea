"""Checks every image and mask of a dataset."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from segrecipes.base.errors import UserError
from segrecipes.datasets.row import ILLEGAL, SPLITS, DatasetRow, ranges
from segrecipes.storage.decode import DataError, decode_image, decode_mask
from segrecipes.storage.folders import Pair, find_pairs, has_split, split_folder


@dataclass
class Finding:
    """What one sample, or many, are like.

    Args:
        labels: pixels by label, 0…255.
        unknown: masks by a label that is none of the dataset's.
        example: one of those masks, by label.
        excluded: images that the row leaves out.
    """

    samples: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)  # (width, height)
    image_modes: Counter[str] = field(default_factory=Counter)
    mask_modes: Counter[str] = field(default_factory=Counter)
    labels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    unknown: Counter[int] = field(default_factory=Counter)
    example: dict[int, str] = field(default_factory=dict)
    excluded: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def __iadd__(self, other: 'Finding') -> 'Finding':
        self.samples += other.samples
        self.sizes += other.sizes
        self.image_modes += other.image_modes
        self.mask_modes += other.mask_modes
        self.labels += other.labels
        self.unknown += other.unknown
        self.example = other.example | self.example
        self.excluded += other.excluded
        self.faults += other.faults
        return self


def audit(path: str, local: str | None = None, *, row: DatasetRow) -> Iterator[tuple[str, Finding]]:
    """Each split found under ``path``, a folder or MDS shards, with all its samples checked."""
    check_samples = check_shards if is_mds(path) else check_folder
    splits = [split for split in SPLITS if '://' in path or is_mds(path, split) or has_split(path, split, row)]
    if not splits:
        split_folder(path, SPLITS[0], row)  # raises, naming the folder that is missing
    for split in splits:
        finding = Finding()
        for found in check_samples(path, local, split, row):
            finding += found
        yield split, finding


def is_mds(path: str, *splits: str) -> bool:
    return '://' in path or any((Path(path) / split / 'index.json').is_file() for split in splits or SPLITS)


def check_folder(path: str, local: str | None, split: str, row: DatasetRow) -> Iterator[Finding]:
    missing: list[str] = []
    excluded: list[str] = []
    pairs = find_pairs(path, split, row, missing, excluded)
    yield Finding(faults=missing, excluded=excluded)
    with ProcessPoolExecutor() as pool:
        checks = pool.map(partial(check_pair, row=row), pairs, chunksize=16)
        yield from tqdm(checks, total=len(pairs), desc=f'checking {split}', unit='image')


def check_pair(pair: Pair, row: DatasetRow) -> Finding:
    return check_sample(pair.image, pair.mask, str(pair.image), str(pair.mask), row)


def check_shards(path: str, local: str | None, split: str, row: DatasetRow) -> Iterator[Finding]:
    from segrecipes.storage.shards import StreamingSegmentation

    if '://' in path and local is None:
        raise UserError(f'a folder for what is downloaded is needed: segrecipes data {path} ./cache')
    dataset = StreamingSegmentation(
        path=path, local=local, split=split, make_sample=None, batch_size=1, validate_hash=None
    )
    for index in tqdm(range(dataset.size), desc=f'checking {split}', unit='image'):
        sample = dataset.read(index)
        name = f'{sample["uid"]} in {path}/{split}'
        yield check_sample(sample['x'], sample['y'], name, name, row)


def check_sample(image: Any, mask: Any, image_name: str, mask_name: str, row: DatasetRow) -> Finding:
    finding = Finding(samples=1)
    try:
        decoded = decode_image(image, image_name, row.pixels)
        labels = decode_mask(mask, mask_name)
    except DataError as error:
        finding.faults.append(str(error))
        return finding
    height, width = labels.shape
    if decoded.shape[:2] != labels.shape:
        finding.faults.append(f'sizes differ: image {image_name} {decoded.shape[:2]}, mask {labels.shape} (H, W)')
    finding.sizes[width, height] += 1
    finding.image_modes[_mode(image)] += 1
    finding.mask_modes[_mode(mask)] += 1
    finding.labels = np.bincount(labels.ravel(), minlength=256)
    legal = row.label_map(len(row.classes)) != ILLEGAL
    if illegal := np.flatnonzero((finding.labels > 0) & ~legal).tolist():
        finding.unknown.update(illegal)
        finding.example |= dict.fromkeys(illegal, mask_name)
        known = ranges(np.flatnonzero(legal).tolist())
        finding.faults.append(f'label {illegal[-1]} in mask {mask_name} is none of the dataset. Legal: {known}')
    return finding


def _mode(image: bytes | Path | Image.Image) -> str:
    if isinstance(image, Image.Image):
        return image.mode
    try:
        return Image.open(BytesIO(image) if isinstance(image, bytes) else image).mode
    except UnidentifiedImageError:
        return 'others'  # of channels that PIL has no name for
