"""Draw augmented samples of a dataset with their masks, as the network sees them."""

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from audit import is_mds
from data import build_dataspec
from errors import UserError, suggestion
from layouts import IGNORE_LABEL, Layout, get_layout
from pictures import colorize, save_grid
from transforms import TrainTransform

SHOWN = 12

# By the type of a setting
BOOLEANS = {'true': True, 'false': False}
READ: dict[type, Callable[[str], Any]] = {int: int, float: float, bool: lambda text: BOOLEANS[text.lower()]}
LEGAL = {int: 'a whole number', float: 'a number', bool: 'true or false'}


def main(argv: Sequence[str]) -> None:
    """``PATH [LOCAL] --show grid.png [name=ade20k] [final_size=512] …``: the keys are those of ``train_dataset``.

    Raises:
        UserError: no such dataset, an argument that is not known or legal, or a picture that cannot be written.
    """
    parser = argparse.ArgumentParser(prog='data.py', description=__doc__)
    parser.add_argument('path', help='a folder, or the root of MDS shards')
    parser.add_argument('arguments', nargs='*', metavar='LOCAL | key=value', help='cache of remote shards; settings')
    parser.add_argument('--show', type=Path, required=True, help='the PNG to write')
    args = parser.parse_intermixed_args(argv)
    settings: dict[str, Any] = dict(item.split('=', 1) for item in args.arguments if '=' in item)
    layout_name = settings.pop('name', 'ade20k')
    layout, transform = get_layout(layout_name), train_transform(settings)
    spec: Any = build_dataspec(
        path=args.path,
        local=next((item for item in args.arguments if '=' not in item), None),
        split='train',
        batch_size=1,
        name=layout_name,
        num_classes=len(layout.classes),
        is_streaming=is_mds(args.path),
        transform=transform,
        shuffle=True,
        third='uids',
        num_workers=0,
    )
    batches = [batch for batch, _ in zip(spec.dataloader, range(SHOWN))]
    samples = [
        (image.permute(1, 2, 0).numpy(), class_indices(mask.numpy(), layout)) for (image,), (mask,), _ in batches
    ]
    rows = [(image, colorize(labels), overlay(image, labels)) for image, labels in samples]
    title = f'{args.path}: {len(rows)} training samples at {transform.final_size}×{transform.final_size}'
    try:
        save_grid(args.show, rows, ('image', 'mask', 'both'), [labels for _, labels in samples], layout.classes, title)
    except OSError as error:
        raise UserError(f'--show={args.show}: cannot be written ({error.strerror})') from error
    print(f'{args.show}: {len(rows)} samples')


def train_transform(settings: dict[str, str]) -> TrainTransform:
    """The transform of a command line's ``key=value`` pairs."""
    kinds = {entry.name: type(entry.default) for entry in fields(TrainTransform)}
    values = {}
    for key, text in settings.items():
        if key not in kinds:
            raise UserError(f'{key}={text} is not known.{suggestion(key, ["name", *kinds])}')
        try:
            values[key] = READ[kinds[key]](text)
        except (KeyError, ValueError) as error:
            raise UserError(f'{key}={text} must be {LEGAL[kinds[key]]}') from error
    transform = TrainTransform(**values)
    for key in ('base_size', 'final_size', 'min_resize_scale', 'max_resize_scale'):
        if not 0 < getattr(transform, key) < math.inf:
            raise UserError(f'{key}={getattr(transform, key)} must be positive')
    if transform.min_resize_scale > transform.max_resize_scale:
        raise UserError(f'min_resize_scale={transform.min_resize_scale} is above max_resize_scale')
    return transform


def class_indices(mask: np.ndarray, layout: Layout) -> np.ndarray:
    """(H, W) uint8 labels of a mask file → class indices, 255 where ignored."""
    return np.where(mask < layout.label_offset, IGNORE_LABEL, mask - layout.label_offset * (mask != IGNORE_LABEL))


def overlay(image: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The image with the colours of its classes over it; ignored pixels stay as they are."""
    mixed = (image.astype(np.uint16) + colorize(labels)) // 2
    return np.where((labels == IGNORE_LABEL)[..., None], image, mixed).astype(np.uint8)
