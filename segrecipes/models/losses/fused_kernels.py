"""The kernels of the fused loss: what each computes of a column of cells."""

import math
from typing import Any

import triton
import triton.language as tl

jit: Any = triton.jit  # a kernel is called with more and other arguments than its signature tells

BITS = tl.constexpr(math.log2(math.e))  # to base 2 an exponential is one instruction


@jit
def cell_start(cell, size, pixels):
    """The first of the pixels in ``cell`` of ``size`` logits: the first with (pixel + ½) · size / pixels − ½ ≥ cell."""
    return tl.minimum((tl.maximum((2 * cell + 1) * pixels - size, 0) + 2 * size - 1) // (2 * size), pixels)


@jit
def offset(pixel, cell, size, pixels):
    """From the logit that begins the cell to the pixel, in distances of logits."""
    return tl.cast((2 * pixel + 1) * size - pixels - 2 * pixels * cell, tl.float32) / (2 * pixels)


@jit
def load_logits(logits, row, column, height, width, row_stride, column_stride, indices, class_stride, classes):
    """All classes of a logit of one image, or of the nearest where there is none: (block) float32."""
    row, column = tl.minimum(tl.maximum(row, 0), height - 1), tl.minimum(tl.maximum(column, 0), width - 1)
    logits += tl.cast(row, tl.int64) * row_stride + tl.cast(column, tl.int64) * column_stride
    return tl.load(logits + tl.cast(indices, tl.int64) * class_stride, mask=indices < classes, other=0).to(tl.float32)


@jit
def load_corners(logits, row, column, height, width, row_stride, column_stride, indices, class_stride, classes):
    """Logits at the top left, top right, bottom left and bottom right of a cell, (block) float32 each."""
    top = load_logits(logits, row, column, height, width, row_stride, column_stride, indices, class_stride, classes)
    top_right = load_logits(
        logits, row, column + 1, height, width, row_stride, column_stride, indices, class_stride, classes
    )
    bottom = load_logits(
        logits, row + 1, column, height, width, row_stride, column_stride, indices, class_stride, classes
    )
    bottom_right = load_logits(
        logits, row + 1, column + 1, height, width, row_stride, column_stride, indices, class_stride, classes
    )
    return top, top_right, bottom, bottom_right


@jit
def load_hits(labels, labels_size, pixel, indices, share, other_share, ignore_index, classes, mixed: tl.constexpr):
    """Weight of each class at a pixel, (block), and of all of them: 0 where ignored, NaN where a label is no class."""
    label = tl.load(labels + pixel).to(tl.int32)
    weight = tl.where((label >= 0) & (label < classes), share, float('nan'))
    weight = tl.where(label == ignore_index, 0.0, weight)
    hits = tl.where(indices == label, weight, 0.0)
    if mixed:
        label = tl.load(labels + labels_size + pixel).to(tl.int32)
        other = tl.where((label >= 0) & (label < classes), other_share, float('nan'))
        other = tl.where(label == ignore_index, 0.0, other)
        hits += tl.where(indices == label, other, 0.0)
        weight += other
    return hits, weight


@jit
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
    strip,
    parts,
    parts_size,
    classes: tl.constexpr,
    mixed: tl.constexpr,
    dice: tl.constexpr,
    block: tl.constexpr,
):
    """Log-sum-exp of the pixels of a column of ``strip`` cells, and the sums over them by class."""
    column, first, image = tl.program_id(0) - 1, tl.program_id(1) * strip - 1, tl.cast(tl.program_id(2), tl.int64)
    logits += image * image_stride
    labels += image * rows * columns
    lse += image * rows * columns
    indices = tl.arange(0, block)
    exists = indices < classes
    start, stop = cell_start(column, width, columns), cell_start(column + 1, width, columns)
    begin, ratio = offset(start, column, width, columns), width / columns
    log_loss = tl.zeros((block,), tl.float32)
    target = tl.zeros((block,), tl.float32)
    probs = tl.zeros((block,), tl.float32)
    intersection = tl.zeros((block,), tl.float32)
    for row in range(first, tl.minimum(first + strip, height)):
        top, top_right, bottom, bottom_right = load_corners(
            logits, row, column, height, width, row_stride, column_stride, indices, class_stride, classes
        )
        for y in range(cell_start(row, height, rows), cell_start(row + 1, height, rows)):
            down = offset(y, row, height, rows)
            left = top + (bottom - top) * down
            slope = top_right + (bottom_right - top_right) * down - left
            line = y * columns + start
            for step in range(stop - start):
                pixel = line + step
                hits, weight = load_hits(
                    labels, labels_size, pixel, indices, share, other_share, ignore_index, classes, mixed
                )
                values = left + slope * (begin + step * ratio)
                largest = tl.max(tl.where(exists, values, float('-inf')), axis=0)
                shares = tl.where(exists, tl.exp2(values * BITS - largest * BITS), 0.0)
                total = tl.sum(shares, axis=0)
                log_total = tl.where(weight >= 0, largest + tl.log(total), float('nan'))
                tl.store(lse + pixel, log_total)
                log_loss += hits * (log_total - values)
                target += hits
                if dice:
                    shares *= 1 / total
                    probs += tl.where(weight > 0, shares, 0.0)
                    intersection += hits * shares
    program = (image * tl.num_programs(1) + tl.program_id(1)) * tl.num_programs(0) + tl.program_id(0)
    parts += program * classes + indices
    tl.store(parts, log_loss, mask=exists)
    tl.store(parts + parts_size, target, mask=exists)
    if dice:
        tl.store(parts + 2 * parts_size, probs, mask=exists)
        tl.store(parts + 3 * parts_size, intersection, mask=exists)


