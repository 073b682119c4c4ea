"""The four parts of a batch, whatever it is made of."""

from typing import Any

import pytest
import torch

from segrecipes.data.batch import (
    CLASSES,
    IMAGES,
    LABELLED,
    UIDS,
    collate,
    collate_pairs,
    collate_views,
    mean_labelled,
    mean_weight,
    with_count,
)  # fmt: skip
from segrecipes.data.normalize import to_network
from segrecipes.data.sample import Sample

CLASSES_OF = torch.tensor([[[0, 1, 2, 150, 253, 255]], [[255, 0, 1, 255, 3, 255]]], dtype=torch.uint8)
COUNT = (5 + 3) / 2


def samples() -> list[Sample]:
    """As ``SampleMaker`` makes them: channels last in memory."""
    images = torch.arange(36, dtype=torch.uint8).view(2, 1, 6, 3).permute(0, 3, 1, 2)
    return [(image, classes, uid) for image, classes, uid in zip(images, CLASSES_OF, ('a', 'b'))]


def test_a_batch_has_four_parts() -> None:
    batch: Any = collate(samples())
    assert len(batch) == 4
    images, classes, labelled, uids = batch
    assert batch[IMAGES] is images and batch[CLASSES] is classes
    assert batch[LABELLED] is labelled and batch[UIDS] is uids
    assert (images.shape, images.dtype) == ((2, 3, 1, 6), torch.uint8)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert all(torch.equal(image, sample[0]) for image, sample in zip(images, samples()))
    assert torch.equal(classes, CLASSES_OF)
    assert labelled.tolist() == [COUNT, COUNT]
    assert uids == ['a', 'b']


def test_a_pair_is_counted_as_a_batch_is() -> None:
    pair = collate_pairs(samples())
    assert len(pair) == 2
    counted = with_count(pair)
    assert counted[0] is pair[0] and counted[1] is pair[1]
    assert torch.equal(counted[2], collate(samples())[2])


def test_a_batch_of_views() -> None:
    """Images of several sizes, and of each several views."""
    classes = [torch.tensor([[0, 255, 7]], dtype=torch.uint8), torch.full((4, 2), 1, dtype=torch.uint8)]
    views = [[torch.zeros(3, 2, 6), torch.zeros(3, 1, 3)], [torch.zeros(3, 4, 2)]]
    found: Any = collate_views(list(zip(views, classes, ('a', 'b'))))
    assert found[IMAGES] == views and found[CLASSES] == classes and found[UIDS] == ['a', 'b']
    assert found[LABELLED].dtype == torch.float32
    assert found[LABELLED].tolist() == [(2 + 8) / 2] * 2


def test_labelled_pixels_are_those_that_the_network_gets() -> None:
    counts = mean_labelled(CLASSES_OF)
    assert counts.dtype == torch.float32
    assert counts.tolist() == [COUNT, COUNT]
    _, labels, kept = to_network((torch.zeros(2, 3, 1, 6, dtype=torch.uint8), CLASSES_OF, counts))
    assert (labels != -1).sum().item() == 2 * COUNT
    assert kept is counts


def test_the_weight_of_an_image_is_that_of_its_labelled_pixels() -> None:
    """Of 0 and 1 twice, 2 and 3 once; the other classes have no weight here."""
    counts = mean_weight(CLASSES_OF, (0.5, 3.0, 7.0, 0.25))
    assert counts.dtype == torch.float32
    assert counts.tolist() == [(2 * 0.5 + 2 * 3 + 7 + 0.25) / 2] * 2
    assert torch.equal(mean_weight(CLASSES_OF, (1.0,) * 254), mean_labelled(CLASSES_OF))


@pytest.mark.parametrize('index', [0, 254, 255])
def test_only_255_is_not_labelled(index: int) -> None:
    assert mean_labelled(torch.full((3, 2, 2), index, dtype=torch.uint8)).tolist() == [0.0 if index == 255 else 4.0] * 3
