import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from segrecipes.data.normalize import normalize, to_network, to_pixels
from segrecipes.datasets.row import DatasetRow, Split
from segrecipes.datasets.table import DATASETS

ROWS = {
    1: DATASETS['ade20k'],
    0: DatasetRow((), {'train': Split('*')}, ('', ''), '', labels=0),
    3: DatasetRow((), {'train': Split('*')}, ('', ''), '', labels=3),
}


def noise(height: int, width: int) -> torch.Tensor:
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, height, width), dtype=np.uint8)
    return torch.from_numpy(pixels)


def test_device_labels() -> None:
    classes = torch.tensor([[[0, 1, 149, 253, 255]]], dtype=torch.uint8)
    before = classes.clone()
    _, labels = to_network((torch.zeros(1, 3, 1, 5, dtype=torch.uint8), classes))
    assert labels.dtype == torch.int64
    assert labels.tolist() == [[[0, 1, 149, 253, -1]]]
    assert torch.equal(classes, before)


@pytest.mark.parametrize(
    ('offset', 'expected'),
    [(1, [-1, 0, 1, 149, 252, -1]), (0, [0, 1, 2, 150, 253, -1]), (3, [-1, -1, -1, 147, 250, -1])],
)
def test_labels_of_a_file_on_their_way_to_the_network(offset: int, expected: list[int]) -> None:
    """The worker's map, then the device's."""
    masks = np.array([[[0, 1, 2, 150, 253, 255]]], np.uint8)
    classes = torch.from_numpy(ROWS[offset].label_map()[masks])
    _, labels = to_network((torch.zeros(1, 3, 1, 6, dtype=torch.uint8), classes))
    assert labels.tolist() == [[expected]]


def test_device_images_are_normalised_as_torchvisions_weights_expect() -> None:
    images = noise(5, 7)
    normalised, _ = to_network((images, torch.zeros(1, 5, 7, dtype=torch.uint8)))
    expected = tv.normalize(images / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert normalised.dtype == torch.float32
    torch.testing.assert_close(normalised, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('memory_format', [torch.channels_last, torch.contiguous_format])
def test_device_images_keep_their_memory_format(memory_format: torch.memory_format) -> None:
    images = torch.zeros(2, 3, 5, 7, dtype=torch.uint8).contiguous(memory_format=memory_format)
    normalised, _ = to_network((images, torch.zeros(2, 5, 7, dtype=torch.uint8)))
    assert normalised.is_contiguous(memory_format=memory_format)


def test_lists_of_several_sizes() -> None:
    views = [[noise(5, 7)[0], noise(3, 4)[0]], [noise(6, 2)[0]]]
    classes = [torch.full((5, 7), 3, dtype=torch.uint8), torch.full((6, 2), 255, dtype=torch.uint8)]
    normalised, labels = to_network((views, classes))
    assert [[view.shape for view in of_image] for of_image in normalised] == [[(3, 5, 7), (3, 3, 4)], [(3, 6, 2)]]
    torch.testing.assert_close(normalised[1][0], normalize(views[1][0]))
    assert [of_image.unique().tolist() for of_image in labels] == [[3], [-1]]
    assert [of_image.shape for of_image in labels] == [(5, 7), (6, 2)]


def test_what_else_is_in_a_batch_stays() -> None:
    counts, uids = torch.ones(1), ['a']
    batch = to_network((noise(2, 2), torch.zeros(1, 2, 2, dtype=torch.uint8), counts, uids))
    assert batch[2] is counts and batch[3] is uids and len(batch) == 4


def test_pixels_of_what_was_normalised() -> None:
    images = noise(9, 11)
    np.testing.assert_array_equal(to_pixels(normalize(images)[0]), images[0].permute(1, 2, 0).numpy())
