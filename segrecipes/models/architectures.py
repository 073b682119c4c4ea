"""Architectures by name: one row each, of the function that builds it and what sets it apart."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from segrecipes.base.errors import unknown_name
from segrecipes.base.lazy import Lazy
from segrecipes.models.backbones.table import BACKBONES
from segrecipes.models.spec import NetworkSpec


@dataclass(frozen=True)
class Architecture:
    """
    Args:
        build: (NetworkSpec, backbone weights, whether with an auxiliary head) → a network with the interface of
            ``network.SegmentationNetwork``.
        output_stride: the backbone's usual one.
        parts: modules of mmsegmentation's decode head, by which a checkpoint of its zoo is known.
    """

    build: Callable[..., Any]
    output_stride: int
    parts: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Head:
    """A decode head of mmsegmentation and what it is fed.

    Args:
        stages: the maps of the backbone that it reads, 0…3.
        with_low_level: passes map 0 as DeepLabV3+'s low-level features (``c1``).
    """

    name: str
    stages: tuple[int, ...]
    with_low_level: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


def decode_head(*args: Any, **kwargs: Any) -> Lazy:
    return Lazy('segrecipes.models.network:with_decode_head', (Head(*args, **kwargs),))


DILATIONS = {'dilations': (1, 12, 24, 36)}  # doubled for output stride 8, https://arxiv.org/abs/1802.02611
POOLS = {'pool_scales': (1, 2, 3, 6)}

ARCHITECTURES = {
    'deeplabv3plus': Architecture(
        decode_head(
            'DepthwiseSeparableASPPHead', stages=(3,), with_low_level=True, options=DILATIONS | {'c1_channels': 48}
        ),
        output_stride=8,
        parts=frozenset({'aspp_modules', 'c1_bottleneck'}),
    ),
    'deeplabv3': Architecture(
        decode_head('ASPPHead', stages=(3,), options=DILATIONS), output_stride=8, parts=frozenset({'aspp_modules'})
    ),
    'pspnet': Architecture(
        decode_head('PSPHead', stages=(3,), options=POOLS), output_stride=8, parts=frozenset({'psp_modules'})
    ),
    'upernet': Architecture(
        decode_head('UPerHead', stages=(0, 1, 2, 3), options=POOLS),
        output_stride=32,
        parts=frozenset({'psp_modules', 'fpn_convs'}),
    ),
}


def check_names(spec: NetworkSpec) -> None:
    """
    Raises:
        UserError: a name that is in no table.
    """
    if spec.architecture not in ARCHITECTURES:
        raise unknown_name('model.architecture', spec.architecture, ARCHITECTURES)
    if spec.backbone_arch not in BACKBONES:
        raise unknown_name('model.backbone_arch', spec.backbone_arch, BACKBONES)
