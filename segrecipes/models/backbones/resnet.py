"""torchvision's and mmsegmentation's ResNets as feature extractors: output stride, pretrained weights."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast
from urllib.error import URLError

import torchvision
from composer.utils import dist
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from errors import MissingPathError, UserError, choice
from mmcv_ops import ensure_ops
from unpickling import torch_load

TORCHVISION = (
    'resnet18', 'resnet34', 'resnet50', 'resnet101', 'resnet152',
    'resnext50_32x4d', 'resnext101_32x8d', 'resnext101_64x4d',
    'wide_resnet50_2', 'wide_resnet101_2',
)  # fmt: skip


class Backbone(nn.Module):
    """The convolutional stages of a ResNet, under its own parameter names.

    (B, 3, H, W) float → four feature maps at strides 4, 8, 16, 32, or less where dilated. ``stem`` names what comes
    before the stages, in order.
    """

    def __init__(self, resnet: Any, stem: Sequence[str] = ('conv1', 'bn1', 'relu', 'maxpool')):
        super().__init__()
        self.stem_parts = tuple(stem)
        for name in stem:
            self.add_module(name, getattr(resnet, name))
        self.layer1, self.layer2, self.layer3, self.layer4 = resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4

    @property
    def stages(self) -> tuple[nn.Sequential, ...]:
        return self.layer1, self.layer2, self.layer3, self.layer4

    @property
    def channels(self) -> list[int]:
        """Channels of the four feature maps."""
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


def build_backbone(backbone_arch: str, backbone_weights: str | None, output_stride: int) -> Backbone:
    """A ResNet of ``BACKBONES`` without its classifier, dilated to ``output_stride``."""
    if output_stride not in (8, 16, 32):
        raise UserError(f'model.output_stride={output_stride} is not possible. Legal: 8, 16, 32.')
    backbone = BACKBONES[backbone_arch](output_stride)
    if has_weights(backbone_weights):
        load_backbone_weights(backbone, backbone_arch, str(backbone_weights))
    return backbone


def torchvision_resnet(name: str, output_stride: int) -> Backbone:
    backbone = Backbone(torchvision.models.get_model(name, weights=None))
    dilation = 1
    for stage, stride in zip(backbone.stages[2:], (16, 32)):
        if stride > output_stride:
            dilate(stage, dilation)
            dilation *= 2
    return backbone


def deep_stem_resnet(depth: int, output_stride: int) -> Backbone:
    """mmsegmentation's ResNetV1c: three 3×3 convolutions where torchvision has one of 7×7."""
    ensure_ops()
    from mmseg.models.backbones import ResNetV1c

    rates = [max(1, stride // output_stride) for stride in (4, 8, 16, 32)]
    resnet = ResNetV1c(
        depth=depth,
        strides=[1, *(1 if rate > 1 else 2 for rate in rates[1:])],
        dilations=rates,
        contract_dilation=True,  # the first block of a dilated stage keeps the dilation before it, as torchvision's
        norm_cfg={'type': 'BN', 'requires_grad': True},
        norm_eval=False,
    )
    return Backbone(resnet, stem=('stem', 'maxpool'))


BACKBONES: dict[str, Callable[[int], Backbone]] = {
    **{name: partial(torchvision_resnet, name) for name in TORCHVISION},
    **{f'resnetv1c{depth}': partial(deep_stem_resnet, depth) for depth in (18, 50, 101)},
}


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


def has_weights(backbone_weights: str | None) -> bool:
    return backbone_weights is not None and backbone_weights.lower() not in ('', 'none', 'null')


def load_backbone_weights(backbone: nn.Module, backbone_arch: str, backbone_weights: str) -> None:
    """Load torchvision's weights of that name, or a file's; a classifier in them is left out."""
    published: Any = torchvision.models.get_model_weights(backbone_arch) if backbone_arch in TORCHVISION else None
    names = {} if published is None else {**{one.name: one for one in published}, 'DEFAULT': published.DEFAULT}
    if backbone_weights in names:
        weights = names[backbone_weights]
        try:
            with dist.run_local_rank_zero_first():
                state_dict = weights.get_state_dict(progress=dist.get_global_rank() == 0, check_hash=True)
        except (URLError, OSError, RuntimeError) as error:  # RuntimeError: a download cut short fails its hash
            raise UserError(
                f'model.backbone_weights={backbone_weights}: cannot download {weights.url} ({error}). Fetch that file '
                f'where there is a network and set model.backbone_weights=/path/to/{Path(weights.url).name}, or set '
                'model.backbone_weights=null to train from scratch.'
            ) from error
    elif Path(backbone_weights).suffix or '/' in backbone_weights:
        state_dict = read_state_dict(backbone_weights)
    else:
        raise choice('model.backbone_weights', backbone_weights, [*names, 'null', '/path/to/file.pth'])
    state_dict = {key: value for key, value in state_dict.items() if not key.startswith('fc.')}
    own = {key: value.shape for key, value in backbone.state_dict().items()}
    unexpected = [key for key, value in state_dict.items() if own.get(key) != getattr(value, 'shape', None)]
    missing = [key for key in own if key not in state_dict and not key.endswith('num_batches_tracked')]
    if missing or unexpected:
        raise UserError(
            f'model.backbone_weights={backbone_weights} does not fit model.backbone_arch={backbone_arch}: '
            f'{len(missing)} parameters are missing ({", ".join(missing[:3])} …), {len(unexpected)} are not known '
            f'or of another shape ({", ".join(unexpected[:3])} …).'
        )
    backbone.load_state_dict(state_dict, strict=False)  # num_batches_tracked may be missing


def read_state_dict(path: str) -> dict[str, Tensor]:
    """The state dict in a file, read without running any code in it."""
    if not Path(path).is_file():
        raise MissingPathError(f'model.backbone_weights={path}: no such file')
    try:
        content = torch_load(path)
    except Exception as error:  # a damaged file raises anything from EOFError to UnpicklingError
        raise UserError(f'model.backbone_weights={path}: not a readable state dict ({type(error).__name__})') from error
    content = content.get('state_dict', content) if isinstance(content, dict) else content
    if not isinstance(content, dict):
        raise UserError(f'model.backbone_weights={path}: holds a {type(content).__name__}, not a state dict')
    return content
