"""Backbones: what each row promises, the deep-stem ones, and their weights."""

import subprocess
import sys
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import pytest
import torch
from helpers.checkpoint_files import IMAGES, SHAPES, assert_equal, build_mmseg, randomised, saved
from helpers.networks import build_model, build_network
from torch import Tensor, nn

from segrecipes.base.errors import UserError
from segrecipes.models.backbones.table import BACKBONES, TORCHVISION
from segrecipes.models.backbones.weights import load_backbone_weights
from segrecipes.models.network import SegmentationNetwork

ROOT = Path(__file__).parents[2]
DEEP = ['resnetv1c18', 'resnetv1c50', 'resnetv1c101']
STRIDES = {8: (4, 8, 8, 8), 16: (4, 8, 16, 16), 32: (4, 8, 16, 32)}
ARGUMENTS = {8: ((1, 2, 1, 1), (1, 1, 2, 4)), 16: ((1, 2, 2, 1), (1, 1, 1, 2)), 32: ((1, 2, 2, 2), (1, 1, 1, 1))}


def backbone_of(backbone_arch: str, output_stride: int, weights: str | Path | None = None) -> Any:
    backbone = BACKBONES[backbone_arch](output_stride)
    if weights is not None:
        load_backbone_weights(backbone, backbone_arch, str(weights))
    return backbone


