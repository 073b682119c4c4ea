"""What a trial's run says of itself."""

import json
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.runs import arguments

from segrecipes.base.errors import UserError
from segrecipes.evaluation.scores import Scores
from segrecipes.sweep import trial as module
from segrecipes.sweep.trial import Outcome, batches_within, figures, reason, run


def test_figures_are_those_of_the_evaluation() -> None:
    """Of three classes one is neither labelled nor predicted: it has no IoU, and is in no mean."""
    scores = Scores(np.array([[6, 2, 0], [1, 1, 0], [0, 0, 0]]), ('a', 'b', 'c'), 1, 'p')
    found = figures(scores)
    assert found.keys() == {'mIoU', 'pixel_accuracy', 'mean_accuracy', 'final_score', 'iou.a', 'iou.b'}
    assert found['iou.a'] == pytest.approx(100 * 6 / 9) and found['iou.b'] == pytest.approx(25)
    assert found['mIoU'] == pytest.approx((100 * 6 / 9 + 25) / 2)


@pytest.mark.parametrize(
    ('log', 'status', 'said'),
    [
        ('error: a\n', 1, 'a'),
        ('epoch 1\nerror: a\n       b\n', 1, 'a\n       b'),
        ('Traceback\n  File\nZeroDivisionError: by zero\n', 1, 'ZeroDivisionError: by zero'),
        ('', 3, 'exit status 3'),
        ('error: a', -9, 'killed by signal 9'),
    ],
)
def test_reason(log: str, status: int, said: str) -> None:
    assert reason(log, status) == said


def test_batches_within(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first three are slow; of the others the half takes half a second, then one: 60 s are 80."""

    def short(argv: Any, folder: Path, pass_fds: Any) -> Outcome:
        assert argv == ['y', 'max_duration=30ba', 'eval_interval=1dur']
        folder.mkdir()
        seconds = accumulate([10.0] * 3 + [0.5] * 12 + [1.0] * 15)
        lines = [json.dumps({'batch': batch, 'seconds': at}) for batch, at in enumerate(seconds, 1)]
        (folder / 'history.jsonl').write_text('\n'.join(lines))
        return Outcome({}, None, None, 1, 1, 1)

    monkeypatch.setattr(module, 'run', short)
    assert batches_within(60, ['y'], tmp_path / 'speed') == 80
    assert not (tmp_path / 'speed').exists()

    monkeypatch.setattr(module, 'run', lambda argv, folder, pass_fds: Outcome({}, None, 'why', 1, 1, 1))
    with pytest.raises(UserError, match='why'):
        batches_within(60, ['y'], tmp_path / 'speed')


@pytest.mark.slow
def test_a_run_that_fails_says_why(synthetic_folder: Path, tmp_path: Path) -> None:
    argv = [one for one in arguments(synthetic_folder) if not one.startswith('save_folder')]
    (tmp_path / 'trial').mkdir()
    (tmp_path / 'trial' / 'of_before').touch()
    outcome = run([*argv, 'optimizer.lr=1e30', 'max_duration=3ep', 'eval_interval=1dur'], tmp_path / 'trial')
    assert outcome.error is not None and outcome.error.startswith('the loss is not finite in batch')
    assert outcome.figures == {} and outcome.seconds > 0 and outcome.cpu_seconds > 1
    assert not (tmp_path / 'trial' / 'of_before').exists()
