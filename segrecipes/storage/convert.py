"""Turns a dataset of image and mask files into MosaicML Streaming shards."""

import functools
import os
import random
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from streaming.base.compression import get_compressions
from streaming.base.hashing import get_hashes
from streaming.base.util import bytes_to_int
from tqdm import tqdm

from segrecipes.base.errors import UserError, unknown_name
from segrecipes.datasets.file import FILE, find_file, read_file, to_yaml
from segrecipes.datasets.row import SPLITS, DatasetRow
from segrecipes.datasets.table import get_dataset, locate
from segrecipes.storage.folders import find_pairs
from segrecipes.storage.targets import Entry, open_target
from segrecipes.storage.writer import Shard, plan_shards, write_shard


def convert(
    path: str | Path,
    out: str | Path,
    *,
    name: str | None = None,
    splits: Sequence[str] = SPLITS,
    num_workers: int | None = None,
    size_limit: int | str = '4mb',
    compression: str | None = None,
    hashes: Sequence[str] = ('sha1', 'xxh64'),
    overwrite: bool = False,
    shuffle_seed: int = 0,
    fast_masks: bool = False,
    progress_bar: bool = True,
) -> dict[str, int]:
    """Write each split of the dataset in ``path`` to ``<out>/<split>``; returns the number of samples of each.

    ``name`` is a dataset's, by default that of a ``dataset.yaml`` in ``path``, else ADE20K. Beside the splits lies a
    ``dataset.yaml``, so that the shards say what they are.

    Nothing can be read at ``out`` before all of it is written. A conversion that fails leaves nothing on disk, and on
    S3 shards without an index. ``size_limit`` is in bytes before compression; a larger sample gets a shard of its own.
    ``shuffle_seed`` orders the training split, other splits are sorted. ``fast_masks`` writes masks as PNGs without row
    filters, which hold the same labels and are decoded in a quarter of the time; shards are still cut by the sizes of
    the files.

    Raises:
        MissingPathError: the dataset, a mask or the bucket does not exist.
        UserError: a value that is not legal, a target that is not empty, a file that is no image, an image and a mask
            of different sizes, or S3 refused.
    """
    name, path = locate(name, str(path))
    row = get_dataset(name)
    if num_workers is not None and num_workers < 1:
        raise UserError(f'num_workers={num_workers} is out of range; expected 1 or more')
    options = writer_options(size_limit, compression, hashes)
    pairs = {split: find_pairs(path, split, row) for split in splits}
    random.Random(shuffle_seed).shuffle(pairs.get('train', []))
    shards = [shard for split in pairs for shard in plan_shards(split, pairs[split], options['size_limit'])]

    target = open_target(out)
    occupied = [f'{target.root}/{split}' for split in pairs if target.is_occupied(split)]
    if occupied and not overwrite:
        raise UserError(f'not empty: {", ".join(occupied)}; --overwrite replaces it')

    with target.staging(list(pairs)) as staging:
        write = functools.partial(write_shard, target, staging, options, fast_masks)
        entries = write_shards(write, shards, num_workers or os.cpu_count() or 1, progress_bar)
        for split in pairs:
            target.publish(staging, split, [entry for shard, entry in zip(shards, entries) if shard.split == split])
        target.write(FILE, description(name, row))
    return {split: len(samples) for split, samples in pairs.items()}


def description(name: str, row: DatasetRow) -> str:
    """The ``dataset.yaml`` of shards: that of the dataset, and that it is streamed."""
    config = dict(read_file(name).config) if find_file(name) else {}
    streamed = {**config.get('train_dataset', {}), 'is_streaming': True}
    return to_yaml(row, config | {'train_dataset': streamed})


def writer_options(size_limit: int | str, compression: str | None, hashes: Sequence[str]) -> dict[str, Any]:
    """The arguments of streaming's writer; UserError for those that it would refuse."""
    try:
        limit = bytes_to_int(size_limit)
    except (ValueError, OverflowError) as error:
        raise UserError(f'size_limit={size_limit!r} is no number of bytes; expected one such as 4mb') from error
    if not 0 < limit < 2**32:
        raise UserError(f'size_limit={size_limit!r} is out of range; expected more than 0 and less than 4gb')
    if compression and compression not in get_compressions():
        raise unknown_name('compression', compression, get_compressions())
    for algorithm in hashes:
        if algorithm not in get_hashes():
            raise unknown_name('hashes', algorithm, get_hashes())
    return {'size_limit': limit, 'compression': compression or None, 'hashes': sorted(set(hashes))}


def write_shards(write: Callable[[Shard], Entry], shards: list[Shard], workers: int, progress_bar: bool) -> list[Entry]:
    """Write the shards in parallel processes; their index entries, in the order of ``shards``."""
    # Ctrl-C reaches the workers too; they leave it to this process, which takes their work away below.
    ignore_ctrl_c = {'initializer': signal.signal, 'initargs': (signal.SIGINT, signal.SIG_IGN)}
    pool = ProcessPoolExecutor(max(1, min(workers, len(shards))), **ignore_ctrl_c)
    entries: list[Entry] = []
    try:
        written = pool.map(write, shards)  # before tqdm starts its thread, because workers may be forks
        with tqdm(total=sum(len(shard.pairs) for shard in shards), unit='sample', disable=not progress_bar) as bar:
            for entry in written:
                entries.append(entry)
                bar.update(entry['samples'])
    finally:
        pool.shutdown(cancel_futures=True)  # waits for the workers, which write to the staging folder
    return entries
