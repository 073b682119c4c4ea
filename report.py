"""One page about a training run: how good is the network, and where does it fail?

python report.py RUN_FOLDER [MORE_RUN_FOLDERS …] [--out FILE]
"""

import argparse
import base64
import csv
import io
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
import yaml
from PIL import Image
from plotly.offline import get_plotlyjs

from errors import MissingPathError, UserError, clean_exit
from layouts import IGNORE_LABEL

TEMPLATES = Path(__file__).parent / 'templates'
PICTURE_SIDE = 640  # pixels, the long side of what is embedded
MOST_POINTS = 2000  # of one line in a plot
WEAKEST = 5
GROUPS = ('worst', 'best', 'sample')
FAULTS = (KeyError, TypeError, ValueError, OverflowError)  # of values that are not what a file should hold
ACCENT, *OTHER_COLORS = COLORS = (
    '#3d7fe0',
    '#e08a1e',
    '#2a9d6f',
    '#c2569f',
    '#8f7a2f',
    '#7a6be0',
    '#d0553f',
    '#3a9fb5',
)

# What a plot shows: names in the history (the group is the line's name), the title of its axis
CURVES = {
    'loss': ('Training loss', r'loss/train/(.+)', 'loss'),
    'lr': ('Learning rate', r'lr-(.+)', 'learning rate'),
    'throughput': ('Throughput', r'throughput/((?:device/)?samples_per_sec)', 'samples/s'),
    'memory': ('Memory', r'memory/(.+_mem)', 'GB'),
}
MIOU = r'metrics/[^/]+/(?:mIoU\[(.+)\]|MIoU)'


# What a run folder holds


class Series(NamedTuple):
    """A metric over a run: (N,) float64 each, in the order of batches, finite values only."""

    batch: np.ndarray
    epoch: np.ndarray
    seconds: np.ndarray
    value: np.ndarray


class ClassScore(NamedTuple):
    """All in percent; None where the class has no pixel to score."""

    name: str
    color: tuple[int, ...]
    iou: float | None
    accuracy: float | None
    pixel_share: float | None
    predicted_share: float | None


@dataclass
class Evaluation:
    """An evaluation, in percent. ``confusion`` is (C, C) int64: pixels by true class, then by predicted class."""

    protocol: str
    weights: str
    epoch: int | None
    images: int
    mean_iou: float | None
    pixel_accuracy: float | None
    mean_accuracy: float | None
    final_score: float | None
    classes: list[ClassScore]
    confusion: np.ndarray


@dataclass
class Run:
    """``missing`` says, by section of the page, why it is left out."""

    folder: Path
    label: str
    config_text: str = ''
    config: dict[str, Any] = field(default_factory=dict)
    history: dict[str, Series] = field(default_factory=dict)
    scores: Evaluation | None = None
    images: list[dict[str, Any]] = field(default_factory=list)
    image_ious: list[float] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)

    def setting(self, *keys: str) -> str:
        """A value of the config, such as ``setting('model', 'architecture')``; '' where there is none."""
        value: Any = self.config
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return '' if value is None else str(value)

    @property
    def recipe(self) -> str:
        """A saved config has its recipe merged in, and keeps the name of it as a comment."""
        merged = re.search(r'^recipe_name:.*# was (.+), which is merged', self.config_text, re.MULTILINE)
        name = merged[1] if merged else self.setting('recipe_name')
        return '' if name == 'None' else name

    @property
    def mious(self) -> dict[str, Series]:
        """Mean IoU in percent by protocol, that of the final evaluation first; '' is the trainer's own metric."""
        found = {match[1] or '': self.history[name] for name, match in matches(MIOU, self.history)}
        final = self.scores.protocol if self.scores else None
        return dict(sorted(found.items(), key=lambda item: (item[0] != final, item[0] == '')))

    @property
    def best(self) -> tuple[float, int, str] | None:
        """Highest mean IoU in percent, its epoch and its protocol."""
        for protocol, series in self.mious.items():
            index = int(series.value.argmax())
            return float(series.value[index]), int(series.epoch[index]), protocol
        return None

    @property
    def throughput(self) -> float | None:
        rates = self.history.get('throughput/samples_per_sec')
        return float(np.median(rates.value)) if rates else None

    def last(self, axis: str) -> float | None:
        """The highest 'epoch' or 'seconds' in the history."""
        return max((float(getattr(series, axis).max()) for series in self.history.values()), default=None)


