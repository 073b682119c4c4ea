"""The data of a run, from its config."""

import os
from typing import Any

import torch
from composer.core import DataSpec
from composer.utils import dist

from segrecipes.config.augmentation import AUGMENTATION
from segrecipes.config.schema import Config, DatasetConfig
from segrecipes.data.augment import TrainTransform
from segrecipes.data.batch import collate
from segrecipes.data.check import check_labels
from segrecipes.data.loader import build_dataspec
from segrecipes.datasets.table import get_dataset
from segrecipes.evaluation.protocols import EvalProtocol

STREAMING = (
    'predownload', 'cache_limit', 'num_canonical_nodes', 'shuffle_algo',
    'download_retry', 'download_timeout', 'validate_hash',
)  # fmt: skip


def dataspec(dataset: DatasetConfig, split: str, cfg: Config, protocol: EvalProtocol | None = None) -> DataSpec:
    """The DataSpec of ``train_dataset`` or ``eval_dataset``."""
    assert dataset.path is not None and dataset.name is not None
    cores = len(os.sched_getaffinity(0)) // dist.get_local_world_size()
    num_workers = max(1, min(8, cores)) if dataset.num_workers is None else dataset.num_workers
    workers = {'persistent_workers': dataset.persistent_workers, 'prefetch_factor': dataset.prefetch_factor}
    batch_size = dataset.batch_size // dist.get_world_size()
    transform = protocol or TrainTransform(**{key: getattr(dataset, key) for key in AUGMENTATION})
    spec = build_dataspec(
        path=dataset.path,
        split=split,
        batch_size=protocol.batch_size(batch_size) if protocol else batch_size,
        name=dataset.name,
        is_streaming=dataset.is_streaming,
        local=dataset.local,
        num_classes=cfg.model.num_classes,
        ignore_background=dataset.ignore_background,
        pad_to_square=dataset.pad_to_square,
        transform=transform,
        collate_fn=protocol.collate if protocol else collate,
        seed=cfg.seed,
        drop_last=dataset.drop_last and split == 'train',  # every image is scored
        shuffle=dataset.shuffle and split == 'train',
        streaming={key: getattr(dataset, key) for key in STREAMING},
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        **(workers if num_workers else {}),
    )
    row, background = get_dataset(dataset.name), dataset.ignore_background
    label_map = row.label_map(cfg.model.num_classes, background)
    masks: Any = spec.dataloader
    check_labels(masks.dataset, row, label_map, row.class_names(background), is_train=protocol is None)
    return spec


def images(spec: DataSpec) -> int:
    """Of the split, over all ranks."""
    loader: Any = spec.dataloader
    return loader.dataset.size
