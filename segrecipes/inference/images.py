"""Pictures as they are displayed, from wherever they come."""

import glob
import os
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from segrecipes.base.errors import MissingPathError, UserError
from segrecipes.base.files import IMAGE_SUFFIXES
from segrecipes.datasets.row import RGB, Pixels
from segrecipes.storage.decode import UNREADABLE, decode_image

ORIENTATION = 0x0112  # EXIF's tag; 1 is upright

# By orientation: from the stored picture to the displayed one
TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored.swapaxes(0, 1), 2),
    8: np.rot90,
}


def read_image(image: 'str | Path | Image.Image | np.ndarray', pixels: Pixels = RGB) -> np.ndarray:
    """→ (H, W, 3) uint8 RGB, turned upright if its EXIF orientation says so; or so many channels as ``pixels`` has."""
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != pixels.channels or image.dtype != np.uint8 or not image.size:
            kind = 'uint8 RGB' if pixels.channels == 3 else 'uint8'
            raise UserError(f'an image must be (H, W, {pixels.channels}) {kind}; it is {image.dtype} {image.shape}')
        return np.require(image, requirements=('C', 'W'))  # torch takes no mirrored or read-only ones
    if isinstance(image, Image.Image):
        return upright(decode_image(image, 'image', pixels), image)
    path = Path(image)
    if not path.is_file():
        raise MissingPathError(f'no such image: {path}')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', Image.DecompressionBombWarning)  # large ones are welcome
        decoded = decode_image(path, str(path), pixels)
        if pixels != RGB:
            return decoded
        with Image.open(path) as opened:
            return upright(decoded, opened)


def upright(pixels: np.ndarray, image: Image.Image) -> np.ndarray:
    """(H, W, 3) as the image's EXIF orientation says it is displayed; damaged EXIF says nothing."""
    turn = None
    with suppress(*UNREADABLE):
        turn = TURNS.get(image.getexif().get(ORIENTATION, 1))
    return pixels if turn is None else np.ascontiguousarray(turn(pixels))


def find_images(arguments: Sequence[str]) -> list[Path]:
    """Files as they are, the images of folders, and what patterns match, in order and each once."""
    found: list[Path] = []
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            matches = [file for file in sorted(path.iterdir()) if file.suffix.lower() in IMAGE_SUFFIXES]
        else:
            files = [argument] if path.is_file() else sorted(glob.glob(argument, recursive=True))  # noqa: PTH207
            matches = [Path(file) for file in files]
        if not matches:
            raise MissingPathError(f'no image at {argument}: expected a file, a folder of images or a pattern')
        found += matches
    kept: dict[str, Path] = {}
    for path in found:
        kept.setdefault(os.path.abspath(path), path)  # noqa: PTH100
    return list(kept.values())


def name_images(paths: Sequence[Path]) -> dict[str, Path]:
    """What each image's results are called: its path without suffix, below the folder that all have in common."""
    absolute = [Path(os.path.abspath(path)) for path in paths]  # noqa: PTH100
    common = Path(os.path.commonpath([path.parent for path in absolute]))
    named: dict[str, Path] = {}
    for path, full in zip(paths, absolute):
        name = full.relative_to(common).with_suffix('').as_posix()
        if name in named:
            raise UserError(f'{named[name]} and {path} would have the same results, {name}; rename one of them')
        named[name] = path
    return named
