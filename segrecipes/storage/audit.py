"""Check every image and mask of a dataset and say what was found."""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from errors import UserError
from layouts import IGNORE_LABEL, SPLITS, Layout, Pair, find_pairs, get_layout, has_split, split_folders
from samples import DataError, decode_image, decode_mask


@dataclass
class Finding:
    """What one sample, or many, are like. ``labels`` counts pixels by label, 0…255."""

    samples: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)  # (width, height)
    image_modes: Counter[str] = field(default_factory=Counter)
    mask_modes: Counter[str] = field(default_factory=Counter)
    labels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    faults: list[str] = field(default_factory=list)

    def __iadd__(self, other: 'Finding') -> 'Finding':
        self.samples += other.samples
        self.sizes += other.sizes
        self.image_modes += other.image_modes
        self.mask_modes += other.mask_modes
        self.labels += other.labels
        self.faults += other.faults
        return self


def main(argv: Sequence[str]) -> None:
    """``PATH [LOCAL] [name=ade20k]``: print a report of each split there is.

    Raises:
        UserError: nothing to check, or something is wrong with a sample.
    """
    options = dict(argument.split('=', 1) for argument in argv if '=' in argument)
    paths = [argument for argument in argv if '=' not in argument]
    if not 1 <= len(paths) <= 2 or options.keys() - {'name'}:
        raise UserError('usage: python data.py PATH [LOCAL_CACHE] [name=ade20k]')
    layout = get_layout(options.get('name', 'ade20k'))
    faults = 0
    for split, finding in audit(*paths, layout=layout):
        report(split, finding, layout)
        faults += len(finding.faults)
    if faults:
        raise UserError(f'{faults} of the samples in {paths[0]} have a fault')


def audit(path: str, local: str | None = None, *, layout: Layout) -> Iterator[tuple[str, Finding]]:
    """Each split found under ``path``, a folder or MDS shards, with all its samples checked."""
    check_samples = check_shards if is_mds(path) else check_folder
    splits = [split for split in SPLITS if '://' in path or is_mds(path, split) or has_split(path, split, layout)]
    if not splits:
        split_folders(path, SPLITS[0], layout)  # raises, naming the folder that is missing
    for split in splits:
        finding = Finding()
        for found in check_samples(path, local, split, layout):
            finding += found
        yield split, finding


def is_mds(path: str, *splits: str) -> bool:
    return '://' in path or any((Path(path) / split / 'index.json').is_file() for split in splits or SPLITS)


def check_folder(path: str, local: str | None, split: str, layout: Layout) -> Iterator[Finding]:
    missing: list[str] = []
    pairs = find_pairs(path, split, layout, missing)
    yield Finding(faults=missing)
    with ProcessPoolExecutor() as pool:
        checks = pool.map(partial(check_pair, layout=layout), pairs, chunksize=16)
        yield from tqdm(checks, total=len(pairs), desc=f'checking {split}', unit='image')


def check_pair(pair: Pair, layout: Layout) -> Finding:
    return check_sample(pair.image, pair.mask, str(pair.image), str(pair.mask), layout)


def check_shards(path: str, local: str | None, split: str, layout: Layout) -> Iterator[Finding]:
    from streaming_data import StreamingSegmentation

    if '://' in path and local is None:
        raise UserError(f'a folder for what is downloaded is needed: python data.py {path} ./cache')
    dataset = StreamingSegmentation(
        path=path, local=local, split=split, make_sample=None, batch_size=1, validate_hash=None
    )
    for index in tqdm(range(dataset.size), desc=f'checking {split}', unit='image'):
        sample = dataset.read(index)
        name = f'{sample["uid"]} in {path}/{split}'
        yield check_sample(sample['x'], sample['y'], name, name, layout)


def check_sample(image: Any, mask: Any, image_name: str, mask_name: str, layout: Layout) -> Finding:
    finding = Finding(samples=1)
    try:
        decoded = decode_image(image, image_name)
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
    largest = len(layout.classes) - 1 + layout.label_offset
    above = [label for label in np.flatnonzero(finding.labels) if largest < label != IGNORE_LABEL]
    if above:
        finding.faults.append(f'label {above[-1]} in mask {mask_name} is above {largest}, the last of the classes')
    return finding


def _mode(image: bytes | Path | Image.Image) -> str:
    if isinstance(image, Image.Image):
        return image.mode
    return Image.open(BytesIO(image) if isinstance(image, bytes) else image).mode


def report(split: str, finding: Finding, layout: Layout, max_faults: int = 20) -> None:
    console = Console(highlight=False, soft_wrap=True)
    console.print(f'\n[bold]{split}[/bold]: {finding.samples} images with masks')
    if finding.sizes:
        widths, heights = zip(*finding.sizes)
        console.print(f'sizes: {min(widths)}…{max(widths)} wide, {min(heights)}…{max(heights)} high')
        console.print(f'image modes: {_counts(finding.image_modes)}; mask modes: {_counts(finding.mask_modes)}')
        present = np.flatnonzero(finding.labels)
        console.print(f'labels: {present.min()}…{present.max()}')
        table = Table('label', 'class', 'pixels', 'share of pixels')
        for label in present:
            table.add_row(
                str(label), _class_name(label, layout), f'{finding.labels[label]:,}',
                f'{finding.labels[label] / finding.labels.sum():.2%}',
            )  # fmt: skip
        console.print(table)
    for fault in finding.faults[:max_faults]:
        console.print(f'fault: {fault}', markup=False)
    if len(finding.faults) > max_faults:
        console.print(f'… and {len(finding.faults) - max_faults} more')


def _counts(counter: Counter[str]) -> str:
    return ', '.join(f'{name} {count}' for name, count in counter.most_common())


def _class_name(label: int, layout: Layout) -> str:
    index = label - layout.label_offset
    return layout.classes[index] if 0 <= index < len(layout.classes) else 'ignored'
