"""Cross entropy plus Dice, from logits at the network's own stride, without a full-size tensor of logits or targets."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from segrecipes.base.device import has_triton

DICE_EPSILON = 1e-5  # Composer's DiceLoss, after MONAI

# Elements of a slice of full-size logits. On a CPU it is near the size of the cache, and still so large that threads
# which share their cores with other processes seldom wait for each other. Others need large kernels.
SLICE_ELEMENTS = {'cpu': 2**22}
LARGE_SLICE_ELEMENTS = 2**26

FUSED_CLASSES = 1024  # at most so many fit the registers of one program


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
    dice_per: str = 'batch',
    ignore_index: int = -1,
    pixels_per_image: Tensor | None = None,
) -> dict[str, Tensor]:
    """The weighted sum of both losses under ``total``, and each of them, detached, under its own name.

    Logits smaller than the target are first interpolated to its size, bilinearly. Equals
    ``composer.loss.soft_cross_entropy`` and ``composer.loss.DiceLoss(softmax=True, batch=True,
    ignore_absent_classes=True)`` wherever those are defined; without a labelled pixel it is 0 with zero gradients.

    Args:
        logits: (B, C, h, w) float, of any precision and strides; sums are in float32 and wider.
        target: (B, H, W) integer labels, a pair of them mixed, or (B, C, H, W) class probabilities, all zero where a
            pixel is ignored.
        dice_per: ``batch`` takes one Dice coefficient a class over all the pixels given (1 - Dice, averaged over the
            classes that occur), ``image`` one for each image. Source: https://arxiv.org/abs/1606.04797
        ignore_index: the label that is left out.
        pixels_per_image: what the cross entropy is divided by, times B. By default the mean over these images;
            a microbatch is given that of its whole batch.
    """
    with torch.autocast(logits.device.type, enabled=False):
        if isinstance(target, Tensor) and target.ndim == logits.ndim:
            cross_entropy, dice = dense_losses(logits, target, dice_per, pixels_per_image)
            total = cross_entropy_weight * cross_entropy + dice_weight * dice
        else:
            labels, shares = (target[None], (1.0,)) if isinstance(target, Tensor) else target.weighted()
            options = cross_entropy_weight, dice_weight, dice_per, pixels_per_image
            loss = loss_by_labels(logits)
            total, cross_entropy, dice = loss.apply(logits, labels, shares, ignore_index, options)  # type: ignore[misc]
    parts = {'cross_entropy': (cross_entropy_weight, cross_entropy), 'dice': (dice_weight, dice)}
    return {'total': total, **{name: loss.detach() for name, (weight, loss) in parts.items() if weight}}


def dense_losses(
    logits: Tensor, target: Tensor, dice_per: str, pixels_per_image: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Both losses for class probabilities, (B, C, H, W), as CutMix and label smoothing make them."""
    logits, target = logits.float(), target.float()  # sums over a million pixels overflow half precision
    logits = F.interpolate(logits, size=target.shape[-2:], mode='bilinear')
    log_probs = logits.log_softmax(dim=1)
    probs = log_probs.exp() * (target.sum(dim=1, keepdim=True) != 0)
    pixels = target.sum() if pixels_per_image is None else pixels_per_image * len(target)
    cross_entropy = -(target * log_probs).sum() / torch.where(pixels > 0, pixels, 1)
    intersection, probs, target = (term.sum(dim=(2, 3)) for term in (target * probs, probs, target))
    return cross_entropy, dice_from_sums(intersection, probs, target, dice_per)


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


class Slice(NamedTuple):
    """Rows ``start … stop`` of the logits of some images, and the rows of pixels that lie on them.

    ``above`` and ``below`` are the neighbouring rows, 0 or 1, that the interpolation reaches into.
    """

    images: slice
    start: int
    stop: int
    above: int
    below: int
    size: tuple[int, int]  # pixels on rows start … stop: height, width
    stride: int  # pixels on one row of logits

    def of(self, pixels: Tensor) -> Tensor:
        """This slice of a (B, H, W) tensor as (N, P), of a (K, B, H, W) one as (N, K, P)."""
        first = self.start * self.stride
        part = pixels[..., self.images, first : first + self.size[0], :].flatten(-2)
        return part.transpose(0, 1) if part.ndim == 3 else part

    def interpolate(self, logits: Tensor) -> Tensor:
        """(B, C, h, w) logits → (N, C, P)."""
        rows = logits[self.images, :, self.start - self.above : self.stop + self.below]
        if rows.shape[-2:] != self.size:
            rows = F.interpolate(rows, size=self._size_with_neighbours(), mode='bilinear')
            rows = rows[:, :, self.above * self.stride :][:, :, : self.size[0]]
        return rows.flatten(2)

    def add_gradient(self, gradient: Tensor, by_pixel: Tensor) -> None:
        """Add (N, C, P) gradients of the interpolated logits to those of the (B, C, h, w) logits, in place."""
        target = gradient[self.images, :, self.start - self.above : self.stop + self.below]
        by_pixel = by_pixel.unflatten(2, self.size)
        if target.shape[-2:] != self.size:
            height, width = self._size_with_neighbours()
            by_pixel = F.pad(by_pixel, (0, 0, self.above * self.stride, self.below * self.stride))
            backward: Any = torch.ops.aten.upsample_bilinear2d_backward
            by_pixel = backward(by_pixel, (height, width), target.shape, align_corners=False)
        target += by_pixel

    def _size_with_neighbours(self) -> tuple[int, int]:
        return self.size[0] + (self.above + self.below) * self.stride, self.size[1]


def slice_elements(device: torch.device) -> int:
    return SLICE_ELEMENTS.get(device.type, LARGE_SLICE_ELEMENTS)


def cut(logits: Sequence[int], size: Sequence[int], elements: int) -> Iterator[Slice]:
    """Slices of about ``elements`` interpolated logits: whole images, or bands of rows where one is larger than that.

    A band needs a whole number of pixels on a row of logits; without it an image stays whole.
    """
    batch, classes, rows, columns = logits
    height, width = size
    images = max(1, elements // (classes * height * width))
    band, stride = rows, height // rows
    if height % rows == 0 and images == 1:
        band = min(rows, max(1, elements // (classes * stride * width)))
    reach = int((height, width) != (rows, columns))
    for image in range(0, batch, images):
        for start in range(0, rows, band):
            stop = min(rows, start + band)
            lines = height if band == rows else (stop - start) * stride
            above, below = min(reach, start), min(reach, rows - stop)
            yield Slice(slice(image, image + images), start, stop, above, below, (lines, width), stride)
