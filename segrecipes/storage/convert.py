"""Convert a dataset of image and mask files into MosaicML Streaming shards, on disk or on S3.

    python convert_mds.py ./ade20k --out ./ade20k_mds
    python convert_mds.py ./ade20k --out s3://bucket/ade20k

One sub-folder a split, in the schema of streaming's own ADE20K converter. Files are copied byte by byte, masks not so
with --fast-masks; the shards are the same whatever the number of workers.
"""

import argparse
import functools
import json
import os
import random
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from streaming import MDSWriter
from streaming.base.compression import get_compressions
from streaming.base.hashing import get_hashes
from streaming.base.util import bytes_to_int, get_list_arg
from tqdm import tqdm

from errors import UserError, choice, clean_exit
from layouts import LAYOUTS, SPLITS, Pair, find_pairs
from object_store import s3_client, s3_errors, split_s3
from samples import UNREADABLE, image_size, unfiltered_png

COLUMNS = {'uid': 'bytes', 'x': 'jpeg', 'y': 'png'}
SHARD_HEADER_BYTES = 1024  # at most
SAMPLE_HEADER_BYTES = 4 + 4 * len(COLUMNS)  # its offset in the shard, then the sizes of its columns

Entry = dict[str, Any]  # what index.json says of a shard


class Shard(NamedTuple):
    split: str
    number: int
    pairs: list[Pair]


@clean_exit
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    samples = convert(**vars(args))
    for split, count in samples.items():
        print(f'{args.out.rstrip("/")}/{split}: {count} samples')


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('path', help='folder of the dataset')
    parser.add_argument('--out', required=True, help='a folder, or s3://bucket/prefix')
    parser.add_argument('--name', default='ade20k', help=f'layout of the dataset: {", ".join(LAYOUTS)}')
    parser.add_argument('--splits', type=lambda text: text.split(','), default=SPLITS, help='default: train,val')
    parser.add_argument('--num-workers', type=int, help='processes; default: one a core')
    parser.add_argument('--size-limit', default='4mb', help='bytes of a shard before compression; default: 4mb')
    parser.add_argument('--compression', help='such as zstd or zstd:7; default: none')
    parser.add_argument('--hashes', type=get_list_arg, default=('sha1', 'xxh64'), help='default: sha1,xxh64')
    parser.add_argument('--overwrite', action='store_true', help='replace what is in the way')
    parser.add_argument('--fast-masks', action='store_true', help='re-encode masks as PNGs that are faster to decode')
    parser.add_argument('--shuffle-seed', type=int, default=0, help='orders the training samples; default: 0')
    return parser.parse_args(argv)


