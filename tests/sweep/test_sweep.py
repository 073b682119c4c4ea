"""The verb searches for real, over a tiny network; killed, it goes on; faults are told before the first trial."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.runs import ROOT, arguments, environment, launch

from segrecipes.commands.cli import run as verb
from segrecipes.config.merge import load_config
from segrecipes.sweep.results import as_recipe

SPACE = """
optimizer.lr: {low: 0.001, high: 0.1, log: true}
algorithms:
  mixup: [null, {alpha: {low: 0.1, high: 0.5}}]
  gradient_clipping: [null, {clipping_type: norm, clipping_threshold: 1.0}]
"""


def settings(folder: Path) -> list[str]:
    """Those of the other tests, without what the sweep decides or searches."""
    without = ('save_folder', 'optimizer.lr')
    return [one for one in arguments(folder) if not one.startswith(without)]


@pytest.fixture
def space(tmp_path: Path) -> Path:
    path = tmp_path / 'space.yaml'
    path.write_text(SPACE)
    return path


def wait_for(happened: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.05)


def is_free(out: Path) -> bool:
    with (out / '.lock').open('w') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


@pytest.mark.slow
def test_a_sweep_killed_and_gone_on_with(synthetic_folder: Path, space: Path, tmp_path: Path) -> None:
    out = tmp_path / 'sweep'
    command = [
        sys.executable, '-m', 'segrecipes', 'sweep', *settings(synthetic_folder), 'max_duration=2ba', '--space',
        str(space), '--trials', '2', '--out', str(out),
    ]  # fmt: skip
    begun = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL)
    wait_for(lambda: (out / 'trial-0' / 'log.txt').exists())
    os.kill(begun.pid, signal.SIGKILL)
    begun.wait()
    refused = launch(*command)
    assert (refused.returncode, refused.stderr) == (
        1, f'error: {out} is in use by another sweep, or by a trial of one that was killed\n',
    )  # fmt: skip
    wait_for(lambda: is_free(out))
    assert not (out / 'trials.jsonl').exists()

    done = launch(*command)
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in (out / 'trials.jsonl').read_text().splitlines()]
    assert [record['trial'] for record in records] == [0, 1]
    assert all(record['state'] == 'complete' and record['seed'] == 17 for record in records)
    for record in records:
        scores = json.loads((out / f'trial-{record["trial"]}' / 'evaluation' / 'scores.json').read_text())
        assert record['score'] == record['figures']['mIoU'] == pytest.approx(scores['mean_iou'])
        assert scores['batch'] == 2 and record['protocol'] == scores['protocol'] == 'mosaic-512sq@32'
    top = max(records, key=lambda record: record['score'])

    config, _ = load_config([*settings(synthetic_folder), f'recipe_name={out}/best.yaml'])
    assert config.optimizer['lr'] == top['params']['optimizer.lr']
    assert config.algorithms == {
        'mixup': top['params']['algorithms.mixup'],
        'gradient_clipping': top['params']['algorithms.gradient_clipping'],
    }
    assert f'mIoU {top["score"]:.2f} in trial {top["trial"]}' in (out / 'best.yaml').read_text()
    assert f'recipe_name={out}/best.yaml' in done.stdout


@pytest.mark.slow
def test_sigterm_ends_the_trial_too(synthetic_folder: Path, space: Path, tmp_path: Path) -> None:
    out = tmp_path / 'sweep'
    command = [
        sys.executable, '-m', 'segrecipes', 'sweep', *settings(synthetic_folder), 'max_duration=500ep', '--space',
        str(space), '--trials', '1', '--out', str(out),
    ]  # fmt: skip
    begun = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL)
    wait_for(lambda: (out / 'trial-0' / 'history.jsonl').exists())
    begun.terminate()
    assert begun.wait(60) == 128 + signal.SIGTERM
    assert is_free(out) and not (out / 'trials.jsonl').exists()


@pytest.mark.parametrize(
    ('more', 'text', 'message'),
    [
        ([], 'optimizer.lr: 3', 'optimizer.lr=3 must be a list of values'),
        ([], 'optimizr.lr: [1]', "optimizr.lr=1: command line: unknown key optimizr. Did you mean 'optimizer'?"),
        ([], 'max_duration: [1ep, 2]', "max_duration=2: max_duration='2' must be a whole number of ep"),
        (
            [],
            'algorithms.mixpu: [null, {}]',
            "algorithms.mixpu={}: algorithms.mixpu is not known. Did you mean 'mixup'?",
        ),
        ([], 'algorithms.sam: [{rh: {low: 0, high: 1}}]', 'algorithms.sam.rh is not an argument of ResumableSAM'),
        ([], 'save_folder: [a, b]', 'save_folder is decided by the sweep'),
        (['optimizer.lr=0.1'], 'optimizer.lr: [1, 2]', 'optimizer.lr is set on the command line too'),
        (['save_folder=x'], 'optimizer.lr: [1, 2]', 'save_folder=x is decided by the sweep'),
        (['--metric', 'miou'], 'optimizer.lr: [1, 2]', '--metric miou is not known. '),
        (['--metric', 'iou.car', '--seconds', '0'], 'optimizer.lr: [1, 2]', '--seconds 0 must be above 0'),
    ],
)
def test_one_message_before_anything_is_written(
    more: list[str], text: str, message: str, synthetic_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    space, out = tmp_path / 'space.yaml', tmp_path / 'sweep'
    space.write_text(text)
    argv = [*settings(synthetic_folder), *more, '--space', str(space), '--trials', '1', '--out', str(out)]
    with pytest.raises(SystemExit) as stop:
        verb('sweep', argv)
    said = capsys.readouterr().err
    assert stop.value.code == 1 and message in said and said.count('error:') == 1
    assert not out.exists()


@pytest.mark.parametrize('number', ['0', '-1', 'x'])
def test_so_many_trials_at_least(number: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        verb('sweep', ['a.yaml', '--space', 's', '--out', 'o', f'--trials={number}'])
    assert stop.value.code == 2 and '--trials' in capsys.readouterr().err


def test_the_recipe_below_is_in_the_best_one(synthetic_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of demo.yaml's mild, file and block, with what the trial changes and takes away."""
    monkeypatch.chdir(ROOT)
    params: dict[str, Any] = {'algorithms.ema': None, 'optimizer.lr': 0.5, 'scheduler': {'name': 'constant'}}
    argv = [
        'yamls/demo.yaml', 'recipe_name=mild', f'train_dataset.path={synthetic_folder}', 'algorithms.ema=null',
        'optimizer.lr=0.5', 'scheduler={name: constant}', 'seed=3',
    ]  # fmt: skip
    assert as_recipe(argv, params) == {
        'max_duration': '18ep',
        'optimizer': {'lr': 0.5},
        'scheduler': {'name': 'constant'},
        'algorithms': {'channels_last': {}, 'ema': None},
    }


def test_a_recipe_of_another_scheduler(tmp_path: Path) -> None:
    """The source of its name also says which arguments it did away with."""
    yaml = tmp_path / 'a.yaml'
    yaml.write_text('scheduler: {name: polynomial, power: 0.9}\n')
    (tmp_path / 'mine.yaml').write_text('scheduler: {name: cosine_annealing, alpha_f: 0.1}\nmax_duration: 3ep\n')
    argv = [str(yaml), f'recipe_name={tmp_path}/mine.yaml', 'train_dataset.path=x', 'optimizer.lr=0.5']
    assert as_recipe(argv, {'optimizer.lr': 0.5}) == {
        'max_duration': '3ep',
        'optimizer': {'lr': 0.5},
        'scheduler': {'name': 'cosine_annealing', 'alpha_f': 0.1},
    }
