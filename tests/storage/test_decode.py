import re
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segrecipes.storage import decode as decoders
from segrecipes.storage.decode import DataError, decode_image, decode_mask, image_size, unfiltered_png

RGB = np.random.default_rng(0).integers(0, 256, (9, 13, 3), dtype=np.uint8)
LABELS = np.random.default_rng(1).integers(0, 256, (9, 13), dtype=np.uint8)


def encoded(image: Image.Image, suffix: str = 'PNG') -> bytes:
    buffer = BytesIO()
    image.save(buffer, suffix)
    return buffer.getvalue()


def indexed(labels: np.ndarray) -> Image.Image:
    """A palette image whose colours have nothing to do with its labels."""
    image = Image.frombytes('P', labels.shape[::-1], labels.tobytes())
    image.putpalette([(7 * i + 3) % 256 for i in range(768)])
    return image


def all_sources(image: Image.Image, path: Path, suffix: str = 'PNG') -> list[bytes | Path | Image.Image]:
    data = encoded(image, suffix)
    path.write_bytes(data)
    return [data, path, image]


def colours_of_palette() -> np.ndarray:
    return np.array([[(7 * (3 * i + c) + 3) % 256 for c in range(3)] for i in range(256)], np.uint8)[LABELS]


GRAY = np.repeat(LABELS[:, :, None], 3, axis=2)
IMAGES = {
    'RGB': (Image.fromarray(RGB), RGB),
    'grayscale': (Image.fromarray(LABELS), GRAY),
    'RGBA': (Image.fromarray(np.dstack([RGB, LABELS])), RGB),  # transparency is dropped, not blended
    'grayscale and alpha': (Image.fromarray(np.dstack([LABELS, LABELS[::-1]])), GRAY),
    'palette': (indexed(LABELS), colours_of_palette()),
    '1-bit': (Image.fromarray(LABELS > 99), np.where(GRAY > 99, 255, 0)),
}


@pytest.mark.parametrize('mode', IMAGES)
def test_any_image_becomes_rgb(mode, tmp_path) -> None:
    image, expected = IMAGES[mode]
    for source in all_sources(image, tmp_path / 'a.png'):
        decoded = decode_image(source, 'a')
        assert decoded.dtype == np.uint8 and decoded.flags.writeable
        np.testing.assert_array_equal(decoded, expected)


def test_cmyk_jpeg_becomes_rgb() -> None:
    colour = Image.new('CMYK', (16, 8), (0, 255, 255, 0))  # no cyan, all magenta and yellow: red
    decoded = decode_image(encoded(colour, 'JPEG'), 'a')
    assert decoded.shape == (8, 16, 3) and decoded.dtype == np.uint8
    assert np.abs(decoded.astype(int) - (255, 0, 0)).max() <= 3


def test_16_bit_png_is_scaled_to_8() -> None:
    values = np.arange(0, 65536, 512, dtype=np.uint16).reshape(8, 16)
    decoded = decode_image(encoded(Image.fromarray(values)), 'a')
    assert np.abs(decoded.astype(int) - (values / 257)[:, :, None]).max() <= 1


MASKS = {
    'grayscale': (Image.fromarray(LABELS), LABELS),
    'palette': (indexed(LABELS), LABELS),
    '16-bit': (Image.fromarray(LABELS.astype(np.uint16)), LABELS),
    '32-bit': (Image.fromarray(LABELS.astype(np.int32)), LABELS),
    '1-bit': (Image.fromarray(LABELS > 99), LABELS > 99),
}


@pytest.mark.parametrize('mode', MASKS)
def test_masks_keep_their_labels(mode, tmp_path) -> None:
    image, expected = MASKS[mode]
    suffix = 'TIFF' if mode == '32-bit' else 'PNG'
    for source in all_sources(image, tmp_path / 'a', suffix):
        decoded = decode_mask(source, 'a')
        assert decoded.dtype == np.uint8
        np.testing.assert_array_equal(decoded, expected)


@pytest.mark.parametrize(
    ('image', 'described'),
    [
        (Image.fromarray(RGB), 'uint8 (9, 13, 3)'),
        (Image.fromarray(np.dstack([LABELS, LABELS])), 'uint8 (9, 13, 2)'),
        (Image.fromarray(np.full((9, 13), 256, np.uint16)), 'uint16 (9, 13)'),
    ],
    ids=['RGB', 'grayscale and alpha', '16-bit above 255'],
)
def test_masks_that_are_none_are_refused(image, described) -> None:
    with pytest.raises(DataError, match=re.escape('mask b/7.png must have one channel')) as error:
        decode_mask(encoded(image), 'b/7.png')
    assert described in str(error.value)


