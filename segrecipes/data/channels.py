"""Pictures of any number of channels, with libraries that take a few at once."""

from collections.abc import Callable

import numpy as np


def by_channels(change: Callable[[np.ndarray], np.ndarray], image: np.ndarray, most: int = 4) -> np.ndarray:
    """(H, W, C) → (h, w, C): what ``change`` makes of at most so many channels, (H, W, c) or (H, W), one after another.

    OpenCV takes four, PIL one, or RGB; OpenCV gives back a single channel as (h, w).
    """
    channels = image.shape[2]
    if channels == 3:
        return change(image)
    parts = (np.ascontiguousarray(image[..., first : first + most]) for first in range(0, channels, most))
    return np.dstack([change(part[..., 0] if part.shape[2] == 1 else part) for part in parts])


def as_rgb(image: np.ndarray) -> np.ndarray:
    """(H, W, C) uint8 → (H, W, 3) to look at: the first three channels or, of fewer, the first as grey."""
    channels = image.shape[2]
    return image if channels == 3 else np.ascontiguousarray(image[..., [0, 1, 2] if channels > 3 else [0, 0, 0]])
