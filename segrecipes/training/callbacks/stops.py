"""Ends a run that no longer learns: its loss is lost, or nothing has a label."""

import math

import torch
from composer.core import Callback, State
from composer.loggers import Logger

from segrecipes.base.errors import UserError
from segrecipes.data.batch import LABELLED


class StopOnNonFiniteLoss(Callback):
    """Ends the run on a NaN or infinite loss, before a checkpoint of that state is written.

    Composer has already brought the loss to the host for its loggers, so looking at it costs nothing.
    """

    def batch_end(self, state: State, logger: Logger) -> None:
        losses = state.total_loss_dict
        if any(not math.isfinite(loss) for loss in losses.values()):
            values = ', '.join(f'{name.removeprefix("loss/train/")}={loss}' for name, loss in losses.items())
            raise UserError(
                f'the loss is not finite in batch {state.timestamp.batch.value} ({values}); no checkpoint of it was '
                'written. Lower optimizer.lr, or use precision=fp32 or amp_bf16 in place of amp_fp16.'
            )


class StopOnUnlabelledEpoch(Callback):
    """Ends the run after an epoch in which no pixel of any batch had a class: its loss was 0, and it says nothing.

    A batch without one is nothing unusual; so the host asks the device only at the end of an epoch.
    """

    labelled: torch.Tensor | None = None  # () bool, so far in this epoch

    def batch_start(self, state: State, logger: Logger) -> None:
        some = state.batch[LABELLED].any()
        self.labelled = some if self.labelled is None else self.labelled | some

    def epoch_end(self, state: State, logger: Logger) -> None:
        labelled, self.labelled = self.labelled, None
        if labelled is not None and not labelled:
            raise UserError(
                f'no pixel that the network saw in epoch {state.timestamp.epoch.value} has a class; all were ignored. '
                'Look at the samples: segrecipes data PATH --show samples.png'
            )
