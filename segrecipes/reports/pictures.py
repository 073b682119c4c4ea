"""Pictures of a run for its page."""

import base64
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segrecipes.base.palette import MOST_COLORS, Color, color_table, striped, voc_colors
from segrecipes.datasets.row import IGNORED
from segrecipes.evaluation.overlay import outlines
from segrecipes.reports.run import Run

PICTURE_SIDE = 640  # pixels, the long side of what is embedded


def picture(run: Run, entry: dict[str, Any]) -> dict[str, Any]:
    """The entry with its pictures as data URIs, and with the classes that occur in them.

    Raises:
        OSError, ValueError: a file of it is damaged, or not what it should be; the message names it.
    """
    folder = run.evaluation
    image, truth, prediction = (_open(folder, entry[key]) for key in ('image', 'truth', 'prediction'))
    for key, mask in {'truth': truth, 'prediction': prediction}.items():
        if mask.mode not in ('P', 'L') or mask.size != image.size:
            raise ValueError(
                f'{folder / entry[key]}: {mask.mode}, {mask.size}; expected an 8-bit palette of the size {image.size}'
            )
    names = run.scores.class_names if run.scores else ()
    colors = color_table(colors_of(truth))
    legend = [
        (names[label] if label < len(names) else f'class {label}', colors[label].tolist())
        for label in np.union1d(np.asarray(truth), np.asarray(prediction)).tolist()
        if label < MOST_COLORS
    ]

    image = image.convert('RGB')
    image.thumbnail((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.LANCZOS)
    true, predicted = (np.asarray(mask.resize(image.size, Image.Resampling.NEAREST)) for mask in (truth, prediction))
    ignored = true == IGNORED
    is_wrong = (true != predicted) & ~ignored
    black = np.flatnonzero(~colors.any(axis=1)).tolist()  # a background, which is seen as the image has it
    layers = {  # labels, and those that are clear
        'truth': (striped(true), black),
        'prediction': (predicted, black),
        'errors': (np.where(is_wrong, predicted, IGNORED), [IGNORED]),
        'truth_lines': (np.where(outlines(true), true, IGNORED), [*black, IGNORED]),
        'prediction_lines': (np.where(outlines(predicted), predicted, IGNORED), [*black, IGNORED]),
        # An error is filled with what it is taken for, and outlined in what it is
        'errors_lines': (np.where(outlines(is_wrong.astype(np.uint8)) & is_wrong, true, IGNORED), [IGNORED]),
    }
    return (
        entry
        | {'size': image.size, 'legend': legend, 'ignored': bool(ignored.any())}
        | {'image': data_uri(image, 'jpeg', quality=85)}
        | {name: indexed_uri(labels, colors, clear) for name, (labels, clear) in layers.items()}
    )


def colors_of(mask: Image.Image) -> tuple[Color, ...]:
    """Of the classes, by the file's palette."""
    table = mask.getpalette()
    return tuple(zip(*[iter(table)] * 3))[:MOST_COLORS] if table else voc_colors(MOST_COLORS)


def _open(folder: Path, name: str) -> Image.Image:
    path = folder / str(name)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f'{path}: not below {folder}')
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(str(error) if str(path) in str(error) else f'{path}: {error}') from error


def indexed_uri(labels: np.ndarray, colors: np.ndarray, clear: Iterable[int]) -> str:
    """(H, W) labels in (256, 3) colours, some of which are seen through."""
    image = Image.fromarray(labels.astype(np.uint8))
    image.putpalette(colors.tobytes())
    alpha = np.full(256, 255, np.uint8)
    alpha[[*clear]] = 0
    return data_uri(image, 'png', optimize=True, transparency=alpha.tobytes())


def data_uri(image: Image.Image, kind: str, **options: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f'data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}'
