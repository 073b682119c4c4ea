"""Images that are not RGB of 8 bits: their channels as they are, their values in 0…255."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from segrecipes.datasets.row import Pixels

TIFF = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')  # the last two of files above 4 GB


def decode_channels(data: bytes | Path | Image.Image, pixels: Pixels) -> np.ndarray:
    """→ (H, W, ``pixels.channels``) uint8, in the file's order of channels; RGB may be stored as one grey channel.

    Raises:
        ValueError: the file is damaged, or its pixels are others.
    """
    stored = np.asarray(data) if isinstance(data, Image.Image) else _stored(data)
    stored = stored[..., None] if stored.ndim == 2 else stored
    if stored.shape[2] == 1 and pixels.channels == 3:
        stored = stored.repeat(3, axis=2)
    if stored.shape[2] != pixels.channels:
        raise ValueError(f'it has {stored.shape[2]} channels, and the dataset says channels: {pixels.channels}')
    return scaled(stored, pixels)


def scaled(stored: np.ndarray, pixels: Pixels) -> np.ndarray:
    """Pixels of any type → uint8: ``values`` become 0 and 255, what lies beyond is cut off.

    Without ``values`` uint8 stays, and of uint16 the whole range is taken: its upper byte.

    Raises:
        ValueError: it is of another type, whose range only the dataset's owner knows.
    """
    if pixels.values is not None:
        low, high = pixels.values
        spread = (stored.astype(np.float32) - low) * np.float32(255 / (high - low))
        return np.rint(np.nan_to_num(spread).clip(0, 255)).astype(np.uint8)
    if stored.dtype == np.uint16:
        return (stored >> 8).astype(np.uint8)
    if stored.dtype != np.uint8:
        raise ValueError(
            f'its pixels are {stored.dtype}: values: [lowest, highest] in dataset.yaml says which become 0 and 255'
        )
    return stored


def _stored(data: bytes | Path) -> np.ndarray:
    """(H, W) or (H, W, C) of the file's own type."""
    data = data.read_bytes() if isinstance(data, Path) else data
    if data.startswith(TIFF) and (rasterio := _rasterio()):
        try:
            with rasterio.MemoryFile(data) as file, file.open() as source:
                return source.read().transpose(1, 2, 0)
        except rasterio.errors.RasterioError as error:
            raise ValueError(str(error)) from error
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    if decoded is None:
        more = '; of TIFFs rasterio reads more: pip install rasterio' if data.startswith(TIFF) else ''
        raise ValueError(f'it cannot be read{more}')
    order = {3: [2, 1, 0], 4: [2, 1, 0, 3]}.get(decoded.shape[2] if decoded.ndim == 3 else 1)
    return decoded if order is None else decoded[..., order]


def _rasterio() -> Any:
    try:
        import rasterio
    except ImportError:
        return None
    return rasterio
