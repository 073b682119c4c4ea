import base64
import io
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.run_folders import (
    NAMES,
    NASTY,
    RUN_NAME,
    Text,
    history_lines,
    line,
    make_run,
    parsed,
    traces,
    write_lines,
    write_scores,
)
from PIL import Image

from segrecipes.base.errors import UserError
from segrecipes.base.palette import even_colors, indexed_png, voc_colors
from segrecipes.commands import cli
from segrecipes.evaluation.gallery import Gallery
from segrecipes.evaluation.scores import Scores
from segrecipes.reports.page import ClassRow, render, weakest, write_report
from segrecipes.reports.pictures import picture
from segrecipes.reports.plots import plain
from segrecipes.reports.run import read_run

COLORS = [list(color) for color in even_colors()[:4]]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / 'run')


# What is on the page


def test_figures_and_header(run: Path):
    found, _, warnings = parsed(run)
    assert warnings == []
    for expected in (
        'Mean IoU 44.6%', 'Pixel accuracy 62.5%', 'Mean accuracy 63.3%', 'Final score 53.5% ',
        'Best mean IoU 52.5% epoch 3',
        'architecture deeplabv3plus', 'backbone resnet101', 'recipe mild', 'dataset camvid',
        'Evaluated on 3 images, protocol ade20k-ss, ema weights after epoch 4.', f'{RUN_NAME} architecture',
    ):  # fmt: skip
        assert re.sub(r'\s+', ' ', expected) in found.text


def test_figures_that_are_not_defined(tmp_path: Path):
    write_scores(tmp_path, [[0, 0], [0, 0]], 'ab')
    text = parsed(tmp_path)[0].text
    for name in ('Mean IoU', 'Pixel accuracy', 'Mean accuracy', 'Final score'):
        assert f' {name} – ' in text
    assert '2 of 2 classes occur neither in the ground truth nor in a prediction: a, b.' in text


def test_the_best_of_another_protocol_says_so(run: Path):
    write_lines(run, history_lines('mosaic-512sq@128'))
    assert 'Best mean IoU 52.5% epoch 3, mosaic-512sq@128' in parsed(run)[0].text


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
    for confusion, expected in (
        ([[0, 0], [3, 9]], 'a IoU 0.0 % Occurs in no ground truth, yet is predicted; 100 % of what is called a is b.'),
        ([[4, 0], [0, 4]], 'b IoU 100.0 % None of its pixels is missed.'),
    ):
        write_scores(tmp_path, confusion, 'ab')
        assert expected in parsed(tmp_path)[0].text


def test_five_weakest_the_more_frequent_first():
    rows = [
        ClassRow(str(index), (), iou, iou, pixels, pixels)
        for index, (iou, pixels) in enumerate([(5, 1), (None, 0), (0, 1), (0, 9), (90, 5), (80, 5), (70, 5)])
    ]
    assert [row.name for row in weakest(rows)] == ['3', '2', '0', '6', '5']


def test_what_figures_do_not_say(tmp_path: Path):
    write_scores(tmp_path, [[4, 0, 0], [3, 0, 0], [0, 0, 0]], ('road', 'car', 'sky'))
    text = parsed(tmp_path)[0].text
    assert 'Never predicted, though labelled: car.' in text and text.count('either labelled') == 0


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
            cli.run('report', [str(run)])
        assert exit_.value.code == 1
        assert capsys.readouterr().err == (
            f'error: {run} is not the folder of a run: neither history.jsonl with metrics in it '
            'nor evaluation/scores.json\n'
        )
        (run / 'history.jsonl').unlink(missing_ok=True)
    assert not (run / 'report.html').exists()


# Pictures


def embedded(entry: dict[str, Any], key: str) -> Image.Image:
    kind, _, data = entry[key].partition(';base64,')
    assert kind == ('data:image/jpeg' if key == 'image' else 'data:image/png')
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_pictures_are_embedded_small(run: Path):
    loaded = read_run(run)
    assert [entry['uid'] for entry in loaded.images] == ['c', 'b', 'a']
    entry = picture(loaded, loaded.images[2])
    assert {embedded(entry, key).size for key in ('image', 'truth', 'prediction', 'errors')} == {(640, 32)}
    assert dict(entry['legend']) == dict(zip(NAMES[:3], COLORS))


def test_masks_keep_their_labels_and_errors_are_the_wrong_pixels(run: Path):
    loaded = read_run(run)
    entry = picture(loaded, loaded.images[0])
    layers = {name: np.array(embedded(entry, name).convert('RGBA')) for name in ('truth', 'prediction', 'errors')}
    outlines = np.array(embedded(entry, 'errors_lines').convert('RGBA'))
    truth, prediction = (
        np.array(Image.open(run / f'evaluation/images/c-{key}.png')) for key in ('truth', 'prediction')
    )
    seen = 0
    for y in range(truth.shape[0]):
        for x in range(truth.shape[1]):
            wrong = truth[y, x] != 255 and truth[y, x] != prediction[y, x]
            seen += wrong
            if prediction[y, x] != 255:
                assert layers['prediction'][y, x].tolist() == [*COLORS[prediction[y, x]], 255]
            assert layers['errors'][y, x, 3] == (255 if wrong else 0)
            if wrong:
                assert layers['errors'][y, x, :3].tolist() == COLORS[prediction[y, x]]
                if outlines[y, x, 3]:
                    assert outlines[y, x, :3].tolist() == COLORS[truth[y, x]]
            stripe = 104 if (x + y) // 2 % 2 == 0 else 168
            color = [stripe] * 3 if truth[y, x] == 255 else COLORS[truth[y, x]]
            assert layers['truth'][y, x].tolist() == [*color, 255]
    assert seen > 50 and entry['ignored']


