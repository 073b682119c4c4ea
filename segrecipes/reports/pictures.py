"""Pictures of a run for its page."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segrecipes.base.palette import palette
from segrecipes.base.run_files import EVALUATION
from segrecipes.datasets.row import IGNORED
from segrecipes.reports.run import Run

PICTURE_SIDE = 640  # pixels, the long side of what is embedded

COLORS = np.vstack([palette(IGNORED), np.zeros((1, 3), np.uint8)])  # by label: (256, 3) uint8, black is ignored


def picture(run: Run, entry: dict[str, Any]) -> dict[str, Any]:
    """The entry with its pictures as data URIs, and with the classes that occur in them.

    Raises:
        OSError, ValueError: a file of it is damaged, or not what it should be; the message names it.
    """
    folder = run.folder / EVALUATION
    image, truth, prediction = (_open(folder, entry[key]) for key in ('image', 'truth', 'prediction'))
    for key, mask in {'truth': truth, 'prediction': prediction}.items():
        if mask.mode not in ('P', 'L') or mask.size != image.size:
            raise ValueError(
                f'{folder / entry[key]}: {mask.mode}, {mask.size}; expected an 8-bit palette of the size {image.size}'
            )
    names = run.scores.class_names if run.scores else ()
    legend = [
        (names[label] if label < len(names) else f'class {label}', COLORS[label].tolist())
        for label in np.union1d(np.asarray(truth), np.asarray(prediction)).tolist()
        if label != IGNORED
    ]

    image = image.convert('RGB')
    image.thumbnail((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.LANCZOS)
    true, predicted = (np.asarray(mask.resize(image.size, Image.Resampling.NEAREST)) for mask in (truth, prediction))
    wrong = np.where((true != predicted) & (true != IGNORED), predicted, IGNORED)
    return entry | {
        'size': image.size,
        'legend': legend,
        'image': data_uri(image, 'jpeg', quality=85),
        'truth': data_uri(_indexed(true), 'png', optimize=True),
        'prediction': data_uri(_indexed(predicted), 'png', optimize=True),
        'errors': data_uri(_indexed(wrong), 'png', transparency=IGNORED),
    }


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


def _indexed(labels: np.ndarray) -> Image.Image:
    image = Image.fromarray(labels.astype(np.uint8))
    image.putpalette(COLORS.tobytes())
    return image


def data_uri(image: Image.Image, kind: str, **options: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f'data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}'
