"""One page about a training run: how good is the network, and where does it fail?

python report.py RUN_FOLDER [MORE_RUN_FOLDERS …] [--out FILE]
"""

import argparse
import base64
import io
import math
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
from PIL import Image

from errors import UserError, clean_exit
from layouts import IGNORE_LABEL, palette
from plots import CURVES, comparison, figures, library
from run_folder import EVALUATION, GROUPS, Run, read_run
from scores import Scores, write_text

TEMPLATES = Path(__file__).parent / 'templates'
PICTURE_SIDE = 640  # pixels, the long side of what is embedded
WEAKEST = 5
COLORS = np.vstack([palette(IGNORE_LABEL), np.zeros((1, 3), np.uint8)])  # by label: (256, 3) uint8, black is ignored


# Where it fails


class Confusion(NamedTuple):
    """``percent`` of a class's pixels that go to the class ``name``, or come from it."""

    name: str
    percent: float


class ClassRow(NamedTuple):
    """A class, its figures in percent: None where it has no pixel to score.

    ``taken_for``: what its pixels are mostly called instead. ``called``: what is mostly called it instead.
    """

    name: str
    color: Sequence[int]
    iou: float | None
    accuracy: float | None
    pixel_share: float | None
    predicted_share: float | None
    taken_for: Confusion | None = None
    called: Confusion | None = None


def class_rows(scores: Scores) -> list[ClassRow]:
    return [
        ClassRow(
            **values,
            taken_for=_largest(scores.confusion[index], index, scores.class_names),
            called=_largest(scores.confusion[:, index], index, scores.class_names),
        )
        for index, values in enumerate(scores.to_dict()['classes'])
    ]


def _largest(pixels: np.ndarray, own: int, names: Sequence[str]) -> Confusion | None:
    others = pixels.copy()
    others[own] = 0
    other = int(others.argmax())
    return Confusion(names[other], 100 * float(others[other] / pixels.sum())) if others[other] else None


def weakest(rows: Iterable[ClassRow], count: int = WEAKEST) -> list[ClassRow]:
    """The classes of lowest IoU, the lowest first; of equals the more frequent."""
    scored = [row for row in rows if row.iou is not None]
    return sorted(scored, key=lambda row: (row.iou, -(row.pixel_share or 0)))[:count]


# Pictures


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
        if label != IGNORE_LABEL
    ]

    image = image.convert('RGB')
    image.thumbnail((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.LANCZOS)
    true, predicted = (np.asarray(mask.resize(image.size, Image.Resampling.NEAREST)) for mask in (truth, prediction))
    wrong = np.where((true != predicted) & (true != IGNORE_LABEL), predicted, IGNORE_LABEL)
    return entry | {
        'size': image.size,
        'legend': legend,
        'image': data_uri(image, 'jpeg', quality=85),
        'truth': data_uri(_indexed(true), 'png', optimize=True),
        'prediction': data_uri(_indexed(predicted), 'png', optimize=True),
        'errors': data_uri(_indexed(wrong), 'png', transparency=IGNORE_LABEL),
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


# The page


def not_comparable(runs: Sequence[Run]) -> list[str]:
    """What differs between runs so that their scores cannot be compared: one line each."""
    faults = []
    for what, of in {
        'final evaluation': {run.label: run.scores.protocol for run in runs if run.scores},
        'evaluation while training': {run.label: run.best[2] for run in runs if run.best},
        'dataset': {run.label: run.setting('eval_dataset', 'name') for run in runs if run.config.values},
    }.items():
        if len(set(of.values())) > 1:
            faults.append(f'{what}: ' + ', '.join(f'{value or "?"} ({label})' for label, value in of.items()))
    return faults


def render(runs: Sequence[Run]) -> tuple[str, list[str]]:
    """The page about the first run, after a comparison of all; and what was left out of it, one line each."""
    shared = {label for label, count in Counter(run.label for run in runs).items() if count > 1}
    for run in runs:
        run.label = f'{run.label} ({run.folder})' if run.label in shared else run.label
    run, warnings, pictures = runs[0], [], []
    for entry in run.images:
        try:
            pictures.append(picture(run, entry))
        except (OSError, ValueError) as error:
            warnings.append(f'image {entry["uid"]} left out: {error}')
    if run.images and not pictures:
        run.missing['images'] = 'none of them can be read'
    groups = Counter(group for entry in pictures for group in entry['groups'])
    plots = figures(run) | (comparison(runs) if len(runs) > 1 else {})
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {'percent': percent, 'share': share}
    rows = class_rows(run.scores) if run.scores else []
    page = environment.get_template('report.html.jinja').render(
        run=run,
        runs=runs,
        faults=not_comparable(runs),
        rows=sorted(rows, key=lambda row: (row.iou is None, row.iou)),
        weakest=weakest(rows),
        never=[row.name for row in rows if row.iou is None],
        pictures=pictures,
        groups=[(group, groups[group]) for group in (*GROUPS, *sorted(groups.keys() - set(GROUPS))) if groups[group]],
        warnings=warnings,
        curves=CURVES,
        plots=plots,
        plotly=library(),
    )
    return page, warnings


def percent(value: float | None) -> str:
    return '–' if value is None or math.isnan(value) else f'{value:.1f}'


def share(value: float | None) -> str:
    """Percent of pixels: fewer digits for much, more for little."""
    if value is None:
        return '–'
    return f'{value:.0f}' if value >= 10 else f'{value:.1f}' if value >= 0.1 or not value else '< 0.1'


def write_report(folders: Sequence[str | Path], out: str | Path | None = None) -> tuple[Path, list[str]]:
    """Write the page, by default as ``report.html`` into the first folder; its path, and what was left out of it.

    Raises:
        UserError: a folder is not one of a run, a file of it is damaged, or the page cannot be written.
    """
    runs = [read_run(folder) for folder in folders]
    page, warnings = render(runs)
    path = Path(out).expanduser() if out else runs[0].folder / 'report.html'
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, page.encode('utf-8', 'replace').decode())  # half a character, as JSON may have it, is a '?'
    except OSError as error:
        raise UserError(f'cannot write {path}: {error.strerror}') from error
    return path, warnings


@clean_exit
def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description='Write one page about a training run, or compare several.')
    parser.add_argument('folders', nargs='+', metavar='RUN_FOLDER', help='the page is about the first of them')
    parser.add_argument('--out', metavar='FILE', help='default: report.html in the first folder')
    arguments = parser.parse_args(argv)
    path, warnings = write_report(arguments.folders, arguments.out)
    for warning in warnings:
        print(f'warning: {warning}', file=sys.stderr)
    print(f'report: {path} ({path.stat().st_size / 1e6:.1f} MB)')


if __name__ == '__main__':
    main()
