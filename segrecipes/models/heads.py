"""Decode heads of mmsegmentation, and how they are initialised."""

import warnings
from collections.abc import Sequence
from typing import Any

from torch import nn

from segrecipes.models.architectures import Head
from segrecipes.models.mmseg import ensure_ops


def build_head(head: Head, channels: Sequence[int], head_channels: int, num_classes: int) -> nn.Module:
    """The decode head for a backbone whose maps have these channels."""
    options: dict[str, Any] = dict(head.options)
    if head.with_low_level:
        options['c1_in_channels'] = channels[0]
    if len(head.stages) == 1:
        options |= {'in_channels': channels[head.stages[0]], 'in_index': head.stages[0]}
    else:
        options |= {'in_channels': [channels[stage] for stage in head.stages], 'in_index': list(head.stages)}
    return _mmseg_head(head.name, channels=head_channels, num_classes=num_classes, **options)


def build_auxiliary_head(channels: Sequence[int], num_classes: int) -> nn.Module:
    """mmsegmentation's usual FCN head, on the last map but one."""
    return _mmseg_head(
        'FCNHead',
        in_channels=channels[-2],
        in_index=len(channels) - 2,
        channels=256,
        num_convs=1,
        concat_input=False,
        num_classes=num_classes,
    )


def _mmseg_head(name: str, **options: Any) -> nn.Module:
    ensure_ops()
    from mmseg.models import decode_heads

    with warnings.catch_warnings():  # of the loss that each head brings along, which is never used
        warnings.simplefilter('ignore')
        return getattr(decode_heads, name)(
            **options, dropout_ratio=0.1, norm_cfg={'type': 'BN', 'requires_grad': True}, align_corners=False
        )


def published_init(module: nn.Module) -> None:
    """Kaiming for convolutions and linear layers, ones and zeros for batch norm: MosaicML's recipe."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
