"""Full-size logits a slice at a time: how they are cut, interpolated, and their gradient brought back."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Elements of a slice of full-size logits. On a CPU it is near the size of the cache, and still so large that threads
# which share their cores with other processes seldom wait for each other. Others need large kernels.
SLICE_ELEMENTS = {'cpu': 2**22}
LARGE_SLICE_ELEMENTS = 2**26


class Slice(NamedTuple):
    """Rows ``start … stop`` of the logits of some images, and the rows of pixels that lie on them.

    ``above`` and ``below`` are the neighbouring rows, 0 or 1, that the interpolation reaches into.
    """

    images: slice
    start: int
    stop: int
    above: int
    below: int
    size: tuple[int, int]  # pixels on rows start … stop: height, width
    stride: int  # pixels on one row of logits

    def of(self, pixels: Tensor) -> Tensor:
        """This slice of a (B, H, W) tensor as (N, P), of a (K, B, H, W) one as (N, K, P)."""
        first = self.start * self.stride
        part = pixels[..., self.images, first : first + self.size[0], :].flatten(-2)
        return part.transpose(0, 1) if part.ndim == 3 else part

    def interpolate(self, logits: Tensor) -> Tensor:
        """(B, C, h, w) logits → (N, C, P)."""
        rows = logits[self.images, :, self.start - self.above : self.stop + self.below]
        if rows.shape[-2:] != self.size:
            rows = F.interpolate(rows, size=self._size_with_neighbours(), mode='bilinear')
            rows = rows[:, :, self.above * self.stride :][:, :, : self.size[0]]
        return rows.flatten(2)

    def add_gradient(self, gradient: Tensor, by_pixel: Tensor) -> None:
        """Add (N, C, P) gradients of the interpolated logits to those of the (B, C, h, w) logits, in place."""
        target = gradient[self.images, :, self.start - self.above : self.stop + self.below]
        by_pixel = by_pixel.unflatten(2, self.size)
        if target.shape[-2:] != self.size:
            height, width = self._size_with_neighbours()
            by_pixel = F.pad(by_pixel, (0, 0, self.above * self.stride, self.below * self.stride))
            backward: Any = torch.ops.aten.upsample_bilinear2d_backward
            by_pixel = backward(by_pixel, (height, width), target.shape, align_corners=False)
        target += by_pixel

    def _size_with_neighbours(self) -> tuple[int, int]:
        return self.size[0] + (self.above + self.below) * self.stride, self.size[1]


def slice_elements(device: torch.device) -> int:
    return SLICE_ELEMENTS.get(device.type, LARGE_SLICE_ELEMENTS)


def cut(logits: Sequence[int], size: Sequence[int], elements: int) -> Iterator[Slice]:
    """Slices of about ``elements`` interpolated logits: whole images, or bands of rows where one is larger than that.

    A band needs a whole number of pixels on a row of logits; without it an image stays whole.
    """
    batch, classes, rows, columns = logits
    height, width = size
    images = max(1, elements // (classes * height * width))
    band, stride = rows, height // rows
    if height % rows == 0 and images == 1:
        band = min(rows, max(1, elements // (classes * stride * width)))
    reach = int((height, width) != (rows, columns))
    for image in range(0, batch, images):
        for start in range(0, rows, band):
            stop = min(rows, start + band)
            lines = height if band == rows else (stop - start) * stride
            above, below = min(reach, start), min(reach, rows - stop)
            yield Slice(slice(image, image + images), start, stop, above, below, (lines, width), stride)
