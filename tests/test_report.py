import base64
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from PIL import Image
from plotly.offline import get_plotlyjs

import report
from config import Config, save
from errors import MissingPathError, UserError
from gallery import Gallery
from layouts import palette
from report import main, read_run, render, smoothed, thinned, write_report
from scores import Scores

NASTY = '</script><b onclick="x">&amp;\u2028\''
RUN_NAME = '</title><i>run</i> & "1"'
NAMES = ('road', NASTY, 'sign', 'boat')
COLORS = [[128, 64, 128], [0, 200, 0], [250, 0, 0], [0, 0, 250]]
CONFUSION = [[60, 30, 10, 0], [5, 40, 5, 0], [0, 25, 25, 0], [0, 0, 0, 0]]
IOU = [100 * 60 / 105, 100 * 40 / 105, 100 * 25 / 65, None]
ACCURACY = [60.0, 80.0, 50.0, None]
CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
FLAGS = (
    '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--disable-sync',
)  # fmt: skip


def line(batch: int, epoch: int, **metrics: Any) -> dict[str, Any]:
    metrics = {name.replace('__', '/'): value for name, value in metrics.items()}
    return {'batch': batch, 'epoch': epoch, 'sample': batch * 16, 'seconds': batch * 36.0, 'metrics': metrics}