def read_run(folder: str | Path) -> Run:
    """All there is in a run folder; ``missing`` names what there is not.

    Raises:
        MissingPathError: no such folder.
        UserError: it holds neither a history nor an evaluation, or a file of it is damaged.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise MissingPathError(f'run folder does not exist: {folder}')
    run, evaluation = Run(folder, label=folder.resolve().name), folder / 'evaluation'
    files = {
        'config': folder / 'config.yaml',
        'curves': folder / 'history.jsonl',
        'scores': evaluation / 'scores.json',
        'images': evaluation / 'images.json',
        'image_ious': evaluation / 'image_scores.csv',
    }
    run.missing = {name: f'{path.relative_to(folder)} is missing' for name, path in files.items() if not path.is_file()}
    if 'config' not in run.missing:
        run.config_text, run.config = read_config(files['config'])
        run.label = run.setting('run_name') or run.label
    if 'curves' not in run.missing:
        run.history = read_history(files['curves'])
        if not run.history:
            run.missing['curves'] = 'history.jsonl holds no metric'
    if run.missing.keys() >= {'curves', 'scores', 'images', 'image_ious'}:
        raise UserError(
            f'{folder} is not the folder of a run: neither history.jsonl with metrics in it nor evaluation/scores.json'
        )
    if 'scores' not in run.missing:
        run.scores = read_scores(files['scores'])
    if 'images' not in run.missing:
        run.images = read_images(files['images'])
    if 'image_ious' not in run.missing:
        run.image_ious = read_image_ious(files['image_ious'])
    return run


def read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f'{path} cannot be read: {error.strerror}') from error


def read_text(path: Path) -> str:
    try:
        return read_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise UserError(f'{path} is not UTF-8 text: {error}') from error


def damaged(where: object, error: Exception) -> UserError:
    return UserError(f'{where}: damaged: {f"no {error}" if isinstance(error, KeyError) else error}')


def read_json(path: Path) -> Any:
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f'{path}, line {error.lineno}: damaged JSON: {error.msg}') from error


def read_config(path: Path) -> tuple[str, dict[str, Any]]:
    text = read_text(path)
    try:
        config = yaml.safe_load(text) or {}
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else '?'
        raise UserError(f'{path}, line {line}: damaged yaml: {error.problem}') from error
    except yaml.YAMLError as error:
        raise UserError(f'{path}: damaged yaml: {error}') from error
    if not isinstance(config, dict):
        raise UserError(f'{path}: expected keys and values, found {str(config)[:40]!r}')
    return text, config


def read_history(path: Path) -> dict[str, Series]:
    """Each metric of ``history.jsonl``. Lines of a batch add up; a run that goes back to a batch starts anew there."""
    records: dict[int, tuple[float, float, dict[str, Any]]] = {}
    last = -1
    lines = read_bytes(path).split(b'\n')
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            # Behind a line that a kill cut off, a resumed run goes on without a newline.
            record = json.loads(line[max(0, line.rfind(b'{"batch":')) :])
            batch, metrics = int(record['batch']), dict(record['metrics'])
            epoch, seconds = float(record['epoch']), float(record['seconds'])
        except FAULTS as error:
            if number == len(lines) and isinstance(error, ValueError):
                break  # cut off, too: no newline ends it
            raise damaged(f'{path}, line {number}', error) from error
        if batch < last:
            records = {kept: value for kept, value in records.items() if kept <= batch}
        known = records[batch][2] if batch in records else {}
        records[batch], last = (epoch, seconds, known | metrics), batch
    points: dict[str, list[tuple[float, ...]]] = {}
    for batch, (epoch, seconds, metrics) in records.items():
        for name, value in metrics.items():
            if isinstance(value, int | float) and math.isfinite(value):
                points.setdefault(name, []).append((batch, epoch, seconds, value))
    return {name: Series(*np.array(rows, np.float64).T) for name, rows in points.items()}


def read_scores(path: Path) -> Evaluation:
    values = read_json(path)
    try:
        classes = [
            ClassScore(
                str(row['name']),
                tuple(min(255, max(0, int(channel))) for channel in row['color'])[:3],
                *(number(row[key]) for key in ('iou', 'accuracy', 'pixel_share', 'predicted_share')),
            )
            for row in values['classes']
        ]
        confusion = np.array(values['confusion'], np.int64)
        if not classes or confusion.shape != (len(classes), len(classes)):
            raise ValueError(f'confusion is {confusion.shape} for {len(classes)} classes')
        return Evaluation(
            protocol=str(values['protocol']),
            weights=str(values['weights']),
            epoch=None if values['epoch'] is None else int(values['epoch']),
            images=int(values['images']),
            **{key: number(values[key]) for key in ('mean_iou', 'pixel_accuracy', 'mean_accuracy', 'final_score')},
            classes=classes,
            confusion=confusion,
        )
    except FAULTS as error:
        raise damaged(path, error) from error


def read_images(path: Path) -> list[dict[str, Any]]:
    """The entries of ``images.json``, worst first, then best, then samples."""
    values = read_json(path)
    keys = ('uid', 'groups', 'mean_iou', 'pixel_accuracy', 'image', 'truth', 'prediction')
    try:
        images = [{key: entry[key] for key in keys} for entry in values['images']]
        for entry in images:
            entry.update({key: number(entry[key]) for key in ('mean_iou', 'pixel_accuracy')})
            entry['groups'] = list(dict.fromkeys(map(str, entry['groups'])))
    except FAULTS as error:
        raise damaged(path, error) from error

    def order(entry: dict[str, Any]) -> tuple[int, float]:
        rank = min((GROUPS.index(group) for group in entry['groups'] if group in GROUPS), default=len(GROUPS))
        iou = entry['mean_iou'] or 0.0
        return rank, {0: iou, 1: -iou}.get(rank, 0.0)

    return sorted(images, key=order)


def read_image_ious(path: Path) -> list[float]:
    """Mean IoU in percent of each image that has one."""
    reader = csv.DictReader(io.StringIO(read_text(path)))
    ious = []
    try:
        for row in reader:
            ious += [float(row['mean_iou'])] if row['mean_iou'] else []
    except (*FAULTS, csv.Error) as error:
        raise damaged(f'{path}, line {reader.line_num}', error) from error
    return [iou for iou in ious if math.isfinite(iou)]


def number(value: Any) -> float | None:
    return None if value is None or not math.isfinite(float(value)) else float(value)


# Where it fails


class Confusion(NamedTuple):
    """``percent`` of a class's pixels that go to the class ``name``, or come from it."""

    name: str
    percent: float


