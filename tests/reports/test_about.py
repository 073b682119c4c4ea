"""What the page says of a run beside its figures, and of several runs side by side."""

import shlex
from pathlib import Path

import numpy as np
import pytest
from helpers.run_folders import CONFUSION, NAMES, line, make_run, parsed, write_lines, write_record, write_scores

from segrecipes.base.errors import UserError
from segrecipes.evaluation.scores import Scores
from segrecipes.reports.about import about, commands, date, duration, failure
from segrecipes.reports.compare import class_differences, config_differences, flattened
from segrecipes.reports.page import group_dice, render, signed
from segrecipes.reports.run import read_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / 'run', run_name='first')


def test_what_is_recorded_is_said(run: Path):
    (run / 'latest-rank0.pt').touch()
    assert dict(about(read_run(write_record(run)))) == {
        'Started': '2026-11-21 23:43 UTC',
        'Resumed': '2026-11-22 01:00 UTC',
        'Ended': '2026-11-22 02:44 UTC',
        'Training time': '24 min',
        'Hardware': '8 × GPU X on 2 nodes; CPU Y, 64 cores',
        'Images': '20,210 train, 2,000 val',
        'Parameters': '11,559,480',
        'Versions': 'segrecipes 0.1.0, torch 2.7.0',
        'Commit': '0123456789ab and changes (segrecipes)',
        'Command': 'segrecipes train my.yaml',
        'Folder': str(run.resolve()),
        'Checkpoint': f'{run}/latest-rank0.pt',
    }
    text = parsed(run)[0].text
    assert 'dataset mine' in text and '8 × GPU X on 2 nodes' in text and 'no run.json' not in text


def test_a_folder_of_before_says_what_it_can(run: Path):
    assert [name for name, _ in about(read_run(run))] == ['Training time', 'Folder']
    text = parsed(run)[0].text
    assert 'It has left no run.json: date, hardware and versions are not known.' in text
    assert 'How to use it: left out, no checkpoint lies in the folder of the run.' in text
    assert failure(read_run(run)) == ''


@pytest.mark.parametrize('content', ['[1]', '{"images"'])
def test_a_damaged_record(run: Path, content: str):
    (run / 'run.json').write_text(content)
    with pytest.raises(UserError, match=r'run\.json.*: damaged'):
        read_run(run)


def test_values_of_a_record_that_are_something_else_are_left_out(run: Path):
    write_record(run, started=3, images=[1], hardware=None, versions='x', commits=None, parameters=None)
    names = [name for name, _ in about(read_run(run))]
    assert not {'Started', 'Images', 'Hardware', 'Versions', 'Commit', 'Parameters'} & {*names}


@pytest.mark.parametrize(
    ('seconds', 'text'),
    [(0, '0 s'), (99.4, '99 s'), (100, '2 min'), (5960, '99 min'), (6000, '1 h 40 min'), (360_300, '100 h 05 min')],
)
def test_durations(seconds: float, text: str):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ('value', 'text'), [('2026-11-21T23:43:59+00:00', '2026-11-21 23:43 UTC'), ('x', ''), (None, '')]
)
def test_dates(value: str | None, text: str):
    assert date(value) == text


# How it ended


def test_a_lost_loss_shouts(run: Path, tmp_path: Path):
    broken = write_lines(tmp_path / 'broken', [line(1, 0, loss__train__total=2.0), line(2, 0, loss__train__total=None)])
    write_record(broken, state='stopped')
    text = parsed(broken)[0].text
    assert 'This run failed. The loss is not finite (NaN) from batch 2 on: this run learnt nothing after it.' in text
    page, _ = render([read_run(broken)])
    assert page.index('role="alert"') < page.index('<h1>')
    text = parsed(run, broken)[0].text
    assert 'broken: The loss is not finite (NaN) from batch 2 on' in text
    assert 'loss lost at batch 2' in text
    assert 'alert failure' not in render([read_run(run)])[0]


@pytest.mark.parametrize(
    ('state', 'text'),
    [
        ('finished', ''),
        ('stopped', 'This run was stopped after batch 40, before its 4ep were done.'),
        (None, 'This run still runs, or was killed after batch 40, before its 4ep were done.'),
    ],
)
def test_a_run_that_did_not_finish_says_so(run: Path, state: str | None, text: str):
    assert failure(read_run(write_record(run, state=state))) == text
    assert text in parsed(run)[0].text


# How to use it


def test_commands_are_as_they_are_typed(tmp_path: Path):
    folder = make_run(tmp_path / 'my run', 'ade20k-ms@128')
    for name in ('latest-rank0.pt', 'best-rank0.pt'):
        (folder / name).touch()
    found = dict(commands(read_run(folder)))
    best = f"'{folder}/best-rank0.pt'"
    assert found['Segment pictures'] == f'segrecipes predict {best} photos/ --out predictions'
    assert shlex.split(found['Evaluate in full, averaged weights (EMA) and raw ones']) == [
        'segrecipes', 'evaluate', f'{folder}/config.yaml', f'load_path={folder}/best-rank0.pt',
        '--protocol', 'ade20k-ms',
    ]  # fmt: skip
    page, _ = render([read_run(folder)])
    assert page.count('class="command"') == len(found) == 4


