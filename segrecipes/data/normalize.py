"""From uint8 batches to what the network takes, on the batch's own device."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segrecipes.datasets.row import IGNORED

# ImageNet's, in 0…255, as torchvision's backbones were trained.
IMAGENET_CHANNEL_MEAN = (255 * 0.485, 255 * 0.456, 255 * 0.406)
IMAGENET_CHANNEL_STD = (255 * 0.229, 255 * 0.224, 255 * 0.225)


def to_network(batch: Sequence[Any]) -> tuple[Any, ...]:
    """A uint8 microbatch, on its device → what the network and the loss take.

    Images (B, C, H, W) uint8 → float32, ImageNet-normalised. Classes (B, H, W) uint8 → int64 labels, 255 as -1. Of
    several sizes both come as lists. What else is in the batch stays.
    """
    images, classes, *more = batch
    if isinstance(images, Tensor):
        return normalize(images), to_labels(classes), *more
    return [[normalize(view) for view in views] for views in images], [to_labels(one) for one in classes], *more


def to_labels(classes: Tensor) -> Tensor:
    return classes.long().masked_fill_(classes == IGNORED, -1)


def normalize(images: Tensor) -> Tensor:
    """(…, C, H, W) uint8 → float32, normalised as torchvision's backbones were trained: :func:`statistics`."""
    mean, std = _channel_statistics(images.device, images.shape[-3])
    return (images.float() - mean) / std


def to_pixels(image: Tensor) -> np.ndarray:
    """What :func:`normalize` was given: (C, H, W) float32 → (H, W, C) uint8 on the host."""
    mean, std = _channel_statistics(image.device, len(image))
    return (image * std + mean).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()


def statistics(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel: ImageNet's or, of others than RGB, their averages over it."""
    both = IMAGENET_CHANNEL_MEAN, IMAGENET_CHANNEL_STD
    if channels == 3:
        return both
    mean, std = ((sum(values) / 3,) * channels for values in both)
    return mean, std


@cache
def _channel_statistics(device: torch.device, channels: int) -> tuple[Tensor, Tensor]:
    """Of :func:`statistics`, as (C, 1, 1); made once, because the host waits for each copy to a device."""
    mean, std = (torch.tensor(values, device=device) for values in statistics(channels))
    return mean.view(-1, 1, 1), std.view(-1, 1, 1)
