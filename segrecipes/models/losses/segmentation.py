"""What a network is trained by: the weighted sum of the losses, from logits at the network's own stride."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from segrecipes.base.errors import UserError
from segrecipes.models.losses.dense import dense_losses
from segrecipes.models.losses.lovasz import LovaszLoss
from segrecipes.models.losses.sliced import loss_by_labels
from segrecipes.models.losses.weighted import PixelOptions, WeightedLoss, on_device


class MixedTarget(NamedTuple):
    """MixUp's target: ``labels`` with weight ``1 - mixing``, ``other`` with weight ``mixing``; (B, H, W) each."""

    labels: Tensor
    other: Tensor
    mixing: float

    def weighted(self) -> tuple[Tensor, tuple[float, ...]]:
        """(2, B, H, W) labels and the share of each."""
        return torch.stack([self.labels, self.other]), (1 - self.mixing, self.mixing)


def segmentation_loss(
    logits: Tensor,
    target: Tensor | MixedTarget,
    *,
    cross_entropy_weight: float = 1.0,
    dice_weight: float = 0.0,
    focal_weight: float = 0.0,
    lovasz_weight: float = 0.0,
    dice_per: str = 'batch',
    focal_gamma: float = 2.0,
    class_weights: tuple[float, ...] | None = None,
    ohem: tuple[float, int] | None = None,
    ignore_index: int = -1,
    pixels_per_image: Tensor | None = None,
) -> dict[str, Tensor]:
    """The weighted sum of the losses under ``total``, and each of them, detached, under its own name.

    Logits smaller than the target are first interpolated to its size, bilinearly. Cross entropy and Dice equal
    ``composer.loss.soft_cross_entropy`` and ``composer.loss.DiceLoss(softmax=True, batch=True,
    ignore_absent_classes=True)`` wherever those are defined; without a labelled pixel all losses are 0 with zero
    gradients. A target mixed of two has the losses of both by their shares; Dice is of the mixture.

    On a GPU plain cross entropy and Dice have kernels of their own; the focal loss, Lovász-softmax, and a cross entropy
    with class weights or OHEM go through slices of the full-size logits there too, in a pass of their own.

    Args:
        logits: (B, C, h, w) float, of any precision and strides; sums are in float32 and wider.
        target: (B, H, W) integer labels, a pair of them mixed, or (B, C, H, W) class probabilities, all zero where a
            pixel is ignored.
        dice_per: ``batch`` takes one Dice coefficient a class over all the pixels given (1 - Dice, averaged over the
            classes that occur), ``image`` one for each image. Source: https://arxiv.org/abs/1606.04797
        focal_gamma: of the focal loss, the mean of -(1 - p)^gamma · log p.
        class_weights: C weights of the pixels of each class in cross entropy and focal loss, whose mean is weighted so.
        ohem: (thresh, min_kept): cross entropy and focal loss of hard pixels only, see ``weighted.hard_pixels``.
        ignore_index: the label that is left out.
        pixels_per_image: what the cross entropy is divided by, times B. By default the mean over these images;
            a microbatch is given that of its whole batch. With class weights, of pixels times their weight.

    Raises:
        UserError: Lovász-softmax or OHEM of a target that has no hard labels.
    """
    weights = {
        'cross_entropy': cross_entropy_weight,
        'dice': dice_weight,
        'focal': focal_weight,
        'lovasz': lovasz_weight,
    }
    by_class = None if class_weights is None else on_device(class_weights, logits.device)
    with torch.autocast(logits.device.type, enabled=False):
        if isinstance(target, Tensor) and target.ndim == logits.ndim:
            if lovasz_weight or ohem is not None:
                name = 'Lovász-softmax' if lovasz_weight else 'OHEM'
                raise UserError(f'{name} needs one label a pixel; CutMix and label smoothing make class probabilities')
            losses = dense_losses(logits, target, dice_per, focal_gamma, by_class, pixels_per_image)
            totals = [weights[name] * loss for name, loss in losses.items()]
        else:
            labels, shares = (target[None], (1.0,)) if isinstance(target, Tensor) else target.weighted()
            if ohem is not None and len(shares) > 1:
                raise UserError('OHEM asks for the probability of the right class; a pixel that MixUp made has two')
            options = PixelOptions(cross_entropy_weight, focal_weight, focal_gamma, by_class, ohem, pixels_per_image)
            losses, totals = losses_by_labels(logits, (labels, shares, ignore_index), weights, dice_per, options)
    parts = {name: losses[name].detach() for name, weight in weights.items() if weight}
    return {'total': sum(totals[1:], totals[0]), **parts}


def losses_by_labels(
    logits: Tensor,
    given: tuple[Tensor, tuple[float, ...], int],
    weights: Mapping[str, float],
    dice_per: str,
    options: PixelOptions,
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Each loss by its name, and the parts of the weighted sum; ``given`` are labels, shares and the label ignored."""
    losses: dict[str, Tensor] = {}
    totals: list[Tensor] = []
    weighs_pixels = options.class_weights is not None or options.ohem is not None
    plain = 0.0 if weighs_pixels else weights['cross_entropy'], weights['dice']
    if any(plain) or not any(weights.values()):
        function: Any = loss_by_labels(logits)
        total, *both = function.apply(logits, *given, (*plain, dice_per, options.pixels_per_image))
        losses |= zip(('cross_entropy', 'dice'), both)
        totals.append(total)
    if weights['focal'] or (weighs_pixels and weights['cross_entropy']):
        options = options if weighs_pixels else options._replace(cross_entropy_weight=0.0)
        total, cross_entropy, focal = WeightedLoss.apply(logits, *given, options)  # type: ignore[misc]
        losses |= {'focal': focal, **({'cross_entropy': cross_entropy} if weighs_pixels else {})}
        totals.append(total)
    if weights['lovasz']:
        loss: Any = LovaszLoss.apply(logits, *given)
        losses['lovasz'] = loss
        totals.append(weights['lovasz'] * loss)
    return losses, totals
