import numpy as np
import pytest

from segrecipes.base.palette import class_colors, colorize, even_colors, indexed_png, oklab, striped, voc_colors

DARK, LIGHT = [104] * 3, [168] * 3


def test_voc_colors_are_pascals() -> None:
    """The first colours of the VOC devkit's own map."""
    first = ((128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (0, 128, 128), (128, 128, 128))
    assert voc_colors(8) == (*first, (64, 0, 0))
    assert len(set(voc_colors(255))) == 255


def test_oklab() -> None:
    """The values that its author gives for white, and for red, green and blue."""
    found = oklab(np.array([[255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255], [0, 0, 0]]))
    known = [[1, 0, 0], [0.628, 0.2249, 0.1258], [0.8664, -0.2339, 0.1795], [0.452, -0.0324, -0.3115], [0, 0, 0]]
    np.testing.assert_allclose(found, known, atol=1e-4)


def closest(colors: tuple[tuple[int, int, int], ...]) -> float:
    places = oklab(np.array(colors))
    apart = np.linalg.norm(places[:, None] - places, axis=2)
    return float(apart[np.triu_indices(len(places), 1)].min())


@pytest.mark.parametrize(('count', 'apart'), [(4, 0.3), (8, 0.22), (20, 0.13), (150, 0.05), (254, 0.04)])
def test_even_colors_are_far_apart(count: int, apart: float) -> None:
    colors = even_colors()[:count]
    assert closest(colors) > max(apart, 1.9 * closest(voc_colors(count)))
    places = oklab(np.array(colors))
    assert ((places[:, 0] > 0.49) & (places[:, 0] < 0.89)).all()  # seen on black and on white
    assert (np.hypot(places[:, 1], places[:, 2]) > 0.09).all()  # and no grey, which ignored pixels have


def test_class_colors() -> None:
    first, second, *_ = even_colors()
    assert class_colors(('Background', 'tumour', 'void', 'road')) == ((0, 0, 0), first, (0, 0, 0), second)
    own = ((0, 1, 2), (3, 4, 5))
    assert class_colors(('background', 'tumour'), own) == own
    assert class_colors(('background', 'tumour', 'edema'), own) == ((0, 0, 0), first, second)  # not those of others
    assert len(class_colors([f'class {index}' for index in range(300)])) == 300


def test_colorize() -> None:
    colors = ((10, 20, 30), (40, 50, 60), (70, 80, 90))
    found = colorize(np.array([[0, 2, 1, 77]], np.uint8), colors)
    assert found.dtype == np.uint8
    assert found.tolist() == [[[10, 20, 30], [70, 80, 90], [40, 50, 60], [0, 0, 0]]]


def test_ignored_pixels_are_striped() -> None:
    """Two greys in diagonals of 2 pixels; wider in a larger picture."""
    labels = np.full((5, 6), 255, np.uint8)
    labels[2, 3] = 1
    found = colorize(labels, ((9, 9, 9), (1, 2, 3)))
    for row in range(5):
        for column in range(6):
            grey = DARK if (row + column) // 2 % 2 == 0 else LIGHT
            assert found[row, column].tolist() == ([1, 2, 3] if (row, column) == (2, 3) else grey)
    line = striped(np.full((1, 1000), 255, np.uint8))[0]
    np.testing.assert_array_equal(line, np.tile(np.repeat([254, 255], 20), 25))


def test_an_indexed_png_holds_labels_and_shows_classes() -> None:
    labels = np.array([[0, 1], [7, 255]], np.uint8)
    image = indexed_png(labels, ((1, 2, 3), (4, 5, 6)))
    assert image.mode == 'P'
    np.testing.assert_array_equal(np.asarray(image), labels)
    shown = np.asarray(image.convert('RGBA'))
    assert shown[0].tolist() == [[1, 2, 3, 255], [4, 5, 6, 255]]
    assert shown[1, 0].tolist() == [0, 0, 0, 255]
    assert shown[1, 1, 3] == 0  # whatever it lies on shows
