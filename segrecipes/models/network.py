"""Networks: a backbone and a head under one interface, and the same for inference."""

import copy
import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from segrecipes.models.architectures import ARCHITECTURES, Head, check_names
from segrecipes.models.backbones.channels import take_channels
from segrecipes.models.backbones.table import BACKBONES
from segrecipes.models.backbones.weights import has_weights, load_backbone_weights
from segrecipes.models.heads import build_auxiliary_head, build_head
from segrecipes.models.spec import NetworkSpec


class SegmentationNetwork(nn.Module):
    """Backbone, decode head and, in training, an auxiliary head.

    (B, 3, H, W) float images → (B, num_classes, H, W) float32 logits. ``logits`` and ``heads`` give those at the heads'
    own stride, (B, num_classes, h, w).
    """

    def __init__(self, backbone: nn.Module, classifier: nn.Module, auxiliary: nn.Module | None = None):
        super().__init__()
        self.backbone = backbone
        self.classifier = classifier
        self.auxiliary = auxiliary

    def forward(self, images: Tensor) -> Tensor:
        return upsample(self.logits(images), images)

    def logits(self, images: Tensor) -> Tensor:
        return self.classifier(self.backbone(images))

    def heads(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        features = self.backbone(images)
        return self.classifier(features), None if self.auxiliary is None else self.auxiliary(features)


def upsample(logits: Tensor, images: Tensor) -> Tensor:
    """Logits as float32 in the images' size, (B, C, H, W)."""
    return F.interpolate(logits.float(), size=images.shape[-2:], mode='bilinear', align_corners=False)


def build_network(
    spec: NetworkSpec, *, backbone_weights: str | None = None, auxiliary: bool = False
) -> SegmentationNetwork:
    """The network of a row of ``ARCHITECTURES``.

    Args:
        backbone_weights: a torchvision weights name (``IMAGENET1K_V2``), a local file with a state dict, or None.
        auxiliary: with an auxiliary head, for training.

    Raises:
        UserError: an unknown name, or weights that cannot be read.
    """
    check_names(spec)
    return ARCHITECTURES[spec.architecture].build(spec, backbone_weights, auxiliary)


def with_decode_head(
    head: Head, spec: NetworkSpec, backbone_weights: str | None, auxiliary: bool
) -> SegmentationNetwork:
    """A backbone and a decode head of mmsegmentation: the builder of most rows."""
    usual = ARCHITECTURES[spec.architecture].output_stride
    output_stride = usual if spec.output_stride is None else spec.output_stride
    backbone: Any = BACKBONES[spec.backbone_arch](output_stride)
    if has_weights(backbone_weights):
        load_backbone_weights(backbone, spec.backbone_arch, str(backbone_weights))
    take_channels(backbone, spec.in_channels, has_weights(backbone_weights))
    return SegmentationNetwork(
        backbone,
        build_head(head, backbone.channels, spec.head_channels, spec.num_classes),
        build_auxiliary_head(backbone.channels, spec.num_classes) if auxiliary else None,
    )


def for_inference(network: SegmentationNetwork) -> SegmentationNetwork:
    """A copy without gradients and auxiliary head that computes the same faster, to rounding.

    Each batch norm is folded into the convolution before it, and the weights are channels last. Subclasses of either
    may do more, as timm's BatchNormAct2d holds the activation: they stay as they are.
    """
    network = copy.deepcopy(network).eval().requires_grad_(False)
    network.auxiliary = None
    for module in network.modules():
        children = list(module.named_children())
        for (name, conv), (next_name, norm) in itertools.pairwise(children):
            if type(conv) is nn.Conv2d and type(norm) is nn.BatchNorm2d:
                setattr(module, name, fuse_conv_bn_eval(conv, norm))
                setattr(module, next_name, nn.Identity())
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
