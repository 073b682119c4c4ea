from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest
from helpers.run_folders import CONFUSION, NASTY, history_lines, line, make_run, parsed, traces, write_lines

from segrecipes.evaluation.scores import Scores
from segrecipes.reports.plots import MOST_POINTS, smoothed, thinned


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / 'run')


# Few points, smooth lines


def test_thinning_keeps_every_peak_and_the_ends():
    rng = np.random.default_rng(0)
    y = rng.normal(size=100_000)
    y[[31_234, 77_777]] = 50, -50
    x = np.arange(len(y))
    few_x, few_y = thinned(x, y)
    assert 1500 < len(few_x) <= MOST_POINTS
    assert (np.diff(few_x) > 0).all()
    np.testing.assert_array_equal(few_y, y[few_x])
    assert {31_234, 77_777} <= set(few_x.tolist())
    for stretch in range(0, len(y), 100):  # a thousand stretches, each with its own extremes
        part = few_y[(few_x >= stretch) & (few_x < stretch + 100)]
        assert (part.min(), part.max()) == (y[stretch : stretch + 100].min(), y[stretch : stretch + 100].max())
    np.testing.assert_array_equal(thinned(x[:2000], y[:2000])[1], y[:2000])


@pytest.mark.parametrize('count', [1, 2, 40, 333])
def test_smoothing_is_the_mean_around(count: int):
    y = np.random.default_rng(count).normal(size=count)
    reach = max(1, count // 50)
    slow = [y[max(0, i - reach) : i + reach + 1].mean() for i in range(count)]
    np.testing.assert_allclose(smoothed(y), slow, atol=1e-12)


def test_a_long_history_stays_small(tmp_path: Path):
    rng = np.random.default_rng(0)
    lines = [
        line(batch, batch // 100, loss__train__total=float(rng.random()), loss__train__dice=0.5)
        for batch in range(1, 30_001)
    ]
    _, plots, _ = parsed(write_lines(tmp_path, lines))
    assert sum(len(trace['x']) for trace in plots['loss']['data']) <= 3 * MOST_POINTS
    assert traces(plots['loss'])['total']['x'][-1] > 29_900


# Each plot


def test_plots_are_what_plotly_takes(run: Path, tmp_path: Path):
    _, plots, _ = parsed(run, make_run(tmp_path / 'other', run_name='other'))
    assert set(plots) == {
        'loss', 'lr', 'throughput', 'miou', 'confusion', 'image-ious', 'compare-epochs', 'compare-hours',
    }  # fmt: skip
    for plot in plots.values():
        go.Figure({'data': plot['data'], 'layout': plot['layout']})  # raises at a property that does not exist


def test_curves(run: Path):
    _, plots, _ = parsed(run)
    total = np.array([4 / batch for batch in range(1, 41)])
    loss = traces(plots['loss'])
    assert list(loss) == ['total, each', 'total', 'cross entropy', 'dice']
    np.testing.assert_allclose(loss['total, each']['y'], total, rtol=1e-4)
    np.testing.assert_allclose(loss['total']['y'], smoothed(total), rtol=1e-4)
    np.testing.assert_allclose(loss['dice']['y'], smoothed(total / 4), rtol=1e-4)
    assert loss['total']['x'] == list(range(1, 41))
    assert loss['total, each']['line']['width'] < loss['total']['line']['width']
    miou = traces(plots['miou'])
    assert (miou['ade20k-ss']['x'], miou['ade20k-ss']['y']) == ([1, 2, 3, 4], [20, 40, 52.5, 50])
    assert (miou['best: 52.50 %']['x'], miou['best: 52.50 %']['y']) == ([3], [52.5])
    assert set(traces(plots['lr'])['DecoupledSGDW/group0']['y']) == {0.25}
    assert list(traces(plots['throughput'])) == ['samples per sec']  # one device: both are the same line
    assert plots['image-ious']['data'][0]['x'] == [90, 10, 5.5]


def test_validation_loss_beside_that_of_training(run: Path):
    """The mean of the batches since the evaluation before."""
    lines = history_lines()
    for batch, loss in ((10, 2.0), (40, 1.0)):
        lines.append(line(batch, batch // 10, **{'metrics/eval/CrossEntropy[ade20k-ss]': loss}))
    write_lines(run, sorted(lines, key=lambda entry: entry['batch']))
    shown = traces(parsed(run)[1]['validation-loss'])
    assert (shown['ade20k-ss']['x'], shown['ade20k-ss']['y']) == ([1, 4], [2, 1])
    training = [np.mean([3 / batch for batch in part]) for part in (range(1, 11), range(11, 41))]
    assert shown['training, mean since']['x'] == [1, 4]
    np.testing.assert_allclose(shown['training, mean since']['y'], training, rtol=1e-4)
    write_lines(run, [line(1, 1, **{'metrics/eval/CrossEntropy': 3.0})])  # of mosaic-512sq
    assert traces(parsed(run)[1]['validation-loss'])['validation']['y'] == [3]


def test_ious_of_classes_in_their_colours_the_frequent_first(tmp_path: Path):
    names = [f'class {index}' for index in range(14)]
    colors = [(0, 0, 0), *((index, 10, 20) for index in range(1, 14))]
    confusion = np.diag(np.arange(1, 15))
    Scores(confusion, tuple(names), 3, 'slide', colors=tuple(colors)).write(tmp_path / 'evaluation')
    table = {'eval/classes[slide]': {'columns': [], 'rows': [[name, index] for index, name in enumerate(names)]}}
    write_lines(tmp_path, [line(10, 1, a=1) | {'tables': table}, line(20, 2, a=1) | {'tables': table}])
    lines = parsed(tmp_path)[1]['class-ious']['data']
    assert [trace['name'] for trace in lines] == names[::-1]
    assert [trace.get('visible') for trace in lines] == [None] * 12 + ['legendonly'] * 2
    assert [trace['line']['color'] for trace in lines][::13] == ['#0d0a14', '#8a8a8a']  # black would not be seen
    assert (lines[0]['x'], lines[0]['y']) == ([1, 2], [13, 13])


def test_memory(run: Path):
    assert 'Memory: left out, the history holds none (it is measured on GPUs only).' in parsed(run)[0].text
    write_lines(run, [line(1, 0, memory__peak_allocated_mem=7.5, memory__alloc_retries=3)])
    found, plots, _ = parsed(run)
    assert traces(plots['memory'])['peak allocated mem']['y'] == [7.5]
    assert len(plots['memory']['data']) == 1
    assert 'Memory: left out' not in found.text


def test_confusion_in_percent_of_rows(run: Path):
    plot = parsed(run)[1]['confusion']
    slow = [[100 * cell / sum(row) if sum(row) else None for cell in row] for row in CONFUSION]
    assert plot['data'][0]['z'] == slow
    escaped = NASTY.replace('&', '&amp;').replace('<', '&lt;').replace('>', '&gt;')
    assert plot['classes'] == ['road', escaped, 'sign', 'boat']
    assert plot['layout']['yaxis']['autorange'] == 'reversed'
