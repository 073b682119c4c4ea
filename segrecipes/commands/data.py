"""Check every image and mask of a dataset and say what was found, or draw some of its samples.

segrecipes data ./ade20k                         checks a folder
segrecipes data s3://bucket/ade20k ./cache       checks MDS shards
segrecipes data ./ade20k --show grid.png         draws augmented samples, as the network sees them
segrecipes data init ./mydata                    looks at pictures of your own and writes their dataset.yaml
"""

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from segrecipes.base.errors import UserError
from segrecipes.datasets.file import FILE
from segrecipes.datasets.row import IGNORED, DatasetRow
from segrecipes.datasets.table import DATASETS, USUAL, get_dataset, locate

if TYPE_CHECKING:
    from segrecipes.storage.audit import Finding

MOST = 5  # names of a long list that are printed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('path', help='a folder, or the root of MDS shards: a folder or s3://bucket/prefix')
    parser.add_argument('local', nargs='?', help='where remote shards are kept')
    parser.add_argument('--name', help=f'{", ".join(DATASETS)}, or path/to/{FILE}; default: that in PATH, else {USUAL}')
    shown = parser.add_argument_group('samples')
    shown.add_argument('--show', type=Path, metavar='PNG', help='draw samples into this file, and check nothing')
    shown.add_argument('--base-size', type=int, default=512, help='of train_dataset; default: 512')
    shown.add_argument('--final-size', type=int, default=512, help='default: 512')
    shown.add_argument('--min-resize-scale', type=float, default=0.5, help='default: 0.5')
    shown.add_argument('--max-resize-scale', type=float, default=2.0, help='default: 2.0')
    shown.add_argument('--keep-ratio', action='store_true', help='do not squash to a square first')


def run(arguments: argparse.Namespace) -> None:
    if arguments.local and '=' in arguments.local:  # it would be taken for a folder, and nobody would know
        raise UserError(f'{arguments.local}: settings are flags here, such as --name camvid')
    name, path = locate(arguments.name, arguments.path)
    row = get_dataset(name)
    if arguments.show:
        from segrecipes.data.augment import TrainTransform
        from segrecipes.reports.preview import show_samples

        keys = ('base_size', 'final_size', 'min_resize_scale', 'max_resize_scale', 'keep_ratio')
        transform = TrainTransform(**{key: getattr(arguments, key) for key in keys})
        count = show_samples(arguments.show, path, arguments.local, name, transform)
        print(f'{arguments.show}: {count} samples')
        return

    from segrecipes.storage.audit import audit

    if row.warning:
        print(f'warning: {row.warning}')
    findings = {}
    for split, finding in audit(path, arguments.local, row=row):
        report(split, finding, row)
        findings[split] = finding
    refuse(arguments.path, findings, row)


def refuse(path: str, findings: 'Mapping[str, Finding]', row: DatasetRow) -> None:
    """
    Raises:
        UserError: samples have a fault, a label has no class, or there is nothing to learn; and what to do.
    """
    from segrecipes.data.check import check_seen

    if faults := sum(len(finding.faults) for finding in findings.values()):
        unknown = sum((finding.unknown for finding in findings.values()), Counter())
        examples = {label: name for finding in findings.values() for label, name in finding.example.items()}
        said = ', '.join(
            f'{label} (masks with it: {count}, such as {examples[label]})' for label, count in unknown.most_common(MOST)
        )
        cure = (
            f'. Labels that {row.name} does not know: {said}. A {FILE} gives each a class by labels, or leaves it out '
            'by ignored: segrecipes data init PATH writes one'
        )
        raise UserError(f'{faults} of the samples in {path} have a fault{cure if unknown else ""}')
    for split, finding in findings.items():
        label_map = row.label_map(len(row.classes))
        check_seen(
            f'{path}, {split}', finding.labels > 0, finding.samples, row, label_map, row.classes,
            is_train=split == 'train',
        )  # fmt: skip


def report(split: str, finding: 'Finding', row: DatasetRow, max_faults: int = 20) -> None:
    from rich.console import Console
    from rich.table import Table

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
                str(label), _class_name(label, row), f'{finding.labels[label]:,}',
                f'{finding.labels[label] / finding.labels.sum():.2%}',
            )  # fmt: skip
        console.print(table)
        seen = {_class_name(label, row) for label in present}
        if absent := [name for name in row.classes if name not in seen]:
            console.print(f'classes without a pixel: {_first(absent)}', markup=False)
    if finding.excluded:
        console.print(
            f'{len(finding.excluded)} images are left out by excluded: {_first(finding.excluded)}', markup=False
        )
    for fault in finding.faults[:max_faults]:
        console.print(f'fault: {fault}', markup=False)
    if len(finding.faults) > max_faults:
        console.print(f'… and {len(finding.faults) - max_faults} more')


def _first(names: Sequence[str]) -> str:
    return ', '.join(names[:MOST]) + (', …' if len(names) > MOST else '')


def _counts(counter: Counter[str]) -> str:
    return ', '.join(f'{name} {count}' for name, count in counter.most_common())


def _class_name(label: int, row: DatasetRow) -> str:
    index = row.label_map(len(row.classes))[label]
    return 'ignored' if index == IGNORED else row.classes[index] if index < len(row.classes) else 'unknown'
