"""Scoring an evaluation: predictions and their counts from logits, a slice at a time, and what the counts add up to."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from segrecipes.models.losses.slices import cut, slice_elements

COUNTED_AT_ONCE = 2**22  # pixels; bounds the memory of a large image's evaluation


class Scored(NamedTuple):
    """What is kept of a batch that is evaluated, all on its device.

    Args:
        predictions: (H, W) integers of each image.
        confusion: (C, C) int64 pixels of the batch, by true class, then by predicted class.
        counts: (B, 3, C) int64 pixels of each image by class: right, of the truth, of the prediction.
        image_scores: (B, 2) float64 mean IoU and pixel accuracy of each image in percent, NaN without a labelled pixel.
        negative_log_likelihood: () float64, the sum over all labelled pixels; None where there were no logits.
    """

    predictions: Sequence[Tensor] | Tensor
    confusion: Tensor
    counts: Tensor
    image_scores: Tensor
    negative_log_likelihood: Tensor | None = None


def score(logits: Iterable[Tensor], labels: Tensor, num_classes: int, ignore_index: int = -1) -> Scored:
    """Logits of any stride against (B, H, W) integer labels.

    The logits come as (n, C, h, w) of some images after the others, and are asked for one after the other. Neither
    full-size logits nor their probabilities ever exist as a whole.
    """
    predictions = torch.empty(labels.shape, dtype=label_dtype(num_classes), device=labels.device)
    negative_log_likelihood = torch.zeros((), dtype=torch.float64, device=labels.device)
    first = 0
    for group in logits:
        group, images = group.float(), slice(first, first + len(group))
        for part in cut(group.shape, labels.shape[-2:], slice_elements(group.device)):
            pixel_logits, label = part.interpolate(group), part.of(labels[images])  # N C P, N P
            part.of(predictions[images]).copy_(argmax(pixel_logits))
            ignored = label == ignore_index
            hits = pixel_logits.log_softmax(dim=1).gather(1, label.masked_fill(ignored, 0).unsqueeze(1)).squeeze(1)
            negative_log_likelihood -= hits.masked_fill(ignored, 0).sum(dtype=torch.float64)
        first = images.stop
    return score_predictions(predictions, labels, num_classes, ignore_index)._replace(
        negative_log_likelihood=negative_log_likelihood
    )


def score_predictions(
    predictions: Sequence[Tensor] | Tensor, labels: Sequence[Tensor] | Tensor, num_classes: int, ignore_index: int = -1
) -> Scored:
    """(H, W) integer predictions of each image against its labels."""
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=labels[0].device)
    counts, scores = [], []
    for predicted, label in zip(predictions, labels):
        of_image = confusion_matrix(predicted, label, num_classes, ignore_index)
        confusion += of_image
        counts.append(torch.stack([of_image.diagonal(), of_image.sum(dim=1), of_image.sum(dim=0)]))
        scores.append(image_scores(of_image))
    return Scored(predictions, confusion, torch.stack(counts), torch.stack(scores))


class MIoU(Metric):
    """Mean intersection over union in percent, over the classes that occur in labels or predictions.

    Equals ``composer.metrics.MIoU``. ``confusion`` is (C, C) int64: pixels by true class, then by predicted class;
    ``images`` counts those that were scored.
    """

    full_state_update = False
    confusion: Tensor
    images: Tensor

    def __init__(self, num_classes: int):
        super().__init__()
        zeros = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self.add_state('confusion', default=zeros, dist_reduce_fx='sum')
        self.add_state('images', default=torch.zeros((), dtype=torch.int64), dist_reduce_fx='sum')

    def update(self, scored: Scored) -> None:
        self.confusion += scored.confusion
        self.images += len(scored.image_scores)

    def compute(self) -> Tensor:
        return 100 * iou_from_confusion(self.confusion).nanmean()


class CrossEntropy(Metric):
    """Mean cross entropy over all labelled pixels of the evaluation."""

    full_state_update = False
    total: Tensor
    pixels: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state('total', default=torch.zeros((), dtype=torch.float64), dist_reduce_fx='sum')
        self.add_state('pixels', default=torch.zeros((), dtype=torch.int64), dist_reduce_fx='sum')

    def update(self, scored: Scored) -> None:
        assert scored.negative_log_likelihood is not None
        self.total += scored.negative_log_likelihood
        self.pixels += scored.confusion.sum()

    def compute(self) -> Tensor:
        return (self.total / self.pixels).float()


def label_dtype(num_classes: int) -> torch.dtype:
    """The smallest that holds every class."""
    return torch.uint8 if num_classes <= 256 else torch.int16


def confusion_matrix(predictions: Tensor, labels: Tensor, num_classes: int, ignore_index: int = -1) -> Tensor:
    """Integer predictions and labels of one shape → (C, C) int64 counts by label, then by prediction."""
    counts = torch.zeros(num_classes**2 + 1, dtype=torch.int64, device=labels.device)
    for label, prediction in zip(labels.flatten().split(COUNTED_AT_ONCE), predictions.flatten().split(COUNTED_AT_ONCE)):
        # Ignored pixels are counted in one cell more, so that no mask has to be brought to the host.
        cells = torch.where(label == ignore_index, num_classes**2, label.long() * num_classes + prediction)
        counts.scatter_add_(0, cells, torch.ones_like(cells))
    return counts[:-1].view(num_classes, num_classes)


def iou_from_confusion(confusion: Tensor) -> Tensor:
    """(C, C) confusion matrix → (C,) float64 intersection over union, NaN for a class that never occurs."""
    intersection = confusion.diagonal().double()
    union = confusion.sum(dim=0) + confusion.sum(dim=1) - intersection
    return intersection / union


def image_scores(confusion: Tensor) -> Tensor:
    """(C, C) confusion matrix of an image → (2,) float64 mean IoU and pixel accuracy in percent, or NaN."""
    hits, labelled = confusion.trace().double(), confusion.sum()
    return 100 * torch.stack([iou_from_confusion(confusion).nanmean(), hits / labelled])


def argmax(logits: Tensor) -> Tensor:
    """(B, C, …) → (B, …), the first of equals.

    By ``max``, which on a CPU takes half the time of torch's ``argmax``: it works on several pixels at once.
    """
    return logits.max(dim=1).indices
