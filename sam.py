"""Sharpness-aware minimization that a resumed run continues where it was."""

from collections.abc import Callable
from typing import Any

from composer.algorithms import SAM
from composer.algorithms.sam.sam import SAMOptimizer
from composer.core import Event, State
from composer.loggers import Logger
from composer.trainer._scaler import ClosureGradScaler


class ResumableSAMOptimizer(SAMOptimizer):
    """A SAMOptimizer whose state dict holds all there is to restore.

    Composer's keeps the base optimizer's momentum and its own step count to itself, and cuts the base optimizer off
    from the learning-rate schedule when a state dict is loaded.
    """

    def step(self, closure: Callable[..., Any] | None = None) -> Any:  # type: ignore[override]
        # Loading a state dict replaces both; the base optimizer must see the new ones.
        self.base_optimizer.state, self.base_optimizer.param_groups = self.state, self.param_groups
        if closure is None:  # torch does this once, with zero gradients, to make the state it loads into
            return self.base_optimizer.step()
        self.global_step = self.param_groups[0].get('sam_step', 0)
        loss = super().step(closure)
        for group in self.param_groups:
            group['sam_step'] = self.global_step
        for state in self.state.values():
            state.pop('e_w', None)  # as large as the weights, and of no use to the next step
        return loss


class ResumableSAM(SAM):
    """Composer's SAM, applied before a checkpoint is loaded instead of after, so that the load reaches it."""

    def match(self, event: Event, state: State) -> bool:
        return event == Event.BEFORE_LOAD

    def apply(self, event: Event, state: State, logger: Logger | None) -> None:
        state.optimizers = tuple(
            ResumableSAMOptimizer(base_optimizer, rho=self.rho, epsilon=self.epsilon, interval=self.interval)
            for base_optimizer in state.optimizers
        )
        for optimizer in state.optimizers:
            for group in optimizer.param_groups:
                group.setdefault('sam_step', 0)
        state.scaler = ClosureGradScaler()
