"""Where a conversion goes: a folder, or a bucket."""

import functools
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from segrecipes.base.errors import UserError
from segrecipes.base.files import write_text
from segrecipes.base.s3 import s3_client, s3_errors, split_s3

Entry = dict[str, Any]  # what index.json says of a shard


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
        write_text(staging / split / 'index.json', index_json(entries))
        place = self.root / split
        if os.path.lexists(place):
            place.replace(staging / f'old-{split}')  # goes with the staging folder
        (staging / split).replace(place)

    def write(self, name: str, text: str) -> None:
        write_text(self.root / name, text)


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

    def write(self, name: str, text: str) -> None:
        with s3_errors(f'{self.root}/{name}'):
            self.client.put_object(**self.at(name), Body=text)


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
