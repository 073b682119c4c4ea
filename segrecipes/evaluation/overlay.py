"""Classes over the image they are of: blended, outlined, and named in a legend below."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from segrecipes.base.palette import Color, color_table, striped
from segrecipes.datasets.row import IGNORED

BLEND = 0.5
SMALLEST = 320  # pixels, the long side of a picture with a legend; a smaller one is enlarged by a whole factor
MOST_NAMED = 24
PAPER, INK = (255, 255, 255), (30, 30, 30)


def overlay(image: np.ndarray, labels: np.ndarray, colors: Sequence[Color], blend: float = BLEND) -> np.ndarray:
    """(H, W, 3) and (H, W) uint8 → (H, W, 3) uint8: the colours of the classes over the image, and their outlines.

    A class whose colour is black, as a background's, is left as the image is; ignored pixels, 255, are striped.
    """
    table = color_table(colors)
    shown = table[striped(labels)]
    mixed = cv2.addWeighted(image, 1 - blend, shown, blend, 0)
    np.copyto(mixed, shown, where=outlines(labels)[..., None])
    np.copyto(mixed, image, where=~table.any(axis=1)[labels][..., None])
    return mixed


def outlines(labels: np.ndarray) -> np.ndarray:
    """(H, W) bool: the pixels of a class that touch another; a line of 1 pixel a thousand of the long side."""
    width = 2 * max(1, round(max(labels.shape) / 1000)) + 1
    changes = cv2.morphologyEx(labels, cv2.MORPH_GRADIENT, np.ones((width, width), np.uint8))
    return (changes > 0) & (labels != IGNORED)


def explained(
    image: np.ndarray, labels: np.ndarray, names: Sequence[str], colors: Sequence[Color], blend: float = BLEND
) -> Image.Image:
    """The overlay of an image, with a legend of the classes in it and their share of its pixels, the largest first."""
    factor = max(1, round(SMALLEST / max(labels.shape)))
    image, labels = (np.kron(part, _square(factor, part.ndim)) if factor > 1 else part for part in (image, labels))
    return with_legend(overlay(image, labels, colors, blend), legend([labels], names, colors))


def _square(side: int, dimensions: int) -> np.ndarray:
    return np.ones((side, side, 1)[:dimensions], np.uint8)


def legend(
    labels: Sequence[np.ndarray], names: Sequence[str], colors: Sequence[Color]
) -> list[tuple[str, Color | None]]:
    """Of each class that occurs its name with the share of all pixels in percent, and its colour; None is striped."""
    counts = np.sum([np.bincount(found.ravel(), minlength=256) for found in labels], axis=0)
    shares = 100 * counts / counts.sum()
    found = [(f'{name} {share_text(shares[index])} %', color) for index, (name, color) in enumerate(zip(names, colors))]
    order = [index for index in np.argsort(-counts[: len(found)], kind='stable').tolist() if counts[index]]
    entries: list[tuple[str, Color | None]] = [found[index] for index in order[:MOST_NAMED]]
    if len(order) > MOST_NAMED:
        entries.append((f'and {len(order) - MOST_NAMED} more', PAPER))
    if counts[IGNORED]:
        entries.append((f'ignored {share_text(shares[IGNORED])} %', None))
    return entries


def share_text(percent: float) -> str:
    """Fewer digits for much, more for little."""
    return f'{percent:.0f}' if percent >= 10 else f'{percent:.1f}' if percent >= 0.1 or not percent else '< 0.1'


def with_legend(picture: np.ndarray, entries: Iterable[tuple[str, Color | None]]) -> Image.Image:
    """(H, W, 3) uint8 above coloured squares with their names, in as many lines as its width asks for."""
    height, width = picture.shape[:2]
    size = max(12, round(max(width, height) / 60))
    font, gap = legend_font(size), round(size * 0.6)
    wanted = max(width, SMALLEST)
    places, left, top = [], gap, height + gap
    for text, color in entries:
        length = size + gap // 2 + round(font.getlength(text))
        if left > gap and left + length + gap > wanted:
            left, top = gap, top + round(1.5 * size)
        places.append((left, top, text, color))
        left += length + 2 * gap
    canvas = Image.new('RGB', (wanted, top + size + gap if places else height), PAPER)
    canvas.paste(Image.fromarray(picture))
    draw = ImageDraw.Draw(canvas)
    for left, top, text, color in places:
        if color is None:
            stripes = color_table(())[striped(np.full((size, size), IGNORED, np.uint8))]
            canvas.paste(Image.fromarray(stripes), (left, top))
        else:
            draw.rectangle((left, top, left + size - 1, top + size - 1), color, None if color == PAPER else INK)
        draw.text((left + size + gap // 2, top + size / 2), text, INK, font, anchor='lm')
    return canvas


def legend_font(size: int) -> ImageFont.FreeTypeFont:
    """matplotlib's own, which has most alphabets."""
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / 'fonts/ttf/DejaVuSans.ttf'), size)
