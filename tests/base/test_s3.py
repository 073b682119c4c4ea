"""A checkpoint anywhere becomes a file on this machine, once a node, or one line that says why not."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from composer.utils import dist

from segrecipes.base import stores as object_store
from segrecipes.base.errors import MissingPathError, UserError
from segrecipes.base.stores import local_copy

CONTENT = bytes(range(256)) * 9


def stored(s3: Any, key: str = 'runs/first/best-rank0.pt', content: bytes = CONTENT) -> str:
    s3.client.put_object(Bucket=s3.bucket, Key=key, Body=content)
    return f's3://{s3.bucket}/{key}'


def test_a_local_path_is_itself(tmp_path: Path) -> None:
    path = tmp_path / 'best-rank0.pt'
    path.write_bytes(CONTENT)
    assert local_copy(str(path)) == str(path)
    assert local_copy(str(tmp_path)) == str(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ['best-rank0.pt']


def test_a_relative_path_is_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'best-rank0.pt').write_bytes(CONTENT)
    monkeypatch.chdir(tmp_path)
    assert local_copy('best-rank0.pt') == 'best-rank0.pt'


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingPathError) as error:
        local_copy(f'{tmp_path}/best-rank0.pt')
    assert str(error.value) == f'load_path={tmp_path}/best-rank0.pt: no such file'


def test_a_remote_file_is_copied_under_its_own_name(s3: Any) -> None:
    copies = [Path(local_copy(stored(s3, key))) for key in ('runs/first/best-rank0.pt', 'best-rank0.pt')]
    for copy in copies:
        assert copy.name == 'best-rank0.pt'  # the suffix tells what kind of file it is
        assert copy.read_bytes() == CONTENT
        assert list(copy.parent.iterdir()) == [copy]
    assert copies[0] != copies[1]


def test_a_changed_file_is_fetched_again(s3: Any) -> None:
    first = local_copy(stored(s3))
    second = local_copy(stored(s3, content=b'of a later epoch'))
    assert Path(first).read_bytes() == CONTENT
    assert Path(second).read_bytes() == b'of a later epoch'


@pytest.mark.parametrize('key', ['runs/first/best-rank0.pt', 'best-rank1.pt'])
def test_a_missing_key_is_named(s3: Any, key: str) -> None:
    stored(s3, 'best-rank0.pt')
    with pytest.raises(MissingPathError) as error:
        local_copy(f's3://{s3.bucket}/{key}')
    assert str(error.value) == f'load_path=s3://{s3.bucket}/{key}: no such file'


def test_a_missing_bucket_is_named(s3: Any) -> None:
    with pytest.raises(MissingPathError) as error:
        local_copy('s3://no-such-bucket/best-rank0.pt')
    assert str(error.value) == 'load_path=s3://no-such-bucket/best-rank0.pt: no such file'


def test_refused_credentials_are_told(s3: Any) -> None:
    url = stored(s3)
    s3.check_credentials(0)
    with pytest.raises(UserError, match=f'{url}.*check AWS_ACCESS_KEY_ID') as error:
        local_copy(url)
    assert not isinstance(error.value, MissingPathError)


def test_missing_credentials_are_told(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    url = stored(s3)
    for name in ('AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY'):
        monkeypatch.delenv(name)
    with pytest.raises(UserError) as error:
        local_copy(url)
    assert str(error.value) == f'no S3 credentials for {url}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY'


def test_an_endpoint_that_does_not_answer_is_named(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    url = stored(s3)
    monkeypatch.setenv('S3_ENDPOINT_URL', 'http://127.0.0.1:9')  # the discard port: nobody listens
    with pytest.raises(UserError, match=f'^no answer from the S3 endpoint http://127.0.0.1:9 for {url}: '):
        local_copy(url)


@pytest.mark.parametrize('ranks_per_node', [1, 2, 4])
def test_each_node_downloads_once(ranks_per_node: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Four ranks, one after the other; what all of them gather is known once each has had its turn."""
    ranks, url, downloads = range(4), 's3://bucket/runs/best-rank0.pt', []

    def get_file(path: str, destination: str, **_: Any) -> None:
        downloads.append((rank, path))
        Path(destination).write_text(f'fetched by rank {rank}')

    def run_as(number: int, gathered: list[Any]) -> tuple[str, Any]:
        """What ``local_copy`` returns on a rank, and what that rank gives to the others."""
        given = []

        def all_gather_object(value: Any) -> list[Any]:
            given.append(value)
            return gathered[:number] + [value] + gathered[number + 1 :]

        nonlocal rank
        rank = number
        monkeypatch.setattr(dist, 'get_global_rank', lambda: number)
        monkeypatch.setattr(dist, 'get_local_rank', lambda: number % ranks_per_node)
        monkeypatch.setattr(dist, 'all_gather_object', all_gather_object)
        return local_copy(url), *given

    rank = 0
    monkeypatch.setattr('composer.utils.get_file', get_file)
    folders = iter(range(100))
    monkeypatch.setattr(object_store.tempfile, 'mkdtemp', lambda prefix: _made(tmp_path / f'{prefix}{next(folders)}'))

    gathered = [run_as(number, [None] * 4)[1] for number in ranks]
    firsts = [number for number in ranks if number % ranks_per_node == 0]
    assert downloads == [(number, url) for number in firsts]
    assert [number for number in ranks if gathered[number] is not None] == firsts

    for number in ranks:
        if number not in firsts:  # these would download again
            copy, given = run_as(number, gathered)
            assert given is None
            assert Path(copy).read_text() == f'fetched by rank {number // ranks_per_node * ranks_per_node}'
    assert len(downloads) == len(firsts)


def _made(folder: Path) -> str:
    folder.mkdir()
    return str(folder)


def test_a_copy_is_removed_when_the_process_ends(tmp_path: Path) -> None:
    """With Composer's download replaced: what is tested is the folder that it goes to."""
    code = (
        'import composer.utils\n'
        'from pathlib import Path\n'
        'composer.utils.get_file = lambda path, destination, **_: Path(destination).write_text("weights")\n'
        'from segrecipes.base.stores import local_copy\n'
        'copy = Path(local_copy("s3://bucket/best-rank0.pt"))\n'
        'print(copy, copy.read_text())\n'
    )
    root = Path(__file__).parents[2]
    command = [sys.executable, '-c', code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env={'TMPDIR': str(tmp_path)})
    assert done.returncode == 0, done.stderr
    copy, content = done.stdout.split()
    assert content == 'weights'
    assert Path(copy).parent.parent == tmp_path
    assert list(tmp_path.glob('checkpoint-*')) == []
