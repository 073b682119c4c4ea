"""Datasets from a folder or from MDS shards, as Composer DataSpecs.

A sample is decoded, augmented as uint8 arrays by a generator of its own, batched, and normalised on the device.
"""

import atexit
import itertools
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from composer.core import DataSpec
from composer.utils import dist
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset

from segrecipes.base.device import copied_ahead
from segrecipes.base.errors import UserError
from segrecipes.data.batch import CLASSES, IMAGES, collate
from segrecipes.data.normalize import to_network
from segrecipes.data.sample import Sample, SampleMaker, Transform
from segrecipes.datasets.table import get_dataset
from segrecipes.storage.decode import DataError
from segrecipes.storage.folders import FolderDataset


class EpochSampler(DistributedSampler):
    """A DistributedSampler that yields (epoch, index), without the first ``skip`` of the coming epoch."""

    skip = 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        skip, self.skip = self.skip, 0
        return ((self.epoch, index) for index in itertools.islice(super().__iter__(), skip, None))


class CheckedDataLoader(DataLoader):
    """A DataLoader that raises where its dataset delivers fewer samples than the epoch holds.

    Streaming ends an epoch early, and in silence, when a shard cannot be read.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        seen, self.dataset.resume_sample = getattr(self.dataset, 'resume_sample', 0), 0  # type: ignore[attr-defined]
        seen //= dist.get_world_size()
        if isinstance(self.sampler, EpochSampler):
            self.sampler.skip = seen
        expected, delivered = self.samples_per_epoch - seen, 0
        try:
            batches = super().__iter__()
            for batch in copied_ahead(batches) if self.pin_memory and torch.cuda.is_available() else batches:
                delivered += len(batch[IMAGES])
                yield batch
        except DataError as error:  # a worker wraps its own traceback around the message
            raise DataError(str(error).rpartition('DataError: ')[2].strip()) from None
        if delivered != expected:
            raise DataError(
                f'rank {dist.get_global_rank()} was delivered {delivered} of the {expected} samples of this epoch by '
                f'{self.dataset}; the run stops here because its epochs would not be what they claim to be'
            )

    @property
    def samples_per_epoch(self) -> int:
        """On this rank."""
        assert self.batch_size is not None
        total = len(self.dataset if isinstance(self.dataset, IterableDataset) else self.sampler)  # type: ignore
        return total // self.batch_size * self.batch_size if self.drop_last else total


def outlive_signals(is_over: Any, worker: int) -> None:
    """What ends all processes of a run at once is for its ranks, which still need what their workers load.

    Args:
        is_over: shared with the rank, which ends its workers by SIGTERM when it is true.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0) if is_over.value else None)


def build_dataspec(
    *,
    path: str,
    split: str,
    batch_size: int,
    name: str = 'ade20k',
    is_streaming: bool = False,
    local: str | None = None,
    num_classes: int | None = None,
    ignore_background: bool = True,
    pad_to_square: bool = False,
    transform: Transform,
    collate_fn: Callable[[Sequence[Sample]], Any] = collate,
    seed: int = 17,
    drop_last: bool = False,
    shuffle: bool = False,
    streaming: dict[str, Any] | None = None,
    **dataloader_kwargs: Any,
) -> DataSpec:
    """A dataset and its loader.

    Args:
        path: folder, or with ``is_streaming`` the root of MDS shards: a folder or a URL, of ``s3://`` or another store.
        split: ``train`` or ``val``.
        batch_size: samples a rank.
        name: a row of ``datasets.table.DATASETS``.
        local: where streamed shards are kept.
        num_classes: refuses labels of further classes; None lets all pass.
        ignore_background: where the dataset's first class has label 1, label 0 is no class and is ignored.
        pad_to_square: pads images before ``transform`` has them.
        transform: makes a sample: :class:`~segrecipes.data.augment.TrainTransform` or an evaluation protocol.
        collate_fn: makes a batch of samples.
        streaming: further arguments of ``streaming.StreamingDataset``.
        dataloader_kwargs: further arguments of ``torch.utils.data.DataLoader``.

    Raises:
        UserError: the dataset cannot be found or read.
    """
    row = get_dataset(name)
    make_sample = SampleMaker(transform, seed, row.label_map(num_classes, ignore_background), pad_to_square)
    sampler = None
    if is_streaming:
        from segrecipes.storage.shards import MapView, StreamingSegmentation

        dataset = StreamingSegmentation(
            path=path,
            local=local,
            split=split,
            make_sample=make_sample,
            pixels=row.pixels,
            batch_size=batch_size,
            shuffle=shuffle,
            shuffle_seed=seed,
            **(streaming or {}),
        )
        if split != 'train':  # every sample once: streaming's own order repeats some to even out the ranks
            dataset = MapView(dataset)
    else:
        dataset = FolderDataset(path, split, row, make_sample)
    if not isinstance(dataset, IterableDataset):
        sampler = EpochSampler(
            dataset,
            num_replicas=dist.get_world_size(),
            rank=dist.get_global_rank(),
            shuffle=shuffle,
            seed=seed,
            drop_last=drop_last,
        )
    is_over = multiprocessing.RawValue('b', False)
    atexit.register(setattr, is_over, 'value', True)  # before multiprocessing ends its children
    loader = CheckedDataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        drop_last=drop_last,
        collate_fn=collate_fn,
        worker_init_fn=partial(outlive_signals, is_over),
        **dataloader_kwargs,
    )
    if len(loader) == 0:
        ranks = dist.get_world_size()
        raise UserError(
            f'{path} has too few samples in its {split} split, {dataset.size}, for one batch of {batch_size} on each '
            f'of {ranks} ranks; batch_size may be {dataset.size // ranks * ranks} over all ranks'
        )
    return DataSpec(
        loader,
        microbatch_transforms=to_network,
        get_num_samples_in_batch=lambda batch: len(batch[CLASSES]),
    )
