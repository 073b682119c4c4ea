"""The losses of class probabilities, as CutMix and label smoothing make them, with logits in full size."""

import torch
import torch.nn.functional as F
from torch import Tensor

from segrecipes.models.losses.sliced import dice_from_sums


def dense_losses(
    logits: Tensor,
    target: Tensor,
    dice_per: str,
    focal_gamma: float,
    class_weights: Tensor | None,
    pixels_per_image: Tensor | None,
) -> dict[str, Tensor]:
    """Cross entropy, Dice and focal loss for class probabilities, (B, C, H, W), all zero where a pixel is ignored.

    A class that has a part of a pixel has that part of its focal loss: -Σ target · (1 - p)^γ · log p.
    """
    logits, target = logits.float(), target.float()  # sums over a million pixels overflow half precision
    logits = F.interpolate(logits, size=target.shape[-2:], mode='bilinear')
    log_probs = logits.log_softmax(dim=1)
    probs = log_probs.exp() * (target.sum(dim=1, keepdim=True) != 0)
    weighted = target if class_weights is None else target * class_weights.view(-1, 1, 1)
    pixels = weighted.sum() if pixels_per_image is None else pixels_per_image * len(target)
    pixels = torch.where(pixels > 0, pixels, 1)
    cross_entropy = -(weighted * log_probs).sum() / pixels
    focal = -(weighted * log_probs * (1 - log_probs.exp()) ** focal_gamma).sum() / pixels
    intersection, probs, target = (term.sum(dim=(2, 3)) for term in (target * probs, probs, target))
    dice = dice_from_sums(intersection, probs, target, dice_per)
    return {'cross_entropy': cross_entropy, 'dice': dice, 'focal': focal}
