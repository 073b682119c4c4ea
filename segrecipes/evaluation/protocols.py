"""Evaluation protocols: what a network is shown of an image, and how its logits become labels of its own pixels."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchmetrics import MetricCollection

from segrecipes.data.batch import collate, collate_views
from segrecipes.data.channels import by_channels
from segrecipes.data.sample import Sample
from segrecipes.evaluation.metrics import CrossEntropy, MIoU, Scored, argmax, label_dtype, score, score_predictions
from segrecipes.evaluation.views import Network, View, tiles

EVALUATED_AT_ONCE = 2**21  # pixels of a batch, 8 images of 512²: bounds what the network takes in an evaluation
SMALLEST = torch.finfo(torch.float32).tiny  # probability of a class: its logarithm is finite


@dataclass(frozen=True)
class EvalProtocol:
    """What the network is shown of an image, how its answers are merged, and what is made of them.

    Called, it is the transform of a dataloader's workers; ``labels`` and ``score`` are for the device. This one shows
    views of an image as large as it is, and so takes one image at a time.

    Args:
        name: that of ``table.NAMES``, and part of the metric's name.
        size: side in pixels: of the image's short side, of the window, or of the square.
        fits: the short side becomes ``size``, the long one at most four times that; else the image keeps its size.
        ratios: scales on top of that, each a view of its own; the probabilities of all views are averaged.
        flip: shows each view mirrored too.
        stride: pixels from one window of ``size``² to the next; None shows each view as a whole.
    """

    name: str
    size: int = 512
    fits: bool = True
    ratios: tuple[float, ...] = (1.0,)
    flip: bool = False
    stride: int | None = None

    def __str__(self) -> str:
        """The name, with the size where it is not the literature's: numbers at two sizes are not comparable."""
        return self.name if self.size == 512 else f'{self.name}@{self.size}'

    def __call__(self, image: np.ndarray, classes: np.ndarray, rng: np.random.Generator) -> tuple[Any, np.ndarray]:
        """(H, W, 3) and (H, W) uint8 → what a sample is made of: views, or an image, and the classes to score."""
        return self.views(image), classes

    @property
    def collate(self) -> Callable[[Sequence[Sample]], Any]:
        return collate_views

    def batch_size(self, wanted: int) -> int:
        """Samples of a batch, where the config asks for so many."""
        return 1

    def metrics(self, num_classes: int) -> MetricCollection:
        return MetricCollection({f'mIoU[{self}]': MIoU(num_classes), f'CrossEntropy[{self}]': CrossEntropy()})

    def score(self, network: Network, images: Any, labels: Any, num_classes: int, ignore_index: int = -1) -> Scored:
        """The predictions for a batch of this protocol's, normalised and on the device, against its labels."""
        found, likelihood = [], torch.zeros((), dtype=torch.float64, device=labels[0].device)
        for views, of_image in zip(images, labels):
            predicted = torch.empty_like(of_image, dtype=label_dtype(num_classes))
            for tile, scores, views_added in self._merged(network, views, of_image.shape):
                predicted[tile] = argmax(scores.unsqueeze(0))[0].to(predicted.dtype)
                truth = of_image[tile].long()
                ignored = truth == ignore_index
                hits = scores.gather(0, truth.masked_fill(ignored, 0).unsqueeze(0))[0]
                hits = (
                    hits - scores.logsumexp(dim=0)
                    if views_added == 1
                    else (hits / views_added).clamp_min(SMALLEST).log()
                )
                likelihood += hits.masked_fill(ignored, 0).sum(dtype=torch.float64)
            found.append(predicted)
        return score_predictions(found, labels, num_classes, ignore_index)._replace(negative_log_likelihood=-likelihood)

    def views(self, image: np.ndarray) -> list[np.ndarray]:
        """(H, W, 3) uint8 → one resized image a ratio."""
        return [self._resize(image, ratio) for ratio in self.ratios]

    def _resize(self, image: np.ndarray, ratio: float) -> np.ndarray:
        height, width = image.shape[:2]
        if self.fits:
            short, long = int(self.size * ratio), int(4 * self.size * ratio)
            ratio = min(short / min(height, width), long / max(height, width))
        resized = max(1, int(width * ratio + 0.5)), max(1, int(height * ratio + 0.5))
        # Not antialiased, as in mmsegmentation, by which the published numbers were made
        if resized == (width, height):
            return image
        return by_channels(lambda part: cv2.resize(part, resized, interpolation=cv2.INTER_LINEAR), image)

    @torch.no_grad()
    def labels(self, network: Network, views: list[Tensor], size: tuple[int, int]) -> Tensor:
        """Normalised views, (3, h, w) float each, of an image → (H, W) uint8 labels; int16 of more than 256 classes."""
        labels = None
        for tile, scores, _ in self._merged(network, views, size):
            if labels is None:
                labels = torch.empty(size, dtype=label_dtype(len(scores)), device=scores.device)
            labels[tile] = argmax(scores.unsqueeze(0))[0].to(labels.dtype)
        assert labels is not None
        return labels

    @torch.no_grad()
    def _merged(
        self, network: Network, views: list[Tensor], size: tuple[int, int]
    ) -> Iterator[tuple[tuple[slice, slice], Tensor, int]]:
        """Tile by tile (C, n, m) scores of an image: logits of one view, or the sum of the probabilities of several.

        Every step from the network's logits to the image's pixels is linear and separable, so each is a matrix for the
        rows and one for the columns. They are applied a tile at a time: full-size scores never exist at once.
        """
        device = views[0].device
        caller = torch.autocast(
            device.type, torch.get_autocast_dtype(device.type), torch.is_autocast_enabled(device.type)
        )

        def run(images: Tensor) -> Tensor:
            with caller:  # reduced precision is the network's alone
                return network(images)

        with torch.autocast(device.type, enabled=False):
            mirrored = (False, True) if self.flip else (False,)
            shown = [View(run, view, size, self._window, flip) for view, flip in product(views, mirrored)]
            for rows, columns in tiles(size, shown[0].num_classes, device):
                scores = shown[0].scores(rows, columns)
                if len(shown) > 1:  # the sum of the probabilities has the argmax of their mean
                    scores = scores.softmax(dim=0)
                    for view in shown[1:]:
                        scores += view.scores(rows, columns).softmax(dim=0)
                yield (rows, columns), scores, len(shown)

    @property
    def _window(self) -> tuple[int, int] | None:
        return None if self.stride is None else (self.size, self.stride)


