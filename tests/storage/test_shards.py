import gc
import shutil
import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import S3
from helpers.shared_memory import sweep
from PIL import Image
from streaming import MDSWriter
from streaming.base.dataset import _ShardState

from segrecipes.base.errors import MissingPathError, UserError
from segrecipes.data.augment import TrainTransform
from segrecipes.data.loader import build_dataspec
from segrecipes.datasets.table import DATASETS
from segrecipes.evaluation.table import get_protocol
from segrecipes.storage.decode import DataError
from segrecipes.storage.folders import find_pairs
from segrecipes.storage.shards import MapView, StreamingSegmentation

pytestmark = [
    pytest.mark.usefixtures('clean_shared_memory'),
    pytest.mark.filterwarnings('ignore:unclosed file:ResourceWarning'),  # StreamingDataset's own
]

UIDS = {'train': [f'{i:08}' for i in range(1, 13)], 'val': [f'{i:08}' for i in range(1, 6)]}
Samples = list[list[bytes]]  # the images of each batch


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """What hangs becomes a TimeoutError."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f'still busy after {seconds} seconds')

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def names_only(image: np.ndarray, mask: np.ndarray, uid: str, epoch: int) -> Any:
    return uid, epoch


def dataset_of(path: Path | str, split: str = 'train', **arguments: Any) -> StreamingSegmentation:
    given = {'local': None, 'make_sample': names_only, 'batch_size': 4, 'shuffle': split == 'train', **arguments}
    return StreamingSegmentation(path=str(path), split=split, **given)


@contextmanager
def spec_of(path: Path | str, split: str = 'train', **arguments: Any) -> Iterator[Any]:
    """As after a start of the process: nothing of an earlier dataset is left, nor of this one afterwards."""
    given: dict[str, Any] = {
        'path': str(path),
        'split': split,
        'batch_size': 4,
        'name': 'synthetic',
        'is_streaming': True,
        'transform': TrainTransform(48, 32) if split == 'train' else get_protocol('mosaic-512sq', 32),
        'shuffle': split == 'train',
        **arguments,
    }
    sweep()
    spec = build_dataspec(**given)
    try:
        yield spec
    finally:
        workers = getattr(spec.dataloader, '_iterator', None)
        if workers is not None:
            workers._shutdown_workers()
        del spec, workers
        gc.collect()


def batches_of(spec: Any, count: int | None = None) -> Samples:
    batches = []
    for images, *_ in spec.dataloader:
        batches.append([image.contiguous().numpy().tobytes() for image in images])
        if len(batches) == count:
            break
    return batches


def fault_of(spec: Any, seconds: int = 30) -> str:
    with pytest.raises(DataError) as caught, at_most(seconds):
        list(spec.dataloader)
    for error in (caught.value, caught.value.__context__):  # lets go of the workers now, not in some later collection
        if error is not None:
            traceback.clear_frames(error.__traceback__)
    assert '\n' not in str(caught.value)
    return str(caught.value)


# Reading


def test_epochs_of_training(synthetic_mds: Path):
    dataset = dataset_of(synthetic_mds)
    epochs = [list(dataset) for _ in range(3)]
    for number, samples in enumerate(epochs):
        assert sorted(samples) == [(uid, number) for uid in UIDS['train']]
    orders = {tuple(uid for uid, _ in samples) for samples in epochs}
    assert len(orders) == 3
    assert (dataset.size, str(dataset)) == (12, f'{synthetic_mds}/train')


def test_order_depends_on_the_seed(synthetic_mds: Path):
    orders = []
    for seed in (1, 2, 1):
        dataset = dataset_of(synthetic_mds, shuffle_seed=seed)
        orders.append(list(dataset))
        del dataset
        gc.collect()
        sweep()
    assert orders[0] == orders[2]
    assert orders[0] != orders[1]


def test_evaluation_reads_each_sample_once_and_in_order(synthetic_mds: Path):
    view = MapView(dataset_of(synthetic_mds, 'val'))
    assert len(view) == 5
    assert [view[epoch, i][0] for i in range(5) for epoch in (0,)] == UIDS['val']
    assert view[7, 3][0] == UIDS['val'][3]
    assert str(view) == f'{synthetic_mds}/val'


@pytest.mark.parametrize('num_workers', [0, 2])
def test_evaluation_repeats_itself(synthetic_mds: Path, num_workers: int):
    with spec_of(synthetic_mds, 'val', num_workers=num_workers, batch_size=2) as spec:
        first = batches_of(spec)
        assert [len(batch) for batch in first] == [2, 2, 1]
        assert len({image for batch in first for image in batch}) == 5
        assert batches_of(spec) == first


def test_shards_of_streamings_own_writer(synthetic_folder: Path, tmp_path: Path):
    """As its ADE20K converter calls it: PIL images opened from files."""
    pairs = find_pairs(synthetic_folder, 'train', DATASETS['synthetic'])
    columns = {'uid': 'bytes', 'x': 'jpeg', 'y': 'png'}
    with MDSWriter(out=str(tmp_path / 'train'), columns=columns, size_limit=12_000) as writer:
        for uid, image, mask in pairs:
            with Image.open(image) as x, Image.open(mask) as y:
                writer.write({'uid': uid.encode(), 'x': x, 'y': y})
    assert len([*tmp_path.glob('train/shard.*.mds')]) > 1
    seen = dataset_of(tmp_path, make_sample=lambda image, mask, uid, epoch: (uid, image.tobytes(), mask.tobytes()))
    for (uid, image, mask), sample in zip(pairs, sorted(seen), strict=True):
        assert sample[0] == uid
        with Image.open(image) as x, Image.open(mask) as y:
            assert sample[1] == np.array(x).tobytes()
            assert sample[2] == np.array(y).tobytes()


def test_download_into_a_local_folder(synthetic_mds: Path, tmp_path: Path):
    with spec_of(synthetic_mds) as spec:
        wanted = batches_of(spec)
    with spec_of(synthetic_mds, local=str(tmp_path / 'cache')) as spec:
        assert batches_of(spec) == wanted
    cached = {file.name for file in (tmp_path / 'cache' / 'train').iterdir()}
    assert cached == {file.name for file in (synthetic_mds / 'train').iterdir()}


def test_persistent_workers_over_two_epochs(synthetic_mds: Path):
    with spec_of(synthetic_mds) as spec:
        wanted = [batches_of(spec), batches_of(spec)]
    with spec_of(synthetic_mds, num_workers=2, persistent_workers=True) as spec:
        epochs = [batches_of(spec), batches_of(spec)]
    for epoch, other in zip(epochs, wanted):
        assert [len(batch) for batch in epoch] == [4, 4, 4]
        assert sorted(image for batch in epoch for image in batch) == sorted(
            image for batch in other for image in batch
        )
    assert {image for batch in epochs[0] for image in batch}.isdisjoint(image for batch in epochs[1] for image in batch)


@pytest.mark.parametrize('num_workers', [0, 2])
@pytest.mark.parametrize(('drop_last', 'sizes'), [(False, [5, 5, 2]), (True, [5, 5])])
def test_batch_size_that_does_not_divide(synthetic_mds: Path, num_workers: int, drop_last: bool, sizes: list[int]):
    with spec_of(synthetic_mds, batch_size=5, drop_last=drop_last, num_workers=num_workers) as spec:
        for _ in range(2):
            epoch = batches_of(spec)
            assert sorted(len(batch) for batch in epoch) == sorted(sizes)
            assert len({image for batch in epoch for image in batch}) == sum(sizes)


# Resuming


@pytest.fixture(scope='module')
def uninterrupted(synthetic_mds: Path) -> list[Samples]:
    with spec_of(synthetic_mds) as spec:
        return [batches_of(spec) for _ in range(4)]


@pytest.mark.parametrize('num_workers', [0, 2])
@pytest.mark.parametrize(('epoch', 'batch'), [(0, 1), (1, 2), (1, 3), (1, 0), (2, 0)])
def test_resumed_run_goes_on_where_it_stopped(
    synthetic_mds: Path, uninterrupted: list[Samples], epoch: int, batch: int, num_workers: int
):
    """``batch`` 0 is the boundary of two epochs, 3 the last batch before it."""
    with spec_of(synthetic_mds, num_workers=num_workers) as spec:
        for _ in range(epoch):
            batches_of(spec)
        if batch:
            batches_of(spec, batch)
        state = spec.dataloader.dataset.state_dict(4 * batch, True)
    assert (state['epoch'], state['sample_in_epoch']) == (epoch, 4 * batch)
    with spec_of(synthetic_mds, num_workers=num_workers) as spec:
        spec.dataloader.dataset.load_state_dict(state)
        assert batches_of(spec) == uninterrupted[epoch][batch:]
        assert batches_of(spec) == uninterrupted[epoch + 1]
        again = spec.dataloader.dataset.state_dict(0, True)
        assert (again['epoch'], again['sample_in_epoch']) == (epoch + 2, 0)


def test_state_saved_right_after_it_was_loaded(synthetic_mds: Path):
    """At the boundary of two epochs, before the first batch of the resumed run."""
    with spec_of(synthetic_mds) as spec:
        batches_of(spec)
        state = spec.dataloader.dataset.state_dict(0, True)
    with spec_of(synthetic_mds) as spec:
        spec.dataloader.dataset.load_state_dict(state)
        assert spec.dataloader.dataset.state_dict(0, True) == state


# Shards that cannot be read


@pytest.fixture
def remote(synthetic_mds: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(synthetic_mds, tmp_path / 'remote'))


@pytest.mark.parametrize(
    ('split', 'shard', 'num_workers'),
    [
        ('train', 0, 0),
        ('train', 2, 0),
        ('val', 0, 0),
        ('train', 0, 2),
        ('train', 2, 2),
        ('val', 0, 2),
    ],
)
def test_missing_shard(remote: Path, tmp_path: Path, split: str, shard: int, num_workers: int):
    name = f'shard.{shard:05}.mds'
    (remote / split / name).unlink()
    with spec_of(remote, split, local=str(tmp_path / 'cache'), num_workers=num_workers, batch_size=2) as spec:
        message = fault_of(spec)
    assert message.startswith(f'cannot read a shard of {remote}/{split}: ')
    assert name in message


@pytest.mark.parametrize('split', ['train', 'val'])
def test_shard_missing_from_the_folder_itself(remote: Path, split: str):
    (remote / split / 'shard.00001.mds').unlink()
    with spec_of(remote, split) as spec:
        message = fault_of(spec)
    assert message.startswith(f'cannot read a shard of {remote}/{split}: ')
    assert 'shard.00001.mds' in message


def test_waiting_for_a_shard_that_another_worker_failed_to_fetch(
    remote: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Its batch may come before that of the worker that failed, so that nobody would ever look at the failure."""
    dataset = dataset_of(remote, 'val', local=str(tmp_path / 'cache'))
    disk_is_full = threading.Event()

    def fetch(shard: Any) -> int:
        disk_is_full.wait(10)
        raise OSError('the disk is full')

    monkeypatch.setattr(dataset.streams[0], 'prepare_shard', fetch)
    faults = []

    def read() -> None:
        try:
            dataset[4]
        except DataError as error:
            faults.append(str(error))

    workers = [threading.Thread(target=read, daemon=True) for _ in range(2)]
    for worker in workers:
        worker.start()
        worker.join(0.3)
    assert dataset._shard_states[1] == _ShardState.PREPARING
    disk_is_full.set()
    for worker in workers:
        worker.join(2)
    were_stuck = [worker.is_alive() for worker in workers]
    dataset._shard_states[1] = _ShardState.LOCAL
    assert were_stuck == [False, False]
    assert faults == [f'cannot read a shard of {remote}/val: OSError: shard.00001.mds: the disk is full'] * 2


