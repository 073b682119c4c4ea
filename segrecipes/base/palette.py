"""Colours of classes, and label maps shown in them."""

from typing import Any

import numpy as np
from PIL import Image


def palette(num_colors: int) -> np.ndarray:
    """The PASCAL VOC colour map without its black: (num_colors, 3) uint8, neighbours easily told apart."""
    index = np.arange(1, num_colors + 1, dtype=np.uint8)[:, None]
    colors = np.zeros((num_colors, 3), np.uint8)
    for bit in range(8):  # VOC: bit 3k+c of the label becomes bit 7-k of channel c
        colors[:, bit % 3] |= (((index[:, 0] >> bit) & 1) << (7 - bit // 3)).astype(np.uint8)
    return colors


def colorize(labels: np.ndarray) -> np.ndarray:
    """(H, W) uint8 labels → (H, W, 3) uint8; ignored pixels, 255, are black."""
    return np.vstack([palette(255), np.zeros((1, 3), np.uint8)])[labels]


def indexed_png(labels: np.ndarray, num_classes: int, colors: Any = None) -> Image.Image:
    """(H, W) uint8 labels as a palette image: classes in their colours, (C, 3) 0…255, and all else black."""
    image = Image.fromarray(labels, 'P')
    table = np.zeros((256, 3), np.uint8)
    table[:num_classes] = palette(num_classes) if colors is None else colors
    image.putpalette(table.tobytes())
    return image
