"""What one sees of a run while it trains."""

import sys
import time
from collections import deque
from typing import Any

from composer.core import State, TimeUnit
from composer.loggers import Logger, LoggerDestination
from composer.utils import dist
from tqdm import tqdm

from segrecipes.evaluation.metrics import iou_from_confusion
from segrecipes.training.callbacks.best import whole_confusion

WINDOW = 50  # batches that the bar's samples a second are of
NAME_LENGTH = 12  # of a class, in a line that has to fit 80 columns
UNITS = {TimeUnit.EPOCH: 'epoch', TimeUnit.BATCH: 'batch', TimeUnit.SAMPLE: 'sample'}


class ProgressBar(LoggerDestination):
    """Prints a line an evaluation and, on a terminal, keeps a bar of one line below them.

    A line has how far the run is, the time since it was started, the mean loss of the batches since the last line,
    mean IoU, of two classes the second one's IoU, the best mean IoU so far, and the time left. Where stdout or stderr
    is a pipe or a file there are lines only. All are of rank 0.

    Args:
        class_names: of the dataset.
    """

    def __init__(self, class_names: tuple[str, ...] = ('class 0', 'class 1')):
        self.class_names = class_names
        self.best = -1.0
        self._bar: tqdm | None = None
        self._losses: list[float] = []
        self._mean_iou: float | None = None
        self._epoch_length: int | None = None  # batches, of training
        self._begun: tuple[float, float] | None = None  # when training was, and how far it had come before
        self._speed: deque[tuple[int, float]] = deque(maxlen=WINDOW)

    # Training

    def fit_start(self, state: State, logger: Logger) -> None:
        self._epoch_length = None if state.dataloader_len is None else int(state.dataloader_len)
        self._begun = (time.monotonic(), self._reached(state))

    def batch_start(self, state: State, logger: Logger) -> None:
        if self._bar is None:
            self._draw(self._position(state), self._epoch_length, state.timestamp.batch_in_epoch.value)

    def batch_end(self, state: State, logger: Logger) -> None:
        seen, seconds = state.timestamp.sample.value, state.timestamp.total_wct
        self._speed.append((seen, seconds.total_seconds() if seconds else 0.0))
        if 'loss/train/total' in state.total_loss_dict:
            self._losses.append(state.total_loss_dict['loss/train/total'])
        if self._bar is not None:
            self._bar.set_description_str(self._position(state), refresh=False)
            self._bar.set_postfix_str(self._figures(), refresh=False)
            self._bar.update()

    def epoch_end(self, state: State, logger: Logger) -> None:
        self.hide()

    def fit_end(self, state: State, logger: Logger) -> None:
        self.hide()

    # Evaluation

    def eval_start(self, state: State, logger: Logger) -> None:
        self.hide()
        self._draw('evaluation', state.dataloader_len and int(state.dataloader_len))

    def eval_batch_end(self, state: State, logger: Logger) -> None:
        if self._bar is not None:
            self._bar.update()

    def eval_end(self, state: State, logger: Logger) -> None:
        self.hide()
        iou = 100 * iou_from_confusion(whole_confusion(state).double())
        self._mean_iou = float(iou.nanmean())
        self.best = max(self.best, self._mean_iou)
        if self._begun is not None and dist.get_global_rank() == 0:
            print(self._line(state, iou.tolist()), flush=True)
            self._losses = []

    def close(self, state: State, logger: Logger) -> None:
        self.hide()

    def hide(self) -> None:
        """Take the bar off the screen, before anything else is written there."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def state_dict(self) -> dict[str, Any]:
        return {'best': self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = state['best']

    def _draw(self, name: str, total: int | None, done: int = 0) -> None:
        if dist.get_global_rank() == 0 and sys.stdout.isatty() and sys.stderr.isatty():
            self._bar = tqdm(
                total=total,
                initial=done,
                desc=name,
                dynamic_ncols=True,
                leave=False,
                bar_format='{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}',
            )

    def _figures(self) -> str:
        """loss 0.482  mIoU 41.2  123.4 samples/s"""
        (first, begun), (last, now) = self._speed[0], self._speed[-1]
        found = [f'loss {self._losses[-1]:.3f}'] if self._losses else []
        found += [] if self._mean_iou is None else [f'mIoU {self._mean_iou:.1f}']
        found += [f'{(last - first) / (now - begun):.1f} samples/s'] if now > begun else []
        return '  '.join(found)

    def _line(self, state: State, iou: list[float]) -> str:
        """epoch  3/25  01:12  loss 0.482  mIoU 41.2  best 41.2  08:40 left"""
        assert self._begun is not None and state.max_duration is not None
        begun, reached_then = self._begun
        elapsed, reached, end = time.monotonic() - begun, self._reached(state), state.max_duration.value
        loss = sum(self._losses) / len(self._losses) if self._losses else float('nan')
        parts = [self._position(state), f'{clock(elapsed):>5}', f'loss {loss:.3f}', f'mIoU {self._mean_iou:4.1f}']
        if len(iou) == 2:
            parts.append(f'{self.class_names[1][:NAME_LENGTH]} {iou[1]:4.1f}')
        parts.append(f'best {self.best:4.1f}')
        if reached_then < reached < end:
            parts.append(f'{clock(elapsed * (end - reached) / (reached - reached_then))} left')
        return '  '.join(parts)

    def _position(self, state: State) -> str:
        """``epoch  3/25``, ``epoch 2.5/25`` within one; of a run that ends after batches or samples those."""
        assert state.max_duration is not None
        unit, end, reached = state.max_duration.unit, str(state.max_duration.value), self._reached(state)
        shown = f'{reached:.0f}' if reached.is_integer() else f'{reached:.1f}'
        return f'{UNITS[unit]} {shown:>{len(end)}}/{end}'

    def _reached(self, state: State) -> float:
        """How far the run has come, in the unit of its end."""
        assert state.max_duration is not None
        reached = float(state.timestamp.get(state.max_duration.unit).value)
        if state.max_duration.unit == TimeUnit.EPOCH and self._epoch_length:
            reached += state.timestamp.batch_in_epoch.value / self._epoch_length
        return reached


def clock(seconds: float) -> str:
    return tqdm.format_interval(int(seconds))