def history_lines(protocol: str = 'ade20k-ss') -> list[dict[str, Any]]:
    """Forty batches, four epochs; the best mean IoU, 52.5, in the third."""
    lines = []
    for batch in range(1, 41):
        losses = {'total': 4 / batch, 'cross_entropy': 3 / batch, 'dice': 1 / batch}
        metrics = {f'loss/train/{name}': loss for name, loss in losses.items()}
        metrics |= {'lr-DecoupledSGDW/group0': 0.25, 'throughput/samples_per_sec': 30.0 + batch % 3}
        metrics['throughput/device/samples_per_sec'] = metrics['throughput/samples_per_sec']
        lines.append(line(batch, (batch - 1) // 10, **metrics))
        if batch % 10 == 0:
            iou = [20.0, 40.0, 52.5, 50.0][batch // 10 - 1]
            lines.append(line(batch, batch // 10, **{f'metrics/eval/mIoU[{protocol}]': iou}))
    return lines


def write_lines(folder: Path, lines: list[Any], end: str = '\n') -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    text = '\n'.join(text if isinstance(text, str) else json.dumps(text) for text in lines)
    (folder / 'history.jsonl').write_text(text + end)
    return folder


def scores_of(names: Any, colors: Any, confusion: Any, iou: Any, accuracy: Any) -> dict[str, Any]:
    totals, predicted = np.sum(confusion, axis=1), np.sum(confusion, axis=0)
    shares = 100 * totals / totals.sum(), 100 * predicted / totals.sum()
    keys = ('name', 'color', 'iou', 'accuracy', 'pixel_share', 'predicted_share')
    return {
        'protocol': 'ade20k-ss', 'weights': 'ema', 'epoch': 4, 'batch': 40, 'images': 3,
        'pixel_accuracy': 62.51, 'mean_accuracy': 63.32, 'mean_iou': 44.57, 'final_score': None,
        'classes': [dict(zip(keys, row)) for row in zip(names, colors, iou, accuracy, *(s.tolist() for s in shares))],
        'confusion': confusion,
    }  # fmt: skip


def make_run(folder: Path, protocol: str = 'ade20k-ss', run_name: str = RUN_NAME) -> Path:
    """A run with everything in it: image a is 800 pixels wide, b and c 40."""
    write_lines(folder, history_lines(protocol))
    config = Config(run_name=run_name, recipe_name='mild')
    config.eval_dataset.name = 'camvid'
    save(config, {'run_name': 'command line'}, folder / 'config.yaml')
    pictures = folder / 'evaluation' / 'images'
    pictures.mkdir(parents=True)
    scores = scores_of(NAMES, COLORS, CONFUSION, IOU, ACCURACY) | {'protocol': protocol}
    (pictures.parent / 'scores.json').write_text(json.dumps(scores))
    entries = []
    for uid, size, groups, iou in (('a', (800, 40), ['best'], 90), ('b', (40, 20), ['worst', 'sample'], 10),
                                   ('c', (40, 20), ['worst'], 5.5)):  # fmt: skip
        rng = np.random.default_rng(ord(uid))
        image = Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), np.uint8))
        image.save(pictures / f'{uid}.jpg')
        truth = rng.integers(0, 3, (size[1], size[0]), np.uint8)
        truth[:3] = 255
        prediction = np.where(rng.random(truth.shape) < 0.5, truth, 1).astype(np.uint8)
        for kind, labels in {'truth': truth, 'prediction': prediction}.items():
            mask = Image.fromarray(labels)
            mask.putpalette(np.vstack([palette(255), [[0, 0, 0]]]).astype(np.uint8).tobytes())
            mask.save(pictures / f'{uid}-{kind}.png')
        files = {'image': f'images/{uid}.jpg'} | {k: f'images/{uid}-{k}.png' for k in ('truth', 'prediction')}
        entries.append({'uid': uid, 'groups': groups, 'mean_iou': iou, 'pixel_accuracy': 77.7} | files)
    (pictures.parent / 'images.json').write_text(json.dumps({'images': entries}))
    (pictures.parent / 'image_scores.csv').write_text('uid,mean_iou,pixel_accuracy\na,90,99\nb,10,20\nc,5.5,\nd,,\n')
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / 'run')


class Text(HTMLParser):
    """What a reader sees, and the ids of a page."""

    def __init__(self, page: str):
        super().__init__()
        self.ids: list[str] = []
        self.parts: list[str] = []
        self.data: dict[str, str] = {}
        self._within = ('', None)
        self.feed(page.replace(get_plotlyjs(), ''))
        self.text = re.sub(r'\s+', ' ', ''.join(self.parts))

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        identity = dict(attrs).get('id')
        self._within = tag, identity
        self.ids += [identity] if identity else []
        self.parts += [' '] if tag in ('th', 'td', 'br') else []

    def handle_endtag(self, tag: str) -> None:
        self._within = ('', None)

    def handle_data(self, data: str) -> None:
        tag, identity = self._within
        if tag in ('script', 'style'):
            self.data[identity or tag] = self.data.get(identity or tag, '') + data
        else:
            self.parts.append(data)


def parsed(*folders: Path) -> tuple[Text, dict[str, Any], list[str]]:
    page, warnings = render([read_run(folder) for folder in folders])
    found = Text(page)
    return found, json.loads(found.data['plots']), warnings


def traces(plot: Any) -> dict[str, Any]:
    return {trace['name']: trace for trace in plot['data']}


# What is in a history


def values(folder: Path, name: str) -> list[tuple[float, ...]]:
    return list(zip(*(column.tolist() for column in read_run(folder).history[name])))


def test_lines_of_a_batch_add_up(tmp_path: Path):
    lines = [line(1, 0, a=1.0, b=2), line(1, 1, b=3, c=4), line(2, 1, a=5)]
    folder = write_lines(tmp_path, lines)
    assert values(folder, 'a') == [(1, 1, 36, 1), (2, 1, 72, 5)]
    assert values(folder, 'b') == [(1, 1, 36, 3)]
    assert values(folder, 'c') == [(1, 1, 36, 4)]


def test_a_resumed_run_replaces_what_it_repeats(tmp_path: Path):
    lines = [line(batch, 0, a=batch) for batch in (1, 2, 3, 4, 5)] + [line(batch, 0, a=-batch) for batch in (3, 4)]
    assert [row[3] for row in values(write_lines(tmp_path, lines), 'a')] == [1, 2, -3, -4]


@pytest.mark.parametrize('cut', range(1, 40, 3))
def test_a_line_cut_off_at_the_end_is_ignored(tmp_path: Path, cut: int):
    lines = [line(1, 0, a=1), json.dumps(line(2, 0, a=2))[:cut]]
    assert values(write_lines(tmp_path, lines, end=''), 'a') == [(1, 0, 36, 1)]


def test_the_end_needs_no_newline(tmp_path: Path):
    assert len(values(write_lines(tmp_path, [line(1, 0, a=1), line(2, 0, a=2)], end=''), 'a')) == 2


def test_a_run_resumed_behind_a_line_cut_off(tmp_path: Path):
    lines = [line(1, 0, a=1), json.dumps(line(2, 0, a=2))[:30] + json.dumps(line(2, 0, a=3)), line(3, 0, a=4)]
    assert [row[3] for row in values(write_lines(tmp_path, lines), 'a')] == [1, 3, 4]


def test_what_is_no_number_is_left_out(tmp_path: Path):
    lines = [line(1, 0, a=None, b=1), line(2, 0, a=float('nan')), line(3, 0, a=float('inf')), line(4, 0, a=2, b='x')]
    folder = write_lines(tmp_path, lines)
    assert values(folder, 'a') == [(4, 0, 144, 2)]
    assert values(folder, 'b') == [(1, 0, 36, 1)]


@pytest.mark.parametrize(
    ('damage', 'fault'),
    [
        ('{"batch": 2, "metrics"', 'Expecting'),
        ('[1]', 'list indices'),
        ('{"batch": 2, "epoch": 0, "seconds": 1}', "no 'metrics'"),
        ('{"batch": "x", "epoch": 0, "seconds": 1, "metrics": {}}', 'invalid literal'),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, damage: str, fault: str):
    write_lines(tmp_path, [line(1, 0, a=1), damage, line(3, 0, a=1)])
    with pytest.raises(UserError, match=f'{re.escape(str(tmp_path))}/history.jsonl, line 2: damaged: {fault}'):
        read_run(tmp_path)


# Few points, smooth lines


def test_thinning_keeps_every_peak_and_the_ends():
    rng = np.random.default_rng(0)
    y = rng.normal(size=100_000)
    y[[31_234, 77_777]] = 50, -50
    x = np.arange(len(y))
    few_x, few_y = thinned(x, y)
    assert 1500 < len(few_x) <= report.MOST_POINTS
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
    assert sum(len(trace['x']) for trace in plots['loss']['data']) <= 3 * report.MOST_POINTS
    assert traces(plots['loss'])['total']['x'][-1] > 29_900


# What is on the page


def test_figures_and_header(run: Path):
    found, _, warnings = parsed(run)
    assert warnings == []
    for expected in (
        'Mean IoU 44.6%', 'Pixel accuracy 62.5%', 'Mean accuracy 63.3%', 'Final score – ',
        'Best mean IoU 52.5% epoch 3',
        'architecture deeplabv3plus', 'backbone resnet101', 'recipe mild', 'dataset camvid',
        'Evaluated on 3 images, protocol ade20k-ss, ema weights after epoch 4.', f'{RUN_NAME} architecture',
    ):  # fmt: skip
        assert re.sub(r'\s+', ' ', expected) in found.text


def test_the_best_of_another_protocol_says_so(run: Path):
    write_lines(run, history_lines('mosaic-512sq@128'))
    assert 'Best mean IoU 52.5% epoch 3, mosaic-512sq@128' in parsed(run)[0].text


def test_without_an_evaluation_the_first_protocol_counts_before_the_trainers_own_metric(run: Path):
    lines = [line(1, 1, **{'metrics/eval/MIoU': 60.0, 'metrics/eval/mIoU[slide]': 30.0})]
    write_lines(run, lines)
    shutil.rmtree(run / 'evaluation')
    assert read_run(run).best == (30.0, 1, 'slide')


def test_where_it_fails(run: Path):
    text = parsed(run)[0].text
    weakest = text[text.index('Where it fails') : text.index('Classes')]
    nasty = re.sub(r'\s+', ' ', NASTY)
    expected = (
        f'{nasty} IoU 38.1 % 10 % of its pixels are taken for road; 32 % of what is called {nasty} is road. ',
        f'sign IoU 38.5 % 50 % of its pixels are taken for {nasty}; 25 % of what is called sign is road. ',
        f'road IoU 57.1 % 30 % of its pixels are taken for {nasty}; 7.7 % of what is called road is {nasty}. ',
    )
    assert weakest == 'Where it fails ' + ''.join(expected)
    assert '1 of 4 classes occur neither in the ground truth nor in a prediction: boat.' in text


def test_a_class_that_is_predicted_only_and_one_without_a_fault(tmp_path: Path):
    scores = scores_of('ab', COLORS, [[0, 0], [3, 9]], [0.0, 75.0], [None, 75.0])
    perfect = scores_of('ab', COLORS, [[4, 0], [0, 4]], [100.0, 100.0], [100.0, 100.0])
    (tmp_path / 'evaluation').mkdir()
    for values, expected in (
        (scores, 'a IoU 0.0 % Occurs in no ground truth, yet is predicted; 100 % of what is called a is b.'),
        (perfect, 'b IoU 100.0 % None of its pixels is missed.'),
    ):
        (tmp_path / 'evaluation/scores.json').write_text(json.dumps(values))
        assert expected in parsed(tmp_path)[0].text


def test_five_weakest_the_more_frequent_first():
    rows = [
        report.ClassRow(report.ClassScore(str(index), (), iou, iou, pixels, pixels), None, None)
        for index, (iou, pixels) in enumerate([(5, 1), (None, 0), (0, 1), (0, 9), (90, 5), (80, 5), (70, 5)])
    ]
    assert [row.score.name for row in report.weakest(rows)] == ['3', '2', '0', '6', '5']


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


def test_config_verbatim(run: Path):
    page, _ = render([read_run(run)])
    shown = re.search(r'<pre tabindex="0">\n(.*?)</pre>', page, re.DOTALL)
    assert shown is not None
    parser = Text(shown[1])
    assert ''.join(parser.parts) == (run / 'config.yaml').read_text()
    assert '# command line' in shown[1]


@pytest.mark.parametrize(
    ('file', 'note', 'gone'),
    [
        ('config.yaml', 'Settings: left out, config.yaml is missing.', 'settings'),
        ('history.jsonl', 'Training curves: left out, history.jsonl is missing.', 'curves'),
        ('evaluation/scores.json', 'Classes and confusion: left out, evaluation/scores.json is missing.', 'classes'),
        ('evaluation/images.json', 'Images: left out, evaluation/images.json is missing.', 'groups'),
        ('evaluation/image_scores.csv', 'left out, evaluation/image_scores.csv is missing.', 'plot-image-ious'),
    ],
)  # fmt: skip
def test_what_is_missing_is_said(run: Path, file: str, note: str, gone: str):
    found, _, _ = parsed(run)
    assert gone in found.ids and note not in found.text
    (run / file).unlink()
    found, _, warnings = parsed(run)
    assert note in found.text
    assert gone not in found.ids
    assert warnings == []


def test_neither_history_nor_evaluation(run: Path, capsys: pytest.CaptureFixture[str]):
    shutil.rmtree(run / 'evaluation')
    (run / 'history.jsonl').write_text('')
    for _ in range(2):
        with pytest.raises(SystemExit) as exit_:
            main([str(run)])
        assert exit_.value.code == 1
        assert capsys.readouterr().err == (
            f'error: {run} is not the folder of a run: neither history.jsonl with metrics in it '
            'nor evaluation/scores.json\n'
        )
        (run / 'history.jsonl').unlink(missing_ok=True)
    assert not (run / 'report.html').exists()


def test_no_such_folder(tmp_path: Path):
    with pytest.raises(MissingPathError, match=f'run folder does not exist: {tmp_path}/nowhere'):
        read_run(tmp_path / 'nowhere')


@pytest.mark.parametrize(
    ('file', 'text', 'fault'),
    [
        ('evaluation/scores.json', '{\n"protocol": "x",\n oops}', ', line 3: damaged JSON: Expecting property name'),
        ('evaluation/scores.json', '{}', ": damaged: no 'classes'"),
        ('evaluation/scores.json', '[]', ': damaged: list indices'),
        ('evaluation/images.json', '{"images": [{"uid": 1}]}', ": damaged: no 'groups'"),
        ('evaluation/images.json', '{"images": [\n', ', line 2: damaged JSON: Expecting value'),
        ('evaluation/image_scores.csv', 'uid,mean_iou\na,1\nb,x\n', ', line 3: damaged: could not convert'),
        ('evaluation/image_scores.csv', 'uid,iou\na,1\n', ", line 2: damaged: no 'mean_iou'"),
        ('config.yaml', 'a: 1\nb: [\n', ', line 3: damaged yaml: '),
        ('config.yaml', 'x', ": expected keys and values, found 'x'"),
        ('config.yaml', b'a: \xff', ' is not UTF-8 text: '),
    ],
)
def test_a_damaged_file_is_named(run: Path, file: str, text: str | bytes, fault: str):
    (run / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=re.escape(f'{run / file}{fault}')):
        read_run(run)


def test_a_confusion_matrix_of_another_size(run: Path):
    path = run / 'evaluation/scores.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | {'confusion': [[1, 2], [3, 4]]}))
    with pytest.raises(UserError, match=re.escape(f'{path}: damaged: confusion is (2, 2) for 4 classes')):
        read_run(run)


# Pictures


def embedded(entry: dict[str, Any], key: str) -> Image.Image:
    kind, _, data = entry[key].partition(';base64,')
    assert kind == ('data:image/jpeg' if key == 'image' else 'data:image/png')
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_pictures_are_embedded_small(run: Path):
    loaded = read_run(run)
    assert [entry['uid'] for entry in loaded.images] == ['c', 'b', 'a']
    entry = report.picture(loaded, loaded.images[2])
    assert {embedded(entry, key).size for key in ('image', 'truth', 'prediction', 'errors')} == {(640, 32)}
    assert dict(entry['legend']) == dict(zip(NAMES[:3], COLORS))


def test_masks_keep_their_labels_and_errors_are_the_wrong_pixels(run: Path):
    loaded = read_run(run)
    entry = report.picture(loaded, loaded.images[0])
    for key in ('truth', 'prediction'):
        with Image.open(run / f'evaluation/images/c-{key}.png') as original:
            np.testing.assert_array_equal(np.array(embedded(entry, key)), np.array(original))
    truth, prediction = (np.array(embedded(entry, key)) for key in ('truth', 'prediction'))
    colors = np.array(embedded(entry, 'prediction').convert('RGB'))
    errors = np.array(embedded(entry, 'errors').convert('RGBA'))
    seen = 0
    for y in range(truth.shape[0]):
        for x in range(truth.shape[1]):
            wrong = truth[y, x] != 255 and truth[y, x] != prediction[y, x]
            seen += wrong
            assert errors[y, x, 3] == (255 if wrong else 0)
            if wrong:
                assert errors[y, x, :3].tolist() == colors[y, x].tolist() == COLORS[prediction[y, x]]
            if truth[y, x] == 255:
                assert np.array(embedded(entry, 'truth').convert('RGB'))[y, x].tolist() == [0, 0, 0]
    assert seen > 50


def test_without_scores_masks_have_the_colours_of_their_file(run: Path):
    (run / 'evaluation/scores.json').unlink()
    loaded = read_run(run)
    entry = report.picture(loaded, loaded.images[0])
    assert entry['legend'] == [(f'class {index}', palette(3)[index].tolist()) for index in range(3)]


def spoil_size(path: Path) -> None:
    with Image.open(path) as image:
        image.crop((0, 0, 30, 20)).save(path)


@pytest.mark.parametrize(
    ('file', 'spoil', 'fault'),
    [
        ('c.jpg', lambda path: path.write_bytes(b'no picture'), 'cannot identify image file'),
        ('c.jpg', lambda path: path.write_bytes(path.read_bytes()[:500]), 'Truncated File Read'),
        ('c-truth.png', lambda path: path.write_bytes(path.read_bytes()[:200]), ''),
        ('c-prediction.png', lambda path: path.unlink(), 'No such file'),
        ('c-truth.png', spoil_size, 'P, (30, 20); expected an 8-bit palette of the size (40, 20)'),
    ],
)
def test_an_unreadable_picture_is_left_out(
    run: Path, capsys: pytest.CaptureFixture[str], file: str, spoil: Callable[[Path], object], fault: str
):
    path = run / 'evaluation/images' / file
    spoil(path)
    main([str(run)])
    errors = capsys.readouterr().err
    assert errors.startswith('warning: image c left out: ') and errors.count('\n') == 1
    assert str(path) in errors and fault in errors
    page = (run / 'report.html').read_text()
    assert page.count('<article') == 2
    assert str(path) in Text(page).text


def test_a_picture_elsewhere_is_not_embedded(run: Path, tmp_path: Path):
    Image.new('RGB', (40, 20)).save(tmp_path / 'secret.jpg')
    path = run / 'evaluation/images.json'
    path.write_text(path.read_text().replace('images/c.jpg', '../../secret.jpg'))
    _, _, warnings = parsed(run)
    assert warnings == [f'image c left out: {run}/evaluation/../../secret.jpg: not below {run}/evaluation']


# Several runs


def test_comparison(run: Path, tmp_path: Path):
    other = make_run(tmp_path / 'other', run_name='second')
    write_lines(other, [line(10, 1, **{'metrics/eval/mIoU[ade20k-ss]': 61.0, 'throughput/samples_per_sec': 8.0})])
    found, plots, _ = parsed(run, other)
    text = found.text
    table = text[text.index('Run Recipe') : text.index('Mean IoU by epoch')]
    common = 'mild deeplabv3plus resnet101 ade20k-ss ema 44.6 62.5 63.3 –'
    assert table.endswith(f'second {common} 61.0 epoch 1 1 0.10 8.0 ')
    assert f'{common} 52.5 epoch 3 4 0.40 31.0 second' in table
    assert 'Not comparable' not in text
    escaped = report.plain(RUN_NAME)
    for plot, x in {'compare-epochs': [1, 2, 3, 4], 'compare-hours': [0.1, 0.2, 0.3, 0.4]}.items():
        lines = traces(plots[plot])
        assert list(lines) == [f'{escaped}: ade20k-ss', 'second: ade20k-ss']
        assert lines[f'{escaped}: ade20k-ss']['x'] == x
        assert lines['second: ade20k-ss']['y'] == [61]
    assert text.index('2 runs') < text.index('Where it fails')


def test_other_protocols_are_not_comparable(tmp_path: Path):
    runs = [make_run(tmp_path / name, name, name) for name in ('ade20k-ss', 'slide')]
    text = parsed(*runs)[0].text
    assert 'Not comparable. These runs were not scored alike:' in text
    for what in ('final evaluation', 'evaluation while training'):
        assert f'{what}: ade20k-ss (ade20k-ss), slide (slide)' in text
    assert 'dataset: ' not in text[: text.index('What follows')]
    (runs[1] / 'evaluation/scores.json').unlink()
    text = parsed(*runs)[0].text
    assert 'final evaluation: ' not in text and 'evaluation while training: ' in text


def test_other_datasets_are_not_comparable(tmp_path: Path):
    runs = [make_run(tmp_path / name, run_name=name) for name in ('a', 'b')]
    path = runs[1] / 'config.yaml'
    path.write_text(path.read_text().replace('camvid', 'ade20k'))
    assert 'dataset: camvid (a), ade20k (b)' in parsed(*runs)[0].text


def test_runs_of_one_name_are_told_apart(tmp_path: Path):
    runs = [make_run(tmp_path / name, run_name='same') for name in ('x', 'y')]
    _, plots, _ = parsed(*runs)
    assert list(traces(plots['compare-epochs'])) == [f'same ({folder}): ade20k-ss' for folder in runs]


# The file


def test_one_file_alone(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / 'new' / 'page.html'
    before = sorted(run.rglob('*'))
    main([str(run), '--out', str(out)])
    page = out.read_text()
    assert capsys.readouterr().out == f'report: {out} ({out.stat().st_size / 1e6:.1f} MB)\n'
    assert [path.name for path in out.parent.iterdir()] == ['page.html']
    assert sorted(run.rglob('*')) == before
    assert page.count('* plotly.js v') == 1
    assert re.findall(r'\b(?:src|href)="(?!data:)', re.sub(r'<script>.*?</script>', '', page, flags=re.DOTALL)) == []
    assert "default-src 'none'" in page


def test_where_it_cannot_be_written(run: Path, tmp_path: Path):
    (tmp_path / 'taken').mkdir()
    with pytest.raises(UserError, match=f'cannot write {tmp_path}/taken: Is a directory'):
        write_report([run], tmp_path / 'taken')
    with pytest.raises(UserError, match=r'cannot write /dev/null/page\.html: '):
        write_report([run], '/dev/null/page.html')
    assert not list(tmp_path.glob('*.partial'))


def test_half_a_character_in_a_name(run: Path):
    path = run / 'evaluation/scores.json'
    path.write_text(path.read_text().replace('"sign"', '"\\ud800sign"'))
    assert '?sign' in write_report([run])[0].read_text()


def test_what_evaluations_write(tmp_path: Path):
    """The files of ``scores.py`` and ``gallery.py`` are those read here."""
    names = ('sky', 'sea')
    gallery = Gallery(num_classes=2, per_group=1)
    truth = np.array([[0, 0, 1, -1]] * 4)
    for uid, wrong in {'a': 0, 'b': 3}.items():
        prediction = truth.clip(0)
        prediction[:wrong, 0] = 1
        gallery.add(uid, np.full((4, 4, 3), 200, np.uint8), truth, prediction)
    Scores(np.array([[13, 3], [0, 8]]), names, 2, 'slide', 'raw', 5, 50).write(tmp_path / 'evaluation')
    gallery.write(tmp_path / 'evaluation')
    run = read_run(tmp_path)
    assert run.scores is not None
    assert [score.iou for score in run.scores.classes] == pytest.approx([1300 / 16, 800 / 11])
    assert run.scores.mean_iou == pytest.approx((1300 / 16 + 800 / 11) / 2)
    assert [(entry['uid'], entry['groups'][0]) for entry in run.images] == [('b', 'worst'), ('a', 'best')]
    entry = report.picture(run, run.images[0])
    assert entry['legend'] == [(name, palette(2)[index].tolist()) for index, name in enumerate(names)]
    np.testing.assert_array_equal(np.array(embedded(entry, 'truth')), np.where(truth < 0, 255, truth))
    np.testing.assert_allclose(run.image_ious, [100, 100 * (5 / 8 + 4 / 7) / 2], atol=0.01)


# The page in a browser


@pytest.fixture(scope='module')
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip('playwright.sync_api', reason='playwright is not installed')
    if CHROMIUM is None:
        pytest.skip('no chromium on the path')
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens a report; at the end, it must have asked for nothing but itself, and reported no error."""
    opened = []

    def open_(path: Path, width: int = 1280, **options: Any) -> Any:
        context = browser.new_context(viewport={'width': width, 'height': 900}, **options)
        page, asked, faults = context.new_page(), [], []
        page.on('request', lambda request: asked.append(request.url))
        page.on('console', lambda message: faults.append(message.text) if message.type in ('error', 'warning') else 0)
        page.on('pageerror', lambda error: faults.append(str(error)))
        page.on('dialog', lambda dialog: (faults.append('a dialog'), dialog.dismiss()))
        opened.append((page, path, asked, faults))
        page.goto(path.as_uri())
        return page

    yield open_
    for page, path, asked, faults in opened:
        for element in ('documentElement', 'body'):  # nothing is wider than the screen
            assert page.evaluate(f'document.{element}.scrollWidth - innerWidth') == 0
        page.context.close()
        assert [url for url in asked if not url.startswith('data:')] == [path.as_uri()]
        assert faults == []


def cells(page: Any, column: int) -> list[str]:
    return [text.strip() for text in page.locator(f'#class-table tbody tr > :nth-child({column})').all_inner_texts()]


def test_sorting(run: Path, open_page: Callable[..., Any]):
    page = open_page(write_report([run])[0])
    assert cells(page, 2) == ['38.1', '38.5', '57.1', '–']
    header = page.locator('th[data-key=iou]')
    assert header.get_attribute('aria-sort') == 'ascending'
    header.get_by_role('button').click()
    assert cells(page, 2) == ['57.1', '38.5', '38.1', '–']  # what has no value stays last
    assert header.get_attribute('aria-sort') == 'descending'
    page.locator('th[data-key=accuracy] button').focus()
    page.keyboard.press('Enter')
    assert cells(page, 3) == ['50.0', '60.0', '80.0', '–']
    assert header.get_attribute('aria-sort') == 'none'
    page.keyboard.press('Space')
    assert cells(page, 3) == ['80.0', '60.0', '50.0', '–']
    page.locator('th[data-key=name] button').click()
    assert cells(page, 1)[1:] == ['boat', 'road', 'sign']
    page.locator('th[data-key=share] button').click()
    assert cells(page, 4) == ['0.0', '25', '25', '50']
    page.locator('th[data-key=taken] button').click()
    assert [text.split()[-2] for text in cells(page, 5)[:3]] == ['10', '30', '50']


def test_flipping(run: Path, open_page: Callable[..., Any]):
    page = open_page(write_report([run])[0])
    assert page.locator('.picture:visible .caption b').all_inner_texts() == ['c', 'b']  # the worst are shown first
    card = page.locator('.picture').first

    def shown() -> dict[str, float]:
        layers = ('truth', 'prediction', 'errors')
        opacity = {
            name: card.locator(f'.overlay.{name}').evaluate('e => +getComputedStyle(e).opacity') for name in layers
        }
        pressed = card.locator('[data-view][aria-pressed=true]').all_inner_texts()
        visible = {name: value for name, value in opacity.items() if value}
        assert [text.lower() for text in pressed] == (list(visible) or ['image'])
        return visible

    assert shown() == {'prediction': 0.7}
    for name in ('Truth', 'Errors', 'Prediction'):
        card.get_by_role('button', name=name).click()
        assert shown() == {name.lower(): 0.7}
    card.get_by_role('button', name='Image', exact=True).click()
    assert shown() == {}
    card.locator('.viewer').click()
    assert shown() == {'truth': 0.7}
    card.locator('.viewer').click()
    assert shown() == {'prediction': 0.7}
    card.locator('.viewer').focus()
    for key, layers in {'t': ['truth'], 'ArrowRight': ['prediction'], 'E': ['errors'], 'i': []}.items():
        page.keyboard.press(key)
        assert list(shown()) == layers
    page.keyboard.press('ArrowLeft')
    assert shown() == {'errors': 0.7}
    card.locator('input').fill('25')
    assert shown() == {'errors': 0.25}
    page.locator('#all-views').get_by_role('button', name='Truth').click()
    page.locator('#all-views input').fill('100')
    assert shown() == {'truth': 1}
    assert page.locator('.picture[data-view=truth]').count() == 3
    sizes = card.locator('img').evaluate_all('all => all.map(e => [e.naturalWidth, e.naturalHeight, e.clientWidth])')
    assert [size[:2] for size in sizes] == [[40, 20]] * 4
    assert len({size[2] for size in sizes}) == 1  # one lies on the other
    for name, uids in {'Best 1': ['a'], 'Sample 1': ['b'], 'All 3': ['c', 'b', 'a'], 'Worst 2': ['c', 'b']}.items():
        page.locator('#groups').get_by_role('button', name=name).click()
        assert page.locator('.picture:visible .caption b').all_inner_texts() == uids
        assert page.locator('#groups [aria-pressed=true]').inner_text() == name


def test_plots_are_drawn_and_names_are_text(run: Path, tmp_path: Path, open_page: Callable[..., Any]):
    page = open_page(write_report([run, make_run(tmp_path / 'other', run_name='other')])[0])
    expected = {
        'loss': ['total, each', 'total', 'cross entropy', 'dice'],
        'miou': ['ade20k-ss', 'best: 52.50 %'],
        'compare-epochs': [f'{RUN_NAME}: ade20k-ss', 'other: ade20k-ss'],
    }
    for name, lines in expected.items():
        plot = page.locator(f'#plot-{name}')
        assert plot.locator('svg .trace.scatter').count() == len(lines)
        assert plot.locator('.legendtext').evaluate_all('all => all.map(e => e.textContent)') == lines
    for name in ('lr', 'throughput', 'compare-hours'):
        assert page.locator(f'#plot-{name} svg .trace.scatter path.js-line').count() >= 1
    bars = page.evaluate("document.getElementById('plot-image-ious').calcdata[0].map(bar => [bar.p, bar.s])")
    assert [bar for bar in bars if bar[1]] == [[7.5, 1], [12.5, 1], [92.5, 1]]
    assert page.locator('#plot-image-ious svg .bars path').count() == len(bars)
    assert page.locator('#plot-confusion svg .hm image').count() == 1
    ticks = page.locator('#plot-confusion .ytick').evaluate_all('all => all.map(e => e.textContent)')
    assert sorted(ticks) == sorted(['road', f'{NASTY[:21]}…', 'sign', 'boat'])
    page.locator('#plot-confusion').scroll_into_view_if_needed()
    area = page.locator('#plot-confusion .nsewdrag').bounding_box()
    page.mouse.move(area['x'] + area['width'] * 0.375, area['y'] + area['height'] * 0.125)  # row 0, column 1
    hover = page.locator('#plot-confusion .hovertext text.nums')
    hover.wait_for()
    assert hover.evaluate('e => e.textContent') == f'30 % of roadpredicted as {NASTY}'
    assert page.locator('h1').evaluate('e => e.textContent') == RUN_NAME
    assert NASTY in page.locator('#class-table tbody th').evaluate_all('all => all.map(e => e.textContent)')
    assert page.locator('[onclick]').count() == 0
    assert page.title() == f'{RUN_NAME} · report'
    buttons = page.locator('#plot-loss .modebar-btn').evaluate_all("all => all.map(e => e.getAttribute('data-title'))")
    assert buttons == ['Download plot as a PNG', 'Zoom', 'Pan', 'Zoom in', 'Zoom out', 'Reset axes']  # none uploads it


@pytest.fixture
def many_classes(tmp_path: Path) -> Path:
    """150 classes; those of odd number are taken for the next in a third of their pixels."""
    size = 150
    confusion = np.diag(np.full(size, 600))
    for index in range(1, size - 1, 2):
        confusion[index, index + 1] = 300
    iou = 100 * confusion.diagonal() / (confusion.sum(0) + confusion.sum(1) - confusion.diagonal())
    accuracy = 100 * confusion.diagonal() / confusion.sum(1)
    names = [f'class number {index} of many' for index in range(size)]
    scores = scores_of(names, palette(size).tolist(), confusion.tolist(), iou.tolist(), accuracy.tolist())
    (tmp_path / 'many/evaluation').mkdir(parents=True)
    (tmp_path / 'many/evaluation/scores.json').write_text(json.dumps(scores))
    return tmp_path / 'many'


def test_many_classes(many_classes: Path, open_page: Callable[..., Any]):
    page = open_page(write_report([many_classes])[0])
    assert len(cells(page, 1)) == 150
    plot = page.locator('#plot-confusion')
    assert plot.locator('.xtick, .ytick').count() == 0
    page.evaluate("Plotly.relayout('plot-confusion', {'xaxis.range': [9.5, 19.5], 'yaxis.range': [29.5, 19.5]})")
    plot.locator('.ytick').first.wait_for()
    # Long names are cut
    assert sorted(plot.locator('.ytick').evaluate_all('all => all.map(e => e.textContent)')) == sorted(
        f'class number {i} of ma…' for i in range(20, 30)
    )
    text = page.evaluate("document.getElementById('plot-confusion').data[0].text[21][22]")
    assert text == '33.333 % of class number 21 of many<br>predicted as class number 22 of many'
    page.evaluate("Plotly.relayout('plot-confusion', {'xaxis.autorange': true, 'yaxis.autorange': 'reversed'})")
    plot.locator('.ytick').first.wait_for(state='detached')
    assert page.locator('.weakest li').count() == 5


def test_a_telephone(run: Path, many_classes: Path, tmp_path: Path, open_page: Callable[..., Any]):
    long = make_run(tmp_path / 'long', 'mosaic-512sq@128', 'a-very-long-name-of-a-run-' * 5)
    for number, folders in enumerate([(run, long), (many_classes,)]):
        page = open_page(write_report(folders, tmp_path / f'{number}.html')[0], 390, has_touch=True, is_mobile=True)
        assert page.evaluate('innerWidth') == 390
        assert page.locator('.plot svg').first.is_visible()


def test_light_and_dark(run: Path, open_page: Callable[..., Any]):
    from playwright.sync_api import expect

    page = open_page(write_report([run])[0], color_scheme='light')
    for scheme, background, text in (
        ('light', 'rgb(246, 247, 249)', 'rgb(98, 106, 118)'),
        ('dark', 'rgb(20, 22, 26)', 'rgb(154, 162, 174)'),  # while it is open, too
    ):
        page.emulate_media(color_scheme=scheme)
        expect(page.locator('body')).to_have_css('background-color', background)
        expect(page.locator('#plot-loss .xtick text').first).to_have_css('fill', text)
