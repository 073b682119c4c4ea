"""An image with its classes over it: pixel by pixel, and what its legend says."""

import numpy as np
import pytest
from PIL import Image

from segrecipes.evaluation.overlay import MOST_NAMED, explained, legend, outlines, overlay, share_text, with_legend

COLORS = ((0, 0, 0), (200, 100, 0), (0, 50, 250))


def labels_of(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Blocks of 5 pixels of the three classes, and of ignored ones."""
    rng = np.random.default_rng(seed)
    blocks = rng.choice(np.array([0, 1, 2, 255], np.uint8), (-(-size[0] // 5), -(-size[1] // 5)))
    return np.kron(blocks, np.ones((5, 5), np.uint8))[: size[0], : size[1]]


def image_of(size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)


def reference(image: np.ndarray, labels: np.ndarray, blend: float) -> np.ndarray:
    """By the sentence: blended, outlined where a neighbour differs, black as the image is, ignored striped."""
    found = image.astype(float)
    height, width = labels.shape
    for y in range(height):
        for x in range(width):
            label = labels[y, x]
            if label == 0:
                continue
            ignored = label == 255
            color = np.array([104 if (x + y) // 2 % 2 == 0 else 168] * 3 if ignored else COLORS[label])
            around = labels[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
            share = 1 if (around != label).any() and not ignored else blend
            found[y, x] = (1 - share) * image[y, x] + share * color
    return found


@pytest.mark.parametrize('blend', [0.5, 0.7, 1.0])
def test_an_overlay_equals_the_reference(blend: float) -> None:
    image, labels = image_of((31, 47)), labels_of((31, 47))
    found = overlay(image, labels, COLORS, blend)
    assert found.dtype == np.uint8
    assert np.abs(found - reference(image, labels, blend)).max() <= 0.51


@pytest.mark.parametrize(('side', 'width'), [(64, 1), (1000, 1), (4000, 4)])
def test_outlines_are_seen_at_any_size(side: int, width: int) -> None:
    labels = np.zeros((8, side), np.uint8)
    labels[:, side // 2 :] = 1
    expected = np.zeros(side, bool)
    expected[side // 2 - width : side // 2 + width] = True
    assert (outlines(labels) == expected).all()


def test_ignored_pixels_have_no_outline_but_what_they_touch_has() -> None:
    labels = np.array([[1, 1, 255, 255, 1, 1]], np.uint8)
    assert outlines(labels).tolist() == [[False, True, False, False, True, False]]


# Legend


def test_a_legend_names_what_occurs_the_largest_first() -> None:
    labels = np.repeat(np.array([2, 0, 255], np.uint8), (600, 395, 5)).reshape(10, 100)
    names = ('sky', 'car', 'tree')
    assert legend([labels], names, COLORS) == [
        ('tree 60 %', COLORS[2]),
        ('sky 40 %', COLORS[0]),
        ('ignored 0.5 %', None),
    ]
    both = legend([labels, np.full((10, 100), 1, np.uint8)], names, COLORS)
    assert [text for text, _ in both] == ['car 50 %', 'tree 30 %', 'sky 20 %', 'ignored 0.2 %']


def test_a_legend_of_many_is_cut() -> None:
    labels = np.arange(100, dtype=np.uint8)[None]
    names = [f'class {index}' for index in range(100)]
    found = legend([labels], names, [(index, 1, 1) for index in range(100)])
    assert [text for text, _ in found] == [f'class {index} 1.0 %' for index in range(MOST_NAMED)] + ['and 76 more']


@pytest.mark.parametrize(
    ('percent', 'text'), [(0, '0.0'), (0.004, '< 0.1'), (0.1, '0.1'), (9.94, '9.9'), (10, '10'), (99.6, '100')]
)
def test_shares(percent: float, text: str) -> None:
    assert share_text(percent) == text


@pytest.mark.parametrize(('size', 'enlarged'), [((64, 48), 5), ((200, 300), 1), ((1, 1), 320), ((4000, 3000), 1)])
def test_an_explained_picture(size: tuple[int, int], enlarged: int) -> None:
    """The overlay stands at the top left; the legend below has every colour, and is the smaller part."""
    image, labels = image_of(size), labels_of(size)
    labels[0, 0] = 1
    found = np.array(explained(image, labels, ('sky', 'Gebäude', 'tree'), COLORS))
    height, width = size[0] * enlarged, size[1] * enlarged
    grown_image, grown = (part.repeat(enlarged, axis=0).repeat(enlarged, axis=1) for part in (image, labels))
    np.testing.assert_array_equal(found[:height, :width], overlay(grown_image, grown, COLORS))
    below = found[height:].reshape(-1, 3)
    for label in np.unique(labels[labels < 255]):
        count = (below == COLORS[label]).all(axis=1).sum()
        assert count > 80
    assert found.shape[1] == max(width, 320)
    assert 15 < found.shape[0] - height < 0.4 * max(height, width, 320)


def test_lines_of_a_legend_stay_within_the_picture() -> None:
    entries = [(f'a class of number {index}', (200, 0, 0)) for index in range(12)]
    found = np.array(with_legend(np.zeros((10, 400, 3), np.uint8), entries))
    red = (found == (200, 0, 0)).all(axis=2)
    starts = [row for row in range(1, len(red)) if red[row].any() and not red[row - 1].any()]
    assert len(starts) == 6  # two to a line
    assert (found[10:, -4:] == 255).all()


def test_without_a_class_there_is_no_legend() -> None:
    picture = np.full((400, 400, 3), 7, np.uint8)
    np.testing.assert_array_equal(np.array(with_legend(picture, [])), picture)
    assert isinstance(with_legend(picture, []), Image.Image)
