"""Object stores of other makers than S3, whose buckets are folders of this machine."""

import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from composer.utils import ObjectStore, file_helpers
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

from segrecipes.base import stores


class FolderObjects(ObjectStore):
    """A bucket as Composer's clients show it."""

    def __init__(self, bucket: Path):
        self.bucket = bucket

    def get_uri(self, object_name: str) -> str:
        return str(self.bucket / object_name)

    def get_object_size(self, object_name: str) -> int:
        return (self.bucket / object_name).stat().st_size

    def upload_object(self, object_name: str, filename: Any, callback: Any = None) -> None:
        (self.bucket / object_name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(filename, self.bucket / object_name)

    def download_object(self, object_name: str, filename: Any, overwrite: bool = False, callback: Any = None) -> None:
        shutil.copy(self.bucket / object_name, filename)

    def list_objects(self, prefix: str | None) -> list[str]:
        found = (str(path.relative_to(self.bucket)) for path in self.bucket.rglob('*') if path.is_file())
        return [name for name in found if name.startswith(prefix or '')]


def lay_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``scheme://bucket/key`` of each other maker is the file ``folder/scheme/bucket/key``."""
    for scheme in ('gs', 'oci', 'azure'):
        monkeypatch.setitem(
            file_helpers.BACKEND_TO_OBJECT_STORE_FACTORY,
            scheme,
            lambda bucket, path, scheme=scheme: FolderObjects(folder / scheme / bucket),
        )

    class Hub(DirFileSystem):
        protocol = 'hf'
        cachable = False

        def __init__(self, **_: Any):
            (folder / 'hf').mkdir(parents=True, exist_ok=True)
            super().__init__(path=str(folder / 'hf'), fs=LocalFileSystem(auto_mkdir=True))

    monkeypatch.setitem(import_module('fsspec.registry')._registry, 'hf', Hub)
    monkeypatch.setattr(stores, 'find_spec', lambda module: object())
