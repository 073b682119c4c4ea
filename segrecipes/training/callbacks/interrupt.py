"""Ctrl-C and SIGTERM: a checkpoint at the end of the batch, and the run ends."""

import os
import signal
import threading
from pathlib import Path
from typing import Any

import torch
from composer.callbacks import CheckpointSaver
from composer.core import Callback, Event, State
from composer.loggers import Logger
from composer.utils import dist

from segrecipes.training.strategy import Strategy

NOTICE = b'\nstopping at the end of this batch; Ctrl-C once more ends at once\n'


class Stopped(SystemExit):
    """A run that was asked to end: its name, the last batch that was trained, and what was saved, or None."""

    def __init__(self, number: int, run_name: str, batch: int, checkpoint: Path | None):
        # Composer's launcher prints all that a rank has said which ends with another status than 0
        super().__init__(0 if dist.get_local_rank() else 128 + number)
        self.run_name = run_name
        self.batch = batch
        self.checkpoint = checkpoint


class StopOnSignal(Callback):
    """Ends a run at the batch in which any rank was sent SIGINT or SIGTERM, with a checkpoint that it goes on from.

    A second Ctrl-C ends the process at once. A launcher that was killed counts as SIGTERM: it tells its ranks nothing.
    """

    def __init__(self, strategy: Strategy):
        self.strategy = strategy
        self.number = 0  # of the signal that this rank was sent
        self.stopping = False  # on all ranks in the same batch
        self._saver: CheckpointSaver | None = None
        self._launcher = os.getppid() if dist.get_world_size() > 1 else None
        self._before: dict[signal.Signals, Any] = {}

    def fit_start(self, state: State, logger: Logger) -> None:
        self._saver = next((one for one in state.callbacks if isinstance(one, CheckpointSaver)), None)
        if self._saver is not None:
            due: Any = self._saver.save_interval
            self._saver.save_interval = lambda state, event: self.stopping or due(state, event)
        if threading.current_thread() is threading.main_thread():
            self._before = {one: signal.signal(one, self._noted) for one in (signal.SIGINT, signal.SIGTERM)}

    def run_event(self, event: Event, state: State, logger: Logger) -> None:
        super().run_event(event, state, logger)
        if event in (Event.BATCH_END, Event.EVAL_END) and self._before:
            self.stopping = self._agreed(state)
        # The first that come after a checkpoint could have been saved
        if event in (Event.BATCH_START, Event.EPOCH_START, Event.EPOCH_END) and self.stopping:
            self.fit_end(state, logger)
            saved = self._saver.saved_checkpoints if self._saver else []
            batch = state.timestamp.batch.value
            raise Stopped(self.number or signal.SIGTERM, state.run_name, batch, Path(saved[-1]) if saved else None)

    def fit_end(self, state: State, logger: Logger) -> None:
        for one, handler in self._before.items():
            signal.signal(one, handler)
        self._before = {}

    def _noted(self, number: int, frame: Any) -> None:
        if self.number and number == signal.SIGINT:
            os._exit(128 + number)
        if not self.number and dist.get_global_rank() == 0:
            os.write(2, NOTICE)  # print could be interrupted within another one
        self.number = self.number or number

    def _agreed(self, state: State) -> bool:
        is_asked = bool(self.number) or self._launcher not in (None, os.getppid())
        if dist.get_world_size() == 1:
            return is_asked
        share = self.strategy.mean(state.device.tensor_to_device(torch.tensor([float(is_asked)])))
        return bool(share > 0)
