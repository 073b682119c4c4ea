"""The loss of hard and mixed labels as Triton kernels: no full-size logits, targets or probabilities in memory.

Bilinear interpolation splits the pixels into cells: cell i lies between the logits i and i + 1, and the cells −1 and
h − 1 at the borders see one logit twice. A program loads the corners of its cells, then interpolates and evaluates
their pixels in registers. Two kernels reduce over the classes of a pixel and hold all of them; the third gathers the
gradient of each small logit from the pixels around it. All sums have a fixed order: results repeat bit by bit.

At a pixel with p = softmax(x), w the weights of its labels, hit_c the weight of class c, and d_c the derivative of
Dice by p_c, the gradient by x_c is p_c · (d_c + shift) − scale · hit_c, where shift = scale · Σ w − Σ_c p_c · d_c.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from losses import losses_from_sums

TILE = 1024  # cells × classes of a program of 128 threads: eight of each kind of value a thread
GATHER_TILE = 16, 32  # logits × classes of a program of 64 threads
PROGRAM_PIXELS = 256  # of a column of cells, at least: partial sums are few then
NO_CLASS = tl.constexpr(-1e30)  # the logit of a class that does not exist; finite, as it is interpolated


class FusedLoss(torch.autograd.Function):
    """As ``losses.SlicedLoss``, for logits of any float type and any strides on one GPU."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        logits: Tensor,
        labels: Tensor,
        shares: tuple[float, ...],
        ignore_index: int,
        options: tuple[float, float, str, Tensor | None],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, h, w) logits, (K, B, H, W) integer labels, K ≤ 2, the share of each of the K → total, CE, Dice."""
        labels = labels.contiguous()
        ctx.target, ctx.dice = (shares, ignore_index), options[1] != 0
        lse, sums = sum_pixels(logits, labels, *ctx.target, ctx.dice)
        negative_log_likelihood, target, probs, intersection = sums
        losses = losses_from_sums(negative_log_likelihood.sum(), target.sum(), intersection, probs, target, options)
        ctx.save_for_backward(logits, labels, lse, losses.scale, losses.by_intersection, losses.by_probs)
        ctx.mark_non_differentiable(losses.cross_entropy, losses.dice)
        return losses[:3]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        logits, labels, lse, *derivatives = ctx.saved_tensors
        derivatives = [grad * term for term in derivatives]
        gradient = gather_gradient(logits, labels, *ctx.target, ctx.dice, lse, *derivatives)
        return gradient, None, None, None, None


def sum_pixels(
    logits: Tensor, labels: Tensor, shares: tuple[float, ...], ignore_index: int, dice: bool
) -> tuple[Tensor, Tensor]:
    """→ (B, H, W) float32 log-sum-exp, (4, B, C) float64 sums of −log p and weight at labels, of p, and of p at labels.

    Without ``dice`` the last two are 0.
    """
    batch, classes = logits.shape[:2]
    grid, tile = pixel_grid(logits, labels)
    lse = logits.new_empty(labels.shape[1:], dtype=torch.float32)
    parts = lse.new_empty(batch, grid[0] * grid[1], 4 if dice else 2, classes)
    with torch.cuda.device_of(logits):
        sum_kernel[grid](*arguments(logits, labels, shares, ignore_index), lse, parts, dice=dice, **tile)
    sums = parts.sum(dim=1, dtype=torch.float64).transpose(0, 1)
    return lse, sums if dice else torch.cat([sums, torch.zeros_like(sums)])


def gather_gradient(
    logits: Tensor,
    labels: Tensor,
    shares: tuple[float, ...],
    ignore_index: int,
    dice: bool,
    lse: Tensor,
    scale: Tensor,
    by_intersection: Tensor,
    by_probs: Tensor,
) -> Tensor:
    """The gradient by the logits, in their dtype."""
    (batch, classes, height, width), (rows, columns) = logits.shape, labels.shape[-2:]
    given = arguments(logits, labels, shares, ignore_index)
    derivatives = scale, by_intersection.contiguous(), by_probs.contiguous()
    gradient, shift = torch.empty_like(logits), torch.empty_like(lse) if dice else lse
    block, block_classes = GATHER_TILE
    program_rows = max(2, PROGRAM_PIXELS // most_pixels(logits, labels))
    grid = triton.cdiv(width, block), triton.cdiv(height, program_rows), batch * triton.cdiv(classes, block_classes)
    with torch.cuda.device_of(logits):
        if dice:
            pixels, tile = pixel_grid(logits, labels)
            shift_kernel[pixels](*given, lse, *derivatives, shift, **tile)
        gather_kernel[grid](
            *given,
            lse,
            *derivatives,
            shift,
            gradient,
            *gradient.stride(),
            triton.cdiv(2 * columns, width),
            program_rows,
            classes=classes,
            mixed=len(labels) == 2,
            dice=dice,
            block=block,
            block_classes=block_classes,
            num_warps=2,
        )
    return gradient


def arguments(logits: Tensor, labels: Tensor, shares: tuple[float, ...], ignore_index: int) -> tuple[Any, ...]:
    """The first arguments of every kernel."""
    sizes = *logits.shape[-2:], *labels.shape[-2:]
    return logits, *logits.stride(), labels, labels[0].numel(), *sizes, shares[0], shares[-1], ignore_index


def pixel_grid(logits: Tensor, labels: Tensor) -> tuple[tuple[int, int, int], dict[str, Any]]:
    """Tiles of cells, strips of their rows, and images; and the rest of what both kernels over pixels take."""
    batch, classes, height, width = logits.shape
    block_classes = max(16, triton.next_power_of_2(classes))
    block = min(32, TILE // block_classes)
    program_rows = max(1, PROGRAM_PIXELS // most_pixels(logits, labels))
    grid = triton.cdiv(width + 1, block), triton.cdiv(height + 1, program_rows), batch
    return grid, {
        'steps': triton.cdiv(labels.shape[-1], width),
        'program_rows': program_rows,
        'classes': classes,
        'mixed': len(labels) == 2,
        'block': block,
        'block_classes': block_classes,
        'num_warps': 4,
    }


def most_pixels(logits: Tensor, labels: Tensor) -> int:
    """Of a cell."""
    (height, width), (rows, columns) = logits.shape[-2:], labels.shape[-2:]
    return triton.cdiv(rows, height) * triton.cdiv(columns, width)


@triton.jit
def cell_start(cell, size, pixels):
    """The first of the pixels in ``cell`` of ``size`` logits: where (pixel + ½) · size / pixels − ½ ≥ cell."""
    return tl.minimum((tl.maximum((2 * cell + 1) * pixels - size, 0) + 2 * size - 1) // (2 * size), pixels)


@triton.jit
def offset(pixel, logit, size, pixels):
    """From ``logit`` to the pixel, in distances of logits; a pixel beyond the outermost logit lies on it."""
    place = tl.minimum(tl.maximum((2 * pixel + 1) * size - pixels, 0), 2 * pixels * (size - 1))
    return (place - 2 * pixels * logit).to(tl.float32) / (2 * pixels)


@triton.jit
def inside(index, size):
    return tl.minimum(tl.maximum(index, 0), size - 1)


@triton.jit
def load_logits(row, columns, width, column_stride, indices, class_stride, classes):
    """(N) columns of a row of logits → (N, block_classes) float32."""
    places = inside(columns, width).to(tl.int64)[:, None] * column_stride
    exists = (indices < classes)[None, :]
    values = tl.load(row + places + indices.to(tl.int64)[None, :] * class_stride, mask=exists, other=0)
    return tl.where(exists, values.to(tl.float32), NO_CLASS)


@triton.jit
def load_weight(labels, pixels, exists, share, ignore_index, classes):
    """Labels of (N) pixels, and their weights: 0 where there is none, NaN where it is no class."""
    label = tl.load(labels + pixels, mask=exists, other=0).to(tl.int32)
    weight = tl.where((label >= 0) & (label < classes), share, float('nan'))
    return label, tl.where(exists & (label != ignore_index), weight, 0.0)


@triton.jit
def load_hits(
    labels, labels_size, pixels, exists, indices, share, other_share, ignore_index, classes, mixed: tl.constexpr
):
    """Weight of each class at (N) pixels, (N, block_classes), and of all classes, (N)."""
    label, weight = load_weight(labels, pixels, exists, share, ignore_index, classes)
    hits = tl.where(indices[None, :] == label[:, None], weight[:, None], 0.0)
    if mixed:
        label, other = load_weight(labels + labels_size, pixels, exists, other_share, ignore_index, classes)
        hits += tl.where(indices[None, :] == label[:, None], other[:, None], 0.0)
        weight += other
    return hits, weight


@triton.jit
def sum_kernel(
    logits,
    image_stride,
    class_stride,
    row_stride,
    column_stride,
    labels,
    labels_size,
    height,
    width,
    rows,
    columns,
    share,
    other_share,
    ignore_index,
    lse,
    parts,
    steps,
    program_rows,
    classes: tl.constexpr,
    mixed: tl.constexpr,
    dice: tl.constexpr,
    block: tl.constexpr,
    block_classes: tl.constexpr,
):
    """Log-sum-exp of the pixels of some rows of ``block`` cells, and sums over them by class."""
    tile, strip, image = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    indices = tl.arange(0, block_classes)
    cells = tile * block + tl.arange(0, block) - 1
    starts, stops = cell_start(cells, width, columns), cell_start(cells + 1, width, columns)
    log_loss = tl.zeros((block, block_classes), tl.float32)
    target = tl.zeros((block, block_classes), tl.float32)
    probs = tl.zeros((block, block_classes), tl.float32)
    intersection = tl.zeros((block, block_classes), tl.float32)
    first = strip * program_rows - 1
    for row in range(first, tl.minimum(first + program_rows, height)):
        top = logits + image * image_stride + inside(row, height).to(tl.int64) * row_stride
        bottom = logits + image * image_stride + inside(row + 1, height).to(tl.int64) * row_stride
        top_left = load_logits(top, cells, width, column_stride, indices, class_stride, classes)
        top_right = load_logits(top, cells + 1, width, column_stride, indices, class_stride, classes)
        bottom_left = load_logits(bottom, cells, width, column_stride, indices, class_stride, classes)
        bottom_right = load_logits(bottom, cells + 1, width, column_stride, indices, class_stride, classes)
        for y in range(cell_start(row, height, rows), cell_start(row + 1, height, rows)):
            down = offset(y, row, height, rows)
            left = top_left + (bottom_left - top_left) * down
            slope = top_right + (bottom_right - top_right) * down - left
            for step in range(steps):
                x = starts + step
                exists = x < stops
                pixels = (image * rows + y) * columns + x
                hits, weight = load_hits(
                    labels, labels_size, pixels, exists, indices, share, other_share, ignore_index, classes, mixed
                )
                values = left + slope * offset(x, cells, width, columns)[:, None]
                largest = tl.max(values, axis=1)
                shares = tl.exp(values - largest[:, None])
                total = tl.sum(shares, axis=1)
                log_total = tl.where(weight >= 0, largest + tl.log(total), float('nan'))
                tl.store(lse + pixels, log_total, mask=exists)
                log_loss += hits * (log_total[:, None] - values)
                target += hits
                if dice:
                    shares *= (1 / total)[:, None]
                    probs += tl.where(weight > 0, 1.0, 0.0)[:, None] * shares
                    intersection += hits * shares
    program = (image * tl.num_programs(1) + strip) * tl.num_programs(0) + tile
    out = parts + program * ((4 if dice else 2) * classes) + indices
    tl.store(out, tl.sum(log_loss, axis=0), mask=indices < classes)
    tl.store(out + classes, tl.sum(target, axis=0), mask=indices < classes)
    if dice:
        tl.store(out + 2 * classes, tl.sum(probs, axis=0), mask=indices < classes)
        tl.store(out + 3 * classes, tl.sum(intersection, axis=0), mask=indices < classes)


@triton.jit
def shift_kernel(
    logits,
    image_stride,
    class_stride,
    row_stride,
    column_stride,
    labels,
    labels_size,
    height,
    width,
    rows,
    columns,
    share,
    other_share,
    ignore_index,
    lse,
    scale,
    by_intersection,
    by_probs,
    shift,
    steps,
    program_rows,
    classes: tl.constexpr,
    mixed: tl.constexpr,
    block: tl.constexpr,
    block_classes: tl.constexpr,
):
    """``shift`` of the pixels of some rows of ``block`` cells."""
    tile, strip, image = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    indices = tl.arange(0, block_classes)
    cells = tile * block + tl.arange(0, block) - 1
    starts, stops = cell_start(cells, width, columns), cell_start(cells + 1, width, columns)
    scale = tl.load(scale)
    by_intersection = tl.load(by_intersection + image * classes + indices, mask=indices < classes, other=0)[None, :]
    by_probs = tl.load(by_probs + image * classes + indices, mask=indices < classes, other=0)[None, :]
    first = strip * program_rows - 1
    for row in range(first, tl.minimum(first + program_rows, height)):
        top = logits + image * image_stride + inside(row, height).to(tl.int64) * row_stride
        bottom = logits + image * image_stride + inside(row + 1, height).to(tl.int64) * row_stride
        top_left = load_logits(top, cells, width, column_stride, indices, class_stride, classes)
        top_right = load_logits(top, cells + 1, width, column_stride, indices, class_stride, classes)
        bottom_left = load_logits(bottom, cells, width, column_stride, indices, class_stride, classes)
        bottom_right = load_logits(bottom, cells + 1, width, column_stride, indices, class_stride, classes)
        for y in range(cell_start(row, height, rows), cell_start(row + 1, height, rows)):
            down = offset(y, row, height, rows)
            left = top_left + (bottom_left - top_left) * down
            slope = top_right + (bottom_right - top_right) * down - left
            for step in range(steps):
                x = starts + step
                exists = x < stops
                pixels = (image * rows + y) * columns + x
                hits, weight = load_hits(
                    labels, labels_size, pixels, exists, indices, share, other_share, ignore_index, classes, mixed
                )
                values = left + slope * offset(x, cells, width, columns)[:, None]
                probs = tl.exp(values - tl.load(lse + pixels, mask=exists, other=0)[:, None])
                by_prob = tl.where(weight > 0, 1.0, 0.0)[:, None] * by_probs + hits * by_intersection
                tl.store(shift + pixels, scale * weight - tl.sum(probs * by_prob, axis=1), mask=exists)


@triton.jit
def gather_kernel(
    logits,
    image_stride,
    class_stride,
    row_stride,
    column_stride,
    labels,
    labels_size,
    height,
    width,
    rows,
    columns,
    share,
    other_share,
    ignore_index,
    lse,
    scale,
    by_intersection,
    by_probs,
    shift,
    gradient,
    gradient_image_stride,
    gradient_class_stride,
    gradient_row_stride,
    gradient_column_stride,
    steps,
    program_rows,
    classes: tl.constexpr,
    mixed: tl.constexpr,
    dice: tl.constexpr,
    block: tl.constexpr,
    block_classes: tl.constexpr,
):
    """Gradient of some rows of ``block`` logits of ``block_classes`` classes.

    A row of logits takes from the row of cells above it and from the one below: the program walks down the cells and
    carries what the next row of logits got. The pixels left and right of a logit are in one loop.
    """
    tile, strip, image = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    blocks = tl.cdiv(classes, block_classes)
    indices = image % blocks * block_classes + tl.arange(0, block_classes)
    image = (image // blocks).to(tl.int64)
    centres = tile * block + tl.arange(0, block)
    starts, stops = cell_start(centres - 1, width, columns), cell_start(centres + 1, width, columns)
    scale = tl.load(scale)
    by_intersection = tl.load(by_intersection + image * classes + indices, mask=indices < classes, other=0)[None, :]
    by_probs = tl.load(by_probs + image * classes + indices, mask=indices < classes, other=0)[None, :]
    places = centres.to(tl.int64)[:, None] * gradient_column_stride
    places += indices.to(tl.int64)[None, :] * gradient_class_stride + image * gradient_image_stride
    written = (centres < width)[:, None] & (indices < classes)[None, :]
    carried = tl.zeros((block, block_classes), tl.float32)
    first = strip * program_rows
    for row in range(first - 1, tl.minimum(first + program_rows, height)):
        top = logits + image * image_stride + inside(row, height).to(tl.int64) * row_stride
        bottom = logits + image * image_stride + inside(row + 1, height).to(tl.int64) * row_stride
        top_left = load_logits(top, centres - 1, width, column_stride, indices, class_stride, classes)
        top_centre = load_logits(top, centres, width, column_stride, indices, class_stride, classes)
        top_right = load_logits(top, centres + 1, width, column_stride, indices, class_stride, classes)
        bottom_left = load_logits(bottom, centres - 1, width, column_stride, indices, class_stride, classes)
        bottom_centre = load_logits(bottom, centres, width, column_stride, indices, class_stride, classes)
        bottom_right = load_logits(bottom, centres + 1, width, column_stride, indices, class_stride, classes)
        upper = carried
        carried = tl.zeros((block, block_classes), tl.float32)
        for y in range(cell_start(row, height, rows), cell_start(row + 1, height, rows)):
            down = offset(y, row, height, rows)
            centre = top_centre + (bottom_centre - top_centre) * down
            left_slope = centre - (top_left + (bottom_left - top_left) * down)
            right_slope = top_right + (bottom_right - top_right) * down - centre
            across = tl.zeros((block, block_classes), tl.float32)
            for step in range(steps):
                x = starts + step
                exists = x < stops
                pixels = (image * rows + y) * columns + x
                hits, weight = load_hits(
                    labels, labels_size, pixels, exists, indices, share, other_share, ignore_index, classes, mixed
                )
                aside = offset(x, centres, width, columns)
                values = centre + tl.where((aside < 0)[:, None], left_slope, right_slope) * aside[:, None]
                probs = tl.exp(values - tl.load(lse + pixels, mask=exists, other=0)[:, None])
                if dice:
                    by_value = tl.load(shift + pixels, mask=exists, other=0)[:, None] + hits * by_intersection
                    by_value += tl.where(weight > 0, 1.0, 0.0)[:, None] * by_probs
                else:
                    by_value = (scale * weight)[:, None]
                near = tl.where(exists, 1 - tl.abs(aside), 0.0)
                across += (probs * by_value - scale * hits) * near[:, None]
            upper += across * (1 - down)
            carried += across * down
        out = gradient + places + inside(row, height).to(tl.int64) * gradient_row_stride
        tl.store(out, upper, mask=written & (row >= first))
