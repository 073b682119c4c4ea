"""Writes one shard, of files as they are."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from streaming import MDSWriter

from segrecipes.base.errors import UserError
from segrecipes.storage.decode import UNREADABLE, image_size, unfiltered_png
from segrecipes.storage.folders import Pair
from segrecipes.storage.targets import Entry, Target

COLUMNS = {'uid': 'bytes', 'x': 'jpeg', 'y': 'png'}
SHARD_HEADER_BYTES = 1024  # at most
SAMPLE_HEADER_BYTES = 4 + 4 * len(COLUMNS)  # its offset in the shard, then the sizes of its columns


class Shard(NamedTuple):
    split: str
    number: int
    pairs: list[Pair]


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
