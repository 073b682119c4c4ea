"""Draws one small landscape and its labels; :mod:`synthetic` writes datasets of them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from segrecipes.datasets.synthetic.canvas import (
    BARK,
    DARK,
    GLASS,
    WHITE,
    Canvas,
    Polygon,
    box,
    bricks,
    disc,
    fade,
    polygon,
    stripes,
)  # fmt: skip
from segrecipes.datasets.synthetic.row import ROW

UNIT_SIZE = 128  # lengths in the drawing functions are pixels of a scene of this size

# Walls, cars, balls, fences and signs share PAINTS; skies, fields and leaves come close to parts of it.
PAINTS = np.array([
    (198, 66, 56), (226, 140, 66), (232, 200, 96), (104, 148, 80), (74, 150, 146),
    (84, 130, 192), (142, 104, 160), (230, 224, 212), (150, 150, 156), (148, 106, 78),
])  # fmt: skip
SKIES = np.array([  # at the top, at the horizon
    ((84, 144, 212), (196, 222, 240)), ((146, 156, 168), (206, 208, 210)), ((112, 104, 164), (246, 184, 138)),
    ((112, 176, 198), (250, 236, 204)), ((226, 150, 96), (250, 222, 160)), ((84, 160, 160), (204, 232, 214)),
])  # fmt: skip
FIELDS = np.array([
    (110, 154, 76), (146, 168, 84), (206, 178, 104), (220, 198, 156),
    (172, 136, 104), (222, 230, 240), (166, 168, 164), (170, 152, 190),
])  # fmt: skip
LEAVES = np.array([
    (66, 114, 62), (96, 144, 66), (146, 162, 70), (214, 136, 62),
    (190, 78, 58), (228, 164, 188), (60, 110, 104), (202, 178, 80),
])  # fmt: skip
ROADS = np.array([(128, 128, 132), (176, 160, 132), (98, 98, 106)])


# Shapes and patterns


# What is in a scene. Each function draws one thing whose foot is at (x, y), with ``u`` pixels a unit.


def draw_sky(c: Canvas, x: float, y: float, u: float) -> None:
    zenith, haze = c.rng.choice(SKIES) + c.rng.normal(0, 8, (2, 3))
    c.paint(box(c.width / 2, c.height, c.width, c.height), zenith, haze, fade(-0.2 * y, y))
    if c.rng.random() < 0.4:
        sun_x, sun_y = (0.15 if c.light < 0 else 0.85) * c.width, c.rng.uniform(0.2, 0.7) * y
        for radius, opacity in ((13, 0.2), (9, 0.3), (6, 0.9)):
            c.tint(disc(sun_x, sun_y, radius * u), WHITE, opacity)
    for _ in range(c.rng.integers(0, 5)):
        cloud_x, cloud_y, r = c.rng.uniform((0, 0.2 * y, 3.5 * u), (c.width, 0.8 * y, 6.5 * u))
        puffs = [disc(cloud_x + dx * r, cloud_y, 1.3 * size * r, size * r) for dx, size in PUFFS]
        shape = [np.minimum(puff, (np.inf, cloud_y + 0.35 * r)) for puff in puffs]  # a flat base
        c.tint(shape, 0.2 * haze + 0.8 * WHITE, c.rng.uniform(0.7, 1), fade(cloud_y + 1.5 * r, cloud_y - 0.6 * r))


def draw_ground(c: Canvas, x: float, y: float, u: float) -> None:
    field, haze, depth = c.pick(FIELDS), c.image[int(y)].mean(0), c.height - y
    for height, distance in ((14, 0.6), (7, 0.35)):  # hills
        steps = np.linspace(0, 1, 33)
        swell = np.sin(steps * c.rng.uniform(3, 9) + c.rng.uniform(0, 6)) + 0.5 * np.sin(steps * c.rng.uniform(9, 16))
        ridge = np.stack([steps * c.width, y - u * height * c.rng.uniform(0.3, 1) * (0.5 + swell / 3)], axis=1)
        color = distance * haze + (1 - distance) * 0.85 * c.pick(FIELDS)
        c.paint(np.concatenate([ridge, [(c.width, y + 1), (0, y + 1)]]), color, haze, fade(y + 5 * u, y - 40 * u))
    plain = box(c.width / 2, c.height, c.width, depth)
    c.paint(plain, 0.94 * field, 1.1 * field, c.noise(5 * u, flat=2.5))
    centre, foot = c.rng.uniform(0.1, 0.9, 2) * c.width

    def strip(left: float, right: float, near: float = 0, far: float = 0.97) -> Polygon:
        """A part of a band that runs from the foot of the image to its vanishing point on the horizon."""
        ends = [(left, near), (left, far), (right, far), (right, near)]
        return np.array([(foot + (centre - foot) * up + dx * (1 - up), c.height - depth * up) for dx, up in ends])

    width = c.width * c.rng.uniform(0.06, 0.12)
    if c.rng.random() < 0.6:
        furrows = [strip(k * width, (k + 0.5) * width) for k in range(-40, 40)]
        c.tint(furrows, 0.75 * field, 0.55, fade(y, c.height))
    if c.rng.random() < 0.6:  # a road
        road, half = c.pick(ROADS, 6), c.rng.uniform(14, 24) * u
        c.paint(strip(-1.15 * half, 1.15 * half), 0.5 * field + 0.5 * road)
        c.paint(strip(-half, half), 0.92 * road, 1.08 * road, c.noise(3 * u, flat=2))
        for near, far in ((0.02, 0.2), (0.34, 0.47), (0.58, 0.67), (0.75, 0.8)):
            c.tint(strip(-0.06 * half, 0.06 * half, near, far), WHITE, 0.85)


def draw_tree(c: Canvas, x: float, y: float, u: float) -> None:
    leaf, u = c.pick(LEAVES), u * c.rng.uniform(0.8, 1.3)
    bark = BARK if c.rng.random() < 0.75 else 0.85 * WHITE
    c.tint(disc(x, y, 12 * u, 2.5 * u), DARK, 0.35)
    c.paint(polygon(x, y, [(-3, 0), (-1.8, 18), (1.8, 18), (3, 0)], u), bark, 0.6 * bark, c.noise(2 * u))
    if c.rng.random() < 0.35:  # a conifer: foot, half width and height of its tiers
        tiers = ((10, 13, 17), (18, 11, 16), (27, 8.5, 15))
        crown = [[polygon(x, y - foot * u, [(-half, 0), (0, up), (half, 0), (0, -2)], u)] for foot, half, up in tiers]
    else:
        angle, reach = np.arange(6) + c.rng.uniform(0, 6), c.rng.uniform(6, 8, 6)
        puffs = zip(1.2 * reach * np.cos(angle), 25 + reach * np.sin(angle), c.rng.uniform(5, 7, 6))
        crown = [[disc(x + dx * u, y - dy * u, r * u) for dx, dy, r in [*puffs, (0, 25, 10)]]]
    for part in crown:
        c.paint(part, 0.5 * leaf, 1.25 * leaf, c.noise(3.2 * u))
        (_, top), (_, bottom) = np.concatenate(part).min(0), np.concatenate(part).max(0)
        c.tint(part, 0.35 * leaf, 0.5, fade(0.6 * top + 0.4 * bottom, bottom))


def draw_house(c: Canvas, x: float, y: float, u: float) -> None:
    wall, roof, door = c.pick(PAINTS), 0.8 * c.pick(PAINTS), 0.75 * c.pick(PAINTS)
    width, height, rise = c.rng.uniform((36, 20, 12), (52, 28, 20)) * u
    texture = (bricks(3.4 * u), stripes(3.5 * u), c.noise(3 * u))[c.rng.integers(3)]
    c.tint(box(x, y + 1.5 * u, 1.12 * width, 4 * u), DARK, 0.35)
    chimney = box(x + c.rng.choice((-0.25, 0.25)) * width, y - height, 5 * u, rise + 3 * u)
    c.paint(chimney, 0.8 * wall, 0.5 * wall, bricks(3 * u))
    c.paint(box(x, y, width, height), wall, 0.7 * wall + 0.1 * WHITE, texture)
    inset = c.rng.choice((0.32, 0.5))  # a hipped roof or a gable
    gable = [(-0.56, -0.08), (inset - 0.5, 1), (0.5 - inset, 1), (0.56, -0.08)]
    c.paint(polygon(x, y - height, gable, width, rise), roof, 0.7 * roof, stripes(3.6 * u))
    c.tint(box(x, y - height + 3.5 * u, width, 2.5 * u), DARK, 0.35)
    columns = int(width / (11 * u))
    for column in range(columns):
        middle, sill = x + ((column + 0.5) / columns - 0.5) * 0.92 * width, y - 0.35 * height
        if column == columns // 2:
            c.paint(box(middle, y, 7.4 * u, 12.4 * u), WHITE)
            c.paint(box(middle, y, 6 * u, 11.6 * u), door)
        else:
            c.paint(box(middle, sill, 7.4 * u, 8.4 * u), WHITE)
            c.paint(box(middle, sill - 0.8 * u, 6 * u, 6.8 * u), 0.45 * GLASS, GLASS, fade(sill, sill - 10 * u))
            c.paint(box(middle, sill, u, 8 * u), WHITE)


def draw_car(c: Canvas, x: float, y: float, u: float) -> None:
    body, wide = c.pick(PAINTS), c.rng.choice((-1, 1)) * u  # it drives to the right or to the left
    back, left, right, top = c.rng.choice([(-21, -19, 7, 21), (-19, -11, 4, 18), (-13, -9, 5, 19)])
    cabin = np.array([(back, 9), (left, top), (right, top), (13, 9)])
    hull = [(-22, 3), (-22.5, 9), (-20, 11), (13, 11), (21, 8.5), (23, 6), (23, 3)]
    c.tint(disc(x, y - 0.5 * u, 25 * u, 3 * u), DARK, 0.5)
    c.paint(polygon(x, y, cabin, wide), 0.9 * body)
    c.paint(polygon(x, y, 0.8 * cabin + 0.2 * cabin.mean(0), wide), GLASS, 0.4 * GLASS, fade(y - top * u, y - 9 * u))
    c.paint(box(x + 0.5 * (left + right) * wide, y - 9 * u, 2 * u, (top - 9.5) * u), 0.9 * body)
    c.paint(polygon(x, y, hull, wide), 1.1 * body, 0.75 * body, fade(y - 11 * u, y - 3 * u))
    c.paint(box(x, y - 3 * u, 45 * u, 1.3 * u), 0.4 * body)
    c.paint(box(x + 21.5 * wide, y - 6 * u, 2.4 * u, 2 * u), np.array((255, 240, 180)))
    c.paint(box(x - 21.5 * wide, y - 6 * u, 1.8 * u, 3 * u), PAINTS[0])
    for axle in (x - 13 * u, x + 13 * u):
        c.paint(disc(axle, y - 4 * u, 5 * u), DARK)
        c.paint(disc(axle, y - 4 * u, 2.4 * u), 0.8 * WHITE)


def draw_ball(c: Canvas, x: float, y: float, u: float) -> None:
    radius = c.rng.uniform(8, 13) * u
    side, high = np.sign(c.light) * 0.35 * radius, y - 1.4 * radius  # where the light falls
    ball = disc(x, y - radius, radius)
    c.tint(disc(x - side, y - 0.1 * radius, 1.1 * radius, 0.3 * radius), DARK, 0.5)
    pattern = stripes(c.rng.uniform(0.55, 0.9) * radius, c.rng.uniform(0, np.pi))
    c.paint(ball, c.pick(PAINTS), c.pick(PAINTS), pattern)
    c.tint(ball, DARK, 0.75, lambda px, py: np.minimum(np.hypot(px - x - side, py - high) / (1.55 * radius), 1) ** 2)
    c.tint(disc(x + side, high, 0.26 * radius, 0.2 * radius), WHITE, 0.75)


def draw_fence(c: Canvas, x: float, y: float, u: float) -> None:
    color, slope = c.pick(PAINTS), c.rng.uniform(-0.06, 0.06)
    height, step, count = c.rng.uniform(13, 19) * u, c.rng.uniform(4.5, 6) * u, c.rng.integers(9, 17)
    offsets = (np.arange(count) - (count - 1) / 2) * step

    def rail(low: float, high: float) -> Polygon:
        ends = np.array([(-1, low), (-1, high), (1, high), (1, low)]) * (0.5 * count * step, height)
        return polygon(x, y, ends + slope * ends[:, :1] * (0, 1), 1)

    def posts(outline: Sequence[Sequence[float]], every: int = 1) -> list[Polygon]:
        return [polygon(x + dx, y - slope * dx, outline, step, height) for dx in offsets[::every]]

    c.tint(rail(-0.12, 0.1), DARK, 0.4)
    c.paint(rail(0.06, 0.8), 0.5 * color)  # the gaps belong to the fence
    if c.rng.random() < 0.6:
        boards = posts([(-0.41, 0), (-0.41, 0.85), (0, 1.05), (0.41, 0.85), (0.41, 0)])
    else:
        planks = [rail(low, low + 0.2) for low in (0.08, 0.34, 0.6)]
        boards = planks + posts([(-0.4, 0), (-0.4, 1.05), (0.4, 1.05), (0.4, 0)], every=4)
    c.paint(boards, color, 0.75 * color, c.noise(2 * u, flat=0.5))


def draw_sign(c: Canvas, x: float, y: float, u: float) -> None:
    color, rim, outline = c.pick(PAINTS), (WHITE, DARK)[c.rng.integers(2)], PANELS[c.rng.integers(len(PANELS))]
    radius, pole, facing = c.rng.uniform(9.5, 12.5) * u, c.rng.uniform(16, 24) * u, c.rng.choice((-0.9, 0.9))
    middle = y - pole - 0.7 * radius
    c.tint(disc(x, y, 5 * u, 1.2 * u), DARK, 0.4)
    c.paint(box(x, y, 3.2 * u, pole + 0.5 * radius), 0.7 * WHITE, 0.4 * WHITE, lambda px, py: 1.0 * (px > x))
    c.paint(polygon(x, middle, outline, radius), rim)
    c.paint(polygon(x, middle, outline, 0.8 * radius), color)
    c.paint(polygon(x, middle, ARROW, facing * radius), rim)


def draw_rock(c: Canvas, x: float, y: float, u: float) -> None:
    angle, stone = np.linspace(0, 2 * np.pi, 9, endpoint=False), c.pick(PAINTS[-2:])
    width, height = c.rng.uniform((7, 5), (11, 8)) * u
    reach = c.rng.uniform(0.75, 1.1, 9)
    outline = np.stack([reach * np.cos(angle), np.maximum(reach * np.sin(angle), -0.4)], axis=1)
    c.tint(disc(x, y, 1.1 * width, 0.35 * height), DARK, 0.4)
    c.paint(polygon(x, y - 0.35 * height, outline, width, height), 0.6 * stone, 1.15 * stone, c.noise(3 * u))


PUFFS = ((-2, 0.5), (-1, 0.9), (0.2, 1.2), (1.3, 0.8), (2.2, 0.5))  # of a cloud: place and size
PANELS = (  # circle, triangle, diamond, rectangle
    disc(0, 0, 1),
    [(-1.1, -0.8), (0, 1.1), (1.1, -0.8)],
    [(-1.1, 0), (0, 1.1), (1.1, 0), (0, -1.1)],
    [(-1.2, -0.8), (-1.2, 0.8), (1.2, 0.8), (1.2, -0.8)],
)
ARROW = [(-0.5, -0.14), (0.05, -0.14), (0.05, -0.42), (0.55, 0), (0.05, 0.42), (0.05, 0.14), (-0.5, 0.14)]


class Kind(NamedTuple):
    draw: Callable[[Canvas, float, float, float], None]
    count: tuple[int, int]  # fewest and most in a scene
    depth: tuple[float, float]  # of the foot: 0 at the horizon, 1 at the lower edge; below 0 behind everything


KINDS = {
    'sky': Kind(draw_sky, (1, 1), (-2, -2)),
    'ground': Kind(draw_ground, (1, 1), (-1, -1)),
    'tree': Kind(draw_tree, (1, 4), (0.02, 0.6)),
    'house': Kind(draw_house, (0, 2), (0.06, 0.4)),
    'car': Kind(draw_car, (0, 2), (0.35, 0.95)),
    'ball': Kind(draw_ball, (0, 3), (0.4, 1)),
    'fence': Kind(draw_fence, (0, 2), (0.2, 0.7)),
    'sign': Kind(draw_sign, (0, 3), (0.3, 0.85)),
    'other': Kind(draw_rock, (2, 5), (0.15, 1)),
}
LABELS = {name: label for label, name in enumerate(('other', *ROW.classes))}


def draw_scene(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """One scene, its sides 0.9 to 1.2 times ``size`` pixels.

    Returns:
        The image, H W 3 uint8 RGB, and the labels, H W uint8: 0 for other, 1 to 8 for ``ROW.classes``.
    """
    height, width = rng.integers(round(0.9 * size), round(1.2 * size), 2, endpoint=True).tolist()
    canvas, horizon = Canvas(rng, height, width), rng.uniform(0.26, 0.46) * height
    counts = {name: rng.integers(*kind.count, endpoint=True) for name, kind in KINDS.items()}
    things = [(rng.uniform(*KINDS[name].depth), name) for name, count in counts.items() for _ in range(count)]
    taken = [np.inf]
    for depth, name in sorted(things):  # back to front
        tries = rng.uniform(0.05, 0.95, 4) * width
        taken.append(max(tries, key=lambda x: min(abs(x - other) for other in taken)))  # spread out
        near, canvas.label = max(depth, 0), LABELS[name]
        foot, unit = horizon + near * (height - horizon), size / UNIT_SIZE * (0.75 + 0.5 * near)
        KINDS[name].draw(canvas, taken[-1], foot, unit)
    return _photograph(rng, canvas.image), canvas.labels


def _photograph(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Exposure, a colour cast, uneven light and sensor noise: H W 3 float32 -> uint8."""
    down, across = (np.linspace(-1, 1, side, dtype=np.float32) * rng.uniform(-0.1, 0.1) for side in image.shape[:2])
    light = (1 + down[:, None] + across)[..., None]
    gain = (rng.uniform(0.85, 1.12) * rng.uniform(0.92, 1.08, 3)).astype(np.float32)
    image = 255 * np.clip(image * light * gain / 255, 0, 1) ** rng.uniform(0.7, 1.1)
    image += rng.uniform(1, 4.5) * rng.standard_normal(image.shape, np.float32)
    return np.clip(np.round(image), 0, 255).astype(np.uint8)
