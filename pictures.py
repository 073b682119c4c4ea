"""Images beside their ground truth and prediction, with a legend."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from layouts import palette


def colorize(labels: np.ndarray) -> np.ndarray:
    """(H, W) integer labels → (H, W, 3) uint8; ignored pixels, -1, are black."""
    colors = np.vstack([palette(int(labels.max()) + 1), np.zeros((1, 3), np.uint8)])
    return colors[labels]


def save_predictions(
    path: Path,
    images: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    predictions: Sequence[np.ndarray],
    class_names: Sequence[str],
    title: str = '',
) -> None:
    """Write a grid of (image, truth, prediction) rows as PNG; replaces ``path`` when it is complete.

    Args:
        images: (H, W, 3) uint8 each.
        truths, predictions: (H, W) integer labels each, -1 is ignored and is black in both.
    """
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt
    from matplotlib.patches import Patch

    columns = 2 if len(images) > 3 else 1  # groups of three pictures side by side
    rows = -(-len(images) // columns)
    shown = sorted({int(label) for labels in (*truths, *predictions) for label in np.unique(labels) if label >= 0})
    figure, axes = plt.subplots(
        rows, 3 * columns, figsize=(6.6 * columns, 2.2 * rows + 0.9), squeeze=False, layout='constrained'
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for index, (image, truth, prediction) in enumerate(zip(images, truths, predictions)):
        row, first = index % rows, 3 * (index // rows)
        scored = np.where(truth < 0, -1, prediction)
        for offset, (name, picture) in enumerate(
            (('image', image), ('ground truth', colorize(truth)), ('prediction', colorize(scored)))
        ):
            axes[row, first + offset].imshow(picture, interpolation='nearest')
            if row == 0:
                axes[row, first + offset].set_title(name, fontsize=9)
    colors = palette(max(shown, default=0) + 1) / 255
    handles = [Patch(color=colors[label], label=class_names[label]) for label in shown[:24]]
    handles.append(Patch(color='black', label='ignored'))
    figure.legend(handles=handles, loc='outside lower center', ncols=min(9, len(handles)), fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix('.partial')
    figure.savefig(partial, format='png', dpi=100)
    plt.close(figure)
    partial.replace(path)
