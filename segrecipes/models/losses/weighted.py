"""Cross entropy and focal loss whose pixels have weights: of their classes, and of how hard they are."""

from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from segrecipes.models.losses.slices import Slice, cut, slice_elements


class PixelOptions(NamedTuple):
    """What a pixel costs, and what the sum over all pixels is divided by.

    Args:
        gamma: of the focal loss -(1 - p)^gamma · log p; 0 makes it cross entropy. Source: https://arxiv.org/abs/1708.02002
        class_weights: (C,) of the pixels of each class; None: 1.
        ohem: (thresh, min_kept) of :func:`hard_pixels`; None trains on all.
        pixels_per_image: what the sums are divided by, times B; None: the weight of the labelled pixels given.
    """

    cross_entropy_weight: float
    focal_weight: float
    gamma: float = 2.0
    class_weights: Tensor | None = None
    ohem: tuple[float, int] | None = None
    pixels_per_image: Tensor | None = None


class WeightedLoss(torch.autograd.Function):
    """Both losses for hard or mixed labels, a slice of the full-size logits at a time, in float32 or double precision.

    Divided, as torch's ``cross_entropy`` is, by the class weights of all labelled pixels, be they hard or not.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        logits: Tensor,
        labels: Tensor,
        shares: tuple[float, ...],
        ignore_index: int,
        options: PixelOptions,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, h, w) logits, (K, B, H, W) integer labels, the share of each of the K → total, CE, focal."""
        logits, labels = logits.to(torch.promote_types(logits.dtype, torch.float32)).contiguous(), labels.long()
        ignored = labels == ignore_index
        labels = labels.masked_fill(ignored, 0)
        weights = torch.stack([(~out).to(logits) * share for out, share in zip(ignored, shares)])  # 0 where ignored
        if options.class_weights is not None:
            weights *= options.class_weights.to(logits)[labels]
        pixels = weights.sum(dtype=torch.float64)
        if options.pixels_per_image is not None:
            pixels = options.pixels_per_image.double() * len(logits)
        pixels = torch.where(pixels > 0, pixels, 1)
        slices = [*cut(logits.shape, labels.shape[-2:], slice_elements(logits.device))]
        if options.ohem is not None:
            assert len(labels) == 1, 'a pixel of two labels has no probability of the right one'
            weights *= hard_pixels(logits, labels[0], ignored[0], slices, *options.ohem)

        cross_entropy, focal = logits.new_zeros(2, dtype=torch.float64)
        gradient = torch.zeros_like(logits)
        for part in slices:
            label, weight = part.of(labels), part.of(weights)  # N K P
            log_probs = part.interpolate(logits).log_softmax(dim=1)  # N C P
            hits = log_probs.gather(1, label)  # N K P
            misses = (-hits.expm1()).clamp(min=torch.finfo(hits.dtype).tiny)  # 1 - p
            powers = misses**options.gamma
            cross_entropy -= (hits * weight).sum(dtype=torch.float64)
            focal -= (powers * hits * weight).sum(dtype=torch.float64)
            # By log p at the label: of the cross entropy -1, of the focal loss (1-p)^γ · (γ · p · log p / (1-p) - 1).
            # By a logit log p has the derivative [its class] - p.
            by_hit = powers * (options.gamma * hits.exp() * hits / misses - 1)
            by_hit = weight / pixels.to(hits) * (options.focal_weight * by_hit - options.cross_entropy_weight)
            by_logit = log_probs.exp_().mul_(-by_hit.sum(dim=1, keepdim=True)).scatter_add_(1, label, by_hit)
            part.add_gradient(gradient, by_logit)
        ctx.save_for_backward(gradient)
        cross_entropy, focal = ((loss / pixels).to(logits.dtype) for loss in (cross_entropy, focal))
        ctx.mark_non_differentiable(cross_entropy, focal)
        total = options.cross_entropy_weight * cross_entropy + options.focal_weight * focal
        return total, cross_entropy, focal

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (gradient,) = ctx.saved_tensors
        return gradient * grad, None, None, None, None


def hard_pixels(
    logits: Tensor, label: Tensor, ignored: Tensor, slices: list[Slice], thresh: float, min_kept: int
) -> Tensor:
    """(B, H, W) bool: the right class is less probable than ``thresh``, or than that of all but ``min_kept`` pixels.

    Of each image by itself, whatever the microbatch; of one image as mmsegmentation's OHEMPixelSampler, which pools
    the images of a batch, ``min_kept`` times their number. Source: https://arxiv.org/abs/1604.03540
    """
    probs = torch.empty_like(label, dtype=logits.dtype)
    for part in slices:
        right = part.interpolate(logits).softmax(dim=1).gather(1, part.of(label).unsqueeze(1))
        part.of(probs.unsqueeze(0)).copy_(right)
    ranked = probs.masked_fill(ignored, torch.inf).flatten(1).sort(dim=1).values
    last = (~ignored).flatten(1).sum(dim=1, keepdim=True) - 1
    limit = ranked.gather(1, last.clamp(min=0).clamp(max=min_kept)).clamp(min=thresh)
    return probs < limit.view(-1, 1, 1)


@cache
def on_device(weights: tuple[float, ...], device: torch.device) -> Tensor:
    """Made once, because the host waits for each copy to a device."""
    return torch.tensor(weights, device=device)
