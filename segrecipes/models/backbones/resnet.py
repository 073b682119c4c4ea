"""torchvision's and mmsegmentation's ResNets as feature extractors: output stride, pretrained weights."""

from collections.abc import Sequence
from typing import Any, cast

import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from segrecipes.base.errors import UserError
from segrecipes.models.mmseg import ensure_ops

STRIDES = (4, 8, 16, 32)


class ResNet(nn.Module):
    """The convolutional stages of a ResNet, under its own parameter names.

    (B, 3, H, W) float → four feature maps at strides 4, 8, 16, 32, or less where dilated. ``stem`` names what comes
    before the stages, in order.
    """

    def __init__(self, resnet: Any, output_stride: int, stem: Sequence[str] = ('conv1', 'bn1', 'relu', 'maxpool')):
        super().__init__()
        self.strides = tuple(min(stride, output_stride) for stride in STRIDES)
        self.stem_parts = tuple(stem)
        for name in stem:
            self.add_module(name, getattr(resnet, name))
        self.layer1, self.layer2, self.layer3, self.layer4 = resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4

    @property
    def stages(self) -> tuple[nn.Sequential, ...]:
        return self.layer1, self.layer2, self.layer3, self.layer4

    @property
    def channels(self) -> list[int]:
        last: list[Any] = [stage[-1] for stage in self.stages]
        return [getattr(block, 'conv3', block.conv2).out_channels for block in last]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        x = images
        for name in self.stem_parts:
            x = getattr(self, name)(x)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return tuple(features)


def torchvision_resnet(name: str, output_stride: int) -> ResNet:
    check_output_stride(output_stride)
    backbone = ResNet(torchvision.models.get_model(name, weights=None), output_stride)
    dilation = 1
    for stage, stride in zip(backbone.stages[2:], STRIDES[2:]):
        if stride > output_stride:
            dilate(stage, dilation)
            dilation *= 2
    return backbone


def deep_stem_resnet(depth: int, output_stride: int) -> ResNet:
    """mmsegmentation's ResNetV1c: three 3×3 convolutions where torchvision has one of 7×7."""
    check_output_stride(output_stride)
    ensure_ops()
    from mmseg.models.backbones import ResNetV1c

    rates = [max(1, stride // output_stride) for stride in STRIDES]
    resnet = ResNetV1c(
        depth=depth,
        strides=[1, *(1 if rate > 1 else 2 for rate in rates[1:])],
        dilations=rates,
        contract_dilation=True,  # the first block of a dilated stage keeps the dilation before it, as torchvision's
        norm_cfg={'type': 'BN', 'requires_grad': True},
        norm_eval=False,
    )
    return ResNet(resnet, output_stride, stem=('stem', 'maxpool'))


def check_output_stride(output_stride: int) -> None:
    if output_stride not in STRIDES[1:]:
        raise UserError(f'model.output_stride={output_stride} is not possible. Legal: 8, 16, 32.')


def dilate(stage: nn.Sequential, dilation: int) -> None:
    """Take the stride out of a stage and double the ``dilation`` that comes into it.

    The 3×3 convolution that had the stride keeps the incoming dilation, as torchvision's
    ``replace_stride_with_dilation`` has it, here for basic blocks too.
    """
    for block in stage:
        assert isinstance(block, (BasicBlock, Bottleneck))
        if block.downsample is not None:
            cast(nn.Conv2d, block.downsample.get_submodule('0')).stride = (1, 1)
        for conv in (module for name, module in block.named_children() if name.startswith('conv')):
            assert isinstance(conv, nn.Conv2d)
            if conv.kernel_size == (3, 3):
                rate = dilation if conv.stride == (2, 2) else 2 * dilation
                conv.stride, conv.dilation, conv.padding = (1, 1), (rate, rate), (rate, rate)
