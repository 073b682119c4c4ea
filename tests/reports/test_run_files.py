import json
import re
import shutil
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from composer.core import Timestamp
from helpers.run_folders import line, make_run, write_lines

from segrecipes.base.errors import MissingPathError, UserError
from segrecipes.base.run_files import HISTORY
from segrecipes.reports.run import read_run
from segrecipes.training.callbacks.history import History


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / 'run')


def test_the_history_is_where_a_run_writes_it(tmp_path: Path):
    history = History(str(tmp_path))
    state: Any = SimpleNamespace(
        run_name='', timestamp=Timestamp(epoch=2, batch=3, sample=12, total_wct=timedelta(seconds=9))
    )
    history.log_metrics({'loss': 0.5})
    history.batch_end(state, None)  # type: ignore[arg-type]
    history.close(state, None)  # type: ignore[arg-type]
    assert [file.name for file in tmp_path.iterdir()] == [HISTORY]
    assert values(tmp_path, 'loss') == [(3, 2, 9, 0.5)]


# The history


def values(folder: Path, name: str) -> list[tuple[float, ...]]:
    return list(zip(*(column.tolist() for column in read_run(folder).history.metrics[name])))


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
    ('losses', 'lost'),
    [
        ([1, 2, 3], None), ([1, None], 2), ([1, None, None], 2), ([None], 1), ([1, None, 3], None), ([], None),
        ([1, None, 3, float('nan')], 4), ([1, float('inf')], 2),
    ],
)  # fmt: skip
def test_the_batch_from_which_on_the_loss_was_lost(tmp_path: Path, losses: list[float | None], lost: int | None):
    lines = [line(batch, 0, loss__train__total=loss) for batch, loss in enumerate(losses, start=1)]
    assert read_run(write_lines(tmp_path, [*lines, line(9, 0, lr=0.1)])).history.lost == lost


def test_a_run_that_goes_back_forgets_its_lost_loss(tmp_path: Path):
    lines = [line(batch, 0, loss__train__total=loss) for batch, loss in ((1, 1), (2, 2), (3, None), (2, 2.5))]
    assert read_run(write_lines(tmp_path, lines)).history.lost is None


def test_ious_of_the_classes(tmp_path: Path):
    tables = [[['sky', 10.0], ['sea', None]], [['sky', 20.0], ['sea', 5]]]
    lines = [
        line(batch, batch, a=1) | {'tables': {'eval/classes[slide]': {'columns': ['class', 'IoU'], 'rows': rows}}}
        for batch, rows in enumerate(tables, start=1)
    ]
    found = read_run(write_lines(tmp_path, lines)).history.class_ious
    assert list(found) == ['slide']
    columns = {name: [column.tolist() for column in series] for name, series in found['slide'].items()}
    assert columns == {'sky': [[1, 2], [1, 2], [36, 72], [10, 20]], 'sea': [[2], [2], [72], [5]]}


@pytest.mark.parametrize('table', [{}, {'rows': 3}, {'rows': [['sky']]}])
def test_a_damaged_table(tmp_path: Path, table: Any):
    write_lines(tmp_path, [line(1, 0, a=1) | {'tables': {'eval/classes[slide]': table}}])
    with pytest.raises(UserError, match=r'history\.jsonl, eval/classes\[slide\]: damaged: '):
        read_run(tmp_path)


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


# The rest


def test_without_an_evaluation_the_first_protocol_counts_before_the_trainers_own_metric(run: Path):
    lines = [line(1, 1, **{'metrics/eval/MIoU': 60.0, 'metrics/eval/mIoU[slide]': 30.0})]
    write_lines(run, lines)
    shutil.rmtree(run / 'evaluation')
    assert read_run(run).best == (30.0, 1, 'slide')


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
