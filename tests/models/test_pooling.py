import pytest
import torch
import torch.nn.functional as F
from helpers.networks import build_model
from torch import nn

from segrecipes.models.layers.pooling import RepeatablePool, average_pool, use_repeatable_pooling


@pytest.mark.parametrize('size', [(1, 1), (2, 3), (6, 6), (3, 5)])
def test_equals_torchs(size: tuple[int, int]) -> None:
    maps = torch.randn(2, 3, 7, 11, requires_grad=True)
    found, expected = average_pool(maps, size), F.adaptive_avg_pool2d(maps, size)
    torch.testing.assert_close(found, expected)
    grad = torch.randn_like(expected)
    torch.testing.assert_close(torch.autograd.grad(found, maps, grad), torch.autograd.grad(expected, maps, grad))


@pytest.mark.parametrize(('architecture', 'pools'), [('pspnet', 4), ('upernet', 4), ('deeplabv3plus', 1)])
def test_heads_have_it(architecture: str, pools: int) -> None:
    model = build_model(architecture=architecture, backbone_arch='resnet18', num_classes=2, head_channels=8)
    assert sum(isinstance(module, RepeatablePool) for module in model.modules()) == pools


def test_it_is_torchs_own_on_a_cpu() -> None:
    pool, maps = nn.Sequential(nn.AdaptiveAvgPool2d(2)), torch.randn(1, 2, 5, 5)
    expected = pool(maps)
    assert use_repeatable_pooling(pool) == 1 and use_repeatable_pooling(pool) == 0
    assert torch.equal(pool(maps), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_it_has_a_gradient_under_deterministic_algorithms() -> None:
    pool, maps = (
        nn.Sequential(nn.AdaptiveAvgPool2d((2, 3))),
        torch.randn(2, 3, 7, 11, device='cuda', requires_grad=True),
    )
    expected = torch.autograd.grad(pool(maps).square().sum(), maps)
    use_repeatable_pooling(pool)
    torch.use_deterministic_algorithms(True)
    try:
        torch.testing.assert_close(torch.autograd.grad(pool(maps).square().sum(), maps), expected, rtol=1e-3, atol=1e-4)
    finally:
        torch.use_deterministic_algorithms(False)
