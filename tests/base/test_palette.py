import numpy as np
import pytest

from segrecipes.base.palette import colorize, indexed_png, palette


def test_palette_is_pascals() -> None:
    """The first colours of the VOC devkit's own map."""
    first = [(128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (0, 128, 128), (128, 128, 128)]
    assert [tuple(colour) for colour in palette(8).tolist()] == [*first, (64, 0, 0)]


@pytest.mark.parametrize('count', [1, 11, 150, 255])
def test_palette_has_distinct_colours_and_no_black(count) -> None:
    colours = palette(count)
    assert colours.shape == (count, 3) and colours.dtype == np.uint8
    assert len({tuple(colour) for colour in colours.tolist()}) == count
    assert colours.any(axis=1).all()


def test_colorize() -> None:
    found = colorize(np.array([[0, 2, 254, 255]], np.uint8))
    assert found.dtype == np.uint8
    assert found.tolist() == [[*palette(3)[[0, 2]].tolist(), palette(255)[254].tolist(), [0, 0, 0]]]


@pytest.mark.parametrize('colors', [None, np.array([[1, 2, 3], [4, 5, 6]])])
def test_an_indexed_png_holds_labels_and_shows_classes(colors: np.ndarray | None) -> None:
    labels = np.array([[0, 1], [7, 255]], np.uint8)
    image = indexed_png(labels, 2, colors)
    assert image.mode == 'P'
    np.testing.assert_array_equal(np.asarray(image), labels)
    shown = np.asarray(image.convert('RGB'))
    assert shown[0].tolist() == (palette(2) if colors is None else colors).tolist()
    assert not shown[1].any()
