"""One sample: a decoded image and its mask, checked, in classes, and transformed."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from segrecipes.data.augment import sample_rng, squared
from segrecipes.datasets.row import CURE, ILLEGAL, ranges
from segrecipes.storage.decode import DataError

# ((H, W, 3) uint8, (H, W) uint8 classes, generator) → the image, or a list of views of it, and the classes to learn
Transform = Callable[[np.ndarray, np.ndarray, np.random.Generator], tuple[Any, np.ndarray]]

# The image as a tensor, or a list of views; its classes; the uid
Sample = tuple[Any, Tensor, str]


@dataclass(frozen=True)
class SampleMaker:
    """Decoded image and mask → the tensors of one sample.

    ``label_map``, (256,) uint8, is ``DatasetRow.label_map``: the class of each label of a mask. With ``pad_to_square``
    the transform, whatever it is, has squares to work on: one that squashes them keeps their ratio.
    """

    transform: Transform
    seed: int
    label_map: np.ndarray
    pad_to_square: bool = False

    def __call__(self, image: np.ndarray, mask: np.ndarray, uid: str, epoch: int) -> Sample:
        """→ (3, H, W) uint8, channels last in memory, or a list of them; (H, W) uint8 classes; the uid."""
        if image.shape[:2] != mask.shape:
            raise DataError(f'sizes differ for sample {uid}: image {image.shape[:2]}, mask {mask.shape} (H, W)')
        classes = cv2.LUT(mask, self.label_map)
        if mask.max() > self._largest and (illegal := mask[classes == ILLEGAL]).size:
            legal = np.flatnonzero(self.label_map != ILLEGAL)
            raise DataError(
                f'label {illegal.max()} in the mask of sample {uid} is none of the dataset. '
                f'Legal: {ranges(legal.tolist())}. {CURE}'
            )
        if self.pad_to_square:
            image, classes = squared(image, classes)
        image, classes = self.transform(image, classes, sample_rng(self.seed, epoch, uid))
        images = [to_tensor(view) for view in image] if isinstance(image, list) else to_tensor(image)
        return images, torch.from_numpy(classes), uid

    @cached_property
    def _largest(self) -> int:
        """No label up to this one is illegal: most masks have none above it, and need no closer look."""
        return int(np.argmax(np.append(self.label_map == ILLEGAL, True))) - 1


def to_tensor(image: np.ndarray) -> Tensor:
    """(H, W, 3) → (3, H, W), the same memory."""
    return torch.from_numpy(image).permute(2, 0, 1)
