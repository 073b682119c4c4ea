"""An exported file, read again: its model card, and its network as a function."""

import json
from pathlib import Path

from segrecipes.base.errors import UserError
from segrecipes.checkpoints.card import ModelCard
from segrecipes.checkpoints.formats.function import Run, readable
from segrecipes.checkpoints.formats.table import format_of


def read_card(path: str | Path) -> ModelCard:
    """The model card in an exported file; runs no code that is in it.

    Raises:
        MissingPathError: there is no such file.
        UserError: it is not an exported file, is damaged, or has no card.
    """
    form, path = format_of(path)
    with readable(path):
        text = form.read_card(path)
        values = None if text is None else json.loads(text)
    if values is None:
        raise UserError(f'{path}: has no model card; it was not written by segrecipes export')
    return ModelCard.from_dict(values, str(path))


def load_exported(path: str | Path) -> Run:
    """The network in an exported file, as a function from images to logits.

    (B, 3, H, W) float32 normalised images → (B, num_classes, H, W) float32 logits, computed on the CPU and returned
    on the images' device. A .pt2 is a program, and loading it may run any code in it: take it from those you trust.
    An .onnx or .safetensors is data.

    Raises:
        MissingPathError: there is no such file.
        UserError: it is not an exported file, or is damaged.
    """
    form, path = format_of(path)
    return form.load(path)
