"""The bytes of an image or a mask → pixels or labels, whatever file they come from."""

from contextlib import suppress
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from segrecipes.base.errors import UserError
from segrecipes.datasets.row import RGB, Pixels
from segrecipes.storage.channels import decode_channels

# What PIL raises for a damaged file; the last for a header that claims a huge picture.
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)

# The usual files take a decoder that is 1.5 to 3 times PIL's speed; PIL reads all others, and says what is damaged.
_JPEG, _PNG = b'\xff\xd8\xff', b'\x89PNG\r\n\x1a\n'
_MAX_PIXELS = Image.MAX_IMAGE_PIXELS or 0


class DataError(UserError):
    """A sample that cannot be delivered. Passes through dataloader workers as its one-line message."""


def decode_image(data: bytes | Path | Image.Image, name: str, pixels: Pixels = RGB) -> np.ndarray:
    """Any image PIL reads → (H, W, 3) uint8 RGB; of other ``pixels`` than these, as :func:`decode_channels` has it."""
    try:
        if pixels != RGB:
            return decode_channels(data, pixels)
        data = _read(data)
        if isinstance(data, bytes) and data.startswith(_JPEG):
            width, height = image_size(data)
            if width * height <= _MAX_PIXELS:
                with suppress(ValueError):  # PIL has the last word on what is damaged
                    return simplejpeg.decode_jpeg(data)
        image = _open(data)
        if image.mode.startswith('I;16'):  # PIL would clip it at 255
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        return np.array(image.convert('RGB'))
    except UnidentifiedImageError as error:
        raise DataError(f'damaged image {name}: no image file, or its header is damaged') from error
    except UNREADABLE as error:
        raise DataError(f'damaged image {name}: {error}') from error


def decode_mask(data: bytes | Path | Image.Image, name: str) -> np.ndarray:
    """A single-channel 8-bit mask → (H, W) uint8 labels; of a palette image, the indices."""
    try:
        data = _read(data)
        if isinstance(data, bytes) and _is_plain_png(data):
            decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
            if decoded is not None:
                return decoded
        mask = np.array(_open(data))
    except UNREADABLE as error:
        raise DataError(f'damaged mask {name}: {error}') from error
    if mask.dtype == bool:
        mask = mask.astype(np.uint8)
    if mask.ndim == 2 and mask.dtype != np.uint8 and mask.min() >= 0 and mask.max() <= 255:
        mask = mask.astype(np.uint8)
    if mask.ndim != 2 or mask.dtype != np.uint8:
        raise DataError(f'mask {name} must have one channel of labels 0…255; it is {mask.dtype} {mask.shape}')
    return mask


def unfiltered_png(data: bytes, name: str) -> bytes:
    """A mask's file → a PNG of the same labels without row filters: faster to decode, and for masks mostly smaller."""
    return encode_mask(decode_mask(data, name))


def encode_mask(labels: np.ndarray) -> bytes:
    """(H, W) uint8 labels → a PNG of them without row filters."""
    options = [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE, cv2.IMWRITE_PNG_COMPRESSION, 9]
    return cv2.imencode('.png', labels, options)[1].tobytes()


def image_size(data: bytes) -> tuple[int, int]:
    """(width, height) by the header of an image file.

    Raises:
        PIL.UnidentifiedImageError, or one of ``UNREADABLE``: it is none.
    """
    if data.startswith(_PNG) and data[12:16] == b'IHDR' and len(data) >= 33:  # the whole header
        return int.from_bytes(data[16:20], 'big'), int.from_bytes(data[20:24], 'big')
    if data.startswith(_JPEG):
        with suppress(ValueError):
            height, width = map(int, simplejpeg.decode_jpeg_header(data)[:2])
            return width, height
    with Image.open(BytesIO(data)) as image:
        return image.size


def _is_plain_png(data: bytes) -> bool:
    """Whether the header says 8-bit grey, at most ``_MAX_PIXELS`` of them: https://www.w3.org/TR/png/#11IHDR"""
    if not data.startswith(_PNG) or data[24:26] != b'\x08\x00':
        return False
    width, height = image_size(data)
    return width * height <= _MAX_PIXELS


def _read(data: bytes | Path | Image.Image) -> bytes | Image.Image:
    return data.read_bytes() if isinstance(data, Path) else data


def _open(data: bytes | Image.Image) -> Image.Image:
    return Image.open(BytesIO(data)) if isinstance(data, bytes) else data
