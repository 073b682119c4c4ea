"""A real S3 on loopback, and shared memory swept after whoever reads shards."""

import atexit
import gc
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from helpers.shared_memory import NUMBERS, WORKER, sweep

# The networks here are too small to gain from threads, and lose much by them on a busy machine.
os.environ.setdefault('OMP_NUM_THREADS', '1')

_bucket_numbers = count()


@dataclass
class S3:
    """One server a session, one empty bucket a test."""

    endpoint: str
    bucket: str = ''

    @cached_property
    def client(self) -> Any:
        from boto3.session import Session

        return Session().client('s3', endpoint_url=self.endpoint)

    def list_keys(self) -> list[str]:
        return [found['Key'] for found in self.client.list_objects_v2(Bucket=self.bucket).get('Contents', [])]

    def check_credentials(self, after_requests: float) -> None:
        """The server takes any credentials for this many requests, afterwards only those of its own users."""
        url, body = f'{self.endpoint}/moto-api/reset-auth', str(after_requests).encode()
        request = urllib.request.Request(url, body, {'Content-Type': 'application/octet-stream'})
        urllib.request.urlopen(request).close()


@pytest.fixture(scope='session')
def s3_server() -> Iterator[str]:
    """The address of a moto server in a process of its own."""
    pytest.importorskip('moto.server')
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    command = [sys.executable, '-m', 'moto.server', '-H', '127.0.0.1', '-p', str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while server.poll() is None and time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(('127.0.0.1', port)) == 0:
                    break
            time.sleep(0.1)
        else:
            pytest.fail('moto server did not start')
        yield f'http://127.0.0.1:{port}'
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """A fresh bucket, and an environment in which boto3 and Streaming use it and nothing of this machine's."""
    for name in ('AWS_PROFILE', 'AWS_SESSION_TOKEN', 'S3_CANNED_ACL', 'HTTP_PROXY', 'http_proxy'):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        'S3_ENDPOINT_URL': s3_server,
        'AWS_ACCESS_KEY_ID': 'testing',
        'AWS_SECRET_ACCESS_KEY': 'testing',
        'AWS_DEFAULT_REGION': 'us-east-1',
        'AWS_CONFIG_FILE': os.devnull,
        'AWS_SHARED_CREDENTIALS_FILE': os.devnull,
        'AWS_EC2_METADATA_DISABLED': 'true',
        'AWS_MAX_ATTEMPTS': '1',
    }.items():
        monkeypatch.setenv(name, value)
    store = S3(s3_server, f'test-bucket-{next(_bucket_numbers)}')
    store.client.create_bucket(Bucket=store.bucket)
    yield store
    store.check_credentials(float('inf'))


@pytest.fixture(scope='session', autouse=True)
def own_numbers() -> Iterator[None]:
    with tempfile.TemporaryDirectory(prefix=f'tests-{WORKER}-') as folder:
        for number in range(WORKER * NUMBERS):
            Path(folder, f'{number:06}_barrier_filelock').touch()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv('TMPDIR', folder)
            patch.setattr(tempfile, 'tempdir', folder)
            yield


@pytest.fixture(autouse=True)
def trainers_go() -> Iterator[None]:
    """Composer keeps each Trainer for the end of the process, torch each network it has saved: 100 MB a test."""
    yield
    if engine := sys.modules.get('composer.core.engine'):
        atexit.unregister(engine.Engine._close)
    state_dict = sys.modules.get('torch.distributed.checkpoint.state_dict')
    if hasattr(getattr(state_dict, '_get_fqns', None), 'cache_clear'):  # later releases keep none
        state_dict._get_fqns.cache_clear()  # type: ignore[union-attr]


@pytest.fixture(scope='module', autouse=True)
def garbage_goes() -> Iterator[None]:
    yield
    gc.collect()


@pytest.fixture
def clean_shared_memory(own_numbers: None) -> Iterator[None]:
    """StreamingDataset leaves shared memory behind, which the next one in this process would trip over."""
    sweep()
    yield
    sweep()


@pytest.fixture(scope='session')
def synthetic_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve training and five validation scenes in ADE20K's layout, for reading only."""
    from segrecipes.datasets.synthetic.write import write_dataset

    path = tmp_path_factory.mktemp('synthetic') / 'data'
    return write_dataset(path, num_train=12, num_val=5, size=48, progress_bar=False)


@pytest.fixture(scope='session')
def synthetic_mds(synthetic_folder: Path) -> Path:
    """The same as MDS shards, four of the training and two of the validation split, for reading only."""
    from segrecipes.storage.convert import convert

    out = synthetic_folder.with_name('mds')
    convert(synthetic_folder, out, name='synthetic', num_workers=1, size_limit='12kb', progress_bar=False)
    return out
