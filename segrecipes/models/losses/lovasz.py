"""Lovász-softmax: the intersection over union of each image, made continuous by its errors.

Source: https://arxiv.org/abs/1705.08790. Of an image and a class, the errors of the labelled pixels (1 - p where the
class is right, p elsewhere), largest first, are weighed by how much the Jaccard loss 1 - I / U of the class grows when
the pixel is taken for wrong too. Of I pixels of the class still right and a union of U, both with this pixel, that is
1 / U for a pixel of the class, and I / (U · (U - 1)) for another.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from segrecipes.models.losses.slices import Slice, cut, slice_elements


class LovaszLoss(torch.autograd.Function):
    """The mean over images of the mean over the classes that occur in each; of mixed labels both, by their shares.

    Equals segmentation_models.pytorch's ``LovaszLoss('multiclass', per_image=True)``, and has 0 for an image without a
    labelled pixel. Full-size tensors have one class at a time; sums are in float32 or double precision.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, logits: Tensor, labels: Tensor, shares: tuple[float, ...], ignore_index: int
    ) -> Tensor:
        """(B, C, h, w) logits, (K, B, H, W) integer labels, the share of each of the K → the loss."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).contiguous()
        batch, _, rows, _ = logits.shape
        size = labels.shape[-2], labels.shape[-1]
        slices = [*cut(logits.shape, size, slice_elements(logits.device))]
        log_totals = logits.new_empty(batch, *size)
        for part in slices:
            part.of(log_totals).copy_(part.interpolate(logits).logsumexp(dim=1))

        loss, gradient = logits.new_zeros(()), torch.zeros_like(logits)
        sums = torch.zeros_like(log_totals)  # at each pixel, over the classes, of p and the derivative by it
        for image in range(batch):
            whole = Slice(slice(image, image + 1), 0, rows, 0, 0, size, 1)
            log_total, total = log_totals[image].flatten(), sums[image].view(-1)
            for label, share in zip(labels[:, image].flatten(1), shares):
                labelled = label != ignore_index
                present = label[labelled].unique().tolist()
                scale = share / (batch * max(1, len(present)))
                for index in present:
                    logit = logits[:, index : index + 1]
                    probs = (whole.interpolate(logit).view(-1) - log_total).exp()
                    value, by_prob = jaccard_loss(probs, label == index, labelled)
                    loss += scale * value
                    by_prob *= scale * probs
                    total += by_prob
                    whole.add_gradient(gradient[:, index : index + 1], by_prob.view(1, 1, -1))
        for part in slices:  # through the softmax: by a logit, p · (derivative by p - their sum)
            probs = (part.interpolate(logits) - part.of(log_totals).unsqueeze(1)).exp_()
            part.add_gradient(gradient, probs.mul_(-part.of(sums).unsqueeze(1)))
        ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (gradient,) = ctx.saved_tensors
        return gradient * grad, None, None, None


def jaccard_loss(probs: Tensor, of_class: Tensor, labelled: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of a class that occurs, and its derivatives by the (P,) probabilities of it."""
    errors = torch.where(of_class, 1 - probs, probs).masked_fill(~labelled, -1)  # ignored pixels come last
    errors, order = errors.sort(descending=True, stable=True)
    hits = of_class[order]
    missed = hits.cumsum(0)  # integers: a sum of floats would not repeat bit by bit on a GPU
    right = missed[-1] - missed
    union = right + torch.arange(1, len(hits) + 1, device=hits.device)
    right, union = right.to(errors), union.to(errors)
    growth = torch.where(hits, 1, right / (union - 1)) / union
    growth = growth.masked_fill(errors < 0, 0)
    by_prob = torch.empty_like(probs).scatter_(0, order, torch.where(hits, -growth, growth))
    return errors.dot(growth), by_prob
