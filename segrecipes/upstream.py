"""The names and arguments of MosaicML's example, for code that was written against it.

https://github.com/mosaicml/examples/tree/main/examples/benchmarks/deeplab
"""

from collections.abc import Callable
from typing import Any

from composer.core import DataSpec
from composer.models import ComposerClassifier
from torch import nn

from segrecipes.data.augment import TrainTransform
from segrecipes.data.batch import collate_pairs, with_count
from segrecipes.data.loader import build_dataspec
from segrecipes.evaluation.table import get_protocol
from segrecipes.models.spec import NetworkSpec
from segrecipes.training.tasks.segmentation import build_model


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
    architecture = 'deeplabv3plus' if use_plus else 'deeplabv3'
    return build_model(
        NetworkSpec(architecture, num_classes, backbone_arch),
        backbone_weights=backbone_weights,
        sync_bn=sync_bn,
        ignore_index=ignore_index,
        cross_entropy_weight=cross_entropy_weight,
        dice_weight=dice_weight,
        init_fn=init_fn,
    )


def build_ade20k_dataspec(
    path: str,
    is_streaming: bool = True,
    local: str | None = '/tmp/mds-cache/mds-ade20k/',
    *,
    batch_size: int,
    split: str = 'train',
    drop_last: bool = True,
    shuffle: bool = True,
    base_size: int = 512,
    min_resize_scale: float = 0.5,
    max_resize_scale: float = 2.0,
    final_size: int = 512,
    ignore_background: bool = True,
    **dataloader_kwargs: Any,
) -> DataSpec:
    """:func:`build_dataspec` under the name and arguments of MosaicML's example."""
    is_train = split == 'train'
    transform = (
        TrainTransform(base_size, final_size, min_resize_scale, max_resize_scale)
        if is_train
        else get_protocol('mosaic-512sq', final_size)
    )
    spec = build_dataspec(
        path=path,
        is_streaming=is_streaming,
        local=local,
        batch_size=batch_size,
        split=split,
        drop_last=drop_last,
        shuffle=shuffle,
        ignore_background=ignore_background,
        transform=transform,
        collate_fn=collate_pairs,
        **dataloader_kwargs,
    )
    if is_train:  # a batch is a pair until then
        spec.batch_transforms = with_count
    return spec


def check_dataloader() -> None:
    """``python data.py`` with the arguments of this process."""
    from segrecipes.commands.cli import run

    run('data')
