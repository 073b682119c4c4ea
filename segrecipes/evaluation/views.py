"""Where the logits of an image's views go in the image itself."""

from collections.abc import Callable, Iterator
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# (1, 3, h, w) normalised float images → (1, C, h', w') logits of any stride
Network = Callable[[Tensor], Tensor]

# Rows and columns of a tile of full-size scores, for 150 classes: on a CPU it stays in the cache.
TILE = {'cpu': (32, 64)}
LARGE_TILE = (512, 1024)


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
