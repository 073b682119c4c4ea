"""Sharpness-aware minimization that a resumed run continues where it was."""

# torch keeps the kernels over lists of tensors under private names, and its own optimizers call them so.
# pyright: reportPrivateImportUsage=false

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from composer.algorithms import SAM
from composer.algorithms.sam.sam import SAMOptimizer
from composer.core import Event, State
from composer.loggers import Logger
from composer.trainer._scaler import ClosureGradScaler


class ResumableSAMOptimizer(SAMOptimizer):
    """A SAMOptimizer whose state dict holds all there is to restore, and which needs no memory of its own.

    Composer's keeps the base optimizer's momentum and its own step count to itself, cuts the base optimizer off from
    the learning-rate schedule when a state dict is loaded, and leaves the weights displaced when the second pass fails.
    """

    @torch.no_grad()
    def step(self, closure: Callable[..., Any] | None = None) -> Any:  # type: ignore[override]
        # Loading a state dict replaces both; the base optimizer must see the new ones.
        self.base_optimizer.state, self.base_optimizer.param_groups = self.state, self.param_groups
        if closure is None:  # torch does this once, with zero gradients, to make the state it loads into
            return self.base_optimizer.step()
        closure = torch.enable_grad()(closure)
        step = self.param_groups[0].get('sam_step', 0)
        climbs = (step + 1) % self.interval == 0
        passed = loss = closure(ddp_sync=not climbs)  # SAM climbs along each rank's own gradient
        if climbs and loss is not None:
            with self._climbed():
                passed = closure(loss_dict={})  # its loss is not what the run logs
        if passed is not None:  # as it is where the gradient scaler met an overflow
            self.base_optimizer.step()
        for group in self.param_groups:
            group['sam_step'] = step + 1
        return loss

    @contextmanager
    def _climbed(self) -> Iterator[None]:
        """Weights displaced by ``rho`` along the gradient, whose memory the displacement takes over."""
        groups = [[p for p in group['params'] if p.grad is not None] for group in self.param_groups]
        weights = [p for group in groups for p in group]
        steps = [p.grad for p in weights]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(steps)))
        scales = [group['rho'] / (norm + group['epsilon']) for group in self.param_groups]
        for group, scale in zip(groups, scales):
            if group:
                torch._foreach_mul_([p.grad for p in group], scale)
        torch._foreach_add_(weights, steps)
        for p in weights:
            p.grad = None  # the second pass must not write into the displacement
        try:
            yield
        finally:
            torch._foreach_sub_(weights, steps)


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
