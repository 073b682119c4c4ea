"""Files of any number of channels and bits become the pixels that their dataset says, or a line that says why not."""

from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rasterio
from PIL import Image

from segrecipes.base.errors import UserError
from segrecipes.datasets.row import Pixels
from segrecipes.storage import channels
from segrecipes.storage.channels import scaled
from segrecipes.storage.decode import decode_image

COUNTS = np.random.default_rng(0).integers(0, 4096, (7, 9, 6)).astype(np.uint16)


def tiff(path: Path, pixels: np.ndarray) -> Path:
    height, width, count = pixels.shape
    kind = {'driver': 'GTiff', 'height': height, 'width': width, 'count': count, 'dtype': pixels.dtype}
    with rasterio.open(path, 'w', **kind, crs='EPSG:32633', transform=rasterio.Affine.translation(1, 1)) as file:
        file.write(pixels.transpose(2, 0, 1))
    return path


def in_range(pixels: np.ndarray, low: float, high: float) -> np.ndarray:
    """Slowly, pixel by pixel."""
    spread = [round(min(255, max(0, (float(value) - low) * 255 / (high - low)))) for value in pixels.ravel()]
    return np.array(spread).reshape(pixels.shape)


@pytest.mark.parametrize('count', [1, 2, 4, 5, 6])
def test_tiffs_of_twelve_bits(count: int, tmp_path: Path) -> None:
    stored = COUNTS[..., :count]
    path = tiff(tmp_path / 'a.tif', stored)
    for data in (path, path.read_bytes()):
        found = decode_image(data, 'a.tif', Pixels(count, (100, 4000)))
        assert found.dtype == np.uint8 and found.shape == (7, 9, count)
        np.testing.assert_allclose(found.astype(int), in_range(stored, 100, 4000), atol=1)  # halves round otherwise
    np.testing.assert_array_equal(decode_image(path, 'a.tif', Pixels(count)) if count != 3 else 0, stored >> 8)


def test_three_bands_of_more_than_eight_bits(tmp_path: Path) -> None:
    path = tiff(tmp_path / 'a.tif', COUNTS[..., :3])
    found = decode_image(path, 'a.tif', Pixels(3, (0, 4095)))
    np.testing.assert_allclose(found.astype(int), in_range(COUNTS[..., :3], 0, 4095), atol=1)


def test_floats_and_what_is_no_number(tmp_path: Path) -> None:
    stored = np.array([[[-1.0], [0.0], [0.25], [1.0], [3.0], [np.nan]]], np.float32)
    found = decode_image(tiff(tmp_path / 'a.tif', stored), 'a.tif', Pixels(1, (0, 1)))
    assert found[0, :, 0].tolist() == [0, 0, 64, 255, 255, 0]


def test_png_and_jpeg() -> None:
    rgba = (COUNTS[..., :4] >> 4).astype(np.uint8)
    file = BytesIO()
    Image.fromarray(rgba).save(file, 'png')
    np.testing.assert_array_equal(decode_image(file.getvalue(), 'a.png', Pixels(4)), rgba)
    grey = cv2.imencode('.png', COUNTS[..., 0])[1].tobytes()
    np.testing.assert_array_equal(decode_image(grey, 'a.png', Pixels(1)), COUNTS[..., :1] >> 8)
    repeated = decode_image(grey, 'a.png', Pixels(3, (0, 4095)))
    np.testing.assert_array_equal(repeated, decode_image(grey, 'a.png', Pixels(1, (0, 4095))).repeat(3, axis=2))
    eight = np.full((16, 16), 77, np.uint8)
    jpeg = cv2.imencode('.jpg', eight)[1].tobytes()
    np.testing.assert_allclose(decode_image(jpeg, 'a.jpg', Pixels(1))[..., 0].astype(int), 77, atol=2)


def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(data: Any, pixels: Pixels) -> str:
        with pytest.raises(UserError) as error:
            decode_image(data, 'a.tif', pixels)
        return str(error.value)

    path = tiff(tmp_path / 'a.tif', COUNTS)
    assert told(path, Pixels(4)) == 'damaged image a.tif: it has 6 channels, and the dataset says channels: 4'
    assert 'values: [lowest, highest] in dataset.yaml says' in told(tiff(path, COUNTS.astype(np.float32)), Pixels(6))
    assert told(b'', Pixels(4)) == 'damaged image a.tif: it cannot be read'
    data = path.read_bytes()
    assert told(data[: len(data) // 2], Pixels(6, (0, 1))).startswith('damaged image a.tif: ')
    monkeypatch.setattr(channels, '_rasterio', lambda: None)
    assert 'pip install rasterio' in told(data[: len(data) // 2], Pixels(6))


def test_the_range_of_nothing_stays() -> None:
    eight = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    np.testing.assert_array_equal(scaled(eight, Pixels(1)), eight)
    np.testing.assert_array_equal(scaled(eight, Pixels(1, (0, 255))), eight)
