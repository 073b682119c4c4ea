"""Ends a run whose loss is lost."""

import math

from composer.core import Callback, State
from composer.loggers import Logger

from segrecipes.base.errors import UserError


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
