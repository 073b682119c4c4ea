"""What is written of a segmented image."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from segrecipes.base.files import replaced
from segrecipes.base.palette import indexed_png
from segrecipes.checkpoints.card import ModelCard
from segrecipes.evaluation.overlay import explained


def write(
    out: Path, name: str, image: np.ndarray, labels: np.ndarray, card: ModelCard, submission: bool = False
) -> None:
    """A mask, an overlay with a legend, and the mask as ADE20K's server takes it."""
    pictures = {
        f'masks/{name}.png': indexed_png(labels, card.palette),
        f'overlays/{name}.jpg': explained(image, labels, card.class_names, card.palette),
    }
    if submission:
        pictures[f'submission/{name}.png'] = Image.fromarray(labels + np.uint8(1))
    for file, picture in pictures.items():
        with replaced(out / file) as partial:
            picture.save(partial)


def class_shares(labels: np.ndarray, class_names: Sequence[str]) -> dict[str, float]:
    """Percent of the pixels by class name, the largest first; classes that do not occur are left out."""
    return shares_of(np.bincount(labels.ravel(), minlength=len(class_names)), class_names)


def shares_of(counts: np.ndarray, class_names: Sequence[str]) -> dict[str, float]:
    """:func:`class_shares`, of (num_classes,) pixels of each class."""
    total = int(counts.sum())
    order: list[int] = np.argsort(-counts, kind='stable').tolist()
    return {class_names[index]: round(100 * int(counts[index]) / total, 3) for index in order if counts[index]}
