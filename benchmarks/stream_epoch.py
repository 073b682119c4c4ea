"""How many samples a second does the training dataloader deliver from files, from MDS shards, and from S3?

    python benchmarks/stream_epoch.py

Whole epochs of the loader as ``main.py`` builds it from ``yamls/deeplabv3.yaml``, without a model. The S3 is moto's
server on loopback (from requirements-dev.txt).
"""

import argparse
import gc
import hashlib
import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import bench
import photographs
from streaming.base.util import clean_stale_shared_memory

from segrecipes.base.s3 import s3_client
from segrecipes.config.merge import load_config
from segrecipes.storage.convert import convert
from segrecipes.training import run as training

CORES = 2
SAMPLES = 256  # a multiple of 64, or streaming repeats some to share them out
BATCH_SIZE = 16
WORKERS = (1, 2)
EPOCHS = ('first', 'second')
BUCKET = 's3://benchmark/ade20k'

fresh = count()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=2)
    photographs.add_argument(parser)
    options = parser.parse_args()

    bench.pin(CORES)
    gc.freeze()  # so that the collections between epochs are quick
    report = bench.Benchmark('stream_epoch', 'How many samples a second does the training dataloader deliver?')
    source = photographs.describe(options.images)
    report.note(f'{SAMPLES} samples: {source}, shifted and mirrored, all 683×512; shards by --fast-masks.')
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        sources = write_sources(folder, options.images)
        if importlib.util.find_spec('moto') and importlib.util.find_spec('flask'):
            stack.enter_context(s3_server())
            sources['S3'] = upload(folder)
        else:
            report.note('No S3: moto[server] is not installed.')
        check_agreement(sources)
        compare(report, sources, options.rounds)
    report.finish()


# Where the samples come from


def write_sources(folder: Path, images: Path) -> dict[str, list[str]]:
    """Source → the overrides of the config that choose it."""
    dataset = photographs.write_dataset(folder / 'ade20k', photographs.read(images), SAMPLES)
    convert(dataset, folder / 'mds', splits=['train'], num_workers=CORES, fast_masks=True, progress_bar=False)
    return {
        'files': [f'train_dataset.path={dataset}'],
        'MDS': [f'train_dataset.path={folder / "mds"}', 'train_dataset.is_streaming=true'],
    }


def upload(folder: Path) -> list[str]:
    s3_client().create_bucket(Bucket='benchmark')
    convert(folder / 'ade20k', BUCKET, splits=['train'], num_workers=CORES, fast_masks=True, progress_bar=False)
    cache = f'train_dataset.local={folder}/cache-{{number}}'
    return [f'train_dataset.path={BUCKET}', 'train_dataset.is_streaming=true', cache]


@contextmanager
def s3_server() -> Iterator[None]:
    """An S3 in a process of its own, and the environment in which boto3 and streaming use it."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    command = [sys.executable, '-m', 'moto.server', '-H', '127.0.0.1', '-p', str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for name in ('AWS_PROFILE', 'AWS_SESSION_TOKEN', 'S3_CANNED_ACL', 'HTTP_PROXY', 'http_proxy'):
        os.environ.pop(name, None)
    os.environ |= {
        'S3_ENDPOINT_URL': f'http://127.0.0.1:{port}',
        'AWS_ACCESS_KEY_ID': 'testing',
        'AWS_SECRET_ACCESS_KEY': 'testing',
        'AWS_DEFAULT_REGION': 'us-east-1',
        'AWS_CONFIG_FILE': os.devnull,
        'AWS_SHARED_CREDENTIALS_FILE': os.devnull,
        'AWS_EC2_METADATA_DISABLED': 'true',
    }
    try:
        deadline = time.monotonic() + 60
        while not is_listening(port):
            assert server.poll() is None and time.monotonic() < deadline, 'the moto server did not start'
            time.sleep(0.1)
        yield
    finally:
        server.terminate()
        server.wait()


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(('127.0.0.1', port)) == 0


# Epochs


@contextmanager
def loader_of(overrides: list[str], workers: int) -> Iterator[Any]:
    """As in a fresh process with an empty cache; none of streaming's shared memory is left behind."""
    overrides = [override.format(number=next(fresh)) for override in overrides]
    batch = [f'train_dataset.batch_size={BATCH_SIZE}', f'train_dataset.num_workers={workers}']
    config, _ = load_config([f'{bench.ROOT}/yamls/deeplabv3.yaml', *batch, *overrides, 'eval_dataset.path=unused'])
    clean_stale_shared_memory()
    loader: Any = training.dataspec(config.train_dataset, 'train', config).dataloader
    try:
        yield loader
    finally:
        if loader._iterator is not None:
            loader._iterator._shutdown_workers()
        del loader
        gc.collect()
        clean_stale_shared_memory()


def epoch_of(loader: Any, epoch: int) -> Iterator[tuple[Any, Any]]:
    if hasattr(loader.sampler, 'set_epoch'):  # streaming counts by itself
        loader.sampler.set_epoch(epoch)
    return iter(loader)


def check_agreement(sources: dict[str, list[str]]) -> None:
    """Every source delivers the same augmented samples in each epoch, in whatever order."""
    digests = {}
    for name, overrides in sources.items():
        with loader_of(overrides, workers=CORES) as loader:
            digests[name] = [checksums(epoch_of(loader, epoch)) for epoch in range(len(EPOCHS))]
    files = digests['files']
    assert [len(epoch) for epoch in files] == [SAMPLES] * len(EPOCHS), 'an epoch does not hold every sample once'
    assert not files[0] & files[1], 'two epochs hold the same augmented sample'
    for name in sources:
        assert digests[name] == files, f'{name} and files do not deliver the same samples'


def checksums(batches: Iterator[tuple[Any, Any]]) -> set[bytes]:
    return {
        hashlib.sha1(image.contiguous().numpy().tobytes() + mask.numpy().tobytes()).digest()
        for images, masks in batches
        for image, mask in zip(images, masks)
    }


def compare(report: bench.Benchmark, sources: dict[str, list[str]], rounds: int) -> None:
    measured: dict[tuple[str, int, str], list[float]] = {}

    def two_epochs(name: str, workers: int) -> None:
        with loader_of(sources[name], workers) as loader:
            for number, epoch in enumerate(EPOCHS):
                started = time.perf_counter()
                samples = sum(len(images) for images, _ in epoch_of(loader, number))
                speed = samples / (time.perf_counter() - started)
                measured.setdefault((name, workers, epoch), []).append(speed)

    turns = {f'{name} {workers}': partial(two_epochs, name, workers) for workers in WORKERS for name in sources}
    bench.interleave(turns, rounds, warmup=0)  # all has been read once for the checksums

    table = report.table(f'Training samples of 512×512, batches of {BATCH_SIZE}, {CORES} cores', 'samples/s')
    medians = {
        (name, workers, epoch): table.add(f'{name}, {workers} worker(s), {epoch} epoch', measured[name, workers, epoch])
        for name in sources
        for workers in WORKERS
        for epoch in EPOCHS
    }
    for better, worse in (('MDS', 'files'), ('S3', 'MDS')):
        for workers in WORKERS if better in sources else ():
            ratio = medians[better, workers, 'second'] / medians[worse, workers, 'second']
            report.target(f'{better} over {worse}, second epoch, {workers} worker(s)', ratio, at_least=0.95)


if __name__ == '__main__':
    main()
