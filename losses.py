"""Cross entropy plus Dice on segmentation logits, for hard labels and for MixUp's soft ones."""

import torch
import torch.nn.functional as F
from torch import Tensor

DICE_EPSILON = 1e-5  # Composer's DiceLoss, after MONAI


def cross_entropy(logits: Tensor, target: Tensor, ignore_index: int = -1) -> Tensor:
    """Mean cross entropy over the pixels that carry a label.

    Equals ``composer.loss.soft_cross_entropy`` wherever that is defined; a batch without a labelled pixel gives 0
    with zero gradients, where that gives NaN or raises.

    Args:
        logits: (B, C, H, W) float.
        target: (B, H, W) integer labels, or (B, C, H, W) class probabilities, all zero where a pixel is ignored.
        ignore_index: the label that is left out.

    Returns:
        Scalar.
    """
    if target.ndim == logits.ndim:
        total = -(target * F.log_softmax(logits, dim=1)).sum()
        weight = target.sum()
        return total / torch.where(weight > 0, weight, 1)
    total = F.cross_entropy(logits, target, ignore_index=ignore_index, reduction='sum')
    return total / (target != ignore_index).sum().clamp(min=1)


def dice_loss(logits: Tensor, target: Tensor, ignore_index: int = -1) -> Tensor:
    """One minus the Dice coefficient of the whole batch, averaged over the classes that occur in it.

    Equals ``composer.loss.DiceLoss(softmax=True, batch=True, ignore_absent_classes=True)`` wherever that is defined;
    a batch without a labelled pixel gives 0 with zero gradients.

    Args and returns as for :func:`cross_entropy`. Source: https://arxiv.org/abs/1606.04797
    """
    probs = logits.softmax(dim=1)
    if target.ndim == logits.ndim:
        labelled = target.sum(dim=1, keepdim=True) != 0  # B 1 H W
        intersection = (target * probs).sum(dim=(0, 2, 3))
        target_sum = target.sum(dim=(0, 2, 3))
    else:
        labelled = (target != ignore_index).unsqueeze(1)  # B 1 H W
        label = target.masked_fill(target == ignore_index, 0).unsqueeze(1)
        # Summed by class without ever making the (B, C, H, W) one-hot target; pixel by pixel, so in double precision.
        zeros = probs.new_zeros(probs.shape[1], dtype=torch.float64)
        hit = probs.gather(1, label) * labelled
        intersection = zeros.scatter_add(0, label.flatten(), hit.flatten().double()).to(probs.dtype)
        target_sum = zeros.scatter_add(0, label.flatten(), labelled.flatten().double()).to(probs.dtype)
    probs_sum = (probs * labelled).sum(dim=(0, 2, 3))
    dice = (2 * intersection + DICE_EPSILON) / (target_sum + probs_sum + DICE_EPSILON)  # C
    present = target_sum > 0
    return ((1 - dice) * present).sum() / present.sum().clamp(min=1)


def segmentation_loss(
    logits: Tensor,
    target: Tensor,
    *,
    cross_entropy_weight: float = 1.0,
    dice_weight: float = 0.0,
    ignore_index: int = -1,
) -> dict[str, Tensor]:
    """The weighted sum under ``total`` and each part, unweighted, under its own name."""
    logits = logits.float()  # sums over a million pixels overflow half precision
    target = target.to(logits.dtype) if target.is_floating_point() else target.long()
    loss = {}
    total = logits.new_zeros(())
    if cross_entropy_weight:
        loss['cross_entropy'] = cross_entropy(logits, target, ignore_index)
        total = total + cross_entropy_weight * loss['cross_entropy']
    if dice_weight:
        loss['dice'] = dice_loss(logits, target, ignore_index)
        total = total + dice_weight * loss['dice']
    return {'total': total, **loss}
