"""The plots of a report, as plotly's figures; the page gives them its fonts and colours."""

from collections.abc import Iterable, Sequence
from itertools import cycle, pairwise
from typing import Any

import numpy as np
from plotly.offline import get_plotlyjs

from segrecipes.evaluation.scores import Scores
from segrecipes.reports.read import Series
from segrecipes.reports.run import Run

MOST_POINTS = 2000  # of one line in a plot
MOST_LINES = 12  # of classes that are shown at first; the others at a click on their name
UNSEEN = '#8a8a8a'  # in place of black, which a background has
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


VALIDATION_LOSS = r'metrics/eval/CrossEntropy(?:\[(.+)\])?'


def figures(run: Run) -> dict[str, dict[str, Any]]:
    """Those that there are data for, by name."""
    made = {name: curve(run, name) for name in CURVES}
    if run.mious:
        traces = [
            line(protocol, series.epoch, series.value, color, mode='lines+markers')
            for (protocol, series), color in zip(distinct(run.mious), cycle(COLORS))
        ]
        assert run.best is not None
        value, epoch, _ = run.best
        star = {'symbol': 'star', 'size': 14, 'color': OTHER_COLORS[0]}
        traces.append(line(f'best: {value:.2f} %', [epoch], [value], mode='markers', marker=star))
        made['miou'] = figure(traces, 'epoch', 'mean IoU, %')
    if losses := run.matching(VALIDATION_LOSS):
        made['validation-loss'] = validation_loss(run, losses)
    if run.history.class_ious:
        made['class-ious'] = class_ious(run)
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
    found = dict(sorted(run.matching(pattern).items(), key=lambda item: item[0] not in ('total', 'samples_per_sec')))
    traces = []
    for (label, series), color in zip(distinct(found), cycle(COLORS)):
        value, label = series.value, label.replace('_', ' ')
        if name == 'loss':
            if label == 'total':
                traces.append(line('total, each', series.batch, value, color, opacity=0.5, width=1))
            value = smoothed(value)
        traces.append(line(label, series.batch, value, color))
    return figure(traces, 'batch', unit) if traces else None


def validation_loss(run: Run, losses: dict[str, Series]) -> dict[str, Any]:
    """Cross entropy of each evaluation, and that of training at the same batches, averaged since the one before."""
    traces = []
    for (protocol, series), color in zip(losses.items(), cycle(COLORS)):
        traces.append(line(protocol or 'validation', series.epoch, series.value, color, mode='lines+markers'))
    training = run.history.metrics.get('loss/train/cross_entropy')
    if training is not None:
        series = next(iter(losses.values()))
        edges = np.searchsorted(training.batch, series.batch, side='right')
        parts = [training.value[first:last] for first, last in zip([0, *edges], edges)]
        means = [(epoch, part.mean()) for epoch, part in zip(series.epoch, parts) if len(part)]
        if means:
            epochs, values = zip(*means)
            style = {'color': OTHER_COLORS[0], 'width': 2, 'dash': 'dot'}
            traces.append(line('training, mean since', epochs, values, mode='lines+markers') | {'line': style})
    return figure(traces, 'epoch', 'cross entropy')


def class_ious(run: Run) -> dict[str, Any]:
    """IoU of each class at each evaluation, in its colour; the most frequent classes are shown first."""
    final = run.scores.protocol if run.scores else None
    lines = run.history.class_ious
    of_class = lines.get(final or '', next(iter(lines.values())))
    colors: dict[str, str] = {}
    order = list(of_class)
    if run.scores:
        names = run.scores.class_names
        colors = dict(zip(names, ('#{:02x}{:02x}{:02x}'.format(*color) for color in run.scores.colors)))
        share = dict(zip(names, run.scores.pixel_share.tolist()))
        order.sort(key=lambda name: -np.nan_to_num(share.get(name, 0)))
    traces = []
    for index, (name, color) in enumerate(zip(order, cycle(COLORS))):
        series, color = of_class[name], colors.get(name, color)
        color = UNSEEN if color == '#000000' else color
        hidden = {'visible': 'legendonly'} if index >= MOST_LINES else {}
        traces.append(line(name, series.epoch, series.value, color, mode='lines+markers') | hidden)
    return figure(traces, 'epoch', 'IoU, %')


def comparison(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """Mean IoU of all runs by epoch and by time."""
    traces: dict[str, list[dict[str, Any]]] = {'compare-epochs': [], 'compare-hours': []}
    for run, color in zip(runs, cycle(COLORS)):
        for protocol, series in list(run.mious.items())[:1]:
            name = f'{run.label}: {protocol}'
            for plot, x in {'compare-epochs': series.epoch, 'compare-hours': series.seconds / 3600}.items():
                traces[plot].append(line(name, x, series.value, color, mode='lines+markers'))
    axes = {'compare-epochs': 'epoch', 'compare-hours': 'hours'}
    return {plot: figure(lines, axes[plot], 'mean IoU, %') for plot, lines in traces.items() if lines}


def heatmap(scores: Scores) -> dict[str, Any]:
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
    names = [plain(name if len(name) <= 22 else f'{name[:21]}…') for name in scores.class_names]
    axis = {'tickvals': list(range(len(names))), 'ticktext': names, 'showgrid': False, 'zeroline': False, 'ticks': ''}
    plot = figure([trace], 'predicted', 'true')
    plot['layout']['xaxis'] |= axis | {'tickangle': -45, 'constrain': 'domain'}
    plot['layout']['yaxis'] |= axis | {'autorange': 'reversed'}
    plot['classes'] = [plain(name) for name in scores.class_names]
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
    style = {'mode': 'lines' if len(x) > 1 else 'markers', 'line': {'color': color, 'width': width}}
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


def rounded(values: Iterable[float], digits: int = 5) -> list[float]:
    return [float(f'{value:.{digits}g}') for value in values]


def plain(text: str) -> str:
    """For plotly, which takes its texts for HTML."""
    return text.replace('&', '&amp;').replace('<', '&lt;').replace('>', '&gt;')


def library() -> str:
    """plotly's own code in JavaScript, some 4 MB."""
    return get_plotlyjs()
