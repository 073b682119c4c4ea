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
from segrecipes.base.stores import is_url, open_store

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
        self.store = open_store(self.root, 'out')

    def __getstate__(self) -> dict[str, str]:
        return {'root': self.root}  # without the connection, which a worker must not share

    def is_occupied(self, split: str) -> bool:
        return bool(self.store.names(f'{self.root}/{split}'))

    @contextmanager
    def staging(self, splits: Sequence[str]) -> Iterator[Path]:
        for split in filter(self.is_occupied, splits):  # a first conversion needs no permission to delete
            self.store.delete(f'{self.root}/{split}/index.json')
        with TemporaryDirectory() as folder:
            yield Path(folder)

    def put(self, file: Path, staging: Path, name: str) -> None:
        worker_store(self.root).upload(file, f'{self.root}/{name}')

    def publish(self, staging: Path, split: str, entries: list[Entry]) -> None:
        shards = {(entry['zip_data'] or entry['raw_data'])['basename'] for entry in entries}
        self.write(f'{split}/index.json', index_json(entries))
        for name in self.store.names(f'{self.root}/{split}') - shards - {'index.json'}:
            self.store.delete(f'{self.root}/{split}/{name}')

    def write(self, name: str, text: str) -> None:
        self.store.write(text, f'{self.root}/{name}')


@functools.cache
def worker_store(root: str) -> Any:
    """One connection a worker, which asks for it shard after shard; the parent never does, or forks would share it."""
    return open_store(root)


Target = FolderTarget | BucketTarget


def open_target(out: str | Path) -> Target:
    return BucketTarget(str(out)) if is_url(out) else FolderTarget(out)


def index_json(entries: list[Entry]) -> str:
    return json.dumps({'version': 2, 'shards': entries}, sort_keys=True)
