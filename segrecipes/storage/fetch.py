"""Fetches ADE20K: downloads with resumption, verifies, unpacks."""

import hashlib
import shutil
import stat
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PureWindowsPath

import requests
from tqdm import tqdm

from segrecipes.base.errors import UserError
from segrecipes.datasets.ade20k import URL
from segrecipes.datasets.table import DATASETS
from segrecipes.storage.folders import find_pairs

ROW = replace(DATASETS['ade20k'], excluded={})  # a download is complete with the images training leaves out
CHUNK_BYTES = 1 << 16
TIMEOUT_SECONDS = (10, 60)  # to connect, between two reads
WAITS_SECONDS = (0, 2, 4, 8, 16)  # before each attempt


@dataclass(frozen=True)
class Archive:
    """A published zip: ``size`` and ``disk_space`` (zip plus unpacked files) in bytes, ``num_pairs`` of each split."""

    url: str
    size: int
    md5: str
    num_pairs: tuple[tuple[str, int], ...]
    disk_space: int


ADE20K = Archive(
    url=URL,
    size=967_382_037,
    md5='7328b3957e407ddae1d3cbf487f149ef',
    num_pairs=(('train', 20_210), ('val', 2_000)),
    disk_space=3_000_000_000,
)


def download(folder: Path, url: str = ADE20K.url, keep_zip: bool = False) -> Path | None:
    """The complete dataset in ``folder``: where it is, or None where it was already there.

    Raises:
        UserError: it cannot be downloaded, verified or written.
    """
    archive = replace(ADE20K, url=url)
    with plain_errors(folder):
        if not find_lack(folder, archive):
            return None
        prepare_folder(folder, archive)
        zip_path = folder / f'{ROW.root}.zip'
        fetch(archive, zip_path)
        unpack(zip_path, folder, archive)
        if not keep_zip:
            zip_path.unlink()
    return folder / ROW.root


@contextmanager
def plain_errors(folder: Path) -> Iterator[None]:
    """Turn a fault of the file system, and Ctrl-C, into a UserError that says what to do."""
    try:
        yield
    except UserError:
        raise
    except KeyboardInterrupt:
        raise UserError(f'interrupted; the same command goes on with what is in {folder}') from None
    except OSError as error:
        where, why = error.filename or folder, error.strerror or error
        raise UserError(f'cannot write {where}: {why}; check permissions and free space, or change --path') from error


def find_lack(folder: Path, archive: Archive) -> str:
    """What keeps ``folder`` from being the complete dataset; empty when nothing does."""
    for split, expected in archive.num_pairs:
        try:
            found = len(find_pairs(folder, split, ROW))
        except UserError as error:
            return str(error)
        if found != expected:
            return f'{found:,} images with masks in the {split} split, expected {expected:,}'
    return ''


def prepare_folder(folder: Path, archive: Archive) -> None:
    """Create ``folder``; UserError when it lacks space or already holds a dataset that is not the complete one."""
    folder.mkdir(parents=True, exist_ok=True)
    root = folder / ROW.root
    if root.exists() and any(root.iterdir()):
        lack = find_lack(folder, archive)
        raise UserError(f'{root} exists and is not complete: {lack}; move or delete it and run this again')
    downloaded = sum(size_of(folder / f'{ROW.root}{suffix}') for suffix in ('.zip', '.zip.part'))
    require_space(folder, archive.disk_space - downloaded)


def require_space(folder: Path, needed_bytes: int) -> None:
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        need, free = f'{needed_bytes / 1e9:.1f} GB', f'{free_bytes / 1e9:.1f} GB'
        raise UserError(f'{folder} needs {need} of free space and has {free}; make room or change --path')


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def fetch(archive: Archive, zip_path: Path) -> None:
    """Download ``zip_path`` unless it is there, resuming ``<name>.part``; either way its size and md5 are right.

    Raises:
        UserError: the URL cannot be read, the download stays short, or the bytes are not the published ones.
    """
    if zip_path.exists():
        if fault := find_fault(zip_path, archive):
            raise UserError(f'{zip_path} is not the published file: {fault}; delete it and run this again')
        return
    part = Path(f'{zip_path}.part')
    if size_of(part) > archive.size:
        part.unlink()
    reason = ''
    for wait_seconds in WAITS_SECONDS:
        if size_of(part) >= archive.size:
            break
        if reason:
            print(f'{reason}; trying again in {wait_seconds} s')
        time.sleep(wait_seconds)
        reason = download_rest(archive, part)
    if (size := size_of(part)) < archive.size:
        got = f'{reason}; got {size:,} of {archive.size:,} bytes'
        raise UserError(f'cannot download {archive.url}: {got}; run this again to resume, or name a mirror with --url')
    if fault := find_fault(part, archive):
        part.unlink()
        raise UserError(f'{archive.url} gave another file: {fault}; deleted {part}, run this again or change --url')
    part.replace(zip_path)