class SquareProtocol(EvalProtocol):
    """Image and ground truth squashed to a square of ``size``, so that a batch is one tensor."""

    def __call__(self, image: np.ndarray, classes: np.ndarray, rng: np.random.Generator) -> tuple[Any, np.ndarray]:
        return self._resize(image, 1), self.resize_mask(classes)

    @property
    def collate(self) -> Callable[[Sequence[Sample]], Any]:
        return collate

    def batch_size(self, wanted: int) -> int:
        return wanted

    def metrics(self, num_classes: int) -> MetricCollection:
        return MetricCollection([CrossEntropy(), MIoU(num_classes)])

    def score(self, network: Network, images: Any, labels: Any, num_classes: int, ignore_index: int = -1) -> Scored:
        at_once = max(1, EVALUATED_AT_ONCE // images[0, 0].numel())
        return score((network(some) for some in images.split(at_once)), labels, num_classes, ignore_index)

    def _resize(self, image: np.ndarray, ratio: float) -> np.ndarray:
        """Bilinearly, with antialiasing."""
        side = round(self.size * ratio)
        bilinear = Image.Resampling.BILINEAR
        return by_channels(lambda part: np.array(Image.fromarray(part).resize((side, side), bilinear)), image, most=1)

    def resize_mask(self, mask: np.ndarray) -> np.ndarray:
        """By the nearest pixel."""
        return np.array(Image.fromarray(mask).resize((self.size, self.size), Image.Resampling.NEAREST))


# The rows of table.PROTOCOLS


def mosaic_512sq(size: int = 512, stride: int | None = None) -> EvalProtocol:
    """Image and ground truth squashed to a square, the image bilinearly with antialiasing, the mask by nearest pixel.

    Of MosaicML's example and the numbers published with it:
    https://github.com/mosaicml/examples/tree/main/examples/benchmarks/deeplab
    """
    return SquareProtocol('mosaic-512sq', size)


def ade20k_ss(size: int = 512, stride: int | None = None) -> EvalProtocol:
    """The benchmark's, single scale: the image keeps its ratio and fits (2048, 512), its own mask is scored.

    The logits are interpolated to the resized image, then to the image itself. As in mmsegmentation, whose published
    numbers are made so: https://github.com/open-mmlab/mmsegmentation/blob/main/configs/_base_/datasets/ade20k.py
    """
    return EvalProtocol('ade20k-ss', size)


def ade20k_ms(size: int = 512, stride: int | None = None) -> EvalProtocol:
    """ade20k-ss at six scales of it, 0.5 to 1.75, each also mirrored; the twelve probabilities are averaged.

    mmsegmentation's "ms+flip": ``MultiScaleFlipAug`` with ``img_ratios``, its ``aug_test`` in releases before 1.0.
    """
    return EvalProtocol('ade20k-ms', size, ratios=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75), flip=True)


def slide(size: int = 512, stride: int | None = None) -> EvalProtocol:
    """Windows of ``size``² over the image in its own resolution, their logits averaged where they overlap.

    The last window of a row or column is moved back to end with the image. mmsegmentation's ``mode='slide'``; by
    default the stride is two thirds of the size, as its configs have it (512 and 341, 769 and 513).
    """
    return EvalProtocol('slide', size, fits=False, stride=round(size * 2 / 3) if stride is None else stride)
