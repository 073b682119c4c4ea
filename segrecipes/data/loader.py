"""Datasets from a folder or from MDS shards, as Composer DataSpecs.

    python data.py ./ade20k                     checks a folder
    python data.py s3://bucket/ade20k ./cache   checks MDS shards
    python data.py ./ade20k --show grid.png     draws augmented samples, as the network sees them

A sample is decoded, augmented as uint8 arrays by a generator of its own, batched, and normalised on the device.
"""

import itertools
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from composer.core import DataSpec
from composer.utils import dist
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset

from device import copied_ahead
from errors import UserError, clean_exit
from layouts import IGNORE_LABEL, Layout, find_pairs, get_layout
from protocols import Protocol
from samples import DataError, Sample, SampleMaker, decode_image, decode_mask
from transforms import DeviceTransform, EvalTransform, TrainTransform, mean_labelled


class FolderDataset(Dataset):
    """Images and masks in folders. Indexed by (epoch, index), because augmentation depends on both."""

    def __init__(self, path: str | Path, split: str, layout: Layout, make_sample: SampleMaker):
        self.pairs = find_pairs(path, split, layout)
        self.make_sample = make_sample
        self.path = path
        self.resume_sample = 0  # samples of the coming epoch, over all ranks, that a resumed run has already seen

    def __len__(self) -> int:
        return len(self.pairs)

    def __str__(self) -> str:
        return str(self.path)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        uid, image, mask = self.pairs[index]
        return self.make_sample(decode_image(image, str(image)), decode_mask(mask, str(mask)), uid, epoch)

    # Composer saves and restores a dataset that has these two, in place of loading batches only to skip them.
    def state_dict(self, num_samples: int, from_beginning: bool) -> dict[str, Any]:
        return {'sample_in_epoch': num_samples}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.resume_sample = int(state['sample_in_epoch'])


class EpochSampler(DistributedSampler):
    """A DistributedSampler that yields (epoch, index), without the first ``skip`` of the coming epoch."""

    skip = 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        skip, self.skip = self.skip, 0
        return ((self.epoch, index) for index in itertools.islice(super().__iter__(), skip, None))


def collate(samples: list[Sample]) -> tuple[Tensor, Tensor]:
    """Stack samples; the (B, 3, H, W) images stay channels last in memory, as they were decoded."""
    images, masks, _ = zip(*samples)
    return torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2), torch.stack(masks)


def counted(batch: tuple[Tensor, Tensor], label_offset: int) -> tuple[Tensor, Tensor, Tensor]:
    """A batch, and the mean number of labelled pixels an image in it: (B,) float32, all equal.

    A microbatch keeps that of its whole batch, by which its cross entropy is divided.
    """
    images, masks = batch
    return images, masks, mean_labelled(masks, label_offset).repeat(len(masks))


def collate_counted(samples: list[Sample], label_offset: int) -> tuple[Tensor, Tensor, Tensor]:
    return counted(collate(samples), label_offset)


def collate_named(samples: list[Sample]) -> tuple[Tensor, Tensor, list[str]]:
    """:func:`collate`, and the uids."""
    return *collate(samples), [uid for _, _, uid in samples]


def collate_views(samples: list[Sample]) -> tuple[list[Any], ...]:
    """Samples of a protocol, each of its own size: a list of views, of masks and of uids."""
    views, masks, uids = (list(column) for column in zip(*samples))
    return views, masks, uids


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
                delivered += len(batch[0])
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
    transform: TrainTransform | EvalTransform | Protocol,
    third: str | None = None,
    seed: int = 17,
    drop_last: bool = False,
    shuffle: bool = False,
    streaming: dict[str, Any] | None = None,
    **dataloader_kwargs: Any,
) -> DataSpec:
    """A dataset and its loader.

    Args:
        path: folder, or with ``is_streaming`` the root of MDS shards: a folder or ``s3://…``.
        split: ``train`` or ``val``.
        batch_size: samples a rank.
        name: a row of ``layouts.LAYOUTS``.
        local: where streamed shards are kept.
        num_classes: refuses larger labels; None lets all pass.
        ignore_background: label 0 is no class and is ignored.
        transform: makes a sample; with a protocol, batches are lists of views, masks and uids.
        third: what a batch has beside images and masks: ``uids``, or ``labelled``, the count of :func:`counted` by
            the workers. Without it, training batches are counted on their way to the device.
        streaming: further arguments of ``streaming.StreamingDataset``.
        dataloader_kwargs: further arguments of ``torch.utils.data.DataLoader``.

    Raises:
        UserError: the dataset cannot be found or read.
    """
    layout = get_layout(name)
    label_offset = layout.label_offset if ignore_background else 0
    max_label = IGNORE_LABEL if num_classes is None else num_classes - 1 + label_offset
    make_sample = SampleMaker(transform, seed, max_label)
    sampler = None
    if is_streaming:
        from streaming_data import MapView, StreamingSegmentation

        dataset = StreamingSegmentation(
            path=path,
            local=local,
            split=split,
            make_sample=make_sample,
            batch_size=batch_size,
            shuffle=shuffle,
            shuffle_seed=seed,
            **(streaming or {}),
        )
        if split != 'train':  # every sample once: streaming's own order repeats some to even out the ranks
            dataset = MapView(dataset)
    else:
        dataset = FolderDataset(path, split, layout, make_sample)
    if not isinstance(dataset, IterableDataset):
        sampler = EpochSampler(
            dataset,
            num_replicas=dist.get_world_size(),
            rank=dist.get_global_rank(),
            shuffle=shuffle,
            seed=seed,
            drop_last=drop_last,
        )
    collates = {None: collate, 'uids': collate_named, 'labelled': partial(collate_counted, label_offset=label_offset)}
    loader = CheckedDataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        drop_last=drop_last,
        collate_fn=collate_views if isinstance(transform, Protocol) else collates[third],
        **dataloader_kwargs,
    )
    if len(loader) == 0:
        raise UserError(
            f'{path} has too few samples in its {split} split for one batch of {batch_size} on each of '
            f'{dist.get_world_size()} ranks; lower batch_size'
        )
    return DataSpec(
        loader,
        batch_transforms=partial(counted, label_offset=label_offset) if split == 'train' and third is None else None,
        microbatch_transforms=DeviceTransform(label_offset),
        get_num_samples_in_batch=lambda batch: len(batch[1]),
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
    transform = (
        TrainTransform(base_size, final_size, min_resize_scale, max_resize_scale)
        if split == 'train'
        else EvalTransform(final_size)
    )
    return build_dataspec(
        path=path,
        is_streaming=is_streaming,
        local=local,
        batch_size=batch_size,
        split=split,
        drop_last=drop_last,
        shuffle=shuffle,
        ignore_background=ignore_background,
        transform=transform,
        **dataloader_kwargs,
    )


@clean_exit
def check_dataloader() -> None:
    """Check every image and mask of a dataset and print what was found, or draw some of its samples."""
    import audit
    import preview

    shows = any(argument.partition('=')[0] == '--show' for argument in sys.argv)
    (preview if shows else audit).main(sys.argv[1:])


if __name__ == '__main__':
    check_dataloader()
