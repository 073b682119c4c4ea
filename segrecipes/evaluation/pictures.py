"""Images beside their ground truth and prediction, with a legend."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segrecipes.base.files import replaced
from segrecipes.base.palette import STRIPES, Color, colorize
from segrecipes.datasets.row import IGNORED
from segrecipes.evaluation.gallery import Picture
from segrecipes.evaluation.overlay import legend, overlay

BLEND = 0.7  # of a grid, where the image itself is beside it


def side_by_side(picture: Picture, colors: Sequence[Color]) -> np.ndarray:
    """(H, 3 W, 3) uint8: image, truth and prediction."""
    return np.hstack([picture.image, colorize(picture.truth, colors), colorize(picture.prediction, colors)])


def save_predictions(
    path: Path, pictures: Sequence[Picture], class_names: Sequence[str], colors: Sequence[Color], title: str = ''
) -> None:
    """Write a grid of (image, truth, prediction) rows as PNG; replaces ``path`` when it is complete."""
    scored = [np.where(p.truth == IGNORED, p.truth, p.prediction) for p in pictures]
    rows = [
        (p.image, overlay(p.image, p.truth, colors, BLEND), overlay(p.image, s, colors, BLEND))
        for p, s in zip(pictures, scored)
    ]
    labels = [labels for picture, s in zip(pictures, scored) for labels in (picture.truth, s)]
    save_grid(path, rows, ('image', 'ground truth', 'prediction'), labels, class_names, colors, title)


def save_grid(
    path: Path,
    rows: Sequence[Sequence[np.ndarray]],
    headings: Sequence[str],
    labels: Sequence[np.ndarray],
    class_names: Sequence[str],
    colors: Sequence[Color],
    title: str = '',
) -> None:
    """A PNG of rows of pictures, (H, W, 3) uint8 each, with a legend of the classes in ``labels`` and their shares."""
    from matplotlib.figure import Figure  # not pyplot, whose backend a notebook has chosen
    from matplotlib.patches import Patch

    groups = 2 if len(rows) > 3 else 1  # rows side by side
    height, width = -(-len(rows) // groups), len(headings)
    figure = Figure(figsize=(2.2 * width * groups, 2.2 * height + 0.9), layout='constrained')
    axes = figure.subplots(height, width * groups, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for index, pictures in enumerate(rows):
        row, first = index % height, width * (index // height)
        for offset, (heading, picture) in enumerate(zip(headings, pictures)):
            axes[row, first + offset].imshow(picture, interpolation='nearest')
            if row == 0:
                axes[row, first + offset].set_title(heading, fontsize=9)
    dark, light = ('#{:02x}{:02x}{:02x}'.format(*grey) for grey in STRIPES)
    handles = [
        Patch(facecolor=dark, edgecolor=light, hatch='//////', linewidth=0, label=text)
        if color is None
        else Patch(facecolor='#{:02x}{:02x}{:02x}'.format(*color), edgecolor='0.2', linewidth=0.5, label=text)
        for text, color in legend(labels, class_names, colors)
    ]
    figure.legend(handles=handles, loc='outside lower center', ncols=min(9, len(handles)), fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=10)
    with replaced(path) as partial:
        figure.savefig(partial, format='png', dpi=100)
