"""What is done before a batch: its random numbers, its count of labelled pixels, the files of a run that has begun."""

import random
from collections.abc import Callable, Sequence

import numpy as np
import torch
from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist

from segrecipes.data.batch import mean_weight
from segrecipes.training.strategy import Strategy


class SeedEachBatch(Callback):
    """Seeds the global generators by (seed, rank, batch), so that MixUp and dropout do not notice a resumed run.

    Also before each pass over the batch: both of SAM's, and one repeated with a smaller microbatch, draw alike.
    """

    def before_train_batch(self, state: State, logger: Logger) -> None:
        self.batch_start(state, logger)

    def batch_start(self, state: State, logger: Logger) -> None:
        entropy = (state.rank_zero_seed, dist.get_global_rank(), state.timestamp.batch.value)
        seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)


class WeighLabelledCount(Callback):
    """Makes of the number of labelled pixels an image what they weigh, which a weighted cross entropy is divided by.

    Before :class:`ShareLabelledCount`.
    """

    def __init__(self, class_weights: Sequence[float]):
        self.class_weights = class_weights

    def batch_start(self, state: State, logger: Logger) -> None:
        images, classes, _, *more = state.batch
        state.batch = images, classes, mean_weight(classes, self.class_weights), *more


class ShareLabelledCount(Callback):
    """Averages over all ranks the number of labelled pixels an image that each batch came with.

    The cross entropy of a rank is then divided by what that of all ranks is divided by. Reduced on the device, because
    a GPU's process group takes no tensor of the host; before the first pass, where no rank can be out of memory yet.
    """

    def __init__(self, strategy: Strategy):
        self.strategy = strategy

    def batch_start(self, state: State, logger: Logger) -> None:
        if dist.get_world_size() == 1:
            return
        images, classes, labelled, *more = state.batch
        mean = self.strategy.mean(state.device.tensor_to_device(labelled.mean()))
        state.batch = images, classes, mean.expand(len(classes)), *more


class AtFirstBatch(Callback):
    """Calls ``action`` once nothing is wrong: the run was let start, its folder is free, its first batch was read."""

    def __init__(self, action: Callable[[State], None]):
        self.action: Callable[[State], None] | None = action

    def after_dataloader(self, state: State, logger: Logger) -> None:
        if self.action is not None:
            self.action(state)
            self.action = None
