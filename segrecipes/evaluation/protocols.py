"""Evaluation protocols: what a network is shown of an image, and how its logits become labels of its own pixels.

Each row of ``PROTOCOLS`` makes a :class:`Protocol` for a size in pixels; the literature's is 512.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from errors import choice
from metrics import argmax, label_dtype
from transforms import EvalTransform

# (1, 3, h, w) normalised float images → (1, C, h', w') logits of any stride
Network = Callable[[Tensor], Tensor]

# Rows and columns of a tile of full-size scores, for 150 classes: on a CPU it stays in the cache.
TILE = {'cpu': (32, 64)}
LARGE_TILE = (512, 1024)


@dataclass(frozen=True)
class Protocol:
    """What the network is shown of an image, and how its answers are merged.

    ``views`` and ``target`` are for a dataloader's workers, ``labels`` for the device.

    Args:
        size: side in pixels: of the square, of the image's short side, or of the window.
        resize: ``square``, ``fit`` (short side ``size``, long side at most four times that), or ``none``.
        ratios: scales on top of that, each a view of its own; the probabilities of all views are averaged.
        flip: shows each view mirrored too.
        stride: pixels from one window of ``size``² to the next; None shows each view as a whole.
    """

    name: str
    size: int = 512
    resize: str = 'fit'
    ratios: tuple[float, ...] = (1.0,)
    flip: bool = False
    stride: int | None = None

    def __str__(self) -> str:
        """The name, with the size where it is not the literature's: numbers at two sizes are not comparable."""
        return self.name if self.size == 512 else f'{self.name}@{self.size}'

    def views(self, image: np.ndarray) -> list[np.ndarray]:
        """(H, W, 3) uint8 → one resized image a ratio."""
        return [self._resize(image, ratio) for ratio in self.ratios]

    def target(self, mask: np.ndarray) -> np.ndarray:
        """(H, W) uint8 mask → the one that is scored: itself, unless the protocol squashes that too."""
        return EvalTransform(self.size).resize_mask(mask) if self.resize == 'square' else mask

    def _resize(self, image: np.ndarray, ratio: float) -> np.ndarray:
        if self.resize == 'square':
            return EvalTransform(round(self.size * ratio)).resize_image(image)
        height, width = image.shape[:2]
        if self.resize == 'fit':
            short, long = int(self.size * ratio), int(4 * self.size * ratio)
            ratio = min(short / min(height, width), long / max(height, width))
        resized = max(1, int(width * ratio + 0.5)), max(1, int(height * ratio + 0.5))
        # Not antialiased, as in mmsegmentation, by which the published numbers were made
        return image if resized == (width, height) else cv2.resize(image, resized, interpolation=cv2.INTER_LINEAR)

    @torch.no_grad()
    def labels(self, network: Network, views: list[Tensor], size: tuple[int, int]) -> Tensor:
        """Normalised views, (3, h, w) float each, of one image → (H, W) uint8 labels, int16 for more than 256 classes.

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
            labels = torch.empty(size, dtype=label_dtype(shown[0].num_classes), device=device)
            for rows, columns in tiles(size, shown[0].num_classes, device):
                scores = shown[0].scores(rows, columns)
                if len(shown) > 1:  # the sum of the probabilities has the argmax of their mean
                    scores = scores.softmax(dim=0)
                    for view in shown[1:]:
                        scores += view.scores(rows, columns).softmax(dim=0)
                labels[rows, columns] = argmax(scores.unsqueeze(0))[0].to(labels.dtype)
        return labels

    @property
    def _window(self) -> tuple[int, int] | None:
        return None if self.stride is None else (self.size, self.stride)


def mosaic_512sq(size: int = 512, stride: int | None = None) -> Protocol:
    """Image and ground truth squashed to a square, the image bilinearly with antialiasing, the mask by nearest pixel.

    Of MosaicML's example and the numbers published with it:
    https://github.com/mosaicml/examples/tree/main/examples/benchmarks/deeplab
    """
    return Protocol('mosaic-512sq', size, resize='square')


def ade20k_ss(size: int = 512, stride: int | None = None) -> Protocol:
    """The benchmark's, single scale: the image keeps its ratio and fits (2048, 512), its own mask is scored.

    The logits are interpolated to the resized image, then to the image itself. As in mmsegmentation, whose published
    numbers are made so: https://github.com/open-mmlab/mmsegmentation/blob/main/configs/_base_/datasets/ade20k.py
    """
    return Protocol('ade20k-ss', size)


def ade20k_ms(size: int = 512, stride: int | None = None) -> Protocol:
    """ade20k-ss at six scales of it, 0.5 to 1.75, each also mirrored; the twelve probabilities are averaged.

    mmsegmentation's "ms+flip": ``MultiScaleFlipAug`` with ``img_ratios``, its ``aug_test`` in releases before 1.0.
    """
    return Protocol('ade20k-ms', size, ratios=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75), flip=True)


def slide(size: int = 512, stride: int | None = None) -> Protocol:
    """Windows of ``size``² over the image in its own resolution, their logits averaged where they overlap.

    The last window of a row or column is moved back to end with the image. mmsegmentation's ``mode='slide'``; by
    default the stride is two thirds of the size, as its configs have it (512 and 341, 769 and 513).
    """
    return Protocol('slide', size, resize='none', stride=round(size * 2 / 3) if stride is None else stride)


PROTOCOLS: dict[str, Callable[..., Protocol]] = {
    'mosaic-512sq': mosaic_512sq,
    'ade20k-ss': ade20k_ss,
    'ade20k-ms': ade20k_ms,
    'slide': slide,
}


def get_protocol(name: str, size: int = 512, stride: int | None = None) -> Protocol:
    """The protocol of a row of ``PROTOCOLS`` for images of ``size``; ``stride`` is that of the windows."""
    if name not in PROTOCOLS:
        raise choice('eval_protocol', name, PROTOCOLS)
    return PROTOCOLS[name](size, stride)


class Placement(NamedTuple):
    """Where the logits of a window go along one axis of the image: (n, l) weights of l logits for n pixels.

    ``first`` and ``last`` are, for each of the pixels, the first logit with a weight and the one after the last.
    """

    start: int
    weights: Tensor
    first: list[int]
    last: list[int]

    @property
    def stop(self) -> int:
        return self.start + len(self.weights)

    def part(self, start: int, stop: int) -> tuple[slice, Tensor]:
        """Of pixels ``start … stop`` of the image: the logits that have a weight, and the weights."""
        start, stop = start - self.start, stop - self.start
        source = slice(min(self.first[start:stop]), max(self.last[start:stop]))
        return source, self.weights[start:stop, source]


class View:
    """An image as the network sees it, whole or window by window, and its logits wherever they are asked for.

    A row of windows is shown to the network when the first of its pixels is asked for, and forgotten after the last:
    tiles are asked for from top to bottom.
    """

    def __init__(
        self, network: Network, image: Tensor, size: tuple[int, int], window: tuple[int, int] | None, flip: bool
    ):
        self.network = network
        self.image = image.flip(-1) if flip else image  # 3 h w
        self.grids = [windows(length, window) for length in image.shape[-2:]]
        self.shown: list[list[Tensor]] = []  # of the current rows of windows
        self.next_row = 0
        self.num_classes, *num_logits = self._show_row()[0].shape
        rows, columns = (placements(*axis) for axis in zip(num_logits, image.shape[-2:], size, self.grids))
        columns = [mirror(place, size[1]) for place in columns] if flip else columns
        self.rows, self.columns = (
            [place._replace(weights=place.weights.to(image.device)) for place in axis] for axis in (rows, columns)
        )

    def scores(self, rows: slice, columns: slice) -> Tensor:
        """(C, n, m) logits of the pixels in these rows and columns of the image."""
        while self.next_row < len(self.rows) and self.rows[self.next_row].start < rows.stop:
            self._show_row()
        shown_rows = self.rows[self.next_row - len(self.shown) : self.next_row]
        while shown_rows[0].stop <= rows.start:
            del shown_rows[0], self.shown[0]
        shape = self.num_classes, rows.stop - rows.start, columns.stop - columns.start
        scores = torch.zeros(shape, device=self.image.device)
        for row, logits_of_row in zip(shown_rows, self.shown):
            for column, logits in zip(self.columns, logits_of_row):
                top, bottom = max(rows.start, row.start), min(rows.stop, row.stop)
                left, right = max(columns.start, column.start), min(columns.stop, column.stop)
                if top < bottom and left < right:
                    (lines, by_line), (places, by_place) = row.part(top, bottom), column.part(left, right)
                    within = np.s_[
                        :, top - rows.start : bottom - rows.start, left - columns.start : right - columns.start
                    ]
                    scores[within] += by_line @ logits[:, lines, places] @ by_place.mT
        return scores

    def _show_row(self) -> list[Tensor]:
        start, stop = self.grids[0][self.next_row]
        self.shown.append(
            [self.network(self.image[None, :, start:stop, left:right])[0].float() for left, right in self.grids[1]]
        )
        self.next_row += 1
        return self.shown[-1]


def windows(length: int, window: tuple[int, int] | None) -> list[tuple[int, int]]:
    """(start, stop) of the windows along an axis; the whole axis without a (size, stride)."""
    if window is None or length <= window[0]:
        return [(0, length)]
    size, stride = window
    count = -(-(length - size) // stride) + 1
    starts = [min(index * stride, length - size) for index in range(count)]
    return [(start, start + size) for start in starts]


def placements(num_logits: int, length: int, size: int, grid: list[tuple[int, int]]) -> list[Placement]:
    """Along one axis: windows of ``num_logits`` logits each, over ``length`` pixels, resized to ``size`` pixels."""
    covered = torch.zeros(length)
    for start, stop in grid:
        covered[start:stop] += 1
    to_window = interpolation(num_logits, grid[0][1] - grid[0][0])
    to_image = None if size == length else interpolation(length, size)
    found = []
    for start, stop in grid:
        weights = to_window / covered[start:stop, None]
        if to_image is not None:
            weights = to_image[:, start:stop] @ weights
            reached = weights.any(dim=1).nonzero().flatten()
            start, stop = int(reached[0]), int(reached[-1]) + 1
            weights = weights[start:stop]
        used = weights != 0
        first, last = used.int().argmax(dim=1), num_logits - used.flip(1).int().argmax(dim=1)
        found.append(Placement(start, weights, first.tolist(), last.tolist()))
    return found


def interpolation(length: int, size: int) -> Tensor:
    """(size, length) weights of torch's own linear interpolation, ``align_corners=False``."""
    return F.interpolate(torch.eye(length).unsqueeze(0), size=size, mode='linear')[0].T


def mirror(place: Placement, size: int) -> Placement:
    """The placement in the mirrored image of ``size`` pixels."""
    return Placement(size - place.stop, place.weights.flip(0), place.first[::-1], place.last[::-1])


def tiles(size: tuple[int, int], num_classes: int, device: torch.device) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of an image, tile by tile, from top to bottom."""
    height, width = TILE.get(device.type, LARGE_TILE)
    height = max(1, height * 150 // num_classes)
    for top, left in product(range(0, size[0], height), range(0, size[1], width)):
        yield slice(top, min(size[0], top + height)), slice(left, min(size[1], left + width))