def convert(
    path: str | Path,
    out: str | Path,
    *,
    name: str = 'ade20k',
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
    if name not in LAYOUTS:
        raise choice('name', name, LAYOUTS)
    if num_workers is not None and num_workers < 1:
        raise UserError(f'num_workers={num_workers} is out of range; expected 1 or more')
    options = writer_options(size_limit, compression, hashes)
    pairs = {split: find_pairs(path, split, LAYOUTS[name]) for split in splits}
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
    return {split: len(samples) for split, samples in pairs.items()}


def writer_options(size_limit: int | str, compression: str | None, hashes: Sequence[str]) -> dict[str, Any]:
    """The arguments of streaming's writer; UserError for those that it would refuse."""
    try:
        limit = bytes_to_int(size_limit)
    except (ValueError, OverflowError) as error:
        raise UserError(f'size_limit={size_limit!r} is no number of bytes; expected one such as 4mb') from error
    if not 0 < limit < 2**32:
        raise UserError(f'size_limit={size_limit!r} is out of range; expected more than 0 and less than 4gb')
    if compression and compression not in get_compressions():
        raise choice('compression', compression, get_compressions())
    for algorithm in hashes:
        if algorithm not in get_hashes():
            raise choice('hashes', algorithm, get_hashes())
    return {'size_limit': limit, 'compression': compression or None, 'hashes': sorted(set(hashes))}


def plan_shards(split: str, pairs: Sequence[Pair], size_limit: int) -> list[Shard]:
    """Cut the samples, in their order, into shards of at most ``size_limit`` bytes, going by the files' sizes."""
    shards: list[Shard] = []
    shard_bytes = 0
    for pair in pairs:
        files = [file for file in (pair.image, pair.mask) if file.exists()]  # a dangling link fails in its turn
        sample_bytes = SAMPLE_HEADER_BYTES + len(pair.uid.encode()) + sum(file.stat().st_size for file in files)
        if not shards or shard_bytes + sample_bytes > size_limit:
            shards.append(Shard(split, len(shards), []))
            shard_bytes = SHARD_HEADER_BYTES
        shards[-1].pairs.append(pair)
        shard_bytes += sample_bytes
    return shards


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


def write_shard(target: 'Target', staging: Path, options: dict[str, Any], fast_masks: bool, shard: Shard) -> Entry:
    """Write one shard and hand it to the target; its entry of the index. Runs in a worker."""
    with TemporaryDirectory(dir=staging) as folder:
        with ShardWriter(out=folder, columns=COLUMNS, **options) as writer:
            for pair in shard.pairs:
                writer.write(read_sample(pair, fast_masks))
        [entry] = writer.shards
        data = [entry[key] for key in ('raw_data', 'zip_data') if entry[key]]
        file = Path(folder, data[-1]['basename'])
        for info in data:
            info['basename'] = info['basename'].replace('00000', f'{shard.number:05}', 1)
        target.put(file, staging, f'{shard.split}/{data[-1]["basename"]}')
    return entry


class ShardWriter(MDSWriter):
    """Writes one shard of files as they are; MDSWriter would encode them anew, and cut the shard by itself."""

    def encode_sample(self, sample: dict[str, bytes]) -> bytes:
        columns = [sample[name] for name in self.column_names]
        return np.array([len(column) for column in columns], np.uint32).tobytes() + b''.join(columns)

    def write(self, sample: dict[str, bytes]) -> None:
        self.new_samples.append(self.encode_sample(sample))


def read_sample(pair: Pair, fast_masks: bool = False) -> dict[str, bytes]:
    """The bytes of both files; UserError unless they are images of one size."""
    image, size = read_image(pair.image)
    mask, mask_size = read_image(pair.mask)
    if size != mask_size:
        raise UserError(f'(width, height) differ: {size} in {pair.image}, {mask_size} in {pair.mask}')
    return {'uid': pair.uid.encode(), 'x': image, 'y': unfiltered_png(mask, str(pair.mask)) if fast_masks else mask}


def read_image(path: Path) -> tuple[bytes, tuple[int, int]]:
    try:
        data = path.read_bytes()
        return data, image_size(data)
    except Image.UnidentifiedImageError as error:
        raise UserError(f'not an image: {path}') from error
    except UNREADABLE as error:
        raise UserError(f'cannot read {path}: {error}') from error


class FolderTarget:
    """Splits gather in a staging folder inside ``root``, so on the same disk, and move into place at the end."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser()

    def is_occupied(self, split: str) -> bool:
        place = self.root / split
        return any(place.iterdir()) if place.is_dir() else os.path.lexists(place)

    @contextmanager
    def staging(self, splits: Sequence[str]) -> Iterator[Path]:
        is_new = not self.root.exists()
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            folder = TemporaryDirectory(prefix='.converting-', dir=self.root)
        except OSError as error:
            raise UserError(f'cannot write to {self.root}: {error.strerror}') from error
        try:
            with folder as name:
                yield Path(name)
        finally:
            if is_new:
                with suppress(OSError):  # not empty: the conversion succeeded
                    self.root.rmdir()

    def put(self, file: Path, staging: Path, name: str) -> None:
        (staging / name).parent.mkdir(exist_ok=True)
        file.replace(staging / name)

    def publish(self, staging: Path, split: str, entries: list[Entry]) -> None:
        (staging / split / 'index.json').write_text(index_json(entries))
        place = self.root / split
        if os.path.lexists(place):
            place.replace(staging / f'old-{split}')  # goes with the staging folder
        (staging / split).replace(place)


class BucketTarget:
    """Workers upload each shard once it is finished; the old index is deleted first, the new one uploaded last."""

    def __init__(self, root: str) -> None:
        self.root = root.rstrip('/')
        split_s3(self.root)

    def __getstate__(self) -> dict[str, str]:
        return {'root': self.root}  # without the connection, which a worker must not share

    @functools.cached_property
    def client(self) -> Any:
        return s3_client()

    def at(self, name: str) -> dict[str, str]:
        return dict(zip(('Bucket', 'Key'), split_s3(f'{self.root}/{name}')))

    def keys(self, split: str) -> set[str]:
        bucket, prefix = split_s3(f'{self.root}/{split}')
        with s3_errors(f'{self.root}/{split}'):
            pages = self.client.get_paginator('list_objects_v2').paginate(Bucket=bucket, Prefix=f'{prefix}/')
            return {item['Key'] for page in pages for item in page.get('Contents', [])}

    def is_occupied(self, split: str) -> bool:
        return bool(self.keys(split))

    @contextmanager
    def staging(self, splits: Sequence[str]) -> Iterator[Path]:
        with s3_errors(self.root):
            for split in filter(self.is_occupied, splits):  # a first conversion needs no permission to delete
                self.client.delete_object(**self.at(f'{split}/index.json'))
        with TemporaryDirectory() as folder:
            yield Path(folder)

    def put(self, file: Path, staging: Path, name: str) -> None:
        with s3_errors(f'{self.root}/{name}'), file.open('rb') as body:
            worker_client().put_object(**self.at(name), Body=body)

    def publish(self, staging: Path, split: str, entries: list[Entry]) -> None:
        names = ['index.json', *((entry['zip_data'] or entry['raw_data'])['basename'] for entry in entries)]
        index, *shards = (self.at(f'{split}/{name}') for name in names)
        with s3_errors(f'{self.root}/{split}'):
            self.client.put_object(**index, Body=index_json(entries))
            for key in self.keys(split) - {new['Key'] for new in (index, *shards)}:
                self.client.delete_object(Bucket=index['Bucket'], Key=key)


@functools.cache
def worker_client() -> Any:
    """One client a worker, which asks for it shard after shard; the parent never does, or forks would share it."""
    return s3_client()


Target = FolderTarget | BucketTarget


def open_target(out: str | Path) -> Target:
    scheme, is_url, _ = str(out).partition('://')
    if is_url and scheme != 's3':
        raise UserError(f'out={out}: {scheme}:// is not known; expected a folder or s3://bucket/prefix')
    return BucketTarget(str(out)) if is_url else FolderTarget(out)


def index_json(entries: list[Entry]) -> str:
    return json.dumps({'version': 2, 'shards': entries}, sort_keys=True)


if __name__ == '__main__':
    main()