def test_a_background_that_is_black_is_seen_through_but_for_errors(run: Path):
    """What is taken for it must be seen."""
    labels = np.zeros((20, 40), np.uint8)
    labels[5:15, 5:15] = 1
    for kind, mask in {'truth': labels, 'prediction': np.roll(labels, 5, axis=1)}.items():
        indexed_png(mask, ((0, 0, 0), (200, 0, 0))).save(run / f'evaluation/images/c-{kind}.png')
    loaded = read_run(run)
    entry = picture(loaded, loaded.images[0])
    alpha = {
        key: np.array(embedded(entry, key).convert('RGBA'))[..., 3] // 255
        for key in ('truth', 'truth_lines', 'prediction', 'errors', 'errors_lines')
    }
    np.testing.assert_array_equal(alpha['truth'], labels)
    np.testing.assert_array_equal(alpha['prediction'], np.roll(labels, 5, axis=1))
    np.testing.assert_array_equal(alpha['errors'], labels != np.roll(labels, 5, axis=1))
    ring = labels.copy()
    ring[6:14, 6:14] = 0
    np.testing.assert_array_equal(alpha['truth_lines'], ring)
    missed = np.array(embedded(entry, 'errors_lines').convert('RGBA'))[5, 5]
    assert missed.tolist() == [200, 0, 0, 255]  # taken for background, in the colour of what it is
    assert not entry['ignored']


def test_masks_of_before_have_the_colours_they_had(run: Path):
    """VOC's, ignored pixels black and without transparency, or no colours at all."""
    for kind, mode in {'truth': 'P', 'prediction': 'L'}.items():
        path = run / f'evaluation/images/c-{kind}.png'
        mask = Image.fromarray(np.array(Image.open(path)), mode)
        if mode == 'P':
            mask.putpalette(np.array([*voc_colors(255), (0, 0, 0)], np.uint8).tobytes())
        mask.save(path)
    loaded = read_run(run)
    entry = picture(loaded, loaded.images[0])
    assert entry['legend'] == [(name, list(color)) for name, color in zip(NAMES[:3], voc_colors(3))]
    assert np.array(embedded(entry, 'truth').convert('RGBA'))[0, 0].tolist() == [104, 104, 104, 255]


def test_without_scores_masks_have_the_colours_of_their_file(run: Path):
    (run / 'evaluation/scores.json').unlink()
    loaded = read_run(run)
    entry = picture(loaded, loaded.images[0])
    assert entry['legend'] == [(f'class {index}', COLORS[index]) for index in range(3)]


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
    cli.run('report', [str(run)])
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
    common = 'mild deeplabv3plus resnet101 ade20k-ss ema 44.6 62.5 63.3 53.5'
    assert table.endswith(f'second {common} 61.0 epoch 1 1 0.10 8.0 ')
    assert f'{common} 52.5 epoch 3 4 0.40 31.0 second' in table
    assert 'Not comparable' not in text
    escaped = plain(RUN_NAME)
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


def test_two_names_of_a_protocol_are_comparable(tmp_path: Path):
    runs = [make_run(tmp_path / name, name, name) for name in ('ade20k-ss', 'fit-ss')]
    assert 'Not comparable' not in parsed(*runs)[0].text


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
    cli.run('report', [str(run), '--out', str(out)])
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
    assert not list(tmp_path.glob('*partial*'))


def test_composer_which_takes_seconds_is_not_imported():
    program = 'import sys, segrecipes.reports.page; assert "torch" not in sys.modules and "composer" not in sys.modules'
    subprocess.run([sys.executable, '-c', program], cwd=Path(__file__).parents[2], check=True)


def test_half_a_character_in_a_name(run: Path):
    path = run / 'evaluation/scores.json'
    path.write_text(path.read_text().replace('"sign"', '"\\ud800sign"'))
    assert '?sign' in write_report([run])[0].read_text()


def test_what_evaluations_write(tmp_path: Path):
    """The files of ``scores.py`` and ``gallery.py`` are those read here."""
    names = ('sky', 'sea')
    gallery = Gallery(per_group=1)
    colors = ((1, 2, 3), (4, 5, 6))
    truth = np.array([[0, 0, 1, -1]] * 4)
    for uid, wrong, scores in (('a', 0, (100.0, 100.0)), ('b', 3, ((5 / 8 + 4 / 7) / 2 * 100, 75.0))):
        prediction = truth.clip(0)
        prediction[:wrong, 0] = 1
        pictured = np.full((4, 4, 3), 200, np.uint8), truth, prediction
        gallery.add(uid, *scores, lambda pictured=pictured: pictured)
    Scores(np.array([[13, 3], [0, 8]]), names, 2, 'slide', 'raw', 5, 50, colors=colors).write(tmp_path / 'evaluation')
    gallery.write(tmp_path / 'evaluation', colors)
    run = read_run(tmp_path)
    assert run.scores is not None
    np.testing.assert_allclose(run.scores.iou, [1300 / 16, 800 / 11])
    assert (run.scores.class_names, run.scores.epoch, run.scores.batch) == (names, 5, 50)
    assert run.scores.mean_iou == pytest.approx((1300 / 16 + 800 / 11) / 2)
    assert [(entry['uid'], entry['groups'][0]) for entry in run.images] == [('b', 'worst'), ('a', 'best')]
    entry = picture(run, run.images[0])
    assert entry['legend'] == [(name, [*color]) for name, color in zip(names, colors)]
    np.testing.assert_array_equal(np.array(embedded(entry, 'truth')).clip(0, 254), np.where(truth < 0, 254, truth))
    np.testing.assert_allclose(run.image_ious, [100, 100 * (5 / 8 + 4 / 7) / 2], atol=0.01)