def corrupt(shard: Path) -> None:
    data = bytearray(shard.read_bytes())
    data[-100] ^= 255
    shard.write_bytes(data)


@pytest.mark.parametrize(('split', 'num_workers'), [('train', 0), ('train', 2), ('val', 0)])
def test_corrupt_shard_with_hashes_checked(remote: Path, tmp_path: Path, split: str, num_workers: int):
    corrupt(remote / split / 'shard.00000.mds')
    options = {'local': str(tmp_path / 'cache'), 'num_workers': num_workers, 'streaming': {'validate_hash': 'sha1'}}
    with spec_of(remote, split, **options) as spec:
        message = fault_of(spec)
    assert message.startswith(f'cannot read a shard of {remote}/{split}: ')
    assert 'shard.00000.mds' in message or 'Checksum' in message


def test_corrupt_shard_is_not_served_by_the_next_run(remote: Path, tmp_path: Path, uninterrupted: list[Samples]):
    good = (remote / 'train' / 'shard.00000.mds').read_bytes()
    corrupt(remote / 'train' / 'shard.00000.mds')
    options = {'local': str(tmp_path / 'cache'), 'streaming': {'validate_hash': 'sha1'}}
    with spec_of(remote, **options) as spec:
        fault_of(spec)
    (remote / 'train' / 'shard.00000.mds').write_bytes(good)
    with spec_of(remote, **options) as spec:
        assert batches_of(spec) == uninterrupted[0]