@jit
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
    strip,
    scale,
    by_intersection,
    by_probs,
    shift,
    classes: tl.constexpr,
    mixed: tl.constexpr,
    block: tl.constexpr,
):
    """``shift`` of the pixels of a column of ``strip`` cells."""
    column, first, image = tl.program_id(0) - 1, tl.program_id(1) * strip - 1, tl.cast(tl.program_id(2), tl.int64)
    logits += image * image_stride
    labels += image * rows * columns
    lse += image * rows * columns
    shift += image * rows * columns
    indices = tl.arange(0, block)
    exists = indices < classes
    scale = tl.load(scale)
    by_intersection = tl.load(by_intersection + image * classes + indices, mask=exists, other=0)
    by_probs = tl.load(by_probs + image * classes + indices, mask=exists, other=0)
    start, stop = cell_start(column, width, columns), cell_start(column + 1, width, columns)
    begin, ratio = offset(start, column, width, columns), width / columns
    for row in range(first, tl.minimum(first + strip, height)):  # type: ignore[arg-type]
        top, top_right, bottom, bottom_right = load_corners(
            logits, row, column, height, width, row_stride, column_stride, indices, class_stride, classes
        )
        for y in range(cell_start(row, height, rows), cell_start(row + 1, height, rows)):
            down = offset(y, row, height, rows)
            left = top + (bottom - top) * down
            slope = top_right + (bottom_right - top_right) * down - left
            line = y * columns + start
            for step in range(stop - start):
                pixel = line + step
                hits, weight = load_hits(
                    labels, labels_size, pixel, indices, share, other_share, ignore_index, classes, mixed
                )
                values = left + slope * (begin + step * ratio)
                probs = tl.exp2(values * BITS - tl.load(lse + pixel) * BITS)
                by_prob = tl.where(weight > 0, by_probs, 0.0) + hits * by_intersection
                tl.store(shift + pixel, scale * weight - tl.sum(tl.where(exists, probs * by_prob, 0.0), axis=0))


@jit
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
    strip,
    scale,
    by_intersection,
    by_probs,
    shift,
    gradient,
    gradient_image_stride,
    gradient_class_stride,
    gradient_row_stride,
    gradient_column_stride,
    classes: tl.constexpr,
    mixed: tl.constexpr,
    dice: tl.constexpr,
    block: tl.constexpr,
):
    """Gradient of a column of ``strip`` logits.

    A logit takes from the cells to its left and right, above and below. The program walks down both columns of cells
    and carries what a row of them gives to the logit below.
    """
    centre, first, image = tl.program_id(0), tl.program_id(1) * strip, tl.cast(tl.program_id(2), tl.int64)
    logits += image * image_stride
    labels += image * rows * columns
    lse += image * rows * columns
    shift += image * rows * columns
    indices = tl.arange(0, block)
    exists = indices < classes
    gradient += image * gradient_image_stride + tl.cast(centre, tl.int64) * gradient_column_stride
    gradient += tl.cast(indices, tl.int64) * gradient_class_stride
    scale = tl.load(scale)
    by_intersection = tl.load(by_intersection + image * classes + indices, mask=exists, other=0)
    by_probs = tl.load(by_probs + image * classes + indices, mask=exists, other=0)
    carried = tl.zeros((block,), tl.float32)
    for row in range(first - 1, tl.minimum(first + strip, height)):  # type: ignore[arg-type]
        upper = carried
        carried = tl.zeros((block,), tl.float32)
        for side in range(2):
            column = centre - 1 + side
            top, top_right, bottom, bottom_right = load_corners(
                logits, row, column, height, width, row_stride, column_stride, indices, class_stride, classes
            )
            between = (column >= 0) & (column < width - 1)  # two logits, not at the border
            start, stop = cell_start(column, width, columns), cell_start(column + 1, width, columns)
            begin, ratio = offset(start, column, width, columns), width / columns
            for y in range(cell_start(row, height, rows), cell_start(row + 1, height, rows)):
                down = offset(y, row, height, rows)
                left = top + (bottom - top) * down
                slope = top_right + (bottom_right - top_right) * down - left
                across = tl.zeros((block,), tl.float32)
                line = y * columns + start
                for step in range(stop - start):
                    pixel = line + step
                    hits, weight = load_hits(
                        labels, labels_size, pixel, indices, share, other_share, ignore_index, classes, mixed
                    )
                    right = begin + step * ratio
                    probs = tl.exp2((left + slope * right) * BITS - tl.load(lse + pixel) * BITS)
                    if dice:
                        by_value = tl.load(shift + pixel) + tl.where(weight > 0, by_probs, 0.0) + hits * by_intersection
                    else:
                        by_value = scale * weight
                    near = tl.where(side == 0, right, 1 - right)
                    across += (probs * by_value - scale * hits) * tl.where(between, near, 1.0)
                upper += across * tl.where(row < height - 1, 1 - down, 1.0)
                carried += across * tl.where(row >= 0, down, 1.0)
        if row >= first:
            tl.store(gradient + tl.cast(row, tl.int64) * gradient_row_stride, upper, mask=exists)
