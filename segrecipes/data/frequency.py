"""How often each class occurs in the masks of a dataset, and what its pixels weigh then."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from segrecipes.data.check import Masks

MOST_MASKS = 5000  # are looked at: of more the counts of a sample do


class Frequencies(NamedTuple):
    """(C,) int64 each: pixels of each class, and labelled pixels of the images that it occurs in."""

    pixels: np.ndarray
    around: np.ndarray

    @property
    def occurs(self) -> np.ndarray:
        return self.pixels > 0


def inverse(frequencies: Frequencies) -> np.ndarray:
    """1 / (share of the pixels), divided by the mean of those."""
    weights = 1 / frequencies.pixels[frequencies.occurs]
    return _with_absent(frequencies, weights / weights.mean())


def median_frequency(frequencies: Frequencies) -> np.ndarray:
    """The median of the classes' frequencies by that of the class, which is its share of the labelled pixels of those
    images that it occurs in. Source: https://arxiv.org/abs/1411.4734, section 4.3.2"""
    shares = frequencies.pixels[frequencies.occurs] / frequencies.around[frequencies.occurs]
    return _with_absent(frequencies, np.median(shares) / shares)


def _with_absent(frequencies: Frequencies, weights: np.ndarray) -> np.ndarray:
    """Weights of all classes; 1 where there was none to count."""
    every = np.ones(len(frequencies.pixels))
    every[frequencies.occurs] = weights
    return every


WEIGHTINGS: dict[str, Callable[[Frequencies], np.ndarray]] = {'inverse': inverse, 'median_frequency': median_frequency}


def sample(count: int) -> np.ndarray:
    """Indices of the masks to look at: all, or ``MOST_MASKS`` of them, evenly spread."""
    return np.linspace(0, count - 1, min(count, MOST_MASKS)).round().astype(int)


def count_classes(dataset: Masks, indices: np.ndarray, label_map: np.ndarray, num_classes: int) -> Frequencies:
    """Those of the masks at ``indices``, read by as many threads as there are cores.

    Raises:
        DataError: a mask cannot be read.
    """
    total = np.zeros((2, num_classes), np.int64)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for _, mask in pool.map(dataset.read_mask, indices.tolist()):
            labels = np.bincount(mask.ravel(), minlength=256)
            pixels = np.bincount(label_map, labels, minlength=256)[:num_classes].astype(np.int64)
            total += pixels, (pixels > 0) * pixels.sum()
    return Frequencies(*total)
