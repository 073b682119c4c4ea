"""Adaptive average pooling whose gradient repeats bit by bit on a GPU too."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def use_repeatable_pooling(network: nn.Module) -> int:
    """Make every ``nn.AdaptiveAvgPool2d`` a :class:`RepeatablePool`, in place; how many there were."""
    found = [module for module in network.modules() if type(module) is nn.AdaptiveAvgPool2d]
    for module in found:
        module.__class__ = RepeatablePool
    return len(found)


class RepeatablePool(nn.AdaptiveAvgPool2d):
    """``nn.AdaptiveAvgPool2d``; under torch's deterministic algorithms on a GPU, where it has none, two products."""

    def forward(self, input: Tensor) -> Tensor:
        if not (input.is_cuda and torch.are_deterministic_algorithms_enabled()):
            return super().forward(input)
        size: Any = self.output_size
        return average_pool(input, (size, size) if isinstance(size, int) else size)


def average_pool(input: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, H, W) → (B, C, *size), each value the mean of its bin: bins are separable, so is their mean."""
    rows, columns = (
        F.adaptive_avg_pool1d(torch.eye(length, device=input.device), bins).T.to(input.dtype)
        for length, bins in zip(input.shape[-2:], size)
    )
    return rows @ input @ columns.mT
