"""A torchvision backbone and an mmsegmentation head as one ComposerModel."""

import copy
import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from composer.models import ComposerClassifier
from composer.utils import dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchmetrics import Metric, MetricCollection

from backbones import BACKBONES, Backbone, build_backbone, has_weights
from depthwise import use_fast_depthwise
from device import full_float32, has_triton
from errors import choice
from losses import segmentation_loss
from metrics import CrossEntropy, MIoU, Scored, score, score_predictions
from mmcv_ops import ensure_ops
from pooling import use_repeatable_pooling
from protocols import PROTOCOLS, Protocol

EVALUATED_AT_ONCE = 2**21  # pixels of a batch, 8 images of 512²: bounds what the network takes in an evaluation


@dataclass(frozen=True)
class Architecture:
    """A decode head of mmsegmentation and what it is fed.

    ``stages`` are the backbone's stages the head reads (0…3), ``output_stride`` the backbone's usual one.
    ``with_low_level`` passes stage 0 as DeepLabV3+'s low-level features (``c1``).
    """

    head: str
    stages: tuple[int, ...]
    output_stride: int
    with_low_level: bool = False
    options: dict[str, Any] = field(default_factory=dict)


ARCHITECTURES = {
    # Dilations double with output stride 8, https://arxiv.org/abs/1802.02611 and mmsegmentation's configs.
    'deeplabv3plus': Architecture(
        'DepthwiseSeparableASPPHead',
        stages=(3,),
        output_stride=8,
        with_low_level=True,
        options={'dilations': (1, 12, 24, 36), 'c1_channels': 48},
    ),
    'deeplabv3': Architecture('ASPPHead', stages=(3,), output_stride=8, options={'dilations': (1, 12, 24, 36)}),
    'pspnet': Architecture('PSPHead', stages=(3,), output_stride=8, options={'pool_scales': (1, 2, 3, 6)}),
    'upernet': Architecture('UPerHead', stages=(0, 1, 2, 3), output_stride=32, options={'pool_scales': (1, 2, 3, 6)}),
}


class SegmentationNetwork(nn.Module):
    """Backbone, decode head and, in training, an auxiliary head.

    (B, 3, H, W) float images → (B, num_classes, H, W) float32 logits. ``logits`` and ``heads`` give those at the heads'
    own stride, (B, num_classes, h, w).
    """

    def __init__(self, backbone: Backbone, classifier: nn.Module, auxiliary: nn.Module | None = None):
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


