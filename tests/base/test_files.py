"""A file is there whole or not at all, and nothing is left beside it."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from segrecipes.base.files import replaced, write_text

needs_proc = pytest.mark.skipif(not Path('/proc/self/fd').exists(), reason='needs Linux')


@pytest.fixture(params=['new', 'old'])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file to write, which may be there already, beside another one."""
    path = tmp_path / 'folder' / 'a.tar.gz'
    path.parent.mkdir()
    (path.parent / 'other').write_text('mine')
    if request.param == 'old':
        path.write_bytes(b'old')
    return path


def tree(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_file_takes_its_place_once_it_is_complete(target: Path) -> None:
    before = tree(target.parent)
    with replaced(target) as partial:
        assert partial.parent == target.parent  # on the same disk
        assert partial.name == '.a.tar.partial.gz'  # by whose end libraries know the format
        partial.write_bytes(b'new')
        assert tree(target.parent) == before | {partial.name: b'new'}
    assert tree(target.parent) == before | {'a.tar.gz': b'new'}


@pytest.mark.parametrize('failure', [OSError('disk full'), KeyboardInterrupt(), ValueError()])
@pytest.mark.parametrize('written', [None, b'', b'half'])
def test_what_fails_half_way_changes_nothing(target: Path, failure: BaseException, written: bytes | None) -> None:
    before = tree(target.parent)
    with pytest.raises(type(failure)), replaced(target) as partial:
        if written is not None:
            partial.write_bytes(written)
        raise failure
    assert tree(target.parent) == before


def test_a_file_that_nobody_wrote(target: Path) -> None:
    before = tree(target.parent)
    with pytest.raises(FileNotFoundError), replaced(target):
        pass
    assert tree(target.parent) == before


@pytest.mark.parametrize('path', ['a.txt', 'new/a.txt', 'new/deep/a', 'new/.hidden'])
def test_folders_are_made(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for given in (path, tmp_path / path):  # relative too
        write_text(given, 'text')
        assert [file for file in tmp_path.rglob('*') if file.is_file()] == [tmp_path / path]
        assert (tmp_path / path).read_text() == 'text'
        (tmp_path / path).unlink()


@needs_proc
def test_it_is_on_the_disk_before_it_has_the_name(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The content, then the name, then the folder that has the name."""
    before, events = tree(target.parent), []
    fsync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        events.append(str(Path(f'/proc/self/fd/{descriptor}').readlink()))
        fsync(descriptor)

    def renamed(self: Path, to: Path) -> Any:
        assert tree(target.parent) == before | {self.name: b'new'}
        events.append('renamed')
        return replace(self, to)

    monkeypatch.setattr(os, 'fsync', synced)
    monkeypatch.setattr(Path, 'replace', renamed)
    write_text(target, 'new')
    partial = target.with_name('.a.tar.partial.gz')
    assert events == [str(partial), 'renamed', str(target.parent)]


def test_a_full_disk_is_noticed_before_the_file_is_touched(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems tell only now."""

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, 'No space left on device')

    before = tree(target.parent)
    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(OSError, match='No space left'):
        write_text(target, 'new')
    assert tree(target.parent) == before


def test_text_is_utf8(target: Path) -> None:
    before = tree(target.parent)
    write_text(target, 'Gebäude …\n')
    assert tree(target.parent) == before | {'a.tar.gz': 'Gebäude …\n'.encode()}


def test_text_that_fails_half_way(target: Path) -> None:
    """Half of a surrogate pair has no UTF-8."""
    before = tree(target.parent)
    with pytest.raises(UnicodeEncodeError):
        write_text(target, 'good\n' * 100_000 + '\ud800')
    assert tree(target.parent) == before


def test_a_target_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / 'taken').mkdir()
    with pytest.raises(IsADirectoryError):
        write_text(tmp_path / 'taken', 'text')
    assert [*tmp_path.rglob('*')] == [tmp_path / 'taken']


@needs_proc
def test_descriptors_are_closed(target: Path) -> None:
    count = len(os.listdir('/proc/self/fd'))  # noqa: PTH208
    for _ in range(5):
        write_text(target, 'text')
    assert len(os.listdir('/proc/self/fd')) == count  # noqa: PTH208
