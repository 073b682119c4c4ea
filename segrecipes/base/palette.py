"""Colours of classes, and label maps shown in them."""

from collections.abc import Sequence
from functools import cache
from itertools import cycle

import numpy as np
from PIL import Image

Color = tuple[int, int, int]

MOST_COLORS = 254  # labels 254 and 255 are no classes
STRIPES = ((104, 104, 104), (168, 168, 168))  # of ignored pixels, in two greys: no class looks like it
BLACK = (0, 0, 0)
BACKGROUNDS = frozenset({'background', 'other', 'void', 'unlabelled', 'unlabeled', 'none', 'nothing'})


def class_colors(names: Sequence[str], colors: Sequence[Color] = ()) -> tuple[Color, ...]:
    """RGB of each class: the dataset's own ``colors``, else a set that is easily told apart, the background black."""
    if len(colors) == len(names):
        return tuple(colors)
    even = cycle(even_colors())
    return tuple(BLACK if name.lower() in BACKGROUNDS else next(even) for name in names)


@cache
def even_colors() -> tuple[Color, ...]:
    """254 colours, each as far as can be in OKLab from those before it, and from black, grey and white.

    As in Glasbey et al., Colour displays for categorical images, 2007; OKLab is https://bottosson.github.io/posts/oklab
    """
    steps = np.arange(0, 256, 15)
    rgb = np.stack(np.meshgrid(steps, steps, steps, indexing='ij'), axis=-1).reshape(-1, 3)
    places = oklab(rgb)
    light, chroma = places[:, 0], np.hypot(places[:, 1], places[:, 2])
    legible = (light >= 0.5) & (light <= 0.88) & (chroma >= 0.1)  # on a dark page and on a light one
    rgb, places = rgb[legible], places[legible]
    taken = oklab(np.array([(0, 0, 0), (128, 128, 128), (255, 255, 255)]))
    nearest = np.linalg.norm(places[:, None] - taken, axis=2).min(axis=1)
    found = []
    for _ in range(MOST_COLORS):
        index = int(nearest.argmax())
        red, green, blue = rgb[index].tolist()
        found.append((red, green, blue))
        nearest = np.minimum(nearest, np.linalg.norm(places - places[index], axis=1))
    return tuple(found)


def oklab(rgb: np.ndarray) -> np.ndarray:
    """(N, 3) sRGB of 0…255 → (N, 3) lightness, green to red, blue to yellow, in which distances are as they look."""
    value = rgb / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    cones = np.array([
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ])  # fmt: skip
    opponents = np.array([
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ])  # fmt: skip
    return np.cbrt(linear @ cones.T) @ opponents.T


def voc_colors(count: int) -> tuple[Color, ...]:
    """The PASCAL VOC colour map without its black, which files without colours of their own are shown in."""
    index = np.arange(1, count + 1, dtype=np.uint8)[:, None]
    colors = np.zeros((count, 3), np.uint8)
    for bit in range(8):  # VOC: bit 3k+c of the label becomes bit 7-k of channel c
        colors[:, bit % 3] |= (((index[:, 0] >> bit) & 1) << (7 - bit // 3)).astype(np.uint8)
    return tuple((red, green, blue) for red, green, blue in colors.tolist())


def color_table(colors: Sequence[Color]) -> np.ndarray:
    """(256, 3) uint8 by label: the classes, black, and in the last two the greys of :func:`striped`."""
    table = np.zeros((256, 3), np.uint8)
    shown = colors[:MOST_COLORS]
    table[: len(shown)] = np.reshape(shown, (-1, 3))
    table[MOST_COLORS:] = STRIPES
    return table


def striped(labels: np.ndarray) -> np.ndarray:
    """(H, W) uint8 labels with ignored pixels, 255, in stripes of 254 and 255 that show at the size of the picture."""
    width = max(2, round(max(labels.shape) / 50))
    rows, columns = np.ogrid[: labels.shape[0], : labels.shape[1]]
    return np.where((labels == 255) & ((rows + columns) // width % 2 == 0), np.uint8(MOST_COLORS), labels)


def colorize(labels: np.ndarray, colors: Sequence[Color]) -> np.ndarray:
    """(H, W) uint8 labels → (H, W, 3) uint8; ignored pixels, 255, are striped."""
    return color_table(colors)[striped(labels)]


def indexed_png(labels: np.ndarray, colors: Sequence[Color]) -> Image.Image:
    """(H, W) uint8 labels as a palette image; ignored pixels, 255, are seen through where it is shown."""
    image = Image.fromarray(labels, 'P')
    image.putpalette(color_table(colors).tobytes())
    image.info['transparency'] = 255
    return image
