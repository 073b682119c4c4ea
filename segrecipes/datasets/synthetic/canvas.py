"""A canvas that paints an image and its labels together."""

from collections.abc import Callable, Sequence

import cv2
import numpy as np

Color = np.ndarray  # 3: R G B from 0 to 255

Polygon = np.ndarray  # N 2: x and y in pixels

Shape = Polygon | list[Polygon]  # a list is the union of its polygons

Pattern = Callable[[np.ndarray, np.ndarray], np.ndarray]  # x (1 W) and y (H 1) in pixels -> weight 0 to 1, up to H W

SUPERSAMPLING = 4

WHITE, DARK, GLASS, BARK = np.array([(242, 240, 234), (42, 42, 48), (150, 190, 210), (112, 82, 62)])


class Canvas:
    """An image (H W 3 float32), its labels (H W uint8), and the label that ``paint`` writes next."""

    def __init__(self, rng: np.random.Generator, height: int, width: int) -> None:
        self.rng, self.height, self.width = rng, height, width
        self.image = np.zeros((height, width, 3), np.float32)
        self.labels = np.zeros((height, width), np.uint8)
        self.label = 0
        self.light = rng.choice((-1, 1)) * rng.uniform(0.06, 0.2)  # below 0: from the left

    def paint(self, shape: Shape, color: Color, second: Color = WHITE, pattern: Pattern | None = None) -> None:
        """Fill and label a shape: ``color``, turning into ``second`` where the pattern is 1."""
        window, cover, x, y = self._cover(shape)
        weight = np.zeros_like(y) if pattern is None else pattern(x, y)
        shading = 1 + self.light * np.linspace(-1, 1, x.size)[:, None]
        tone = (color + weight[..., None] * (second - color)) * shading
        self.image[window] += cover[..., None] * (np.minimum(tone, 255) - self.image[window])
        self.labels[window][cover >= 0.5] = self.label

    def tint(self, shape: Shape, color: Color, opacity: float, pattern: Pattern | None = None) -> None:
        """Glaze what is already there, by ``opacity`` where the pattern is 1, and leave its label."""
        window, cover, x, y = self._cover(shape)
        cover = opacity * cover if pattern is None else opacity * cover * pattern(x, y)
        self.image[window] += cover[..., None] * (color - self.image[window])

    def _cover(self, shape: Shape) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray, np.ndarray]:
        """The part of the image around a shape, how much of each of its pixels is inside, and their x and y."""
        outlines = [shape] if isinstance(shape, np.ndarray) else shape
        points, size = np.concatenate(outlines), np.array((self.width, self.height))
        left, top = low = np.clip(np.floor(points.min(0)), 0, size - 1).astype(int)
        right, bottom = np.clip(np.ceil(points.max(0)), low + 1, size).astype(int)
        fine = np.zeros(((bottom - top) * SUPERSAMPLING, (right - left) * SUPERSAMPLING), np.uint8)
        for outline in outlines:  # one at a time: together, overlaps would be holes
            corners = (outline - low) * SUPERSAMPLING - 0.5
            cv2.fillPoly(fine, [np.round(corners * 16).astype(np.int32)], 255, shift=4)
        cover = cv2.resize(fine, (right - left, bottom - top), interpolation=cv2.INTER_AREA) / np.float32(255)
        x, y = np.arange(left, right)[None] + 0.5, np.arange(top, bottom)[:, None] + 0.5
        return (slice(top, bottom), slice(left, right)), cover, x, y

    def pick(self, colors: np.ndarray, jitter: float = 10) -> Color:
        """One of the colours, slightly off."""
        return self.rng.choice(colors) + self.rng.normal(0, jitter, 3)

    def noise(self, cell: float, flat: float = 1) -> Pattern:
        """Value noise: an octave with cells of ``cell`` pixels, ``flat`` times as wide as high, and a finer one."""

        def octave(x: np.ndarray, y: np.ndarray, cell: float) -> np.ndarray:
            grid = self.rng.random((int(y.size * flat / cell) + 2, int(x.size / cell) + 2), np.float32)
            return cv2.resize(grid, (x.size, y.size), interpolation=cv2.INTER_CUBIC)

        return lambda x, y: np.clip(0.65 * octave(x, y, cell) + 0.45 * octave(x, y, cell / 2.5) - 0.05, 0, 1)


def polygon(x: float, y: float, points: Sequence[Sequence[float]] | np.ndarray, u: float, v: float = 0) -> Polygon:
    """A polygon around (x, y) in units of ``u`` by ``v or u`` pixels; in ``points`` y goes up."""
    return np.array((x, y)) + np.asarray(points) * (u, -(v or abs(u)))


def box(x: float, y: float, width: float, height: float) -> Polygon:
    """A rectangle that stands on (x, y), its middle."""
    return polygon(x, y, [(-0.5, 0), (-0.5, 1), (0.5, 1), (0.5, 0)], width, height)


def disc(x: float, y: float, radius: float, height: float = 0) -> Polygon:
    angle = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    return polygon(x, y, np.stack([np.cos(angle), np.sin(angle)], axis=1), radius, height)


def fade(start: float, end: float) -> Pattern:
    """0 at the height ``start``, 1 at the height ``end``."""
    return lambda x, y: np.clip((y - start) / (end - start), 0, 1)


def stripes(period: float, angle: float = np.pi / 2) -> Pattern:
    """Waves across the angle, cut off so that the edges are about one pixel soft."""
    turn = 2 * np.pi / period
    return lambda x, y: np.clip(0.5 + np.sin(turn * (x * np.cos(angle) + y * np.sin(angle))) / turn, 0, 1)


def bricks(height: float) -> Pattern:
    def mortar(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        row = y / height
        column = x / (2.2 * height) + 0.5 * (np.floor(row) % 2)
        return 0.75 * ((row % 1 < 0.28) | (column % 1 < 0.14))

    return mortar
