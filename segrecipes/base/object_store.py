"""Stores that Composer knows, and the Hugging Face Hub in the same form."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from composer.utils import ObjectStore, maybe_create_object_store_from_uri
from composer.utils import get_file as composers_get_file

from segrecipes.base.errors import MissingPathError, UserError


class ComposerStore:
    """The bucket of a URL, through Composer's client of it and its credentials; nothing is deleted there."""

    def __init__(self, url: str):
        self.scheme, _, path = url.partition('://')
        self.bucket = path.partition('/')[0]
        with told(url):
            self.objects = self._objects()

    def _objects(self) -> Any:
        return maybe_create_object_store_from_uri(f'{self.scheme}://{self.bucket}')

    def check(self, url: str) -> None:
        with told(url):
            self.objects.get_object_size(key_of(url))

    def names(self, url: str) -> set[str]:
        """What lies below a URL, from there; nothing where there is no such place."""
        prefix = f'{key_of(url)}/'
        with told(url):
            return {name.removeprefix(prefix) for name in self.objects.list_objects(prefix)}

    def upload(self, file: Path, url: str) -> None:
        with told(url):
            self.objects.upload_object(key_of(url), str(file))

    def write(self, text: str, url: str) -> None:
        with TemporaryDirectory() as folder:
            file = Path(folder) / Path(url).name
            file.write_text(text, encoding='utf-8')
            self.upload(file, url)

    def delete(self, url: str) -> None:
        raise UserError(f'{url} is there already, and {self.scheme}:// is not overwritten: choose another place')

    def download(self, url: str, file: str) -> None:
        """Also through the ``.symlink`` files by which Composer says which checkpoint is the latest."""
        with told(url):
            composers_get_file(key_of(url), file, object_store=self.objects, progress_bar=False)


class HubStore(ComposerStore):
    """``hf://datasets/owner/name/path``, or ``hf://owner/name/path`` of a model; each upload is a commit."""

    def _objects(self) -> Any:
        return HubObjects(self.bucket)


class HubObjects(ObjectStore):
    """huggingface_hub's file system, as Composer has its stores."""

    def __init__(self, root: str):
        self.root = root

    @functools.cached_property
    def files(self) -> Any:
        import fsspec

        return fsspec.filesystem('hf', use_listings_cache=False)

    def get_uri(self, object_name: str) -> str:
        return f'hf://{self.root}/{object_name}'

    def get_object_size(self, object_name: str) -> int:
        return self.files.info(f'{self.root}/{object_name}')['size']

    def upload_object(
        self, object_name: str, filename: str | Path, callback: Callable[[int, int], None] | None = None
    ) -> None:
        self.files.put_file(str(filename), f'{self.root}/{object_name}')

    def download_object(
        self,
        object_name: str,
        filename: str | Path,
        overwrite: bool = False,
        callback: Callable[[int, int], None] | None = None,
    ) -> None:
        self.files.get_file(f'{self.root}/{object_name}', str(filename))

    def list_objects(self, prefix: str | None) -> list[str]:
        try:
            found = self.files.find(f'{self.root}/{prefix or ""}'.rstrip('/'))
        except FileNotFoundError:
            return []
        return [path.removeprefix(f'{self.root}/') for path in found]


def key_of(url: str) -> str:
    """``gs://bucket/some/key`` → ``some/key``."""
    return url.partition('://')[2].partition('/')[2].strip('/')


@contextmanager
def told(url: str) -> Iterator[None]:
    """What the libraries raise, which is anything, becomes one line.

    Raises:
        MissingPathError: the object, or its bucket, does not exist.
        UserError: no credentials, refused credentials, no answer, or any other failure.
    """
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        raise MissingPathError(f'{url} does not exist') from error
    except Exception as error:
        reason = ' '.join(str(error).split())[:300]
        raise UserError(f'{url} cannot be reached: {type(error).__name__}: {reason}') from error
