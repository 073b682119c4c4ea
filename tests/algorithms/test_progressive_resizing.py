"""Images shrink with their masks, and with the count of labelled pixels."""

from typing import Any

import pytest
import torch
from composer.core import Event, State
from composer.devices import DeviceCPU
from torch import Tensor, nn

from segrecipes.algorithms.progressive_resizing import ProgressiveResizing
from segrecipes.data.batch import mean_labelled


def resized(elapsed: int, mode: str = 'resize', multiple: int = 4) -> tuple[Tensor, Tensor, Tensor, list[str]]:
    """A batch whose images say in each channel the class of the pixel, after so much of 100 batches."""
    classes = torch.randint(5, (2, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    classes = classes.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)  # blocks of 2×2
    classes[0, :, :8] = 255
    labels = classes[:, 0]
    state: Any = State(model=nn.Identity(), rank_zero_seed=0, run_name='test', device=DeviceCPU())
    state.batch = (classes.expand(-1, 3, -1, -1).clone(), labels.clone(), mean_labelled(labels), ['a'])
    state.max_duration = '100ba'
    for _ in range(elapsed):
        state.timestamp = state.timestamp.to_next_batch(samples=2)
    resizing = ProgressiveResizing(mode, delay_fraction=0.4, finetune_fraction=0.4, size_increment=multiple)
    resizing.apply(Event.AFTER_DATALOADER, state)
    return state.batch


@pytest.mark.parametrize('mode', ['resize', 'crop'])
@pytest.mark.parametrize(('elapsed', 'side'), [(0, 8), (40, 8), (50, 12), (60, 16), (99, 16)])
def test_progressive_resizing_keeps_pixels_on_their_labels(elapsed, side, mode) -> None:
    images, classes, labelled, uids = resized(elapsed, mode)
    assert images.shape == (2, 3, side, side) and classes.shape == (2, side, side)
    assert classes.dtype == images.dtype == torch.uint8 and uids == ['a']
    for channel in images.unbind(1):
        assert torch.equal(channel, classes)
    assert labelled.tolist() == [(classes != 255).sum().item() / 2] * 2
    if mode == 'resize':
        assert labelled[0] == 0.75 * side * side


def test_progressive_resizing_ends_with_the_images_as_they_are() -> None:
    """16 is no multiple of 6, nor the 18 it is nearest to a size that these images have."""
    assert [resized(elapsed, multiple=6)[0].shape[-1] for elapsed in (0, 60)] == [6, 16]
