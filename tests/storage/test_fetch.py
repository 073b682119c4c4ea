"""A tiny ADE20K on a loopback server that can be slow, broken or wrong."""

import hashlib
import io
import os
import random
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from segrecipes.commands import cli, download
from segrecipes.storage import fetch
from segrecipes.storage.fetch import Archive

REPO = Path(__file__).parents[2]
ROOT = 'ADEChallengeData2016'
ZIP, PART = f'{ROOT}.zip', f'{ROOT}.zip.part'
CHUNK = fetch.CHUNK_BYTES


def make_files() -> dict[str, bytes]:
    """Three training pairs and two of validation; the first uid is one that training leaves out."""
    rng = random.Random(0)
    files = {f'{ROOT}/objectInfo150.txt': b'Idx Ratio\n'}
    for split, folder, uids in (('train', 'training', (1701, 1, 2)), ('val', 'validation', (1, 2))):
        for uid in uids:
            files[f'{ROOT}/images/{folder}/ADE_{split}_{uid:08}.jpg'] = rng.randbytes(100_000)
            files[f'{ROOT}/annotations/{folder}/ADE_{split}_{uid:08}.png'] = rng.randbytes(500)
    return files


def make_zip(files: dict[str, bytes] | list[tuple[zipfile.ZipInfo, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w', method) as file:
        for name, content in files.items() if isinstance(files, dict) else files:
            file.writestr(name, content)
    return buffer.getvalue()


FILES = make_files()
PAYLOAD = make_zip(FILES)


class Handler(BaseHTTPRequestHandler):
    server: 'Server'

    def do_GET(self) -> None:
        asked = self.headers['Range']
        self.server.ranges.append(asked)
        self.server.encodings.append(self.headers['Accept-Encoding'])
        act = self.server.script.pop(0) if self.server.script else self.server.always
        if isinstance(act, int):
            self.send_error(act)
            return
        if act == 'drop':
            return  # the connection closes without a word
        start = int(asked.removeprefix('bytes=').removesuffix('-')) if asked and act != 'ignore range' else 0
        body = self.server.payload[start:]
        self.send_response(206 if start else 200)
        if act != 'short':
            self.send_header('Content-Length', str(len(body)))
        if start:
            size = len(self.server.payload)
            self.send_header('Content-Range', f'bytes {start}-{size - 1}/{size}')
        self.end_headers()
        sent = body[: len(body) // 2] if act in ('cut', 'short', 'stall') else body
        self.wfile.write(sent)
        self.server.sent_bytes += len(sent)
        if act == 'stall':
            self.server.release.wait(10)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    """Serves ``payload``. ``script`` says how to answer each request in turn, ``always`` how the later ones."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(('127.0.0.1', 0), Handler)
        self.payload = PAYLOAD
        self.script: list[str | int] = []
        self.always: str | int = 'serve'
        self.ranges: list[str | None] = []
        self.encodings: list[str | None] = []
        self.sent_bytes = 0
        self.release = threading.Event()

    @property
    def url(self) -> str:
        return f'http://127.0.0.1:{self.server_address[1]}/{ZIP}'


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv('NO_PROXY', '127.0.0.1')
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.01})
    thread.start()
    yield server
    server.release.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that would have been slept."""
    naps: list[float] = []
    monkeypatch.setattr(fetch, 'time', SimpleNamespace(sleep=naps.append))
    return naps


@pytest.fixture
def publish(server: Server, naps: list[float], monkeypatch: pytest.MonkeyPatch):
    """Make ``payload`` the published archive and the one that is served."""

    def publish(payload: bytes = PAYLOAD, **changes: object) -> Archive:
        md5 = hashlib.md5(payload).hexdigest()
        archive = Archive(server.url, len(payload), md5, (('train', 3), ('val', 2)), disk_space=0)
        archive = replace(archive, **changes)  # pyright: ignore[reportArgumentType]
        server.payload = payload
        monkeypatch.setattr(fetch, 'ADE20K', archive)
        monkeypatch.setattr(download, 'URL', archive.url)
        return archive

    publish()
    return publish


@pytest.fixture
def fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Run the command, which has to end with status 1, and return its one line of error."""

    def fails(*args: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(['--path', str(tmp_path), *args])
        assert ended.value.code == 1
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error: ')]
        return line

    return fails


def main(argv: list[str]) -> None:
    cli.run('download', argv)


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write_part(folder: Path, content: bytes) -> None:
    (folder / PART).write_bytes(content)


def test_published_numbers():
    archive = fetch.ADE20K
    assert (archive.size, archive.md5) == (967_382_037, '7328b3957e407ddae1d3cbf487f149ef')
    assert archive.num_pairs == (('train', 20_210), ('val', 2_000))
    assert archive.url == 'http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip'
    assert archive.url == download.URL  # again, where --help must not wait for imports


def test_downloads_unpacks_and_then_has_nothing_to_do(publish, server, tmp_path, capsys):
    folder = tmp_path / 'data' / 'ade20k'
    main(['--path', str(folder)])
    assert tree(folder) == FILES
    assert names(folder) == [ROOT]
    assert server.ranges == [None]
    assert server.encodings == ['identity']
    assert capsys.readouterr().out == f'{folder / ROOT} is complete\n'

    main(['--path', str(folder)])
    assert server.ranges == [None]
    assert capsys.readouterr().out == f'{folder} is complete already, nothing to do\n'


def test_keep_zip_is_used_again(publish, server, tmp_path):
    main(['--path', str(tmp_path), '--keep-zip'])
    assert tree(tmp_path) == FILES | {ZIP: PAYLOAD}
    shutil.rmtree(tmp_path / ROOT)
    main(['--path', str(tmp_path)])
    assert tree(tmp_path) == FILES
    assert len(server.ranges) == 1


def test_url_names_a_mirror(publish, server, tmp_path):
    publish(url='http://127.0.0.1:1/gone.zip')
    main(['--path', str(tmp_path), '--url', server.url])
    assert tree(tmp_path) == FILES


@pytest.mark.parametrize('size', [1, CHUNK, len(PAYLOAD) - 1])
def test_resumes_where_the_part_ends(publish, server, tmp_path, size):
    write_part(tmp_path, PAYLOAD[:size])
    main(['--path', str(tmp_path)])
    assert tree(tmp_path) == FILES
    assert server.ranges == [f'bytes={size}-']
    assert server.sent_bytes == len(PAYLOAD) - size


def test_whole_part_is_not_asked_for_again(publish, server, tmp_path):
    write_part(tmp_path, PAYLOAD)
    main(['--path', str(tmp_path)])
    assert tree(tmp_path) == FILES
    assert server.ranges == []


def test_too_big_part_restarts(publish, server, tmp_path):
    write_part(tmp_path, PAYLOAD + b'x')
    main(['--path', str(tmp_path)])
    assert tree(tmp_path) == FILES
    assert server.ranges == [None]


def test_ignored_range_restarts(publish, server, tmp_path):
    write_part(tmp_path, PAYLOAD[:CHUNK])
    server.script = ['ignore range']
    main(['--path', str(tmp_path), '--keep-zip'])
    assert tree(tmp_path) == FILES | {ZIP: PAYLOAD}
    assert server.ranges == [f'bytes={CHUNK}-']
    assert server.sent_bytes == len(PAYLOAD)


def test_refused_range_restarts(publish, server, tmp_path):
    write_part(tmp_path, PAYLOAD[:CHUNK])
    server.script = [416]
    main(['--path', str(tmp_path)])
    assert tree(tmp_path) == FILES
    assert server.ranges == [f'bytes={CHUNK}-', None]


@pytest.mark.parametrize('fault', ['cut', 'short'])
def test_broken_connection_goes_on(publish, server, tmp_path, fault):
    server.script = [fault, fault]
    main(['--path', str(tmp_path)])
    assert tree(tmp_path) == FILES
    starts = [int(asked[len('bytes=') : -1]) if asked else 0 for asked in server.ranges]
    assert len(starts) == 3
    # A whole chunk may be lost in a cut, never more, and nothing is asked for twice beyond it.
    half = len(PAYLOAD) // 2
    assert half - CHUNK < starts[1] <= half
    assert starts[1] < starts[2]
    assert server.sent_bytes - len(PAYLOAD) < 2 * CHUNK


@pytest.mark.parametrize('fault', [503, 429, 'drop'])
def test_passing_fault_is_tried_again_with_longer_waits(publish, server, naps, tmp_path, capsys, fault):
    server.script = [fault, fault]
    main(['--path', str(tmp_path)])
    assert tree(tmp_path) == FILES
    assert server.ranges == [None] * 3
    assert naps == [0, 2, 4]
    reason = 'Remote end closed connection' if fault == 'drop' else f'HTTP {fault}'
    assert capsys.readouterr().out.count(reason) == 2


def test_silent_server_is_given_up(publish, server, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(fetch, 'TIMEOUT_SECONDS', (5, 0.2))
    server.script = ['stall']
    main(['--path', str(tmp_path)])
    assert tree(tmp_path) == FILES
    assert 'timed out; trying again in 2 s' in capsys.readouterr().out
    assert len(server.ranges) == 2


def test_lasting_fault_ends(publish, server, naps, tmp_path, fails):
    server.always = 503
    message = fails()
    assert f'cannot download {server.url}: HTTP 503 Service Unavailable; got 0 of {len(PAYLOAD):,} bytes' in message
    assert naps == [0, 2, 4, 8, 16]
    assert server.ranges == [None] * 5
    assert tree(tmp_path) == {}


@pytest.mark.parametrize('status', [404, 403])
def test_wrong_url_is_not_tried_again(publish, server, tmp_path, fails, status):
    write_part(tmp_path, PAYLOAD[:10])
    server.always = status
    message = fails()
    assert f'cannot download {server.url}: HTTP {status}' in message
    assert '--url' in message
    assert len(server.ranges) == 1
    assert tree(tmp_path) == {PART: PAYLOAD[:10]}


@pytest.mark.parametrize('url', ['ade20k.zip', 'ftp://127.0.0.1/a.zip', 'http://'])
def test_malformed_url(publish, naps, fails, url):
    assert f'cannot download {url}: ' in fails('--url', url)
    assert naps == [0]


def test_no_network(publish, tmp_path, fails):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))  # bound and not listening: connections are refused
        url = f'http://127.0.0.1:{free.getsockname()[1]}/{ZIP}'
        message = fails('--url', url)
    assert re.search(rf'cannot download {url}: (\[Errno \d+\] )?Connection refused; got 0 of ', message)
    assert tree(tmp_path) == {}


def test_truncated_download_keeps_what_came(publish, server, tmp_path, fails):
    server.always = 'short'
    message = fails()
    kept = (tmp_path / PART).read_bytes()
    assert tree(tmp_path) == {PART: kept}
    assert PAYLOAD.startswith(kept)
    assert len(PAYLOAD) * 31 // 32 - 5 <= len(kept) < len(PAYLOAD)  # five halves
    assert f'got {len(kept):,} of {len(PAYLOAD):,} bytes; run this again to resume' in message

    server.always = 'serve'
    main(['--path', str(tmp_path)])
    assert tree(tmp_path) == FILES
    assert server.ranges[-1] == f'bytes={len(kept)}-'


def test_wrong_md5_names_both_and_leaves_nothing(publish, server, tmp_path, fails):
    server.payload = PAYLOAD[:-1] + b'x'
    message = fails()
    assert f'md5 {hashlib.md5(server.payload).hexdigest()}, expected {hashlib.md5(PAYLOAD).hexdigest()}' in message
    assert server.url in message
    assert tree(tmp_path) == {}


def test_wrong_beginning_of_a_part_is_found(publish, tmp_path, fails):
    write_part(tmp_path, b'x' * CHUNK)
    assert 'gave another file: md5 ' in fails()
    assert tree(tmp_path) == {}


def test_other_size_is_refused_before_the_part_is_overwritten(publish, server, tmp_path, fails):
    write_part(tmp_path, PAYLOAD[:CHUNK])
    server.payload = b'<html>please log in</html>'
    server.script = ['ignore range']
    message = fails()
    assert f'{server.url} leads to another file: 26 bytes, expected {len(PAYLOAD):,}' in message
    assert tree(tmp_path) == {PART: PAYLOAD[:CHUNK]}
    assert len(server.ranges) == 1


def test_wrong_zip_of_the_user_is_named_and_kept(publish, server, tmp_path, fails):
    (tmp_path / ZIP).write_bytes(PAYLOAD[:7])
    message = fails()
    assert f'{tmp_path / ZIP} is not the published file: 7 bytes, expected {len(PAYLOAD):,}; delete it' in message
    assert tree(tmp_path) == {ZIP: PAYLOAD[:7]}
    assert server.ranges == []


def flip_bit(payload: bytes, after: bytes, offset: int, bit: int = 1) -> bytes:
    at = payload.index(after) + offset
    return payload[:at] + bytes([payload[at] ^ bit]) + payload[at + 1 :]


JPEG = f'{ROOT}/images/validation/ADE_val_00000002.jpg'


@pytest.mark.parametrize(
    ('payload', 'reason'),
    [
        (flip_bit(PAYLOAD, FILES[JPEG], offset=5), 'Bad CRC-32'),
        # The first deflate block's type becomes 3, which does not exist.
        (
            flip_bit(make_zip({JPEG: b'x' * 999}, zipfile.ZIP_DEFLATED), JPEG.encode(), len(JPEG), 4),
            'invalid block type',
        ),
        (flip_bit(PAYLOAD, b'PK\x01\x02', offset=8), 'is encrypted'),  # its flag in the directory
        (PAYLOAD[:-100], 'not a zip file'),
        (b'<html></html>', 'not a zip file'),
    ],
    ids=['stored', 'deflated', 'encrypted', 'directory', 'html'],
)
def test_damaged_zip(publish, tmp_path, fails, payload, reason):
    publish(payload)
    message = fails()
    assert f'{tmp_path / ZIP} is damaged: ' in message
    assert reason in message
    assert tree(tmp_path) == {ZIP: payload}
    assert names(tmp_path) == [ZIP]


def symlink(name: str) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name)
    member.create_system = 3
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    return member


UNSAFE = [
    '../evil.txt',
    f'{ROOT}/../../evil.txt',
    '/tmp/evil.txt',
    'C:/evil.txt',
    '..\\evil.txt',
    '\\\\host\\share\\evil.txt',
]


@pytest.mark.parametrize(
    'member', [*map(zipfile.ZipInfo, UNSAFE), symlink(f'{ROOT}/images/link')], ids=lambda member: member.filename
)
def test_member_outside_is_refused(publish, tmp_path, fails, member):
    folder = tmp_path / 'inside'
    members = [(zipfile.ZipInfo(name), content) for name, content in FILES.items()]
    payload = make_zip([*members, (member, b'../../..')])
    publish(payload)
    message = fails('--path', str(folder))
    assert f'{folder / ZIP} is not safe to unpack: {member.filename!r} leads outside' in message
    assert tree(tmp_path) == {f'inside/{ZIP}': payload}


def test_dots_in_a_name_are_no_parent_folder(publish, tmp_path):
    files = FILES | {f'{ROOT}/..notes..txt': b'x'}
    publish(make_zip(files))
    main(['--path', str(tmp_path)])
    assert tree(tmp_path) == files


@pytest.mark.parametrize(
    'lost', ['images/training/ADE_train_00000001.jpg', 'annotations/validation/ADE_val_00000002.png']
)
def test_incomplete_zip_is_not_put_in_place(publish, tmp_path, fails, lost):
    payload = make_zip({name: content for name, content in FILES.items() if name != f'{ROOT}/{lost}'})
    publish(payload)
    message = fails()
    assert f'{tmp_path / ZIP} does not hold the complete dataset: ' in message
    assert ('2 images with masks in the train split, expected 3' in message) == lost.startswith('images')
    assert ('image without mask: ' in message) == lost.startswith('annotations')
    assert tree(tmp_path) == {ZIP: payload}


def test_incomplete_dataset_is_left_alone(publish, server, tmp_path, fails):
    main(['--path', str(tmp_path)])
    (tmp_path / ROOT / 'images/validation/ADE_val_00000001.jpg').unlink()
    before = tree(tmp_path)
    message = fails()
    assert f'{tmp_path / ROOT} exists and is not complete: 1 images with masks in the val split, expected 2' in message
    assert tree(tmp_path) == before
    assert len(server.ranges) == 1


def test_interrupted_unpacking_leaves_the_zip_only(publish, server, tmp_path, fails, monkeypatch):
    extract, calls = zipfile.ZipFile.extract, []

    def interrupted(*args, **kwargs):
        calls.append(extract(*args, **kwargs))
        if len(calls) == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipFile, 'extract', interrupted)
        assert f'interrupted; the same command goes on with what is in {tmp_path}' in fails()
    assert len(calls) == 4
    assert names(tmp_path) == [ZIP]

    stale = tmp_path / f'{ROOT}.unpacking' / ROOT / 'stale.txt'  # as a killed run leaves it
    stale.parent.mkdir(parents=True)
    stale.write_text('x')
    main(['--path', str(tmp_path)])
    assert tree(tmp_path) == FILES
    assert server.ranges == [None]


def test_no_space_for_the_download(publish, server, tmp_path, fails):
    publish(disk_space=10**18)
    assert re.search(rf'{tmp_path} needs 1000000000\.0 GB of free space and has [\d.]+ GB; make room', fails())
    assert server.ranges == []
    assert tree(tmp_path) == {}


def test_what_is_downloaded_counts_as_space(publish, tmp_path, monkeypatch):
    free_bytes = sum(map(len, FILES.values()))
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: SimpleNamespace(free=free_bytes))
    publish(disk_space=free_bytes + CHUNK)
    write_part(tmp_path, PAYLOAD[: CHUNK - 1])
    with pytest.raises(SystemExit):
        main(['--path', str(tmp_path)])
    write_part(tmp_path, PAYLOAD[:CHUNK])
    main(['--path', str(tmp_path)])
    assert tree(tmp_path) == FILES


def test_no_space_for_unpacking(publish, tmp_path, fails, monkeypatch):
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: SimpleNamespace(free=sum(map(len, FILES.values())) - 1))
    assert 'of free space' in fails()
    assert tree(tmp_path) == {ZIP: PAYLOAD}


@pytest.mark.skipif(not Path('/dev/full').exists(), reason='needs a device that is always full')
def test_disk_full_while_downloading(publish, tmp_path, fails):
    (tmp_path / PART).symlink_to('/dev/full')
    message = fails()
    assert 'No space left on device' in message
    assert str(tmp_path) in message


@pytest.mark.skipif(os.name != 'posix' or os.geteuid() == 0, reason='root may write everywhere')
def test_folder_without_permission(publish, server, tmp_path, fails):
    tmp_path.chmod(0o500)
    message = fails()
    tmp_path.chmod(0o700)
    assert f'cannot write {tmp_path}' in message
    assert 'Permission denied' in message
    assert tree(tmp_path) == {}


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], cwd=REPO, capture_output=True, text=True, timeout=60)


def program() -> str:
    """The command, in a process of its own, for the archive that is published here."""
    return (
        'from segrecipes.commands import cli, download; from segrecipes.storage import fetch; '
        f'fetch.ADE20K = fetch.{fetch.ADE20K!r}; download.URL = fetch.ADE20K.url; cli.run("download")'
    )


def test_script_exits_with_one_line(tmp_path):
    (tmp_path / 'file').write_text('x')
    folder = tmp_path / 'file' / 'ade20k'
    ended = run('download_ade20k.py', '--path', str(folder))
    assert ended.returncode == 1
    assert ended.stdout == ''
    assert ended.stderr == (
        f'error: cannot write {folder}: Not a directory; check permissions and free space, or change --path\n'
    )


def test_script_reports_a_wrong_url(publish, server, tmp_path):
    server.always = 404
    ended = run('-c', program(), '--path', str(tmp_path))
    assert ended.returncode == 1
    assert ended.stderr == f'error: cannot download {server.url}: HTTP 404 Not Found; name a mirror with --url\n'


@pytest.mark.skipif(os.name != 'posix', reason='sends SIGINT')
def test_ctrl_c_keeps_the_part(publish, server, tmp_path):
    server.script = ['stall']
    code = (
        'import signal; signal.signal(signal.SIGINT, signal.default_int_handler);'  # ignored in a background job
        f'{program()}'
    )
    command = [sys.executable, '-c', code, '--path', str(tmp_path)]
    with subprocess.Popen(command, cwd=REPO, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and not ((tmp_path / PART).exists() and (tmp_path / PART).stat().st_size):
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 1
    assert f'error: interrupted; the same command goes on with what is in {tmp_path}\n' in stderr
    assert 'Traceback' not in stderr
    kept = (tmp_path / PART).read_bytes()
    assert len(kept) >= CHUNK
    assert PAYLOAD.startswith(kept)

    main(['--path', str(tmp_path)])
    assert tree(tmp_path) == FILES
    assert server.ranges == [None, f'bytes={len(kept)}-']