@pytest.mark.parametrize('output_stride', STRIDES)
@pytest.mark.parametrize('backbone_arch', BACKBONES)
def test_each_row_says_what_its_maps_are(backbone_arch: str, output_stride: int) -> None:
    with torch.device('meta'):
        backbone = backbone_of(backbone_arch, output_stride)
        features = backbone(torch.zeros(2, 3, 65, 47))
    assert backbone.strides == STRIDES[output_stride]
    assert len(features) == len(backbone.channels) == 4
    for feature, channels, stride in zip(features, backbone.channels, backbone.strides, strict=True):
        assert feature.shape == (2, channels, -(-65 // stride), -(-47 // stride))


def test_deep_stems_are_rows_of_the_table() -> None:
    assert [name for name in BACKBONES if name not in TORCHVISION] == DEEP


@pytest.mark.parametrize('output_stride', STRIDES)
@pytest.mark.parametrize('backbone_arch', ['resnetv1c18', 'resnetv1c50'])
def test_features_equal_mmsegmentations(backbone_arch: str, output_stride: int) -> None:
    strides, dilations = ARGUMENTS[output_stride]
    depth, channels = SHAPES[backbone_arch]
    theirs = build_mmseg({
        'type': 'ResNetV1c', 'depth': depth, 'strides': strides, 'dilations': dilations, 'contract_dilation': True,
        'norm_eval': False, 'style': 'pytorch', 'norm_cfg': {'type': 'BN', 'requires_grad': True},
        'out_indices': (0, 1, 2, 3),
    })  # fmt: skip
    backbone = backbone_of(backbone_arch, output_stride).eval()
    assert backbone.channels == list(channels)
    backbone.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        features = backbone(IMAGES)
        assert isinstance(features, tuple)
        for feature, expected, count, stride in zip(
            features, theirs(IMAGES), channels, STRIDES[output_stride], strict=True
        ):
            assert feature.shape == (2, count, -(-33 // stride), -(-47 // stride))
            assert torch.equal(feature, expected)


@pytest.mark.parametrize('backbone_arch', DEEP)
def test_they_train_within_a_network(backbone_arch: str) -> None:
    with torch.device('meta'):
        network = build_network(
            architecture='deeplabv3plus', num_classes=5, backbone_arch=backbone_arch, head_channels=8
        )
    assert isinstance(network, SegmentationNetwork)
    names = network.state_dict().keys()
    assert {'backbone.stem.0.weight', 'backbone.stem.7.running_var', 'backbone.layer1.0.conv1.weight'} <= names
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(m.training for m in network.train().modules() if isinstance(m, nn.BatchNorm2d))
    blocks = [
        sum(f'backbone.layer{stage}.{block}.conv1.weight' in names for block in range(30)) for stage in range(1, 5)
    ]
    assert blocks == {'18': [2, 2, 2, 2], '50': [3, 4, 6, 3], '101': [3, 4, 23, 3]}[backbone_arch[9:]]


def test_they_learn() -> None:
    model = build_model(architecture='pspnet', num_classes=5, backbone_arch='resnetv1c18', head_channels=8)
    labels = torch.arange(2 * 33 * 47).view(2, 33, 47) % 5
    model.loss(model((IMAGES, labels)), (IMAGES, labels))['total'].backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    assert model.module.get_parameter('backbone.stem.0.weight').grad.any()  # type: ignore[union-attr]


def test_mmsegmentation_is_imported_where_it_is_needed_and_without_a_word() -> None:
    program = (
        'import sys; import segrecipes.models.backbones.resnet; from segrecipes.models.backbones import table;'
        'assert not {"mmseg", "mmengine", "mmcv"} & set(sys.modules);'
        'table.BACKBONES["resnetv1c18"](8); assert "mmseg" in sys.modules;'
        'from mmengine import DefaultScope; assert DefaultScope.get_current_instance() is None'
    )
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', program], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, '', '')


@pytest.fixture(scope='module')
def deep_weights() -> dict[str, Tensor]:
    torch.manual_seed(3)
    return randomised(backbone_of('resnetv1c18', 32)).state_dict()


@pytest.mark.parametrize('inside', [False, True])
def test_a_file_of_their_weights_is_loaded(inside: bool, deep_weights: dict[str, Tensor], tmp_path: Path) -> None:
    content = {**deep_weights, 'fc.weight': torch.zeros(1000, 512), 'fc.bias': torch.zeros(1000)}
    path = saved({'state_dict': content} if inside else content, tmp_path / 'resnet18_v1c.pth')
    assert_equal(backbone_of('resnetv1c18', 8, path).state_dict(), deep_weights)


def test_what_lies_beside_their_weights_is_not_needed(deep_weights: dict[str, Tensor], tmp_path: Path) -> None:
    """Numbers of numpy and logs of mmengine, which torch alone refuses."""
    from mmengine.logging import HistoryBuffer

    content = {'state_dict': deep_weights, 'best': np.float64(0.5), 'logs': HistoryBuffer([1.0], [1])}
    path = saved(content, tmp_path / 'epoch_1.pth')
    with pytest.raises(UnpicklingError):
        torch.load(path, weights_only=True)
    assert_equal(backbone_of('resnetv1c18', 8, path).state_dict(), deep_weights)


@pytest.mark.parametrize('backbone_weights', ['IMAGENET1K_V1', 'DEFAULT'])
def test_torchvision_has_no_weights_for_them(backbone_weights: str) -> None:
    with pytest.raises(UserError) as error:
        backbone_of('resnetv1c50', 8, backbone_weights)
    assert str(error.value) == (
        f'model.backbone_weights={backbone_weights} is not known. Legal: /path/to/file.pth, null.'
    )


def test_a_file_of_another_backbone_is_refused(deep_weights: dict[str, Tensor], tmp_path: Path) -> None:
    path = saved(deep_weights, tmp_path / 'resnet18_v1c.pth')
    with pytest.raises(
        UserError, match=f'^model.backbone_weights={path} does not fit model.backbone_arch=resnetv1c50: '
    ):
        backbone_of('resnetv1c50', 8, path)
    with pytest.raises(UserError, match=r'5 parameters are missing \(conv1.weight, .*, 18 are not known'):
        backbone_of('resnet18', 8, path)


def test_a_wrong_output_stride_is_refused() -> None:
    with pytest.raises(UserError, match=r'^model.output_stride=4 is not possible. Legal: 8, 16, 32\.$'):
        backbone_of('resnetv1c18', 4)
