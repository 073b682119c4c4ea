"""Dilated depthwise 3 × 3 convolutions as Triton kernels, for channels-last maps on a GPU.

Without a product over channels they are bound by memory: a program holds some pixels of a row of some channels, all
nine taps read neighbours that the cache has, and sums are in float32. The weights' gradient is summed by program first
and then over programs: no atomics, and results repeat bit by bit.
"""

from typing import Any

import torch
from torch import Tensor, nn

DTYPES = torch.float32, torch.float16, torch.bfloat16


def use_fast_depthwise(network: nn.Module) -> int:
    """Make every dilated depthwise 3 × 3 ``nn.Conv2d`` a :class:`FastDepthwise`, in place; how many there were.

    Parameters, their names and hooks stay. Only convolutions without bias whose padding keeps the size are taken.
    """
    found = [module for module in network.modules() if fits(module)]
    for module in found:
        module.__class__ = FastDepthwise
    return len(found)


def fits(module: nn.Module) -> bool:
    if type(module) is not nn.Conv2d or module.bias is not None or module.padding_mode != 'zeros':
        return False
    depthwise = module.groups == module.in_channels == module.out_channels
    dilation = module.dilation[0]
    same_size = module.stride == (1, 1) and module.dilation == module.padding == (dilation, dilation)
    return depthwise and same_size and module.kernel_size == (3, 3) and dilation > 1


class FastDepthwise(nn.Conv2d):
    """``nn.Conv2d``, which takes the kernels in training on a GPU."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training and input.is_cuda:
            weight = self.weight
            if torch.is_autocast_enabled('cuda'):
                dtype = torch.get_autocast_dtype('cuda')
                input, weight = input.to(dtype), weight.to(dtype)
            if input.dtype == weight.dtype and input.dtype in DTYPES:
                return depthwise_conv2d(input, weight, self.dilation[0])
        return super().forward(input)


def depthwise_conv2d(input: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """(B, C, H, W) by (C, 1, 3, 3) → (B, C, H, W) channels last, padded by the dilation; one float dtype for all."""
    return _convolve(input.contiguous(memory_format=torch.channels_last), weight, dilation)


# Operators of their own, which torch.compile takes as they are


@torch.library.custom_op('segmentation_recipes::depthwise_conv2d', mutates_args=())
def _convolve(input: Tensor, weight: Tensor, dilation: int) -> Tensor:
    from segrecipes.models.layers.depthwise_kernels import convolve

    return convolve(input.contiguous(memory_format=torch.channels_last), weight, dilation)


@torch.library.custom_op('segmentation_recipes::depthwise_weight_gradient', mutates_args=())
def _weight_gradient(input: Tensor, grad: Tensor, dilation: int) -> Tensor:
    from segrecipes.models.layers.depthwise_kernels import weight_gradient

    input, grad = (maps.contiguous(memory_format=torch.channels_last) for maps in (input, grad))
    return weight_gradient(input, grad, dilation).to(input.dtype)


@_convolve.register_fake
def _(input: Tensor, weight: Tensor, dilation: int) -> Tensor:
    return torch.empty_like(input, memory_format=torch.channels_last)


@_weight_gradient.register_fake
def _(input: Tensor, grad: Tensor, dilation: int) -> Tensor:
    return input.new_empty(input.shape[1], 1, 3, 3)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.dilation = inputs[2]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    input, weight = ctx.saved_tensors
    grad = grad.contiguous(memory_format=torch.channels_last)
    by_input = _convolve(grad, weight.flip(2, 3), ctx.dilation) if ctx.needs_input_grad[0] else None
    return by_input, _weight_gradient(input, grad, ctx.dilation) if ctx.needs_input_grad[1] else None, None


_convolve.register_autograd(_backward, setup_context=_keep)
