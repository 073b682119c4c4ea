"""What our runs add to Composer's: a stop on a lost loss, resumable randomness, results to look at."""

import math
import random

import numpy as np
import torch
from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist

from errors import UserError


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


class SeedEachBatch(Callback):
    """Seeds the global generators by (seed, rank, batch), so that MixUp and dropout do not notice a resumed run."""

    def batch_start(self, state: State, logger: Logger) -> None:
        entropy = (state.rank_zero_seed, dist.get_global_rank(), state.timestamp.batch.value)
        seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)


CALLBACKS: dict[str, type] = {}