def test_averaged_weights_against_raw(run: Path):
    for weights, confusion in {'ema': [[8, 0], [0, 2]], 'raw': [[6, 2], [1, 1]]}.items():
        scores = Scores(np.array(confusion), ('a', 'b'), 5, 'slide', weights, 3, 9)
        scores.write(run / 'evaluation-slide' / weights)
    write_scores(run / 'evaluation-x', CONFUSION)  # not an evaluation's folder: one level too deep
    found = read_run(run).evaluations
    assert [(scores.protocol, scores.weights) for scores in found] == [
        ('ade20k-ss', 'ema'), ('slide', 'ema'), ('slide', 'raw'), ('ade20k-ss', 'ema'),
    ]  # fmt: skip
    text = parsed(run)[0].text
    assert 'slide averaged (EMA) 3 5 100.0 100.0 100.0 100.0' in text
    assert f'slide raw 3 5 {found[2].mean_iou:.1f} 70.0 {found[2].mean_accuracy:.1f}' in text


# Warnings and groups


def test_a_warning_stands_beside_every_figure(run: Path, tmp_path: Path):
    text = 'of 9 validation slices 9 have their patient in training'
    scores = Scores(np.array(CONFUSION), NAMES, 3, 'ade20k-ss', 'ema', 4, 40, warning=text)
    scores.write(run / 'evaluation')
    page, _ = render([read_run(run)])
    assert f'<b>⚠ Warning.</b> {text}' in page
    assert page.count(f'<abbr class="caution" title="{text}">') == 5  # four figures and the best
    page, _ = render([read_run(make_run(tmp_path / 'other')), read_run(run)])
    assert page.count('<abbr class="caution"') == 5  # of that run's row and column in the comparison
    assert '<abbr' not in render([read_run(make_run(tmp_path / 'third'))])[0]


def test_dice_of_groups_is_a_figure_where_classes_are_few(run: Path):
    groups = {name: np.array([99.0, dice]) for name, dice in {'a': 80.0, 'b': 90.0, 'c': 10.0}.items()}
    scores = Scores(np.array([[90, 5], [3, 2]]), ('background', 'tumour'), 3, 'slide', group_dice=groups)
    assert group_dice(scores) == [('tumour', pytest.approx(60), pytest.approx(80))]
    scores.write(run / 'evaluation')
    assert 'Dice of tumour 60.0% mean of 3 groups, median 80.0' in parsed(run)[0].text
    assert group_dice(Scores(np.eye(9, dtype=int), tuple('abcdefghi'), 3, 'slide')) == []


# Several runs


def test_what_differs_between_configs(run: Path, tmp_path: Path):
    other = make_run(tmp_path / 'other', run_name='second')
    path = other / 'config.yaml'
    text = path.read_text()
    assert 'seed: 17' in text
    path.write_text(text.replace('seed: 17', 'seed: 18') + 'extra: {deep: {value: null, empty: {}}}\n')
    runs = [read_run(folder) for folder in (run, other)]
    assert config_differences(runs) == [
        ('seed', ['17', '18']),
        ('extra.deep.value', ['–', 'null']),
        ('extra.deep.empty', ['–', '{}']),
    ]
    found = parsed(run, other)[0]
    assert 'Key first second seed 17 18 extra.deep.value – null' in found.text
    assert 'config-differences' in found.ids
    same = parsed(run, make_run(tmp_path / 'same', run_name='third'))[0]
    assert 'Their configs are the same, but for names.' in same.text and 'config-differences' not in same.ids
    path.unlink()
    assert 'Difference of the configs: left out, config.yaml is missing' in parsed(run, other)[0].text


def test_values_as_a_yaml_has_them():
    values = {'a': {'b': None, 'c': True, 'd': [1, 'x']}, 'e': 1, 'f': 0, 'g': 1e-5}
    assert dict(flattened(values)) == {
        'a.b': 'null', 'a.c': 'true', 'a.d': "[1, 'x']", 'e': '1', 'f': '0', 'g': '1e-05',
    }  # fmt: skip


def test_what_differs_between_classes(run: Path, tmp_path: Path):
    """The one that differs most first; against the first run."""
    other = make_run(tmp_path / 'other', run_name='second')
    write_scores(other, [[60, 30, 10, 0], [5, 40, 5, 0], [0, 0, 50, 0], [0, 0, 0, 0]])
    runs = [read_run(folder) for folder in (run, other)]
    first, second = (found.scores.iou for found in runs if found.scores)
    rows = class_differences(runs)
    more = (second - first)[:3]
    assert [row.name for row in rows] == [NAMES[index] for index in [*np.argsort(-np.abs(more)), 3]]
    for row in rows[:3]:
        index = NAMES.index(row.name)
        np.testing.assert_allclose(np.array(row.ious, float), [first[index], second[index]])
        np.testing.assert_allclose(np.array(row.more, float), [0, more[index]])
    assert rows[3].ious == rows[3].more == [None, None]
    sign = next(row for row in rows if row.name == 'sign')
    assert f'sign {sign.ious[0]:.1f} {sign.ious[1]:.1f} +{sign.more[1]:.1f}' in parsed(run, other)[0].text


def test_classes_of_other_datasets_are_not_compared(run: Path, tmp_path: Path):
    other = make_run(tmp_path / 'other', run_name='second')
    write_scores(other, [[1, 0], [0, 1]], 'ab')
    assert class_differences([read_run(run), read_run(other)]) == []
    (other / 'evaluation' / 'scores.json').unlink()
    assert class_differences([read_run(run), read_run(other)]) == []


@pytest.mark.parametrize(('value', 'text'), [(1.25, '+1.2'), (-3.0, '−3.0'), (0.0, '+0.0'), (None, '–')])
def test_signs(value: float | None, text: str):
    assert signed(value) == text
