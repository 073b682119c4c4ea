"""How the ranks of a run share its work: one row each.

Everything that depends on it is asked of the row: no other code looks at wrappers or calls a collective of training.
"""

from typing import Any, Protocol

import torch
from composer.utils import dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel


class Strategy(Protocol):
    def trainer_arguments(self) -> dict[str, Any]:
        """What Composer's Trainer is given so that it wraps the model in this way."""
        ...

    def unwrapped(self, model: Any) -> Any:
        """Our ComposerModel inside Composer's ``state.model``."""
        ...

    def mean(self, value: Tensor) -> Tensor:
        """The mean over all ranks of a tensor on this rank's device."""
        ...

    def batch_norm_group(self) -> Any:
        """The process group over which batch norm is synchronised; None is all ranks."""
        ...


class DataParallel:
    """A replica a rank, gradients averaged: Composer wraps the model itself where there is more than one rank."""

    def trainer_arguments(self) -> dict[str, Any]:
        return {}

    def unwrapped(self, model: Any) -> Any:
        return model.module if isinstance(model, DistributedDataParallel) else model

    def mean(self, value: Tensor) -> Tensor:
        dist.all_reduce(value)
        return value / dist.get_world_size()

    def batch_norm_group(self) -> Any:
        """That of this rank's node: between nodes the wait would cost more than the statistics gain."""
        world_size, local_world_size = dist.get_world_size(), dist.get_local_world_size()
        if world_size == local_world_size:
            return None
        starts = range(0, world_size, local_world_size)
        groups = [torch.distributed.new_group(list(range(start, start + local_world_size))) for start in starts]
        return groups[dist.get_node_rank()]


STRATEGIES: dict[str, Strategy] = {'ddp': DataParallel()}