def test_no_index(tmp_path: Path, synthetic_mds: Path):
    with pytest.raises(MissingPathError, match=f'^no MDS dataset: {tmp_path}/train/index.json does not exist$'):
        dataset_of(tmp_path)
    with pytest.raises(MissingPathError, match=r'/test/index\.json does not exist$'):
        dataset_of(synthetic_mds, 'test')
    (tmp_path / 'train').mkdir()
    with pytest.raises(MissingPathError):
        dataset_of(tmp_path, local=str(synthetic_mds))


# S3


def upload(folder: Path, s3: S3, prefix: str) -> str:
    for file in sorted(folder.rglob('*')):
        if file.is_file():
            s3.client.upload_file(str(file), s3.bucket, f'{prefix}/{file.relative_to(folder)}')
    return f's3://{s3.bucket}/{prefix}'


@pytest.mark.parametrize('num_workers', [0, 2])
@pytest.mark.parametrize('split', ['train', 'val'])
def test_s3_gives_what_the_folder_gives(synthetic_mds: Path, s3: S3, tmp_path: Path, split: str, num_workers: int):
    with spec_of(synthetic_mds, split) as spec:
        wanted = batches_of(spec)
    url = upload(synthetic_mds, s3, 'data/set')
    with spec_of(url, split, local=str(tmp_path), num_workers=num_workers) as spec:
        assert batches_of(spec) == wanted