def download_rest(archive: Archive, part: Path) -> str:
    """One attempt to append the missing bytes to ``part``; returns why more may be missing.

    Raises:
        UserError: trying again cannot help, because the URL is wrong or leads to another file.
    """
    offset = size_of(part)
    headers = {'Accept-Encoding': 'identity'} | ({'Range': f'bytes={offset}-'} if offset else {})
    try:
        with requests.get(archive.url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS) as response:
            if response.status_code == 416 and offset:
                part.unlink()
                return 'the server cannot resume'
            if not response.ok:
                reason = f'HTTP {response.status_code} {response.reason}'
                if response.status_code >= 500 or response.status_code in (408, 429):
                    return reason
                raise UserError(f'cannot download {archive.url}: {reason}; name a mirror with --url')
            if response.status_code != 206:
                offset = 0
                size = int(response.headers.get('Content-Length', archive.size))
                if size != archive.size:  # a login page, say: seen before it overwrites a good partial download
                    fault = f'{size:,} bytes, expected {archive.size:,}'
                    raise UserError(f'{archive.url} leads to another file: {fault}; change --url')
            bar = tqdm(desc='download', total=archive.size, initial=offset, unit='B', unit_scale=True)
            with bar, part.open('ab' if offset else 'wb') as file:
                for chunk in response.iter_content(CHUNK_BYTES):
                    bar.update(file.write(chunk))
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        return innermost(error)
    except requests.RequestException as error:
        raise UserError(f'cannot download {archive.url}: {error}; change --url') from error
    return 'the connection ended early'


def innermost(error: BaseException) -> str:
    """The system's own words ("Connection refused"), which requests and urllib3 wrap three times."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return str(error)


def find_fault(path: Path, archive: Archive) -> str:
    """How a file differs from the published one, found and expected; empty when it does not."""
    if (size := size_of(path)) != archive.size:
        return f'{size:,} bytes, expected {archive.size:,}'
    digest = hashlib.md5(usedforsecurity=False)
    with path.open('rb') as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return f'md5 {digest.hexdigest()}, expected {archive.md5}' if digest.hexdigest() != archive.md5 else ''


def unpack(zip_path: Path, folder: Path, archive: Archive) -> None:
    """Unpack the dataset into ``folder``: all of it or nothing.

    Raises:
        UserError: a member would land outside ``folder``, the zip is damaged or incomplete, or space is short.
    """
    staging = folder / f'{ROW.root}.unpacking'
    shutil.rmtree(staging, ignore_errors=True)  # left by a run that was killed
    try:
        with zipfile.ZipFile(zip_path) as file:
            members = file.infolist()
            for member in members:
                refuse_unsafe(member, zip_path)
            require_space(folder, sum(member.file_size for member in members))
            for member in tqdm(members, desc='unpack', unit=' files'):
                file.extract(member, staging)
        if lack := find_lack(staging / ROW.root, archive):
            raise UserError(f'{zip_path} does not hold the complete dataset: {lack}; delete it and change --url')
        (staging / ROW.root).replace(folder / ROW.root)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise UserError(f'{zip_path} is damaged: {error}; delete it and run this again') from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def refuse_unsafe(member: zipfile.ZipInfo, zip_path: Path) -> None:
    # Windows' rules know both separators and drive letters, so what passes them is safe on every system.
    name = PureWindowsPath(member.filename)
    if name.anchor or '..' in name.parts or stat.S_ISLNK(member.external_attr >> 16):
        raise UserError(f'{zip_path} is not safe to unpack: {member.filename!r} leads outside; delete it, change --url')
