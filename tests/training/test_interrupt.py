"""Ctrl-C and SIGTERM end a run with a checkpoint that it goes on from."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from helpers.runs import ROOT, arguments, assert_same_weights, environment, run
from helpers.terminal import on_terminal, screen

from segrecipes.commands.cli import run as run_verb
from segrecipes.training.tasks.segmentation import SegmentationModel

pytestmark = pytest.mark.usefixtures('clean_shared_memory')

LONG = ('max_duration=400ep', 'eval_interval=1ep', 'save_interval=400ep', 'loggers.progress_bar={}', 'run_name=a')


def in_batch(monkeypatch: pytest.MonkeyPatch, number: int, action: Any) -> None:
    """Calls ``action`` in the forward pass of training batch ``number``, from 1."""
    seen, loss = [], SegmentationModel.loss

    def counted(model: Any, *args: Any, **kwargs: Any) -> Any:
        seen.extend([1] if model.training else [])
        if len(seen) == number and model.training:
            action()
        return loss(model, *args, **kwargs)

    monkeypatch.setattr(SegmentationModel, 'loss', counted)


@pytest.mark.parametrize(('number', 'status'), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize('batch', [2, 3])
def test_a_stopped_run_goes_on_as_if_it_had_not(
    number: signal.Signals, status: int, batch: int, synthetic_folder: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    """Of two epochs of three batches, in the middle of the first and at its end."""
    before = signal.getsignal(number)
    argv = arguments(synthetic_folder, 'max_duration=2ep', 'save_num_checkpoints_to_keep=-1', 'run_name=a')
    run([*argv, f'save_folder={tmp_path}/whole'])
    argv.append(f'save_folder={tmp_path}/stopped')
    monkeypatch.setattr(sys, 'argv', ['segrecipes', 'train', *argv])
    with monkeypatch.context() as patch:
        in_batch(patch, batch, lambda: os.kill(os.getpid(), number))
        with pytest.raises(SystemExit) as stop:
            run_verb('train', argv)
    assert stop.value.code == status
    assert signal.getsignal(number) == before
    checkpoint = tmp_path / f'stopped/ep0-ba{batch}-rank0.pt'
    line = capsys.readouterr().out.splitlines()[-1]
    said, _, again = line.partition('; to go on: ')
    assert said == f'stopped at batch {batch}, saved as {checkpoint}'
    words = shlex.split(again)
    assert words[:2] == ['segrecipes', 'train']
    run_verb('train', words[2:])
    assert_same_weights(tmp_path / 'whole/ep2-ba6-rank0.pt', tmp_path / 'stopped/ep2-ba6-rank0.pt')


def test_a_run_that_saves_nothing_just_ends(
    synthetic_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    in_batch(monkeypatch, 1, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(SystemExit) as stop:
        run_verb('train', arguments(synthetic_folder, 'max_duration=2ep'))
    assert stop.value.code == 130
    assert capsys.readouterr().out.splitlines()[-1] == (
        'stopped at batch 1; nothing was saved, because save_folder is null'
    )


class Sends:
    """A signal to a process or its group, once its second epoch is over."""

    def __init__(self, *numbers: signal.Signals, group: bool = True):
        self.numbers = list(numbers)
        self.send = os.killpg if group else os.kill

    def __call__(self, written: str, pid: int) -> None:
        while self.numbers and re.search(r'epoch +2/400  \d+:', written):
            self.send(pid, self.numbers.pop(0))
            time.sleep(0.2)


def test_on_a_terminal(synthetic_folder: Path, tmp_path: Path) -> None:
    """Its Ctrl-C is for the workers of the loader too, and nothing of a traceback is seen."""
    argv = arguments(synthetic_folder, *LONG, f'save_folder={tmp_path}', 'train_dataset.num_workers=1')
    written, status = on_terminal(sys.executable, 'main.py', *argv, watch=Sends(signal.SIGINT))
    assert status == 130, written
    assert 'Traceback' not in written and 'rror' not in written
    shown = [line for line in screen(written) if line]
    assert sum('Ctrl-C once more ends at once' in line for line in shown) == 1
    assert 'to go on: python main.py ' in re.sub(r'\n', '', written[written.index('stopped at batch') :])
    assert len([*tmp_path.glob('ep*.pt')]) == 1


def test_a_second_time_ends_at_once(synthetic_folder: Path, tmp_path: Path) -> None:
    """A launcher sends SIGTERM after the terminal's Ctrl-C, which is not the second."""
    argv = arguments(synthetic_folder, *LONG, f'save_folder={tmp_path}')
    watch = Sends(signal.SIGINT, signal.SIGINT)
    written, status = on_terminal(sys.executable, 'main.py', *argv, watch=watch)
    assert status == 130
    assert 'Traceback' not in written and 'to go on' not in written


SLOW = [pytest.param(number, marks=pytest.mark.slow) for number in (signal.SIGTERM, signal.SIGKILL)]


@pytest.mark.parametrize('number', [signal.SIGINT, *SLOW])
def test_two_ranks_stop_in_one_batch(number: signal.Signals, synthetic_folder: Path, tmp_path: Path) -> None:
    """By a signal to one of them, or to their launcher: killed, it tells them nothing."""
    argv = arguments(synthetic_folder, *LONG, f'save_folder={tmp_path}')
    log = (tmp_path / 'log.txt').open('w+')
    launcher = subprocess.Popen(
        ['composer', '-n', '2', 'main.py', *argv], cwd=ROOT, env=environment(), stdout=log, stderr=log
    )
    try:
        wait_for(lambda: 'epoch   2/400' in (tmp_path / 'log.txt').read_text())
        ranks = children(launcher.pid)
        assert len(ranks) == 2
        if number == signal.SIGINT:
            os.kill(ranks[1], number)
        else:
            launcher.send_signal(number)
        wait_for(lambda: not any(map(runs, ranks)))
        launcher.wait(timeout=60)
    finally:
        launcher.kill()
        log.close()
    said = (tmp_path / 'log.txt').read_text()
    ours = re.sub(
        r'Traceback \(most recent call last\):\n  File "\S+/composer/cli/launcher.py"', '', said
    )  # its own end
    assert 'Traceback' not in ours
    found = re.search(r'stopped at batch (\d+), saved as (\S+); to go on: composer -n 2 main.py ', said)
    assert found and Path(found[2]).is_file() and f'-ba{found[1]}-rank0.pt' in found[2]


def wait_for(condition: Any, seconds: float = 200) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f'/proc/{pid}/task/{pid}/children').read_text().split()]


def runs(pid: int) -> bool:
    try:
        return 'State:\tZ' not in Path(f'/proc/{pid}/status').read_text()
    except FileNotFoundError:
        return False
