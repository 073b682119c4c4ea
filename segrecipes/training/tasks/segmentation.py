"""Segmentation as Composer trains and evaluates it."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, cast

import torch
from composer.models import ComposerClassifier
from composer.utils import dist
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from segrecipes.base.device import full_float32, has_triton
from segrecipes.data.batch import CLASSES, IMAGES, LABELLED
from segrecipes.evaluation.metrics import CrossEntropy, MIoU, Scored, score
from segrecipes.evaluation.protocols import EvalProtocol
from segrecipes.evaluation.table import get_protocol
from segrecipes.models.backbones.weights import has_weights
from segrecipes.models.layers.depthwise import use_fast_depthwise
from segrecipes.models.layers.pooling import use_repeatable_pooling
from segrecipes.models.losses.segmentation import segmentation_loss
from segrecipes.models.network import SegmentationNetwork, build_network, upsample
from segrecipes.models.parts import check_parts, freeze
from segrecipes.models.spec import NetworkSpec
from segrecipes.training.strategy import STRATEGIES


class SegmentationModel(ComposerClassifier):
    """A :class:`SegmentationNetwork` with CE + Dice loss, an optional auxiliary loss, MIoU and cross entropy.

    A batch is what ``data.batch`` says, or (images, labels) alone. Without ``full_size_logits`` the output of a
    training step stays at the head's own stride, and the loss interpolates a slice of it at a time: the same loss in
    far less memory. In evaluation it always has the size of the images.

    Composer's evaluation gets :class:`Scored` predictions in place of logits, as ``protocol`` makes them of a batch.

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
        protocol: EvalProtocol | None = None,
        compile_options: Mapping[str, Any] | None = None,
    ):
        train = [CrossEntropy(), MIoU(num_classes)] if train_metrics else []
        protocol = protocol or get_protocol('mosaic-512sq')
        self.module: SegmentationNetwork
        super().__init__(
            module=network,
            num_classes=num_classes,
            train_metrics=MetricCollection(train),
            val_metrics=protocol.metrics(num_classes),
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
        self._frozen_norms: list[nn.Module] = []

    def freeze(self, parts: Sequence[str]) -> None:
        """Train these parts of the network no more: neither their parameters nor their running statistics.

        Raises:
            UserError: the network has no such part.
        """
        check_parts(self.module, parts, 'model.freeze')
        self._frozen_norms = freeze(self.module, parts)
        self.train(self.training)

    def train(self, mode: bool = True) -> 'SegmentationModel':
        super().train(mode)
        for norm in self._frozen_norms:
            norm.eval()
        return self

    def forward(self, batch: Sequence[Any]) -> Tensor:
        images = batch[IMAGES]
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
        with full_float32():
            if outputs is not None:
                return score([outputs], batch[CLASSES], *self._label_range)
            return self.protocol.score(self.logits, batch[IMAGES], batch[CLASSES], *self._label_range)

    def loss(self, outputs: Tensor, batch: Sequence[Any], *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        target, pixels_per_image = batch[CLASSES], batch[LABELLED][0] if len(batch) > LABELLED else None
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
    spec: NetworkSpec,
    *,
    backbone_weights: str | None = None,
    auxiliary_weight: float = 0.0,
    sync_bn: bool = True,
    cross_entropy_weight: float = 1.0,
    dice_weight: float = 0.0,
    dice_per: str = 'batch',
    loss_options: Mapping[str, Any] | None = None,
    ignore_index: int = -1,
    full_size_logits: bool = True,
    train_metrics: bool = False,
    autocast: torch.dtype | None = None,
    class_names: Sequence[str] | None = None,
    protocol: EvalProtocol | None = None,
    strategy: str = 'ddp',
    compile_options: Mapping[str, Any] | None = None,
    init_fn: Callable[[nn.Module], None] | None = None,
) -> SegmentationModel:
    """Build the network and wrap it for Composer.

    Args:
        backbone_weights: a torchvision weights name (``IMAGENET1K_V2``), a local file with a state dict, or None.
        auxiliary_weight: weight of an FCN head on the last map but one; 0 builds none. mmsegmentation uses 0.4.
        sync_bn: synchronise batch norm over the GPUs of each node where there is more than one rank.
        dice_per: ``batch``: Dice over all pixels of a microbatch; ``image``: of each image, whatever the microbatch.
        loss_options: further arguments of ``segmentation_loss``.
        full_size_logits: False lets the loss interpolate the logits of a training step, a slice at a time.
        autocast: the network's dtype on a CPU; on a GPU Composer's precision decides.
        protocol: how evaluation batches are scored, and what their metric is called; default mosaic-512sq.
        strategy: a row of ``strategy.STRATEGIES``.
        compile_options: arguments of ``torch.compile``, which then compiles the network for training; None does not.
        init_fn: applied to the heads, and to the backbone too where it has no pretrained weights.

    Raises:
        UserError: an unknown name, or weights that cannot be read.
    """
    network = build_network(spec, backbone_weights=backbone_weights, auxiliary=auxiliary_weight > 0)
    if init_fn is not None:
        heads = [module for name, module in network.named_children() if name != 'backbone']
        for module in heads if has_weights(backbone_weights) else [network]:
            module.apply(init_fn)
    if sync_bn and dist.get_world_size() > 1 and torch.cuda.is_available():  # torch has SyncBatchNorm for GPUs only
        group = STRATEGIES[strategy].batch_norm_group()
        network = cast(SegmentationNetwork, nn.SyncBatchNorm.convert_sync_batchnorm(network, process_group=group))
    use_repeatable_pooling(network)
    if has_triton():
        use_fast_depthwise(network)

    loss_fn = partial(
        segmentation_loss,
        cross_entropy_weight=cross_entropy_weight,
        dice_weight=dice_weight,
        dice_per=dice_per,
        **(loss_options or {}),
        ignore_index=ignore_index,
    )
    return SegmentationModel(
        network,
        spec.num_classes,
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
