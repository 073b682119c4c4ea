"""A sweep over a function whose best value is known, stopped and gone on with. Trials that train: test_sweep."""

import fcntl
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segrecipes.base.errors import UserError
from segrecipes.sweep import study as module
from segrecipes.sweep.space import Choices, Range
from segrecipes.sweep.study import OPTUNA, Study, best
from segrecipes.sweep.trial import Outcome

SPACE = {'x': Range(0.0, 10.0), 'mode': Choices((None, {'bonus': Range(1, 5)}))}


def outcome(score: float | None, error: str | None = None) -> Outcome:
    figures = {} if score is None else {'mIoU': score}
    return Outcome(figures, 'p', error, seconds=1.0, cpu_seconds=2.0, train_seconds=0.5)


def settings(argv: list[str]) -> dict[str, str]:
    return dict(argument.split('=', 1) for argument in argv[1:])


def parabola(argv: Any, folder: Path, pass_fds: Any) -> Outcome:
    return outcome(50 - (float(settings(argv)['x']) - 3) ** 2)


@pytest.fixture
def trains(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """A function in place of training."""
    return lambda function: monkeypatch.setattr(module, 'run', function)


def study(folder: Path, space: Any = None, **more: Any) -> Study:
    folder.mkdir(exist_ok=True)
    options = {'metric': 'mIoU', 'seconds': None, 'seed': 5} | more
    return Study(folder, ['a.yaml', 'k=v'], SPACE if space is None else space, **options)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / 'trials.jsonl').read_text().splitlines()]


def test_the_best_is_found_and_all_are_recorded(trains: Any, tmp_path: Path) -> None:
    trains(parabola)
    records = list(study(tmp_path).run(40))
    assert lines(tmp_path) == records and [record['trial'] for record in records] == [*range(40)]
    for record in records:
        assert record['score'] == pytest.approx(50 - (record['params']['x'] - 3) ** 2)
        assert record['argv'][0] == 'a.yaml' and settings(record['argv'])['k'] == 'v'
        assert record['seed'] == 5 and {'torch', 'optuna'} <= record['versions'].keys()
    assert {type(record['params']['mode']) for record in records} == {dict, type(None)}
    top = best(records)
    assert top is not None and abs(top['params']['x'] - 3) < 0.5


def test_a_sweep_goes_on_as_if_it_had_not_been_stopped(trains: Any, tmp_path: Path) -> None:
    """What was killed in the middle of a trial begins that one again, with the same settings."""
    ran = []

    def killed(argv: Any, folder: Path, pass_fds: Any) -> Outcome:
        ran.append((folder.name, argv))
        if len(ran) == 3:
            raise KeyboardInterrupt
        return parabola(argv, folder, pass_fds)

    trains(killed)
    with pytest.raises(KeyboardInterrupt):
        list(study(tmp_path).run(5))
    assert [line['trial'] for line in lines(tmp_path)] == [0, 1]
    assert [record['trial'] for record in study(tmp_path).run(5)] == [2, 3, 4]
    assert ran[3] == ran[2]  # the third
    assert [line['trial'] for line in lines(tmp_path)] == [*range(5)]
    assert list(study(tmp_path).run(5)) == [] and len(ran) == 6
    trains(parabola)
    at_once = list(study(tmp_path / 'other').run(5))
    assert [line['params'] for line in lines(tmp_path)] == [record['params'] for record in at_once]
    assert len({record['params']['x'] for record in at_once}) == 5


def test_failures_are_kept_with_what_they_said(trains: Any, tmp_path: Path) -> None:
    def fails(argv: Any, folder: Path, pass_fds: Any) -> Outcome:
        number = int(folder.name.partition('-')[2])
        return [outcome(None, 'the loss is not finite'), outcome(None), outcome(7.0)][number]

    trains(fails)
    list(study(tmp_path).run(3))
    found = [(line['state'], line['score'], line['error']) for line in lines(tmp_path)]
    assert found == [
        ('failed', None, 'the loss is not finite'), ('failed', None, 'mIoU is not defined'), ('complete', 7.0, None),
    ]  # fmt: skip
    assert len(study(tmp_path).records()) == 3
    assert best(lines(tmp_path)[:2]) is None


def test_equal_time(trains: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def within(seconds: float, argv: list[str], folder: Path, pass_fds: Any) -> int:
        asked.append((seconds, folder.name))
        if len(asked) == 2:
            raise UserError('too large')
        return 123

    monkeypatch.setattr(module, 'batches_within', within)
    trains(parabola)
    first, second = study(tmp_path, seconds=60.0).run(2)
    assert asked == [(60.0, 'trial-0-speed'), (60.0, 'trial-1-speed')]
    assert first['argv'][-1] == 'max_duration=123ba' and second['error'] == 'too large'


@pytest.mark.parametrize('change', [{'metric': 'final_score'}, {'seconds': 9.0}, {'space': {'x': Range(0.0, 9.0)}}])
def test_another_sweep_in_the_same_folder_is_refused(change: dict[str, Any], trains: Any, tmp_path: Path) -> None:
    trains(parabola)
    list(study(tmp_path).run(1))
    with pytest.raises(UserError, match=r'holds another sweep: .*Choose another --out'):
        study(tmp_path, **change)


def test_one_sweep_at_a_time(trains: Any, tmp_path: Path) -> None:
    trains(parabola)
    with (tmp_path / '.lock').open('w') as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UserError, match='is in use by another sweep'):
            list(study(tmp_path).run(1))
    assert len(list(study(tmp_path).run(1))) == 1


def test_without_optuna_the_message_has_the_line_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, 'optuna', None)
    with pytest.raises(UserError, match=f'is not installed: pip install {OPTUNA}'):
        module.import_optuna()
    root = Path(__file__).parents[2]
    assert f'sweep = ["{OPTUNA}"]' in (root / 'pyproject.toml').read_text()
    assert OPTUNA in (root / 'requirements-dev.txt').read_text().splitlines()
