"""Label smoothing that leaves ignored pixels ignored: Composer's makes them targets of their own, even everywhere."""

import composer.algorithms
import torch
from composer.core import Event, State
from composer.loggers import Logger
from torch import Tensor

from segrecipes.models.losses.segmentation import MixedTarget


class LabelSmoothing(composer.algorithms.LabelSmoothing):
    """Moves a share of each label to all classes alike, as torch's ``cross_entropy(label_smoothing=…)`` does.

    The target becomes class probabilities; MixUp's pair is mixed first. Source: https://arxiv.org/abs/1512.00567

    Args:
        smoothing: the share, 0 … 1.
    """

    def __init__(self, smoothing: float = 0.1):
        if not 0 <= smoothing <= 1:
            raise ValueError(f'smoothing={smoothing} is out of range; expected 0 … 1')
        super().__init__(smoothing)

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        if event == Event.AFTER_LOSS:
            super().apply(event, state, logger)
            return
        assert isinstance(state.outputs, Tensor)
        self.original_labels = state.batch_get_item(self.target_key)
        smooth = smoothed(self.original_labels, state.outputs.shape[1], self.smoothing)
        state.batch_set_item(self.target_key, smooth)


def smoothed(target: Tensor | MixedTarget, num_classes: int, smoothing: float) -> Tensor:
    """(B, H, W) labels, -1 ignored, or a pair of them mixed → (B, C, H, W) class probabilities, 0 where ignored."""
    labels, shares = (target[None], (1.0,)) if isinstance(target, Tensor) else target.weighted()
    batch, height, width = labels.shape[1:]
    probabilities = torch.zeros(batch, num_classes, height, width, device=labels.device)
    for label, share in zip(labels.unsqueeze(2), shares):  # B 1 H W
        weight = (label != -1) * share
        probabilities += weight * (smoothing / num_classes)
        probabilities.scatter_add_(1, label.clamp(min=0), weight * (1 - smoothing))
    return probabilities