def test_shard_missing_from_s3(synthetic_mds: Path, s3: S3, tmp_path: Path):
    url = upload(synthetic_mds, s3, 'data')
    s3.client.delete_object(Bucket=s3.bucket, Key='data/train/shard.00001.mds')
    with spec_of(url, local=str(tmp_path)) as spec:
        message = fault_of(spec)
    assert message.startswith(f'cannot read a shard of {url}/train: ')
    assert 'shard.00001.mds' in message


def s3_fault(url: str, folder: Path, kind: type[UserError] = UserError) -> str:
    with pytest.raises(kind) as error, at_most(30):
        dataset_of(url, local=str(folder))
    assert '\n' not in str(error.value)
    return str(error.value)


def test_missing_bucket(s3: S3, tmp_path: Path):
    assert s3_fault('s3://no-such-bucket/data', tmp_path, MissingPathError) == (
        'S3 bucket does not exist: no-such-bucket (in s3://no-such-bucket/data/train/index.json)'
    )


def test_missing_prefix(s3: S3, tmp_path: Path):
    url = f's3://{s3.bucket}/nothing'
    assert s3_fault(url, tmp_path, MissingPathError) == f'S3 key does not exist: {url}/train/index.json'


def test_missing_credentials(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv('AWS_ACCESS_KEY_ID')
    monkeypatch.delenv('AWS_SECRET_ACCESS_KEY')
    url = f's3://{s3.bucket}/data'
    message = s3_fault(url, tmp_path)
    assert message == f'no S3 credentials for {url}/train/index.json: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY'


def test_refused_credentials(s3: S3, tmp_path: Path):
    s3.check_credentials(after_requests=0)
    url = f's3://{s3.bucket}/data'
    message = s3_fault(url, tmp_path)
    assert message.startswith(f'S3 refused the credentials for {url}/train/index.json (InvalidAccessKeyId)')