class ClassRow(NamedTuple):
    """``taken_for``: what its pixels are mostly called instead. ``called``: what is mostly called it instead."""

    score: ClassScore
    taken_for: Confusion | None
    called: Confusion | None


def class_rows(scores: Evaluation) -> list[ClassRow]:
    names = [score.name for score in scores.classes]
    return [
        ClassRow(
            score, _largest(scores.confusion[index], index, names), _largest(scores.confusion[:, index], index, names)
        )
        for index, score in enumerate(scores.classes)
    ]


def _largest(pixels: np.ndarray, own: int, names: Sequence[str]) -> Confusion | None:
    others = pixels.copy()
    others[own] = 0
    other = int(others.argmax())
    return Confusion(names[other], 100 * float(others[other] / pixels.sum())) if others[other] else None


def weakest(rows: Iterable[ClassRow], count: int = WEAKEST) -> list[ClassRow]:
    """The classes of lowest IoU, the lowest first; of equals the more frequent."""
    scored = [row for row in rows if row.score.iou is not None]
    return sorted(scored, key=lambda row: (row.score.iou, -(row.score.pixel_share or 0)))[:count]


# Plots, as plotly's figures; page.js gives them the page's fonts and colours


def figures(run: Run) -> dict[str, dict[str, Any]]:
    """Those that there are data for, by name."""
    made = {name: curve(run, name) for name in CURVES}
    if run.mious:
        traces = [
            line(title(protocol), series.epoch, series.value, color, mode='lines+markers')
            for (protocol, series), color in zip(distinct(run.mious), _cycle())
        ]
        assert run.best is not None
        value, epoch, _ = run.best
        star = {'symbol': 'star', 'size': 14, 'color': OTHER_COLORS[0]}
        traces.append(line(f'best: {value:.2f} %', [epoch], [value], mode='markers', marker=star))
        made['miou'] = figure(traces, 'epoch', 'mean IoU, %')
    if run.scores:
        made['confusion'] = heatmap(run.scores)
    if run.image_ious:
        bars = {'type': 'histogram', 'x': rounded(run.image_ious), 'name': 'images', 'marker': {'color': ACCENT}}
        bars |= {'xbins': {'start': 0, 'end': 100.001, 'size': 5}, 'autobinx': False}
        made['image-ious'] = figure([bars], 'mean IoU of an image, %', 'images', bargap=0.06)
        made['image-ious']['layout']['xaxis']['range'] = [0, 100]
    return {name: plot for name, plot in made.items() if plot}


