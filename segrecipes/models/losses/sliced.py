"""Cross entropy plus Dice, from logits at the network's own stride, without a full-size tensor of logits or targets."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from segrecipes.base.device import has_triton
from segrecipes.models.losses.slices import cut, slice_elements

DICE_EPSILON = 1e-5  # Composer's DiceLoss, after MONAI
FUSED_CLASSES = 1024  # at most so many fit the registers of one program


def dice_from_sums(intersection: Tensor, probs: Tensor, target: Tensor, dice_per: str) -> Tensor:
    """1 - Dice from its three sums over the pixels of each image, (B, C) each."""
    if dice_per == 'batch':
        intersection, probs, target = (term.sum(dim=0, keepdim=True) for term in (intersection, probs, target))
    loss = 1 - (2 * intersection + DICE_EPSILON) / (target + probs + DICE_EPSILON)
    present = target > 0
    return ((loss * present).sum(dim=1) / present.sum(dim=1).clamp(min=1)).mean()


class Losses(NamedTuple):
    """Of all images: the losses, float32 scalars, and what a gradient is made of, float32 too."""

    total: Tensor
    cross_entropy: Tensor
    dice: Tensor
    scale: Tensor  # of the total by a pixel's negative log likelihood: one scalar
    by_intersection: Tensor  # B C: of the total by these sums
    by_probs: Tensor  # B C


def losses_from_sums(
    negative_log_likelihood: Tensor,
    pixels: Tensor,
    intersection: Tensor,
    probs: Tensor,
    target: Tensor,
    options: tuple[float, float, str, Tensor | None],
) -> Losses:
    """From sums in double precision: (B, C) what Dice takes, scalars what the cross entropy does."""
    cross_entropy_weight, dice_weight, dice_per, pixels_per_image = options
    if pixels_per_image is not None:
        pixels = pixels_per_image.double() * len(target)
    pixels = torch.where(pixels > 0, pixels, 1)
    with torch.enable_grad():
        sums = intersection.detach().requires_grad_(), probs.detach().requires_grad_()
        dice = dice_from_sums(*sums, target, dice_per)
        by_intersection, by_probs = (dice_weight * grad.float() for grad in torch.autograd.grad(dice, sums))
    cross_entropy, dice = (negative_log_likelihood / pixels).float(), dice.detach().float()
    total = cross_entropy_weight * cross_entropy + dice_weight * dice
    return Losses(total, cross_entropy, dice, cross_entropy_weight / pixels.float(), by_intersection, by_probs)


def loss_by_labels(logits: Tensor) -> type[torch.autograd.Function]:
    """Kernels on an NVIDIA GPU where Triton is installed, as it is with torch on Linux; slices elsewhere."""
    if logits.is_cuda and logits.shape[1] <= FUSED_CLASSES and has_triton():
        from segrecipes.models.losses.fused import FusedLoss

        return FusedLoss
    return SlicedLoss


class SlicedLoss(torch.autograd.Function):
    """Both losses for hard or mixed labels, a slice of the full-size logits at a time.

    A first pass sums what Dice needs, a second makes the gradient, which is finished before ``backward`` is called:
    Dice's gradient at a pixel depends on the sums over all of them. In the shapes below N images of P pixels each are
    a slice.
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
        """(B, C, h, w) logits, (K, B, H, W) integer labels, the share of each of the K → total, CE, Dice."""
        dice_weight = options[1]
        batch, classes = logits.shape[:2]
        logits, labels = logits.float().contiguous(), labels.long()
        ignored = labels == ignore_index
        labels = labels.masked_fill(ignored, 0)
        weights = torch.stack([~out * share for out, share in zip(ignored, shares)])  # 0 where ignored
        labelled = (weights.sum(dim=0) > 0).float()  # B H W

        # (B, C) sums of each image, in double precision
        intersection, probs_sum, target_sum = logits.new_zeros(3, batch, classes, dtype=torch.float64)
        negative_log_likelihood = logits.new_zeros((), dtype=torch.float64)
        slices = [*cut(logits.shape, labels.shape[-2:], slice_elements(logits.device))]
        for part in slices:
            label, weight = part.of(labels), part.of(weights)  # N K P
            log_probs = part.interpolate(logits).log_softmax(dim=1)  # N C P
            hits = log_probs.gather(1, label)  # N K P
            negative_log_likelihood -= (hits * weight).sum(dtype=torch.float64)
            if dice_weight:
                probs_sum[part.images] += log_probs.exp_().mul_(part.of(labelled).unsqueeze(1)).sum(dim=2)
                hits, label, weight = (hits.exp() * weight).flatten(1), label.flatten(1), weight.flatten(1)
                intersection[part.images] = intersection[part.images].scatter_add(1, label, hits.double())
                target_sum[part.images] = target_sum[part.images].scatter_add(1, label, weight.double())

        pixels = weights.sum(dtype=torch.float64)
        losses = losses_from_sums(negative_log_likelihood, pixels, intersection, probs_sum, target_sum, options)
        if ctx.needs_input_grad[0]:
            _, _, _, scale, by_intersection, by_probs = losses
            gradient = torch.zeros_like(logits)
            for part in slices:
                label, weight = part.of(labels), part.of(weights)
                probs = part.interpolate(logits).log_softmax(dim=1).exp_()
                # Dice's derivative by p is by_probs, and by_intersection more at the labels. Through the softmax, and
                # with that of the cross entropy, the derivative by a logit is p · (by_probs + shift), and more there.
                gains = by_intersection[part.images].gather(1, label.flatten(1)).view_as(weight) * weight
                gains *= probs.gather(1, label)  # N K P
                shift = (scale * weight - gains).sum(dim=1, keepdim=True)  # N 1 P
                if dice_weight:
                    seen, by_class = part.of(labelled).unsqueeze(1), by_probs[part.images].unsqueeze(2)  # N 1 P, N C 1
                    shift -= seen * torch.bmm(by_class.mT, probs)
                    probs *= torch.addcmul(shift, seen, by_class)
                else:
                    probs *= shift
                probs.scatter_add_(1, label, gains - scale * weight)
                part.add_gradient(gradient, probs)
            ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(losses.cross_entropy, losses.dice)
        return losses[:3]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (gradient,) = ctx.saved_tensors
        return gradient * grad, None, None, None, None