class SegmentationModel(ComposerClassifier):
    """A :class:`SegmentationNetwork` with CE + Dice loss, an optional auxiliary loss, MIoU and cross entropy.

    A batch is (images, target), in training with one value more an image: the mean number of labelled pixels an image
    in the whole batch. Without ``full_size_logits`` the output of a training step stays at the head's own stride, and
    the loss interpolates a slice of it at a time: the same loss in far less memory. In evaluation it always has the
    size of the images.

    Composer's evaluation gets :class:`Scored` predictions in place of logits, made of a few images at a time. Its
    batch may hold images of several sizes as lists: of the views of each image that ``protocol`` makes, and of labels.

    ``autocast`` runs the network, not the loss, in that dtype; Composer does so itself on a GPU. ``compile_options``
    compiles the network as training runs it, backbone and heads in one, with these arguments of ``torch.compile``;
    evaluations, whose images have many sizes, run it as it is.
    """

    def __init__(
        self,
        network: SegmentationNetwork,
        num_classes: int,
        *,
        loss_fn: Callable[..., dict[str, Tensor]],
        auxiliary_weight: float = 0.0,
        ignore_index: int = -1,
        full_size_logits: bool = True,
        train_metrics: bool = False,
        autocast: torch.dtype | None = None,
        class_names: Sequence[str] | None = None,
        protocol: Protocol | None = None,
        compile_options: Mapping[str, Any] | None = None,
    ):
        metrics = MetricCollection([CrossEntropy(), MIoU(num_classes)])
        protocol = protocol or PROTOCOLS['mosaic-512sq']()
        self.module: SegmentationNetwork
        super().__init__(
            module=network,
            num_classes=num_classes,
            train_metrics=metrics.clone() if train_metrics else MetricCollection([]),
            val_metrics=metrics
            if protocol.resize == 'square'
            else MetricCollection({f'mIoU[{protocol}]': MIoU(num_classes)}),
            loss_fn=loss_fn,
        )
        self.protocol = protocol
        self._label_range = num_classes, ignore_index
        self.auxiliary_weight = auxiliary_weight
        self.full_size_logits = full_size_logits
        self.autocast = autocast
        self.class_names = tuple(class_names or (f'class {index}' for index in range(num_classes)))
        self._heads = None if compile_options is None else torch.compile(network.heads, **compile_options)
        # The auxiliary logits wait here between forward and loss: algorithms expect an output of one tensor.
        self._auxiliary_logits: Tensor | None = None

    def forward(self, batch: Sequence[Any]) -> Tensor:
        images = batch[0]
        if not self.training:
            return upsample(self.logits(images), images)
        with self._autocast(images):
            logits, self._auxiliary_logits = (self._heads or self.module.heads)(images)
        return upsample(logits, images) if self.full_size_logits else logits

    def logits(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) → (B, num_classes, h, w) logits at the head's own stride."""
        with self._autocast(images):
            return self.module.logits(images)

    def _autocast(self, images: Tensor) -> AbstractContextManager:
        return torch.autocast(images.device.type, dtype=self.autocast) if self.autocast else nullcontext()

    def eval_forward(self, batch: Sequence[Any], outputs: Tensor | None = None) -> Scored:
        """The batch's predictions, scored; in training those of the last forward's logits, for the train metrics."""
        images, labels = batch[:2]
        with full_float32():
            if outputs is not None:
                return score([outputs], labels, *self._label_range)
            if isinstance(images, Tensor):
                at_once = max(1, EVALUATED_AT_ONCE // images[0, 0].numel())
                logits = (self.logits(some) for some in images.split(at_once))
                return score(logits, labels, *self._label_range)
            found = [self.protocol.labels(self.logits, views, label.shape) for views, label in zip(images, labels)]
            return score_predictions(found, labels, *self._label_range)

    def loss(self, outputs: Tensor, batch: Sequence[Any], *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        target, pixels_per_image = batch[1], batch[2][0] if len(batch) > 2 else None
        with full_float32():
            loss = self._loss_fn(outputs, target, pixels_per_image=pixels_per_image)
            if self._auxiliary_logits is not None:
                auxiliary = self._loss_fn(self._auxiliary_logits, target, pixels_per_image=pixels_per_image)['total']
                self._auxiliary_logits = None
                loss = {**loss, 'total': loss['total'] + self.auxiliary_weight * auxiliary, 'auxiliary': auxiliary}
        return loss

    def update_metric(self, batch: Sequence[Any], outputs: Scored, metric: Metric) -> None:
        metric.update(outputs)


def build_model(
    *,
    architecture: str = 'deeplabv3plus',
    num_classes: int = 150,
    backbone_arch: str = 'resnet101',
    backbone_weights: str | None = None,
    output_stride: int | None = None,
    head_channels: int = 512,
    auxiliary_weight: float = 0.0,
    sync_bn: bool = True,
    cross_entropy_weight: float = 1.0,
    dice_weight: float = 0.0,
    dice_per: str = 'batch',
    ignore_index: int = -1,
    full_size_logits: bool = True,
    train_metrics: bool = False,
    autocast: torch.dtype | None = None,
    class_names: Sequence[str] | None = None,
    protocol: Protocol | None = None,
    compile_options: Mapping[str, Any] | None = None,
    init_fn: Callable[[nn.Module], None] | None = None,
) -> SegmentationModel:
    """Build the network and wrap it for Composer.

    Args:
        architecture: a row of ``ARCHITECTURES``.
        num_classes: classes of the logits.
        backbone_arch: one of ``BACKBONES``.
        backbone_weights: a torchvision weights name (``IMAGENET1K_V2``), a local file with a state dict, or None.
        output_stride: 8, 16 or 32; None is the architecture's own.
        head_channels: width of the decode head.
        auxiliary_weight: weight of an FCN head on stage 3; 0 builds none. mmsegmentation uses 0.4.
        sync_bn: synchronise batch norm over the GPUs of each node where there is more than one rank.
        dice_per: ``batch``: Dice over all pixels of a microbatch; ``image``: of each image, whatever the microbatch.
        full_size_logits: False lets the loss interpolate the logits of a training step, a slice at a time.
        autocast: the network's dtype on a CPU; on a GPU Composer's precision decides.
        protocol: how evaluation batches of views are merged and what their metric is called; default mosaic-512sq.
        compile_options: arguments of ``torch.compile``, which then compiles the network for training; None does not.
        init_fn: applied to the heads, and to the backbone too where it has no pretrained weights.

    Raises:
        UserError: an unknown name, or weights that cannot be read.
    """
    network = build_network(
        architecture=architecture,
        num_classes=num_classes,
        backbone_arch=backbone_arch,
        backbone_weights=backbone_weights,
        output_stride=output_stride,
        head_channels=head_channels,
        auxiliary=auxiliary_weight > 0,
    )
    if init_fn is not None:
        heads = [module for name, module in network.named_children() if name != 'backbone']
        for module in heads if has_weights(backbone_weights) else [network]:
            module.apply(init_fn)
    if sync_bn and dist.get_world_size() > 1 and torch.cuda.is_available():  # torch has SyncBatchNorm for GPUs only
        network = cast(
            SegmentationNetwork,
            nn.SyncBatchNorm.convert_sync_batchnorm(network, process_group=node_process_group()),
        )
    use_repeatable_pooling(network)
    if has_triton():
        use_fast_depthwise(network)

    loss_fn = partial(
        segmentation_loss,
        cross_entropy_weight=cross_entropy_weight,
        dice_weight=dice_weight,
        dice_per=dice_per,
        ignore_index=ignore_index,
    )
    return SegmentationModel(
        network,
        num_classes,
        loss_fn=loss_fn,
        auxiliary_weight=auxiliary_weight,
        ignore_index=ignore_index,
        full_size_logits=full_size_logits,
        train_metrics=train_metrics,
        autocast=autocast,
        class_names=class_names,
        protocol=protocol,
        compile_options=compile_options,
    )


def build_network(
    *,
    architecture: str,
    num_classes: int,
    backbone_arch: str,
    backbone_weights: str | None = None,
    output_stride: int | None = None,
    head_channels: int = 512,
    auxiliary: bool = False,
) -> SegmentationNetwork:
    """The network alone; the arguments are those of :func:`build_model`."""
    check_names(architecture, backbone_arch)
    row = ARCHITECTURES[architecture]
    output_stride = row.output_stride if output_stride is None else output_stride
    backbone = build_backbone(backbone_arch, backbone_weights, output_stride)
    return SegmentationNetwork(
        backbone,
        build_head(row, backbone.channels, head_channels, num_classes),
        build_auxiliary_head(backbone.channels, num_classes) if auxiliary else None,
    )


def for_inference(network: SegmentationNetwork) -> SegmentationNetwork:
    """A copy without gradients and auxiliary head that computes the same faster, to rounding.

    Each batch norm is folded into the convolution before it, and the weights are channels last.
    """
    network = copy.deepcopy(network).eval().requires_grad_(False)
    network.auxiliary = None
    for module in network.modules():
        children = list(module.named_children())
        for (name, conv), (next_name, norm) in itertools.pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(conv, norm))
                setattr(module, next_name, nn.Identity())
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def unwrapped(model: Any) -> SegmentationModel:
    """The model inside Composer's ``state.model``, which is wrapped where there is more than one rank."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def check_names(architecture: str, backbone_arch: str) -> None:
    if architecture not in ARCHITECTURES:
        raise choice('model.architecture', architecture, ARCHITECTURES)
    if backbone_arch not in BACKBONES:
        raise choice('model.backbone_arch', backbone_arch, BACKBONES)


def build_head(row: Architecture, channels: list[int], head_channels: int, num_classes: int) -> nn.Module:
    """The decode head of an architecture for a backbone with these channels."""
    options: dict[str, Any] = dict(row.options)
    if row.with_low_level:
        options['c1_in_channels'] = channels[0]
    if len(row.stages) == 1:
        options |= {'in_channels': channels[row.stages[0]], 'in_index': row.stages[0]}
    else:
        options |= {'in_channels': [channels[stage] for stage in row.stages], 'in_index': list(row.stages)}
    return _mmseg_head(row.head, channels=head_channels, num_classes=num_classes, **options)


def build_auxiliary_head(channels: list[int], num_classes: int) -> nn.Module:
    """mmsegmentation's usual FCN head on stage 3."""
    return _mmseg_head(
        'FCNHead',
        in_channels=channels[2],
        in_index=2,
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


def node_process_group() -> Any:
    """The process group of this rank's node; None, the group of all ranks, where there is one node."""
    world_size, local_world_size = dist.get_world_size(), dist.get_local_world_size()
    if world_size == local_world_size:
        return None
    starts = range(0, world_size, local_world_size)
    groups = [torch.distributed.new_group(list(range(start, start + local_world_size))) for start in starts]
    return groups[dist.get_node_rank()]


def build_composer_deeplabv3(
    num_classes: int,
    backbone_arch: str = 'resnet101',
    backbone_weights: str | None = None,
    sync_bn: bool = True,
    use_plus: bool = True,
    ignore_index: int = -1,
    cross_entropy_weight: float = 1.0,
    dice_weight: float = 0.0,
    init_fn: Callable[[nn.Module], None] | None = None,
) -> ComposerClassifier:
    """:func:`build_model` under the name and arguments of MosaicML's example."""
    return build_model(
        architecture='deeplabv3plus' if use_plus else 'deeplabv3',
        num_classes=num_classes,
        backbone_arch=backbone_arch,
        backbone_weights=backbone_weights,
        sync_bn=sync_bn,
        ignore_index=ignore_index,
        cross_entropy_weight=cross_entropy_weight,
        dice_weight=dice_weight,
        init_fn=init_fn,
    )