@pytest.mark.parametrize(('decode', 'kind'), [(decode_image, 'image'), (decode_mask, 'mask')])
@pytest.mark.parametrize('suffix', ['PNG', 'JPEG', 'BMP', 'WEBP', 'TIFF'])
@pytest.mark.parametrize('kept', [0.0, 0.1, 0.6], ids=['empty', 'header', 'most'])
def test_a_truncated_file_is_named(decode, kind, suffix, kept, tmp_path) -> None:
    data = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (99, 99), dtype=np.uint8)), suffix)
    data = data[: int(kept * len(data))]
    (tmp_path / 'a').write_bytes(data)
    for source in (data, tmp_path / 'a'):
        with pytest.raises(DataError, match=f'^damaged {kind} some/name: '):
            decode(source, 'some/name')


@pytest.mark.parametrize('decode', [decode_image, decode_mask])
def test_a_missing_file_is_named(decode, tmp_path) -> None:
    with pytest.raises(DataError, match='some/name'):
        decode(tmp_path / 'nowhere.png', 'some/name')


@pytest.mark.parametrize('decode', [decode_image, decode_mask])
def test_a_damaged_header_with_a_huge_size_is_named(decode) -> None:
    data = bytearray(encoded(Image.fromarray(RGB), 'BMP'))
    data[18:26] = (30000).to_bytes(4, 'little') * 2
    with pytest.raises(DataError, match='some/name'):
        decode(bytes(data), 'some/name')


# The fast decoders


def smooth(height: int = 48, width: int = 65) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 255 // height, columns * 255 // width, (rows + columns) % 256], axis=2).astype(np.uint8)


@pytest.mark.parametrize('progressive', [False, True])
@pytest.mark.parametrize('subsampling', [0, 1, 2])
def test_jpegs_are_decoded_as_by_pil(subsampling, progressive, monkeypatch) -> None:
    buffer = BytesIO()
    Image.fromarray(smooth()).save(buffer, 'JPEG', subsampling=subsampling, progressive=progressive)
    with Image.open(BytesIO(buffer.getvalue())) as image:
        expected = np.asarray(image.convert('RGB'))
    monkeypatch.setattr(decoders.Image, 'open', None)  # PIL is not asked
    np.testing.assert_array_equal(decode_image(buffer.getvalue(), 'a'), expected)


def test_grey_pngs_are_not_decoded_by_pil(monkeypatch) -> None:
    data = encoded(Image.fromarray(LABELS))
    monkeypatch.setattr(decoders.Image, 'open', None)
    np.testing.assert_array_equal(decode_mask(data, 'a'), LABELS)


@pytest.mark.parametrize(('decode', 'suffix'), [(decode_image, 'JPEG'), (decode_mask, 'PNG')])
def test_huge_images_are_left_to_pil_which_refuses_them(decode, suffix, monkeypatch) -> None:
    monkeypatch.setattr(decoders, '_MAX_PIXELS', 50)
    monkeypatch.setattr(decoders.Image, 'MAX_IMAGE_PIXELS', 50)
    with pytest.raises(DataError, match=r'some/name: Image size \(117 pixels\) exceeds limit of 100 pixels'):
        decode(encoded(Image.fromarray(LABELS), suffix), 'some/name')


@pytest.mark.parametrize('at', [60, -20])
def test_a_mask_with_a_changed_byte_is_not_taken_for_another(at) -> None:
    data = bytearray(encoded(Image.fromarray(LABELS)))
    data[at] ^= 0x55
    with pytest.raises(DataError, match=r'^damaged mask some/name: '):
        decode_mask(bytes(data), 'some/name')


@pytest.mark.parametrize('suffix', ['JPEG', 'PNG', 'BMP'])
def test_image_size_is_width_and_height(suffix) -> None:
    assert image_size(encoded(Image.fromarray(RGB), suffix)) == (13, 9)


@pytest.mark.parametrize('data', [b'', b'no image', b'\xff\xd8\xff and no more'])
def test_image_size_of_none(data) -> None:
    with pytest.raises(Image.UnidentifiedImageError):
        image_size(data)


@pytest.mark.parametrize('labels', [LABELS, np.zeros((9, 13), np.uint8), np.arange(300 * 300, dtype=np.uint32)])
def test_an_unfiltered_png_holds_the_same_labels(labels) -> None:
    labels = (labels if labels.ndim == 2 else (labels // 4000 % 151).reshape(300, 300)).astype(np.uint8)
    for mask in (Image.fromarray(labels), indexed(labels)):
        recoded = unfiltered_png(encoded(mask), 'a')
        with Image.open(BytesIO(recoded)) as image:
            assert (image.format, image.mode) == ('PNG', 'L')
            np.testing.assert_array_equal(np.asarray(image), labels)
