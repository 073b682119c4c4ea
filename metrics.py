"""mIoU and cross entropy of an evaluation, a slice of the logits at a time."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torchmetrics import Metric

from losses import slice_elements

COUNTED_AT_ONCE = 2**22  # pixels; bounds the memory of a large image's evaluation


class MIoU(Metric):
    """Mean intersection over union in percent, over the classes that occur in labels or predictions.

    Equals ``composer.metrics.MIoU``. ``confusion`` is (C, C) int64: pixels by true class, then by predicted class;
    ``images`` counts those that were scored.
    """

    full_state_update = False
    confusion: Tensor
    images: Tensor

    def __init__(self, num_classes: int, ignore_index: int = -1):
        super().__init__()
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        zeros = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self.add_state('confusion', default=zeros, dist_reduce_fx='sum')
        self.add_state('images', default=torch.zeros((), dtype=torch.int64), dist_reduce_fx='sum')

    def update(self, outputs: Tensor, labels: Tensor) -> None:
        """(B, C, H, W) logits, or (B, H, W) integer predictions, and (B, H, W) integer labels."""
        self.confusion += confusion_matrix(predictions(outputs), labels, self.num_classes, self.ignore_index)
        self.images += len(labels)

    def compute(self) -> Tensor:
        return 100 * iou_from_confusion(self.confusion).nanmean()


class CrossEntropy(Metric):
    """Mean cross entropy over all labelled pixels of the evaluation."""

    full_state_update = False
    total: Tensor
    pixels: Tensor

    def __init__(self, ignore_index: int = -1):
        super().__init__()
        self.ignore_index = ignore_index
        self.add_state('total', default=torch.zeros((), dtype=torch.float64), dist_reduce_fx='sum')
        self.add_state('pixels', default=torch.zeros((), dtype=torch.int64), dist_reduce_fx='sum')

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """(B, C, H, W) logits and (B, H, W) integer labels."""
        valid = labels != self.ignore_index
        safe = labels.masked_fill(~valid, 0)
        for image, classes, rows in slices(logits):
            log_probs = logits[image, classes, rows].float().log_softmax(dim=1)
            hits = log_probs.gather(1, safe[image, rows].unsqueeze(1)).squeeze(1)
            self.total -= (hits * valid[image, rows]).sum(dtype=torch.float64)
        self.pixels += valid.sum()

    def compute(self) -> Tensor:
        return (self.total / self.pixels).float()


def predictions(outputs: Tensor) -> Tensor:
    """(B, C, H, W) logits → (B, H, W) their argmax; predictions stay as they are."""
    if not outputs.is_floating_point():
        return outputs
    found = outputs.new_empty(outputs[:, 0].shape, dtype=torch.int64)
    for image, classes, rows in slices(outputs):
        found[image, rows] = argmax(outputs[image, classes, rows])
    return found


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


def argmax(logits: Tensor) -> Tensor:
    """(B, C, H, W) → (B, H, W), the first of equals: torch's own looks at one value after the other on a CPU."""
    classes = torch.arange(logits.shape[1], dtype=logits.dtype, device=logits.device).view(1, -1, 1, 1)
    last = logits.shape[1] - 1  # also the prediction where a logit is NaN
    return torch.where(logits == logits.amax(dim=1, keepdim=True), classes, last).amin(dim=1).long()


def slices(logits: Tensor) -> Iterator[tuple[slice, slice, slice]]:
    """Indices of (B, C, H, W) logits, bands of rows of one image, that stay in a CPU's cache."""
    batch, classes, height, width = logits.shape
    rows = max(1, slice_elements(logits.device) // (classes * width))
    for image in range(batch):
        for row in range(0, height, rows):
            yield slice(image, image + 1), slice(None), slice(row, row + rows)
