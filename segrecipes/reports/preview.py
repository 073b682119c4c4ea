"""Augmented samples of a dataset with their masks, as the network sees them."""

from pathlib import Path
from typing import Any

from segrecipes.base.errors import UserError
from segrecipes.base.palette import colorize
from segrecipes.config.augmentation import faults_of
from segrecipes.data import further
from segrecipes.data.augment import TrainTransform
from segrecipes.data.channels import as_rgb
from segrecipes.data.loader import build_dataspec
from segrecipes.datasets.table import get_dataset
from segrecipes.evaluation.overlay import overlay
from segrecipes.evaluation.pictures import save_grid
from segrecipes.storage.audit import is_mds

SHOWN = 12


def show_samples(out: Path, path: str, local: str | None, name: str, transform: TrainTransform) -> int:
    """Draw the first samples of a shuffled epoch into a PNG; how many there were.

    Raises:
        UserError: no such dataset, a setting that is not possible, or a picture that cannot be written.
    """
    check(transform)
    row = get_dataset(name)
    classes, colors = row.classes, row.class_colors()
    spec: Any = build_dataspec(
        path=path,
        local=local,
        split='train',
        batch_size=1,
        name=name,
        num_classes=len(classes),
        is_streaming=is_mds(path),
        transform=transform,
        shuffle=True,
        num_workers=0,
    )
    batches = [batch for batch, _ in zip(spec.dataloader, range(SHOWN))]
    samples = [(as_rgb(image.permute(1, 2, 0).numpy()), labels.numpy()) for (image,), (labels,), *_ in batches]
    rows = [(image, colorize(labels, colors), overlay(image, labels, colors)) for image, labels in samples]
    title = f'{path}: {len(rows)} training samples at {transform.final_size}×{transform.final_size}'
    try:
        save_grid(out, rows, ('image', 'mask', 'both'), [labels for _, labels in samples], classes, colors, title)
    except OSError as error:
        raise UserError(f'--show={out}: cannot be written ({error.strerror})') from error
    return len(rows)


def check(transform: TrainTransform) -> None:
    for fault in faults_of(transform, lambda key: f'--{key.replace("_", "-")}'):
        raise UserError(fault)
    for fault in further.faults_of(transform.albumentations, '--albumentations'):
        raise UserError(fault)
