"""MixUp whose target stays a pair of label maps: one-hot, a batch of 16 at 512² with 150 classes is 4.7 GiB."""

import composer.algorithms
import torch
from composer.algorithms.mixup import mixup_batch
from composer.core import Event, State
from composer.loggers import Logger

from segrecipes.models.losses.segmentation import MixedTarget


class MixUp(composer.algorithms.MixUp):
    """Mixes each image with another one of its microbatch, with one coefficient: https://arxiv.org/abs/1710.09412

    Args:
        alpha: the coefficient is min(z, 1 - z) with z drawn from Beta(alpha, alpha), as Composer has it.
    """

    def __init__(self, alpha: float = 0.2):
        if alpha < 0:
            raise ValueError(f'alpha={alpha} is out of range; expected 0 or more')
        super().__init__(alpha)

    def match(self, event: Event, state: State) -> bool:
        return event == Event.BEFORE_FORWARD

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        images, labels, *more = state.batch
        order = torch.randperm(len(images), device=images.device)  # on the host, the GPU would be waited for
        images, other, mixing = mixup_batch(images, labels, alpha=self.alpha, indices=order)
        state.batch = (images, MixedTarget(labels, other, float(mixing)), *more)
