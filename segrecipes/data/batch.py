"""What a batch is, and how samples become one.

A batch has four parts, in training and in evaluation, from the loader to the loss:

    images      (B, 3, H, W) uint8, on the device float32; of images of several sizes a list of lists of views
    classes     (B, H, W) uint8, 255 ignored, on the device int64, -1 ignored; of several sizes a list
    labelled    (B,) float32, all equal: the mean number of labelled pixels an image in the whole batch, over all ranks;
                where classes have weights, of labelled pixels times the weight of their class
    uids        the samples' names

Composer's algorithms take images and classes by their positions, and pass on what else there is. A microbatch keeps
the count of its whole batch, by which its cross entropy is divided.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from segrecipes.data.sample import Sample
from segrecipes.datasets.row import IGNORED

IMAGES, CLASSES, LABELLED, UIDS = range(4)


def collate(samples: Sequence[Sample]) -> tuple[Tensor, Tensor, Tensor, list[str]]:
    """Samples of one size → a batch."""
    images, classes = collate_pairs(samples)
    return images, classes, mean_labelled(classes), [uid for _, _, uid in samples]


def collate_pairs(samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
    """Images and classes alone, stacked; images stay channels last in memory, as they were decoded."""
    images, classes, _ = zip(*samples)
    return torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2), torch.stack(classes)


def collate_views(samples: Sequence[Sample]) -> tuple[list[Any], list[Tensor], Tensor, list[str]]:
    """Samples of a size of their own each → a batch of lists."""
    views, classes, uids = (list(column) for column in zip(*samples))
    labelled = torch.stack([mean_labelled(of_image.unsqueeze(0))[0] for of_image in classes])
    return views, classes, labelled.mean().expand(len(classes)), uids


def with_count(pair: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """A batch of :func:`collate_pairs`, and its count."""
    images, classes = pair
    return images, classes, mean_labelled(classes)


def mean_weight(classes: Tensor, class_weights: Sequence[float]) -> Tensor:
    """(B, H, W) uint8 classes → (B,) float32, all the mean weight of an image: of its labelled pixels, added up."""
    pixels = torch.bincount(classes.flatten(), minlength=256)[: len(class_weights)].double()
    total = pixels @ torch.tensor(class_weights, dtype=torch.float64, device=pixels.device)
    return (total / len(classes)).float().repeat(len(classes))


def mean_labelled(classes: Tensor) -> Tensor:
    """(B, H, W) uint8 classes → (B,) float32, all the mean number of labelled pixels an image."""
    return ((classes != IGNORED).sum() / len(classes)).repeat(len(classes))
