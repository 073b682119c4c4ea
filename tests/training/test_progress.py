"""What one sees while a run trains, on a terminal and through a pipe."""

import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from composer.core import Time, Timestamp
from helpers.runs import arguments, launch, run
from helpers.terminal import drawn, on_terminal, screen

from segrecipes.training.callbacks.progress import ProgressBar

LINE = r'epoch {epoch}/2  \d\d:\d\d  loss \d\.\d{{3}}  mIoU +\d+\.\d  best +\d+\.\d{left}'
LINES = [LINE.format(epoch=1, left=r'  \d\d:\d\d left'), LINE.format(epoch=2, left='')]


def command(folder: Path, *more: str) -> list[str]:
    return [sys.executable, 'main.py', *arguments(folder, 'loggers.progress_bar={}', 'max_duration=2ep', *more)]


@pytest.mark.parametrize('columns', [80, 120])
def test_on_a_terminal(columns: int, synthetic_folder: Path) -> None:
    """A line an evaluation stays; the bar is one line of the terminal's width, and gone in the end."""
    written, status = on_terminal(*command(synthetic_folder), columns=columns)
    assert status == 0, written
    bars = [line for line in drawn(written) if '%|' in line]
    assert {len(bar) for bar in bars} == {columns - 1}  # tqdm leaves the last one free
    assert any(re.search(r'epoch 1\.\d/2 .*[12]/3, loss \d\.\d+  mIoU \d+\.\d  [\d.]+ samples/s', bar) for bar in bars)
    assert any(re.match(r'evaluation +\d+%\|', bar) for bar in bars)
    shown = screen(written)
    found = [line for line in shown if line.startswith('epoch ')]
    assert len(found) == 2 and all(map(re.fullmatch, LINES, found)), found
    assert not any('%|' in line for line in shown)


def test_through_a_pipe_there_are_lines_only(synthetic_folder: Path) -> None:
    process = launch(*command(synthetic_folder))
    assert process.returncode == 0, process.stderr
    assert '\r' not in process.stdout + process.stderr and '%|' not in process.stdout + process.stderr
    found = [line for line in process.stdout.splitlines() if line.startswith('epoch ')]
    assert len(found) == 2 and all(map(re.fullmatch, LINES, found)), found


def test_an_error_has_nothing_drawn_below_it(synthetic_folder: Path) -> None:
    written, status = on_terminal(*command(synthetic_folder, 'optimizer.lr=1e30', 'max_duration=9ep'))
    assert status == 1
    message = written[written.index('error: ') :]
    assert 'not finite' in message
    assert '\r' not in message.replace('\r\n', '') and '%|' not in message
    assert screen(written)[-2].startswith('error: the loss is not finite')


def test_the_figures_of_a_line(synthetic_folder: Path, capsys: pytest.CaptureFixture, monkeypatch) -> None:
    """The loss is the mean since the last line, best the largest mIoU, and the time left in proportion."""
    losses: list[float] = []
    seen: list[tuple[list[float], float, float]] = []
    now = [100.0]
    line = ProgressBar._line

    def batch_end(self: ProgressBar, state, logger, of=ProgressBar.batch_end) -> None:
        now[0] += 10
        losses.append(state.total_loss_dict['loss/train/total'])
        of(self, state, logger)

    def noted(self: ProgressBar, state, iou: list[float]) -> str:
        seen.append((losses.copy(), sum(x for x in iou if x == x) / sum(x == x for x in iou), self.best))
        losses.clear()
        return line(self, state, iou)

    monkeypatch.setattr(ProgressBar, 'batch_end', batch_end)
    monkeypatch.setattr(ProgressBar, '_line', noted)
    monkeypatch.setattr('segrecipes.training.callbacks.progress.time.monotonic', lambda: now[0])
    run(arguments(synthetic_folder, 'loggers.progress_bar={}', 'max_duration=2ep', 'eval_interval=2ba'))
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith('epoch ')]
    expected = []
    for (of, mean_iou, best), begin, end in zip(
        seen, ('epoch 0.7/2  00:20', 'epoch 1.3/2  00:40', 'epoch 2/2  01:00'), ('  00:40 left', '  00:20 left', '')
    ):
        figures = f'loss {sum(of) / len(of):.3f}  mIoU {mean_iou:4.1f}  best {best:4.1f}'
        expected.append(f'{begin}  {figures}{end}')
    assert [len(of) for of, *_ in seen] == [2, 2, 2]
    assert [best for *_, best in seen] == pytest.approx([max(miou for _, miou, _ in seen[: n + 1]) for n in range(3)])
    assert printed == expected


def test_of_two_classes_the_second_is_shown() -> None:
    bar = ProgressBar(('background', 'tumour'))
    state: Any = SimpleNamespace(
        max_duration=Time.from_timestring('100ba'), timestamp=Timestamp(batch=25), total_loss_dict={}
    )
    bar._begun, bar._losses, bar._mean_iou, bar.best = (time.monotonic() - 10, 0.0), [0.5, 0.7], 71.23, 72.0
    line = bar._line(state, [90.2, 52.26])
    assert line == 'batch  25/100  00:10  loss 0.600  mIoU 71.2  tumour 52.3  best 72.0  00:30 left'
