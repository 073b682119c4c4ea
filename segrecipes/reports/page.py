"""One page about a training run: how good is the network, and where does it fail?"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2
import numpy as np

from segrecipes.base.errors import UserError
from segrecipes.base.files import write_text
from segrecipes.base.palette import BACKGROUNDS
from segrecipes.base.run_files import REPORT
from segrecipes.evaluation.overlay import share_text
from segrecipes.evaluation.scores import Scores
from segrecipes.reports.about import about, commands, failure
from segrecipes.reports.compare import class_differences, config_differences, not_comparable
from segrecipes.reports.pictures import picture
from segrecipes.reports.plots import CURVES, comparison, figures, library
from segrecipes.reports.read import GROUPS
from segrecipes.reports.run import Run, read_run

TEMPLATES = Path(__file__).parent / 'templates'
WEAKEST = 5


# Where it fails


class Confusion(NamedTuple):
    """``percent`` of a class's pixels that go to the class ``name``, or come from it."""

    name: str
    percent: float


class ClassRow(NamedTuple):
    """A class, its figures in percent: None where it has no pixel to score; Dice only where there are groups.

    ``taken_for``: what its pixels are mostly called instead. ``called``: what is mostly called it instead.
    """

    name: str
    color: Sequence[int]
    iou: float | None
    accuracy: float | None
    pixel_share: float | None
    predicted_share: float | None
    mean_dice: float | None = None
    median_dice: float | None = None
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


def group_dice(scores: Scores, most: int = 3) -> list[tuple[str, float, float]]:
    """Of classes that are no background, where they are few: the mean and the median Dice of whole groups of images."""
    if not scores.group_dice:
        return []
    names = [name for name in scores.class_names if name.lower() not in BACKGROUNDS]
    mean, median = (dict(zip(scores.class_names, values.tolist())) for values in scores.dice.values())
    return [(name, mean[name], median[name]) for name in names] if len(names) <= most else []


def weakest(rows: Iterable[ClassRow], count: int = WEAKEST) -> list[ClassRow]:
    """The classes of lowest IoU, the lowest first; of equals the more frequent."""
    scored = [row for row in rows if row.iou is not None]
    return sorted(scored, key=lambda row: (row.iou, -(row.pixel_share or 0)))[:count]


# The page


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
    environment.filters |= {'percent': percent, 'share': share_or_none, 'signed': signed}
    rows = class_rows(run.scores) if run.scores else []
    page = environment.get_template('report.html.jinja').render(
        run=run,
        runs=runs,
        failures={each.label: failure(each) for each in runs},
        faults=not_comparable(runs),
        config_differences=config_differences(runs),
        class_differences=class_differences(runs),
        about=about(run),
        commands=commands(run),
        group_dice=group_dice(run.scores) if run.scores else [],
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


def signed(value: float | None) -> str:
    return '–' if value is None else f'{value:+.1f}'.replace('-', '−')


def share_or_none(value: float | None) -> str:
    """Percent of pixels."""
    return '–' if value is None else share_text(value)


def write_report(folders: Sequence[str | Path], out: str | Path | None = None) -> tuple[Path, list[str]]:
    """Write the page, by default as ``report.html`` into the first folder; its path, and what was left out of it.

    Raises:
        UserError: a folder is not one of a run, a file of it is damaged, or the page cannot be written.
    """
    runs = [read_run(folder) for folder in folders]
    page, warnings = render(runs)
    path = Path(out).expanduser() if out else runs[0].folder / REPORT
    try:
        write_text(path, page.encode('utf-8', 'replace').decode())  # half a character, as JSON may have it, is a '?'
    except OSError as error:
        raise UserError(f'cannot write {path}: {error.strerror}') from error
    return path, warnings
