"""Check every image and mask of a dataset and say what was found, or draw some of its samples.

segrecipes data ./ade20k                         checks a folder
segrecipes data s3://bucket/ade20k ./cache       checks MDS shards
segrecipes data ./ade20k --show grid.png         draws augmented samples, as the network sees them
segrecipes data init ./mydata                    looks at pictures of your own and writes their dataset.yaml
segrecipes data ./scans --show grid.png --right-angle-turns --rotation 15 --blur-probability 0.2
"""

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from segrecipes.base.errors import UserError
from segrecipes.config.augmentation import AUGMENTATION
from segrecipes.config.schema import DatasetConfig
from segrecipes.datasets.file import FILE, find_file
from segrecipes.datasets.row import IGNORED, DatasetRow
from segrecipes.datasets.table import DATASETS, USUAL, get_dataset, locate

if TYPE_CHECKING:
    from segrecipes.storage.audit import Finding

MOST = 5  # names of a long list that are printed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'path', help='a folder, or the root of MDS shards: a folder or a URL such as s3://bucket/prefix'
    )
    parser.add_argument('local', nargs='?', help='where remote shards are kept')
    parser.add_argument('--name', help=f'{", ".join(DATASETS)}, or path/to/{FILE}; default: that in PATH, else {USUAL}')
    shown = parser.add_argument_group('samples')
    shown.add_argument('--show', type=Path, metavar='PNG', help='draw samples into this file, and check nothing')
    shown.add_argument('--config', metavar='YAML', help='augment as a training by this yaml; what stands below wins')
    for key, row in AUGMENTATION.items():
        default, flag = getattr(DatasetConfig(), key), f'--{key.replace("_", "-")}'
        if isinstance(default, bool):
            shown.add_argument(flag, action='store_true', default=None, help=row.says)
        else:
            read = transforms if isinstance(default, list) else type(default)
            shown.add_argument(flag, type=read, help=f'{row.says}; default: {default:.3g}' if default else row.says)


def run(arguments: argparse.Namespace) -> None:
    if arguments.local and '=' in arguments.local:  # it would be taken for a folder, and nobody would know
        raise UserError(f'{arguments.local}: settings are flags here, such as --name camvid')
    name, path = locate(arguments.name, arguments.path)
    row = get_dataset(name)
    if arguments.show:
        from segrecipes.data.augment import TrainTransform
        from segrecipes.reports.preview import show_samples

        transform = TrainTransform(**augmentation(arguments, name))
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


def transforms(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise argparse.ArgumentTypeError(f'{text!r} is not a yaml list such as [{{name: CLAHE, p: 0.2}}]') from error


def augmentation(arguments: argparse.Namespace, name: str) -> dict[str, Any]:
    """That of a training: by the dataset's own file, the yaml, and the flags."""
    from omegaconf import OmegaConf

    from segrecipes.config.layers import read_yaml, yaml_file
    from segrecipes.config.merge import merge

    flags = {key: value for key in AUGMENTATION if (value := getattr(arguments, key)) is not None}
    given = read_yaml(yaml_file(arguments.config)) if arguments.config else {}
    named = {'dataset': name} if given or find_file(name) else {}
    command_line = OmegaConf.create(named | {'train_dataset': {'path': '.'} | ({} if named else {'name': name})})
    dataset = merge(given, command_line)[0].train_dataset
    return {key: getattr(dataset, key) for key in AUGMENTATION} | flags


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
