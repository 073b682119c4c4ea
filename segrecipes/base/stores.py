"""Object stores, by the scheme of a URL: what is asked of them beside what Streaming and Composer ask.

A store has ``check(url)``, ``names(url)``, ``upload(file, url)``, ``write(text, url)``, ``delete(url)`` and
``download(url, file)``; each raises MissingPathError for what is not there, and UserError for what else goes wrong.
"""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from segrecipes.base.errors import MissingPathError, UserError
from segrecipes.base.lazy import Lazy


@dataclass(frozen=True)
class Scheme:
    """
    Args:
        store: makes the store of a URL.
        needs: the module and the package without which it is not reached.
        has_checkpoints: Composer saves checkpoints there.
    """

    store: Lazy
    needs: tuple[str, str] | None = None
    has_checkpoints: bool = True


_COMPOSERS = Lazy('segrecipes.base.object_store:ComposerStore')

SCHEMES = {
    's3': Scheme(Lazy('segrecipes.base.s3:S3Store')),
    'gs': Scheme(_COMPOSERS),
    'oci': Scheme(_COMPOSERS),
    'azure': Scheme(_COMPOSERS, needs=('libcloud', 'apache-libcloud')),
    'hf': Scheme(Lazy('segrecipes.base.object_store:HubStore'), has_checkpoints=False),
}


def is_url(path: object) -> bool:
    return '://' in str(path)


def has_checkpoints(url: str) -> bool:
    """Whether Composer saves there; it has schemes of its own beside these."""
    scheme = SCHEMES.get(url.partition('://')[0])
    return scheme is None or scheme.has_checkpoints


def scheme_of(url: str, key: str = '') -> Scheme:
    """The row of a URL that can be used here.

    Raises:
        UserError: its scheme is not known, it names no bucket, or a package is not installed.
    """
    name, _, path = url.partition('://')
    shown = f'{key}={url}' if key else url
    if name not in SCHEMES:
        raise UserError(
            f'{shown}: {name}:// is not known. Legal: a folder, {", ".join(f"{one}://" for one in SCHEMES)}'
        )
    if not path.strip('/') or path.startswith('/'):
        raise UserError(f'{shown} names no bucket; expected {name}://bucket/path')
    scheme = SCHEMES[name]
    if scheme.needs and find_spec(scheme.needs[0]) is None:
        raise UserError(f'{shown} needs another package: pip install {scheme.needs[1]}')
    return scheme


def open_store(url: str, key: str = '') -> Any:
    """The store of a URL; raises as :func:`scheme_of` does, and UserError where there are no credentials."""
    return scheme_of(url, key).store(url)


def check_readable(url: str) -> None:
    """Raise unless ``<url>/index.json`` can be read: MissingPathError or UserError, which say why."""
    index = f'{url.rstrip("/")}/index.json'
    open_store(index).check(index)


def upload_folder(folder: Path, url: str) -> None:
    """Each file in a folder, and below it, to the same place below a URL."""
    store = open_store(url)
    for file in sorted(path for path in folder.rglob('*') if path.is_file()):
        store.upload(file, f'{url.rstrip("/")}/{file.relative_to(folder).as_posix()}')


def local_copy(path: str, key: str = 'load_path') -> str:
    """A file here, or of an object store → a path on this machine; each node downloads it once.

    Raises:
        MissingPathError: there is no such file; ``key`` stands before its name.
        UserError: the store refuses, or does not answer.
    """
    from composer.utils import dist

    if not is_url(path):
        if not Path(path).exists():
            raise MissingPathError(f'{key}={path}: no such file')
        return path
    copy = None
    if dist.get_local_rank() == 0:
        folder = tempfile.mkdtemp(prefix='checkpoint-')
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        copy = str(Path(folder) / Path(path).name)
        try:
            _download(path, copy, key)
        except FileNotFoundError as error:
            raise MissingPathError(f'{key}={path}: no such file') from error
    copies: list[Any] = dist.all_gather_object(copy)
    return copies[dist.get_global_rank() - dist.get_local_rank()]


def _download(url: str, file: str, key: str) -> None:
    if url.partition('://')[0] in SCHEMES:
        open_store(url, key).download(url, file)
        return
    from composer.utils import get_file  # https:// and what else Composer reads

    from segrecipes.base.object_store import told

    with told(f'{key}={url}'):
        get_file(url, file, progress_bar=False)


@contextmanager
def written(folder: str) -> Iterator[Path]:
    """A folder to write to: this one or, if it is a URL, one that is uploaded at the end."""
    if not is_url(folder):
        yield Path(folder)
        return
    with tempfile.TemporaryDirectory() as here:
        yield Path(here)
        upload_folder(Path(here), folder)


def streaming_url(url: str) -> str:
    """As Streaming has it, which wants the account before an Azure container; elsewhere it is the same."""
    scheme, _, path = url.partition('://')
    return f'azure://{os.environ.get("AZURE_ACCOUNT_NAME", "")}/{path}' if scheme == 'azure' else url
