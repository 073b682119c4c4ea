import re

import numpy as np
import pytest
import torch

from segrecipes.data.augment import TrainTransform
from segrecipes.data.sample import SampleMaker, Transform
from segrecipes.datasets.row import CURE, DatasetRow, Split
from segrecipes.evaluation.table import get_protocol
from segrecipes.storage.decode import DataError

RGB = np.random.default_rng(0).integers(0, 256, (9, 13, 3), dtype=np.uint8)
LABELS = np.random.default_rng(1).integers(0, 254, (9, 13), dtype=np.uint8)
FROM_ZERO = DatasetRow((), {'train': Split('*')}, ('', ''), '', labels=0)
FROM_ONE = DatasetRow((), {'train': Split('*')}, ('', ''), '', labels=1)
MAPPED = DatasetRow((), {'train': Split('*')}, ('', ''), '', labels={0: 1, 255: 0, 9: 2}, ignored=frozenset({4}))


def make(label_map: np.ndarray | None = None, transform: Transform | None = None, seed: int = 17) -> SampleMaker:
    label_map = FROM_ZERO.label_map() if label_map is None else label_map
    return SampleMaker(transform or get_protocol('mosaic-512sq', 9), seed, label_map)


@pytest.mark.parametrize('shape', [(9, 12), (13, 9), (8, 13)])
def test_sizes_must_agree(shape: tuple[int, int]) -> None:
    with pytest.raises(DataError, match=re.escape(f'sample 0042: image (9, 13), mask {shape}')):
        make()(RGB, np.zeros(shape, np.uint8), '0042', 0)


@pytest.mark.parametrize(
    ('largest', 'row', 'num_classes', 'legal'),
    [
        (7, FROM_ZERO, 8, None),
        (8, FROM_ZERO, 8, '0…7, 255'),
        (254, FROM_ZERO, 8, '0…7, 255'),
        (255, FROM_ZERO, 8, None),
        (253, FROM_ZERO, None, None),
        (8, FROM_ONE, 8, None),
        (9, FROM_ONE, 8, '0…8, 255'),
        (254, FROM_ONE, 254, None),
        (254, FROM_ONE, None, None),
        (254, FROM_ONE, 253, '0…253, 255'),
    ],
)
def test_a_label_above_the_largest_is_named(
    largest: int, row: DatasetRow, num_classes: int | None, legal: str | None
) -> None:
    mask = np.full((9, 13), 255, np.uint8)
    mask[:3] = 1
    mask[4, 5] = largest
    maker = make(row.label_map(num_classes))
    if legal is None:
        _, classes, _ = maker(RGB, mask, '0042', 0)
        first = row.label_offset
        assert set(classes.unique().tolist()) <= {1 - first, 255, 255 if largest == 255 else largest - first}
        return
    with pytest.raises(DataError) as error:
        maker(RGB, mask, '0042', 0)
    assert str(error.value) == (
        f'label {largest} in the mask of sample 0042 is none of the dataset. Legal: {legal}. {CURE}'
    )


@pytest.mark.parametrize('illegal', [1, 3, 128, 254])
def test_an_illegal_label_below_legal_ones_is_named(illegal: int) -> None:
    """255 is a class of this map, so that a mask's largest label says nothing of the others."""
    maker, mask = make(MAPPED.label_map(3)), np.full((9, 13), 255, np.uint8)
    mask[2:4] = 0
    maker(RGB, mask, '0042', 0)
    mask[5, 5] = illegal
    with pytest.raises(DataError, match=rf'^label {illegal} in the mask .* Legal: 0, 4, 9, 255\. '):
        maker(RGB, mask, '0042', 0)


def test_labels_become_the_classes_of_the_map() -> None:
    mask = np.array([[0, 255, 9], [4, 9, 0], [255, 4, 4]], np.uint8)
    given = mask.copy()
    maker = make(MAPPED.label_map(3), get_protocol('mosaic-512sq', 3))
    _, classes, _ = maker(RGB[:3, :3], mask, 'a', 0)
    assert classes.dtype == torch.uint8
    assert classes.tolist() == [[1, 0, 2], [255, 2, 1], [0, 255, 255]]
    np.testing.assert_array_equal(mask, given)


