"""Keeps the checkpoint of the best evaluation beside the latest."""

import math
from pathlib import Path
from typing import Any

from composer.callbacks import CheckpointSaver
from composer.core import Callback, Event, State
from composer.loggers import Logger
from composer.utils import dist, parse_uri
from torch import Tensor

from segrecipes.base.run_files import BEST_CHECKPOINT, EVAL_LABEL
from segrecipes.evaluation.metrics import MIoU


class BestCheckpoint(Callback):
    """Keeps the checkpoint of the best evaluation beside the latest: ``best-rank{rank}.pt``, a link to it.

    Args:
        folder: Composer's ``save_folder``.
    """

    def __init__(self, folder: str):
        name = 'best-ep{epoch}-ba{batch}-rank{rank}.pt'
        remote = Path(parse_uri(folder)[2])
        # One inside this callback, because the Trainer takes the first it is given for the one it resumes from.
        self.saver = CheckpointSaver(
            folder=folder,
            filename=name,
            remote_file_name=str(remote / name),
            latest_filename=BEST_CHECKPOINT,
            latest_remote_file_name=str(remote / BEST_CHECKPOINT),
            save_interval=self._is_due,
            overwrite=True,
            num_checkpoints_to_keep=1,
        )
        self.best = -math.inf
        self._improved = False
        self._fit_has_ended = False

    def run_event(self, event: Event, state: State, logger: Logger) -> None:
        if event == Event.FIT_START:
            folder = Path(self.saver.filename.format(state)).parent
            saved = [folder / Path(path).name for path in self.saver.all_saved_checkpoints_to_timestamp]
            self.saver.saved_checkpoints = [str(path) for path in saved if path.exists()]
            if not self.saver.saved_checkpoints and self.saver.remote_uploader is None:
                self.best = -math.inf  # a run of its own, which starts from another's checkpoint
        self.saver.run_event(event, state, logger)
        if event == Event.EVAL_END:
            value = float(mean_iou(state).compute())
            if value > self.best:
                self.best, self._improved = value, True
            if self._fit_has_ended:  # Composer's last evaluation comes after its last checkpoint
                self.saver.batch_checkpoint(state, logger)
                self.saver.fit_end(state, logger)
        self._fit_has_ended = event == Event.FIT_END or (self._fit_has_ended and event != Event.FIT_START)

    def _is_due(self, state: State, event: Event) -> bool:
        due, self._improved = self._improved, False
        return due

    def post_close(self) -> None:
        self.saver.post_close()

    def state_dict(self) -> dict[str, Any]:
        return {'best': self.best, **self.saver.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = state['best']
        self.saver.load_state_dict(state)


def mean_iou(state: State) -> MIoU:
    """The metric of the evaluation that has just ended, with this rank's confusion matrix."""
    return next(metric for metric in state.eval_metrics[EVAL_LABEL].values() if isinstance(metric, MIoU))


def whole_confusion(state: State) -> Tensor:
    """The confusion matrix of the evaluation that has just ended, of all ranks."""
    confusion = mean_iou(state).confusion.clone()
    dist.all_reduce(confusion)
    return confusion
