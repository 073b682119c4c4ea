"""Draw augmented samples of a dataset with their masks, as the network sees them."""

import argparse
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from audit import is_mds
from data import build_dataspec
from errors import UserError, suggestion
from layouts import IGNORE_LABEL, Layout, get_layout
from pictures import colorize, save_grid
from transforms import TrainTransform

SHOWN = 12


def main(argv: Sequence[str]) -> None:
    """``PATH [LOCAL] --show grid.png [name=ade20k] [final_size=512] …``: the keys are those of ``train_dataset``.

    Raises:
        UserError: no such dataset, or an argument that is not known.
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
        is_streaming=is_mds(args.path),
        transform=transform,
        shuffle=True,
        named=True,
        num_workers=0,
    )
    batches = [batch for batch, _ in zip(spec.dataloader, range(SHOWN))]
    samples = [
        (image.permute(1, 2, 0).numpy(), class_indices(mask.numpy(), layout)) for (image,), (mask,), _ in batches
    ]
    rows = [(image, colorize(labels), overlay(image, labels)) for image, labels in samples]
    title = f'{args.path}: {len(rows)} training samples at {transform.final_size}×{transform.final_size}'
    save_grid(args.show, rows, ('image', 'mask', 'both'), [labels for _, labels in samples], layout.classes, title)
    print(f'{args.show}: {len(rows)} samples')


def train_transform(settings: dict[str, str]) -> TrainTransform:
    names = [entry.name for entry in fields(TrainTransform)]
    for key in settings:
        if key not in names:
            raise UserError(f'{key}={settings[key]} is not known.{suggestion(key, ["name", *names])}')
    return TrainTransform(**{key: yaml.safe_load(value) for key, value in settings.items()})


def class_indices(mask: np.ndarray, layout: Layout) -> np.ndarray:
    """(H, W) uint8 labels of a mask file → class indices, 255 where ignored."""
    return np.where(mask < layout.label_offset, IGNORE_LABEL, mask - layout.label_offset * (mask != IGNORE_LABEL))


def overlay(image: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The image with the colours of its classes over it; ignored pixels stay as they are."""
    mixed = (image.astype(np.uint16) + colorize(labels)) // 2
    return np.where((labels == IGNORE_LABEL)[..., None], image, mixed).astype(np.uint8)
