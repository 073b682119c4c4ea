"""What inference makes of a network, module by module."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.checkpoint_files import IMAGES, randomised
from helpers.networks import build_network
from torch import Tensor, nn

from segrecipes.models.architectures import ARCHITECTURES
from segrecipes.models.backbones.table import BACKBONES
from segrecipes.models.network import for_inference


class NormAndActivation(nn.BatchNorm2d):
    """A batch norm with the activation after it, as timm's ``BatchNormAct2d``."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x))


class DoubledConvolution(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def network_of(architecture: str = 'pspnet', backbone_arch: str = 'resnet18', **more: Any) -> Any:
    torch.manual_seed(0)
    network = build_network(
        architecture=architecture, backbone_arch=backbone_arch, num_classes=5, head_channels=8, **more
    )
    return randomised(network)


def count(network: nn.Module, kind: type) -> int:
    return sum(type(module) is kind for module in network.modules())


def assert_same(faster: nn.Module, network: nn.Module) -> None:
    with torch.no_grad():
        logits, expected = faster(IMAGES), network(IMAGES)
    assert expected.std(dim=(2, 3)).min() > 0  # looks at the image
    assert (logits - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize('architecture', ARCHITECTURES)
def test_all_batch_norms_of_a_usual_network_are_folded(architecture: str) -> None:
    network = network_of(architecture, auxiliary=True)
    faster = for_inference(network)
    norms = count(network.backbone, nn.BatchNorm2d) + count(network.classifier, nn.BatchNorm2d)
    assert norms > 20
    assert not any(isinstance(module, nn.BatchNorm2d) for module in faster.modules())
    assert count(faster, nn.Identity) - count(network, nn.Identity) == norms
    assert_same(faster, network)


@pytest.mark.parametrize('backbone_arch', BACKBONES)
def test_all_batch_norms_of_each_backbone_are_folded(backbone_arch: str) -> None:
    with torch.device('meta'):
        network = build_network(architecture='pspnet', backbone_arch=backbone_arch, num_classes=5, head_channels=8)
        faster = for_inference(network)
    norms = count(network, nn.BatchNorm2d)
    assert norms > 20
    assert count(faster, nn.BatchNorm2d) == 0 and count(faster, nn.Identity) == norms


def test_a_batch_norm_with_an_activation_stays_as_it_is() -> None:
    network = network_of()
    block = network.backbone.layer2[0]
    norm = NormAndActivation(block.bn1.num_features)
    norm.load_state_dict(block.bn1.state_dict())
    nn.init.normal_(norm.bias)
    block.bn1, block.relu = norm.eval(), nn.Identity()
    faster: Any = for_inference(network)
    assert count(faster, NormAndActivation) == 1 and count(faster, nn.BatchNorm2d) == 0
    left = faster.backbone.layer2[0]
    assert torch.equal(left.conv1.weight, block.conv1.weight) and left.conv1.bias is None
    assert_same(faster, network)


def test_another_convolution_keeps_its_batch_norm() -> None:
    network = network_of()
    block = network.backbone.layer2[0]
    inner = block.conv1
    conv = DoubledConvolution(inner.in_channels, inner.out_channels, 3, inner.stride, padding=1, bias=False)
    conv.load_state_dict(inner.state_dict())
    block.conv1 = conv
    faster: Any = for_inference(network)
    assert type(faster.backbone.layer2[0].bn1) is nn.BatchNorm2d and count(faster, nn.BatchNorm2d) == 1
    assert_same(faster, network)
