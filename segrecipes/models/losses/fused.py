"""The loss of hard and mixed labels as Triton kernels: no full-size logits, targets or probabilities in memory.

Bilinear interpolation splits the pixels into cells: cell i lies between the logits i and i + 1, and the cells −1 and
h − 1 at the borders see one logit twice. A program loads the corners of its cells, then interpolates and evaluates
their pixels in registers. Two kernels reduce over the classes of a pixel and hold all of them; the third gathers the
gradient of each small logit from the pixels around it. All sums have a fixed order: results repeat bit by bit.

At a pixel with p = softmax(x), w the weights of its labels, hit_c the weight of class c, and d_c the derivative of
Dice by p_c, the gradient by x_c is p_c · (d_c + shift) − scale · hit_c, where shift = scale · Σ w − Σ_c p_c · d_c.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from segrecipes.models.losses.fused_kernels import gather_kernel, shift_kernel, sum_kernel
from segrecipes.models.losses.sliced import losses_from_sums

PROGRAM_PIXELS = 256  # at least so many to a program where there are: its partial sums cost little then
MAX_REGISTERS = 128  # a thread: 16 warps fit a multiprocessor, and 150 classes need no more
WARP_CLASSES = 256  # eight to a thread: what is kept of each fits the registers, and a warp sums without a barrier


class FusedLoss(torch.autograd.Function):
    """As ``losses.SlicedLoss``, for logits of any float type and any strides on one GPU.

    A label that is no class makes the loss NaN. By count, with each array read once by each kernel that takes it, an
    image of 150 classes and 512 × 512 int64 labels at stride 4 in bfloat16 moves 37 MB: three times 4.9 MB of logits
    and 2.1 MB of labels, 4.9 MB of gradients, 5 MB of log-sum-exp and shifts, 5.6 MB of partial sums.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        logits: Tensor,
        labels: Tensor,
        shares: tuple[float, ...],
        ignore_index: int,
        options: tuple[float, float, str, Tensor | None],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, h, w) logits, (K, B, H, W) integer labels, K ≤ 2, the share of each of the K → total, CE, Dice."""
        labels = labels.contiguous()
        ctx.shares, ctx.ignore_index, ctx.dice = shares, ignore_index, options[1] != 0
        lse, sums = sum_pixels(logits, labels, shares, ignore_index, ctx.dice)
        negative_log_likelihood, target, probs, intersection = sums
        losses = losses_from_sums(negative_log_likelihood.sum(), target.sum(), intersection, probs, target, options)
        ctx.save_for_backward(logits, labels, lse, losses.scale, losses.by_intersection, losses.by_probs)
        ctx.mark_non_differentiable(losses.cross_entropy, losses.dice)
        return losses[:3]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        logits, labels, lse, *derivatives = ctx.saved_tensors
        derivatives = [(grad * term).contiguous() for term in derivatives]
        gradient = gradient_by_logits(logits, labels, ctx.shares, ctx.ignore_index, ctx.dice, lse, derivatives)
        return gradient, None, None, None, None


def sum_pixels(
    logits: Tensor, labels: Tensor, shares: tuple[float, ...], ignore_index: int, dice: bool
) -> tuple[Tensor, Tensor]:
    """→ (B, H, W) float32 log-sum-exp, (4, B, C) float64 sums of −log p and weight at labels, of p, and of p at labels.

    Without ``dice`` the last two are 0.
    """
    batch, classes, height, width = logits.shape
    strip = strip_rows(logits, labels)
    grid = width + 1, triton.cdiv(height + 1, strip), batch
    lse = logits.new_empty(labels.shape[1:], dtype=torch.float32)
    parts = lse.new_empty(4 if dice else 2, batch, grid[0] * grid[1], classes)
    with torch.cuda.device_of(logits):
        given = arguments(logits, labels, shares, ignore_index, lse)
        sum_kernel[grid](*given, strip, parts, parts[0].numel(), dice=dice, **constants(logits, labels))
    sums = parts.sum(dim=2, dtype=torch.float64)
    return lse, sums if dice else torch.cat([sums, torch.zeros_like(sums)])


def gradient_by_logits(
    logits: Tensor,
    labels: Tensor,
    shares: tuple[float, ...],
    ignore_index: int,
    dice: bool,
    lse: Tensor,
    derivatives: Sequence[Tensor],
) -> Tensor:
    """In the dtype of the logits, from the derivatives by −log p, by the intersections and by the sums of p."""
    batch, _, height, width = logits.shape
    strip = strip_rows(logits, labels)
    gradient, shift = torch.empty_like(logits), torch.empty_like(lse) if dice else lse
    given = *arguments(logits, labels, shares, ignore_index, lse), strip, *derivatives, shift
    with torch.cuda.device_of(logits):
        if dice:
            shift_kernel[width + 1, triton.cdiv(height + 1, strip), batch](*given, **constants(logits, labels))
        gather_kernel[width, triton.cdiv(height, strip), batch](
            *given, gradient, *gradient.stride(), dice=dice, **constants(logits, labels)
        )
    return gradient


def strip_rows(logits: Tensor, labels: Tensor) -> int:
    """Rows of cells a program walks over, or of logits."""
    (height, width), (rows, columns) = logits.shape[-2:], labels.shape[-2:]
    return max(2, PROGRAM_PIXELS * height * width // (rows * columns))


def arguments(
    logits: Tensor, labels: Tensor, shares: tuple[float, ...], ignore_index: int, lse: Tensor
) -> tuple[Any, ...]:
    """The first arguments of every kernel."""
    sizes = *logits.shape[-2:], *labels.shape[-2:]
    return logits, *logits.stride(), labels, labels[0].numel(), *sizes, shares[0], shares[-1], ignore_index, lse


def constants(logits: Tensor, labels: Tensor) -> dict[str, int]:
    """What every kernel is compiled for."""
    classes = logits.shape[1]
    block = max(32, triton.next_power_of_2(classes))
    return {
        'classes': classes,
        'mixed': len(labels) > 1,
        'block': block,
        'num_warps': max(1, block // WARP_CLASSES),
        'maxnreg': MAX_REGISTERS,
    }
