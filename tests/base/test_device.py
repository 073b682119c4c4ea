"""What is set while float32 must be exact, and what is put back."""

from itertools import product

import pytest
import torch

from segrecipes.base.device import full_float32, why_no_triton

SETTINGS = (
    (torch.backends.cuda.matmul, 'allow_tf32'),
    (torch.backends.cudnn, 'allow_tf32'),
    (torch.backends.cudnn, 'benchmark'),
)


def settings() -> list[bool]:
    return [getattr(owner, name) for owner, name in SETTINGS]


@pytest.mark.parametrize('before', list(product([False, True], repeat=3)))
def test_all_that_rounds_is_off_and_then_as_it_was(before: tuple[bool, ...]) -> None:
    found = settings()
    try:
        for (owner, name), value in zip(SETTINGS, before):
            setattr(owner, name, value)
        with full_float32():
            assert settings() == [False, False, False]
        assert settings() == list(before)
    finally:
        for (owner, name), value in zip(SETTINGS, found):
            setattr(owner, name, value)


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_without_a_gpu_triton_lacks_one() -> None:
    assert why_no_triton() == 'no NVIDIA GPU'
