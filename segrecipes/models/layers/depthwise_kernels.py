"""The kernels of ``depthwise.py``: maps are (B, C, H, W) channels last, weights (C, 1, 3, 3)."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

jit: Any = triton.jit  # a kernel is called with more and other arguments than its signature tells

TILE = {'block': 32, 'block_channels': 64}  # pixels of a row × channels: two loads of 16 bytes a thread and tap
STRIP = 8  # rows of a partial sum of the weights' gradient


def convolve(input: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """The convolution of stride 1, padded by the dilation, in the input's dtype."""
    batch, channels, height, width = input.shape
    taps = weight.reshape(channels, 9).t().contiguous()
    output = torch.empty_like(input)
    grid = triton.cdiv(channels, TILE['block_channels']), triton.cdiv(width, TILE['block']) * height, batch
    with torch.cuda.device_of(input):
        convolve_kernel[grid](input, taps, output, height, width, channels, dilation, **TILE)
    return output


def weight_gradient(input: Tensor, grad: Tensor, dilation: int) -> Tensor:
    """(C, 1, 3, 3) float32, from the input and the gradient by the output."""
    batch, channels, height, width = input.shape
    strips = triton.cdiv(height, STRIP)
    parts = input.new_empty(batch * strips, 3, 3, channels, dtype=torch.float32)
    with torch.cuda.device_of(input):
        weight_kernel[triton.cdiv(channels, TILE['block_channels']), 3 * strips, batch](
            input, grad, parts, height, width, channels, dilation, strip=STRIP, **TILE
        )
    return parts.sum(dim=0).permute(2, 0, 1).unsqueeze(1).contiguous()


@jit
def load_pixels(pixels, row, columns, indices, height, width, channels):
    """(block, block_channels) float32 of a row of an image, 0 outside."""
    inside = (row >= 0) & (row < height) & (columns >= 0) & (columns < width)
    pixels += tl.cast(row, tl.int64) * width * channels
    places = columns[:, None] * channels + indices[None, :]
    return tl.load(pixels + places, mask=inside[:, None] & (indices < channels)[None, :], other=0).to(tl.float32)


@jit
def convolve_kernel(
    input,
    taps,
    output,
    height,
    width,
    channels,
    dilation,
    block: tl.constexpr,
    block_channels: tl.constexpr,
):
    """``block`` pixels of a row of ``block_channels`` channels."""
    tiles = tl.cdiv(width, block)
    row, image = tl.program_id(1) // tiles, tl.cast(tl.program_id(2), tl.int64)
    columns = tl.program_id(1) % tiles * block + tl.arange(0, block)
    indices = tl.program_id(0) * block_channels + tl.arange(0, block_channels)
    input += image * height * width * channels
    output += (image * height + row) * width * channels
    total = tl.zeros((block, block_channels), tl.float32)
    for i in tl.static_range(3):  # type: ignore[misc]
        for j in tl.static_range(3):  # type: ignore[misc]
            values = load_pixels(
                input, row + (i - 1) * dilation, columns + (j - 1) * dilation, indices, height, width, channels
            )
            tap = tl.load(taps + (3 * i + j) * channels + indices, mask=indices < channels, other=0)
            total += values * tap.to(tl.float32)[None, :]
    inside = (columns < width)[:, None] & (indices < channels)[None, :]
    tl.store(output + columns[:, None] * channels + indices[None, :], total, mask=inside)


@jit
def weight_kernel(
    input,
    grad,
    parts,
    height,
    width,
    channels,
    dilation,
    strip: tl.constexpr,
    block: tl.constexpr,
    block_channels: tl.constexpr,
):
    """A row of three taps of ``block_channels`` channels, summed over ``strip`` rows of pixels."""
    tap, first, image = tl.program_id(1) % 3, tl.program_id(1) // 3 * strip, tl.cast(tl.program_id(2), tl.int64)
    indices = tl.program_id(0) * block_channels + tl.arange(0, block_channels)
    input += image * height * width * channels
    grad += image * height * width * channels
    left = tl.zeros((block, block_channels), tl.float32)
    centre = tl.zeros((block, block_channels), tl.float32)
    right = tl.zeros((block, block_channels), tl.float32)
    down = (tap - 1) * dilation
    for row in range(tl.maximum(first, -down), tl.minimum(tl.minimum(first + strip, height), height - down)):
        for start in range(0, width, block):
            columns = start + tl.arange(0, block)
            by_output = load_pixels(grad, row, columns, indices, height, width, channels)
            left += by_output * load_pixels(input, row + down, columns - dilation, indices, height, width, channels)
            centre += by_output * load_pixels(input, row + down, columns, indices, height, width, channels)
            right += by_output * load_pixels(input, row + down, columns + dilation, indices, height, width, channels)
    program = image * (tl.num_programs(1) // 3) + tl.program_id(1) // 3
    parts += (program * 3 + tap) * 3 * channels + indices
    tl.store(parts, tl.sum(left, axis=0), mask=indices < channels)
    tl.store(parts + channels, tl.sum(centre, axis=0), mask=indices < channels)
    tl.store(parts + 2 * channels, tl.sum(right, axis=0), mask=indices < channels)
