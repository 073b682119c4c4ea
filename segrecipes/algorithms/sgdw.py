"""Composer's DecoupledSGDW, with one kernel over all parameters instead of four for each."""

# torch keeps the kernels over lists of tensors under private names, and its own optimizers call them so.
# pyright: reportPrivateImportUsage=false

import composer.optim
import torch
from torch import Tensor
from torch.optim.sgd import sgd


class DecoupledSGDW(composer.optim.DecoupledSGDW):  # of the same name, by which checkpoints know it
    """Bitwise the same steps as Composer's."""

    @staticmethod
    def sgdw(
        params: list[Tensor],
        d_p_list: list[Tensor],
        momentum_buffer_list: list[Tensor | None],
        *,
        weight_decay: float,
        momentum: float,
        lr: float,
        initial_lr: float,
        dampening: float,
        nesterov: bool,
    ) -> None:
        if weight_decay:
            decay = weight_decay * (lr / initial_lr if initial_lr else 1.0)
            torch._foreach_mul_(params, 1 - decay)
        sgd(
            params,
            d_p_list,
            momentum_buffer_list,
            foreach=True,
            weight_decay=0.0,
            momentum=momentum,
            lr=lr,
            dampening=dampening,
            nesterov=nesterov,
            maximize=False,
        )