def curve(run: Run, name: str) -> dict[str, Any] | None:
    """A metric by batch. The loss is smoothed, and its total shown as it is, too."""
    _, pattern, unit = CURVES[name]
    found = {match[1]: run.history[key] for key, match in matches(pattern, run.history)}
    found = dict(sorted(found.items(), key=lambda item: item[0] not in ('total', 'samples_per_sec')))
    traces = []
    for (label, series), color in zip(distinct(found), _cycle()):
        value, label = series.value, label.replace('_', ' ')
        if name == 'loss':
            if label == 'total':
                traces.append(line('total, each', series.batch, value, color, opacity=0.5, width=1))
            value = smoothed(value)
        traces.append(line(label, series.batch, value, color))
    return figure(traces, 'batch', unit) if traces else None


def comparison(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """Mean IoU of all runs by epoch and by time."""
    traces: dict[str, list[dict[str, Any]]] = {'compare-epochs': [], 'compare-hours': []}
    for run, color in zip(runs, _cycle()):
        for protocol, series in list(run.mious.items())[:1]:
            name = f'{run.label}: {title(protocol)}'
            for plot, x in {'compare-epochs': series.epoch, 'compare-hours': series.seconds / 3600}.items():
                traces[plot].append(line(name, x, series.value, color, mode='lines+markers'))
    axes = {'compare-epochs': 'epoch', 'compare-hours': 'hours'}
    return {plot: figure(lines, axes[plot], 'mean IoU, %') for plot, lines in traces.items() if lines}


def heatmap(scores: Evaluation) -> dict[str, Any]:
    """Rows are true classes, in percent of their pixels. The classes are numbers: two names may be the same."""
    totals = scores.confusion.sum(axis=1, keepdims=True)
    percent = 100 * scores.confusion / np.where(totals, totals, 1)
    cells = [rounded(row) if total else [None] * len(row) for row, total in zip(percent, totals[:, 0])]
    # Nothing is clear in light and dark alike; rare confusions are to be seen, too.
    stops = ((0, 0.0), (0.01, 0.06), (0.05, 0.2), (0.25, 0.5), (1, 1.0))
    rgb = ','.join(str(int(ACCENT[start : start + 2], 16)) for start in (1, 3, 5))
    trace = {
        'type': 'heatmap',
        'name': 'confusion',
        'z': cells,
        'zmin': 0,
        'zmax': 100,
        'colorscale': [[stop, f'rgba({rgb},{alpha})'] for stop, alpha in stops],
        'colorbar': {'ticksuffix': ' %', 'thickness': 10, 'outlinewidth': 0},
    }
    names = [plain(score.name if len(score.name) <= 22 else f'{score.name[:21]}…') for score in scores.classes]
    axis = {'tickvals': list(range(len(names))), 'ticktext': names, 'showgrid': False, 'zeroline': False, 'ticks': ''}
    plot = figure([trace], 'predicted', 'true')
    plot['layout']['xaxis'] |= axis | {'tickangle': -45, 'constrain': 'domain'}
    plot['layout']['yaxis'] |= axis | {'autorange': 'reversed'}
    plot['classes'] = [plain(score.name) for score in scores.classes]
    return plot


def figure(traces: list[dict[str, Any]], x: str, y: str, **layout: Any) -> dict[str, Any]:
    axes = {'xaxis': {'title': {'text': x, 'standoff': 8}}, 'yaxis': {'title': {'text': y, 'standoff': 8}}}
    return {'data': traces, 'layout': axes | layout}


def line(
    name: str,
    x: Sequence[float] | np.ndarray,
    y: Sequence[float] | np.ndarray,
    color: str = ACCENT,
    width: float = 2,
    **options: Any,
) -> dict[str, Any]:
    x, y = thinned(np.asarray(x), np.asarray(y))
    style = {'mode': 'lines', 'line': {'color': color, 'width': width}}
    return {'type': 'scatter', 'name': plain(name), 'x': rounded(x, 9), 'y': rounded(y)} | style | options


def thinned(x: np.ndarray, y: np.ndarray, most: int = MOST_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """At most ``most`` of the points: the lowest and the highest of each stretch, so that no peak is lost."""
    if len(x) <= most:
        return x, y
    edges = np.linspace(0, len(x), most // 2 + 1).astype(int)
    stretches = [(first, y[first:last]) for first, last in pairwise(edges)]
    keep = sorted({first + extreme for first, part in stretches for extreme in (part.argmin(), part.argmax())})
    return x[keep], y[keep]


def smoothed(values: np.ndarray) -> np.ndarray:
    """The mean of a fiftieth of the values before and after each."""
    count, reach = len(values), max(1, len(values) // 50)
    sums = np.concatenate([[0.0], values.cumsum()])
    first = np.maximum(np.arange(count) - reach, 0)
    last = np.minimum(np.arange(count) + reach + 1, count)
    return (sums[last] - sums[first]) / (last - first)


def distinct(lines: dict[str, Series]) -> list[tuple[str, Series]]:
    """Without those that would lie exactly on an earlier one, as a single device's throughput on that of all."""
    kept: list[tuple[str, Series]] = []
    for name, series in lines.items():
        if not any(len(series.value) == len(other.value) and np.allclose(series, other) for _, other in kept):
            kept.append((name, series))
    return kept


def matches(pattern: str, names: Iterable[str]) -> list[tuple[str, re.Match[str]]]:
    return [(name, match) for name in names if (match := re.fullmatch(pattern, name))]


def title(protocol: str) -> str:
    return protocol or 'while training'


def rounded(values: Iterable[float], digits: int = 5) -> list[float]:
    return [float(f'{value:.{digits}g}') for value in values]


def plain(text: str) -> str:
    """For plotly, which takes its texts for HTML."""
    return text.replace('&', '&amp;').replace('<', '&lt;').replace('>', '&gt;')


def _cycle() -> Iterable[str]:
    while True:
        yield from COLORS


# Pictures


def picture(run: Run, entry: dict[str, Any]) -> dict[str, Any]:
    """The entry with its pictures as data URIs, and with the classes that occur in them.

    Raises:
        OSError, ValueError: a file of it is damaged, or not what it should be; the message names it.
    """
    folder = run.folder / 'evaluation'
    image, truth, prediction = (_open(folder, entry[key]) for key in ('image', 'truth', 'prediction'))
    for key, mask in {'truth': truth, 'prediction': prediction}.items():
        if mask.mode not in ('P', 'L') or mask.size != image.size:
            raise ValueError(
                f'{folder / entry[key]}: {mask.mode}, {mask.size}; expected an 8-bit palette of the size {image.size}'
            )
    classes = run.scores.classes if run.scores else []
    own = np.array(truth.getpalette() or [], np.uint8).reshape(-1, 3)
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(own)] = own
    for index, score in enumerate(classes[:IGNORE_LABEL]):
        palette[index] = score.color
    palette[IGNORE_LABEL] = 0
    occurring = np.union1d(np.asarray(truth), np.asarray(prediction))
    legend = [
        (classes[index].name if index < len(classes) else f'class {index}', palette[index].tolist())
        for index in occurring.tolist()
        if index != IGNORE_LABEL
    ]

    image = image.convert('RGB')
    image.thumbnail((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.LANCZOS)
    true, predicted = (np.asarray(mask.resize(image.size, Image.Resampling.NEAREST)) for mask in (truth, prediction))
    wrong = np.where((true != predicted) & (true != IGNORE_LABEL), predicted, IGNORE_LABEL)
    return entry | {
        'size': image.size,
        'legend': legend,
        'image': data_uri(image, 'jpeg', quality=85),
        'truth': data_uri(_indexed(true, palette), 'png', optimize=True),
        'prediction': data_uri(_indexed(predicted, palette), 'png', optimize=True),
        'errors': data_uri(_indexed(wrong, palette), 'png', transparency=IGNORE_LABEL),
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


def _indexed(labels: np.ndarray, palette: np.ndarray) -> Image.Image:
    image = Image.fromarray(labels.astype(np.uint8))
    image.putpalette(palette.tobytes())
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
        'evaluation while training': {run.label: title(run.best[2]) for run in runs if run.best},
        'dataset': {run.label: run.setting('eval_dataset', 'name') for run in runs if run.config},
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
        rows=sorted(rows, key=lambda row: (row.score.iou is None, row.score.iou)),
        weakest=weakest(rows),
        never=[row.score.name for row in rows if row.score.iou is None],
        pictures=pictures,
        groups=[(group, groups[group]) for group in (*GROUPS, *sorted(groups.keys() - set(GROUPS))) if groups[group]],
        warnings=warnings,
        curves=CURVES,
        plots=plots,
        title=title,
        plotly=get_plotlyjs(),
    )
    return page, warnings


def percent(value: float | None) -> str:
    return '–' if value is None else f'{value:.1f}'


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
    partial = path.with_name(f'{path.name}.partial')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(page, encoding='utf-8', errors='replace')
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
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