def test_zero_may_be_illegal() -> None:
    row = DatasetRow((), {'train': Split('*')}, ('', ''), '', labels={255: 0}, ignored=frozenset())
    assert (make(row.label_map(1))(RGB, np.full((9, 13), 255, np.uint8), 'a', 0)[1] == 0).all()
    with pytest.raises(DataError, match=r'^label 0 in the mask of sample a .* Legal: 255\. '):
        make(row.label_map(1))(RGB, np.zeros((9, 13), np.uint8), 'a', 0)


def test_a_mask_without_labels_passes() -> None:
    _, classes, _ = make(FROM_ZERO.label_map(8))(RGB, np.full((9, 13), 255, np.uint8), '0042', 0)
    assert (classes == 255).all()


@pytest.mark.parametrize('row', [FROM_ZERO, FROM_ONE])
def test_a_sample_is_the_transforms_under_its_own_generator(row: DatasetRow) -> None:
    transform = TrainTransform(12, 8)
    rng = np.random.default_rng((3, 5, 0x3ABA674F))  # crc32 of 'uid 1'
    expected = transform(RGB, row.label_map()[LABELS], rng)
    image, classes, uid = make(row.label_map(), transform, seed=3)(RGB, LABELS, 'uid 1', 5)
    assert uid == 'uid 1'
    assert (image.shape, image.dtype, classes.shape, classes.dtype) == ((3, 8, 8), torch.uint8, (8, 8), torch.uint8)
    np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), expected[0])
    np.testing.assert_array_equal(classes.numpy(), expected[1])


def test_images_are_channels_last_in_memory() -> None:
    image, _, _ = make()(RGB, LABELS, 'a', 0)
    assert image.stride() == (1, 27, 3)


def test_views_of_a_protocol_come_as_a_list_beside_all_classes() -> None:
    protocol = get_protocol('ade20k-ms', 32)
    views, classes, _ = make(FROM_ONE.label_map(), protocol)(RGB, LABELS, 'a', 0)
    assert [tuple(view.shape) for view in views] == [(3, *view.shape[:2]) for view in protocol.views(RGB)]
    assert len(views) == 6
    np.testing.assert_array_equal(classes.numpy(), FROM_ONE.label_map()[LABELS])


@pytest.mark.parametrize(('height', 'width', 'top', 'left'), [(9, 13, 2, 0), (13, 8, 0, 2), (7, 7, 0, 0), (1, 4, 1, 0)])
def test_padding_to_a_square(height: int, width: int, top: int, left: int) -> None:
    """Nothing is moved or resized; what is added is the mean colour and is not scored."""
    image, mask = RGB[:height, :width], LABELS[:height, :width] % 5
    if (height, width) == (13, 8):
        image, mask = RGB.transpose(1, 0, 2)[:, :8], LABELS.T[:, :8] % 5
    side = max(height, width)
    seen, classes, _ = SampleMaker(keep, 0, FROM_ZERO.label_map(5), True)(image, mask, 'a', 0)
    inside = np.s_[top : top + height, left : left + width]
    expected = np.full((side, side), 255)
    expected[inside] = mask
    np.testing.assert_array_equal(classes.numpy(), expected)
    pixels = np.full((side, side, 3), (124, 116, 104))
    pixels[inside] = image
    np.testing.assert_array_equal(seen.permute(1, 2, 0).numpy(), pixels)


def keep(image: np.ndarray, classes: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return np.ascontiguousarray(image), np.ascontiguousarray(classes)


def test_a_square_of_384_keeps_the_ratio() -> None:
    """What a training and an evaluation see of 60×90 pixels: three halves of them in the middle, and no more."""
    image = np.zeros((60, 90, 3), np.uint8)
    mask = np.ones((60, 90), np.uint8)
    for transform in (get_protocol('mosaic-512sq', 384), TrainTransform(384, 384, 1.0, 1.0, flip_probability=0)):
        _, classes, _ = SampleMaker(transform, 0, FROM_ZERO.label_map(5), True)(image, mask, 'a', 0)
        assert classes.shape == (384, 384)
        assert (classes[64:320] == 1).all() and (classes[:63] == 255).all() and (classes[321:] == 255).all()
