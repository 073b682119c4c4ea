"""Files that are there whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

IMAGE_SUFFIXES = frozenset({'.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff'})


@contextmanager
def replaced(path: str | Path) -> Iterator[Path]:
    """A file beside ``path`` to write, which takes its place once it is complete and on the disk.

    What fails in between leaves ``path`` as it was, and nothing beside it. Folders are made as needed. The file to
    write is a hidden one, and ends as ``path`` does, by which libraries know its format.

    Raises:
        OSError: as the file system does; a full disk is noticed before ``path`` is touched.
    """
    path = Path(path)
    partial = path.with_name(f'.{path.stem}.partial{path.suffix}')
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        _to_disk(partial)
        partial.replace(path)
        _to_disk(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Replace a file by one of this text, as UTF-8."""
    with replaced(path) as partial:
        partial.write_text(text, encoding='utf-8')


def _to_disk(path: Path) -> None:
    """Without it a crash of the machine can leave the new name on an empty file."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
