import json
import multiprocessing
import random
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import S3
from PIL import Image
from streaming import MDSWriter, StreamingDataset
from streaming.base.format import reader_from_json
from streaming.base.hashing import get_hash

from segrecipes.base import s3 as s3_module
from segrecipes.base.errors import MissingPathError, UserError
from segrecipes.base.s3 import s3_client, split_s3
from segrecipes.base.stores import check_readable
from segrecipes.commands.cli import run
from segrecipes.datasets.file import read_file, to_yaml
from segrecipes.datasets.table import DATASETS
from segrecipes.storage import convert as convert_mds
from segrecipes.storage import targets
from segrecipes.storage.convert import convert
from segrecipes.storage.decode import decode_mask
from segrecipes.storage.folders import find_pairs
from segrecipes.storage.shards import StreamingSegmentation
from segrecipes.storage.writer import plan_shards

COUNTS = {'train': 13, 'val': 5}
SMALL = '12kb'  # a few samples a shard


def reads_shards(test: Any) -> Any:
    test = pytest.mark.filterwarnings('ignore:unclosed file:ResourceWarning')(test)  # StreamingDataset's own
    return pytest.mark.usefixtures('clean_shared_memory')(test)


def add_pair(root: Path, split: str, uid: str, size: tuple[int, int] = (40, 30), suffix: str = '.jpg') -> Path:
    """Write one random image and its mask; ``size`` is (width, height). Returns the image's path."""
    noise = np.random.default_rng(int(uid)).integers(0, 256, (size[1], size[0], 3), np.uint8)
    folder = {'train': 'training', 'val': 'validation'}[split]
    image = root / 'images' / folder / f'ADE_{split}_{uid}{suffix}'
    mask = root / 'annotations' / folder / f'ADE_{split}_{uid}.png'
    for path, pixels in ((image, noise), (mask, noise[..., 0] % 151)):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return image


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    root = tmp_path / 'ade20k'
    for split, count in COUNTS.items():
        for number in range(1, count + 1):
            add_pair(root, split, f'{number:08}', (30 + number, 30))
    return root


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / 'mds'


def files_of(dataset: Path, split: str) -> dict[bytes, tuple[bytes, bytes]]:
    pairs = find_pairs(dataset, split, DATASETS['ade20k'])
    return {pair.uid.encode(): (pair.image.read_bytes(), pair.mask.read_bytes()) for pair in pairs}


def entries_of(folder: Path) -> list[dict[str, Any]]:
    index = json.loads((folder / 'index.json').read_text())
    assert index['version'] == 2
    return index['shards']


def raw_samples(folder: Path) -> list[tuple[bytes, bytes, bytes]]:
    """(uid, x, y) of every sample, as stored, by streaming's own shard reader."""
    samples = []
    for entry in entries_of(folder):
        shard: Any = reader_from_json(str(folder), '', entry)
        for index in range(entry['samples']):
            data = shard.get_sample_data(index)
            ends = 12 + np.cumsum(np.frombuffer(data[:12], np.uint32))
            samples.append((data[12 : ends[0]], data[ends[0] : ends[1]], data[ends[1] :]))
    return samples


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


def test_file_bytes_are_copied(dataset: Path, out: Path):
    assert convert(dataset, out, num_workers=1, size_limit=SMALL, progress_bar=False) == COUNTS
    for split, count in COUNTS.items():
        samples = raw_samples(out / split)
        assert len(samples) == count
        assert {uid: (x, y) for uid, x, y in samples} == files_of(dataset, split)
    assert sorted(path.name for path in out.iterdir()) == ['dataset.yaml', 'train', 'val']
    assert read_file(out).row == replace(DATASETS['ade20k'], root='')
    assert read_file(out).config == {'train_dataset': {'is_streaming': True}}


def test_fast_masks_hold_the_same_labels(dataset: Path, out: Path):
    convert(dataset, out, fast_masks=True, progress_bar=False)
    for split in COUNTS:
        stored = {uid: (image, mask) for uid, image, mask in raw_samples(out / split)}
        assert stored.keys() == files_of(dataset, split).keys()
        for uid, (image, mask) in files_of(dataset, split).items():
            assert stored[uid][0] == image and stored[uid][1] != mask
            np.testing.assert_array_equal(decode_mask(stored[uid][1], 'a'), decode_mask(mask, 'a'))


def test_train_is_shuffled_by_the_seed_and_val_is_sorted(dataset: Path, tmp_path: Path):
    expected = sorted(files_of(dataset, 'train'))
    random.Random(3).shuffle(expected)
    convert(dataset, tmp_path / 'three', num_workers=1, size_limit=SMALL, shuffle_seed=3, progress_bar=False)
    convert(dataset, tmp_path / 'four', num_workers=1, size_limit=SMALL, shuffle_seed=4, progress_bar=False)
    order = {name: [uid for uid, *_ in raw_samples(tmp_path / name / 'train')] for name in ('three', 'four')}
    assert order['three'] == expected
    assert order['four'] != expected and sorted(order['four']) == sorted(expected)
    val = [uid for uid, *_ in raw_samples(tmp_path / 'four' / 'val')]
    assert val == sorted(val)


def test_output_is_identical_for_any_number_of_workers(dataset: Path, tmp_path: Path):
    for workers in (1, 2, 5):
        convert(dataset, tmp_path / str(workers), num_workers=workers, size_limit=SMALL, progress_bar=False)
    assert len(entries_of(tmp_path / '1' / 'train')) >= 4
    assert tree(tmp_path / '1') == tree(tmp_path / '2') == tree(tmp_path / '5')


@pytest.fixture
def spawn() -> Iterator[None]:
    method = multiprocessing.get_start_method()
    multiprocessing.set_start_method('spawn', force=True)
    yield
    multiprocessing.set_start_method(method, force=True)


@pytest.mark.usefixtures('spawn')
def test_workers_may_be_spawned(dataset: Path, out: Path):
    convert(dataset, out, splits=['val'], num_workers=1, progress_bar=False)
    assert [uid for uid, *_ in raw_samples(out / 'val')] == sorted(files_of(dataset, 'val'))


def test_schema_and_samples_equal_those_of_streamings_writer(dataset: Path, out: Path, tmp_path: Path):
    """Against MDSWriter with columns of plain bytes, which it passes through: only the encodings' names differ."""
    convert(dataset, out, splits=['val'], num_workers=1, progress_bar=False)
    columns = {'uid': 'bytes', 'x': 'bytes', 'y': 'bytes'}
    with MDSWriter(out=str(tmp_path / 'own'), columns=columns, hashes=['sha1', 'xxh64'], size_limit=1 << 22) as writer:
        for uid, (image, mask) in files_of(dataset, 'val').items():
            writer.write({'uid': uid, 'x': image, 'y': mask})
    assert raw_samples(out / 'val') == raw_samples(tmp_path / 'own')
    [ours], [theirs] = entries_of(out / 'val'), entries_of(tmp_path / 'own')
    assert dict(zip(ours['column_names'], ours['column_encodings'])) == {'uid': 'bytes', 'x': 'jpeg', 'y': 'png'}
    for different in ('column_encodings', 'raw_data'):
        assert type(ours.pop(different)) is type(theirs.pop(different))
    assert ours == theirs


def test_shards_keep_to_the_size_limit(dataset: Path, out: Path):
    big = add_pair(dataset, 'train', '00000050', (200, 200))
    convert(dataset, out, num_workers=1, size_limit=SMALL, progress_bar=False)
    entries = entries_of(out / 'train')
    names = [entry['raw_data']['basename'] for entry in entries]
    assert names == [f'shard.{number:05}.mds' for number in range(len(entries))]
    oversized = [entry for entry in entries if entry['raw_data']['bytes'] > 12 * 1024]
    assert [entry['samples'] for entry in oversized] == [1]
    assert oversized[0]['raw_data']['bytes'] > big.stat().st_size > 12 * 1024
    assert all(entry['samples'] > 0 and entry['size_limit'] == 12 * 1024 for entry in entries)


@pytest.mark.parametrize('compression', [None, 'zstd:3'])
def test_hashes_are_of_the_files(dataset: Path, out: Path, compression: str | None):
    convert(dataset, out, splits=['val'], num_workers=1, compression=compression, progress_bar=False)
    for entry in entries_of(out / 'val'):
        stored = entry['zip_data'] if compression else entry['raw_data']
        data = (out / 'val' / stored['basename']).read_bytes()
        assert stored['hashes'] == {algorithm: get_hash(algorithm, data) for algorithm in ('sha1', 'xxh64')}
        assert stored['bytes'] == len(data)


def test_excluded_uids_are_left_out_of_train_only(dataset: Path, out: Path):
    excluded = '00001701'
    add_pair(dataset, 'train', excluded)
    add_pair(dataset, 'val', excluded)
    assert convert(dataset, out, num_workers=1, progress_bar=False) == {'train': 13, 'val': 6}
    assert excluded.encode() not in {uid for uid, *_ in raw_samples(out / 'train')}


def test_a_png_image_is_not_encoded_anew(dataset: Path, out: Path):
    image = add_pair(dataset, 'val', '00000060', suffix='.png')
    convert(dataset, out, splits=['val'], num_workers=1, progress_bar=False)
    stored = {uid: x for uid, x, _ in raw_samples(out / 'val')}
    assert stored[b'00000060'] == image.read_bytes()


# Of an image that is no JPEG, and its mask: their suffixes, the image's mode, and how both are saved
FORMS: list[tuple[str, str, str, dict[str, Any]]] = [
    ('.png', '.png', 'RGB', {}),
    ('.png', '.png', 'P', {}),
    ('.png', '.tif', 'LA', {}),
    ('.bmp', '.bmp', 'RGB', {}),
    ('.webp', '.png', 'RGB', {'lossless': True}),
    ('.tif', '.tif', 'RGB', {'compression': 'tiff_lzw'}),
    ('.tiff', '.png', 'RGB', {'compression': 'tiff_deflate'}),
    ('.tif', '.tif', 'L', {}),
]


@reads_shards
@pytest.mark.parametrize('fast_masks', [False, True])
@pytest.mark.parametrize(('suffix', 'of_mask', 'mode', 'options'), FORMS)
def test_images_that_are_no_jpeg_keep_their_pixels(
    suffix: str, of_mask: str, mode: str, options: dict[str, Any], fast_masks: bool, out: Path, tmp_path: Path
):
    """In our shards, and read from them by streaming itself."""
    rng, expected = np.random.default_rng(0), {}
    row = replace(DATASETS['synthetic'], mask=(r'^images/(.+)\.\w+$', rf'annotations/\1{of_mask}'))
    for split, folder in {'train': 'training', 'val': 'validation'}.items():
        pixels, labels = rng.integers(0, 256, (23, 31, 3), np.uint8), rng.integers(0, 9, (23, 31), np.uint8)
        picture = Image.fromarray(pixels).convert(mode)
        for name, image in ((f'images/{folder}/a{suffix}', picture), (f'annotations/{folder}/a{of_mask}', labels)):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
            image.save(tmp_path / name, **options)
        expected[split] = pixels if mode == 'RGB' else np.array(picture.convert('RGB')), labels
    (tmp_path / 'dataset.yaml').write_text(to_yaml(row))
    convert(tmp_path, out, num_workers=1, fast_masks=fast_masks, progress_bar=False)
    for split, (pixels, labels) in expected.items():
        ours = StreamingSegmentation(
            path=str(out), local=None, split=split, make_sample=lambda *sample: sample, batch_size=1
        )
        image, mask, uid, _ = ours[0]
        assert uid == 'a'
        theirs = StreamingDataset(local=str(out), split=split, batch_size=1)[0]
        for found in (image, np.array(theirs['x'].convert('RGB'))):
            np.testing.assert_array_equal(found, pixels)
        for found in (mask, np.array(theirs['y'])):
            np.testing.assert_array_equal(found, labels)


@reads_shards
def test_streaming_reads_a_folder(dataset: Path, out: Path):
    convert(dataset, out, num_workers=2, size_limit=SMALL, progress_bar=False)
    read = StreamingDataset(local=str(out), split='train', shuffle=False, batch_size=1, validate_hash='xxh64')
    assert len(read) == COUNTS['train']
    for index, (uid, image, mask) in enumerate(raw_samples(out / 'train')):
        assert read[index]['uid'] == uid
        for column, stored in (('x', image), ('y', mask)):
            source = out.parent / 'decoded'
            source.write_bytes(stored)
            np.testing.assert_array_equal(np.asarray(read[index][column]), np.asarray(Image.open(source)))


@reads_shards
@pytest.mark.parametrize('compression', [None, 'zstd'])
def test_streaming_reads_from_s3(dataset: Path, tmp_path: Path, s3: S3, compression: str | None):
    url = f's3://{s3.bucket}/some/ade20k'
    counts = convert(dataset, url, num_workers=2, size_limit=SMALL, compression=compression, progress_bar=False)
    assert counts == COUNTS
    check_readable(f'{url}/val')
    for split in COUNTS:
        read = StreamingDataset(
            remote=url, local=str(tmp_path / 'cache'), split=split, shuffle=False, batch_size=1, validate_hash='sha1'
        )
        assert [read[index]['uid'] for index in range(len(read))] == [
            uid for uid, *_ in raw_samples(tmp_path / 'cache' / split)
        ]
        stored = {uid: (x, y) for uid, x, y in raw_samples(tmp_path / 'cache' / split)}
        assert stored == files_of(dataset, split)


def test_s3_and_folder_hold_the_same_objects(dataset: Path, out: Path, s3: S3):
    convert(dataset, out, num_workers=1, size_limit=SMALL, progress_bar=False)
    convert(dataset, f's3://{s3.bucket}', num_workers=2, size_limit=SMALL, progress_bar=False)
    objects = {key: s3.client.get_object(Bucket=s3.bucket, Key=key)['Body'].read() for key in s3.list_keys()}
    assert objects == tree(out)


def test_a_target_that_is_not_empty_is_refused(dataset: Path, out: Path, capsys: pytest.CaptureFixture[str]):
    (out / 'val').mkdir(parents=True)
    (out / 'val' / 'mine.txt').write_text('keep')
    with pytest.raises(SystemExit) as exit_:
        run('convert', [str(dataset), '--out', str(out)])
    assert exit_.value.code == 1
    assert capsys.readouterr().err == f'error: not empty: {out / "val"}; --overwrite replaces it\n'
    assert tree(out) == {'val/mine.txt': b'keep'}


def test_overwrite_replaces_only_the_splits_asked_for(dataset: Path, out: Path):
    convert(dataset, out, num_workers=1, progress_bar=False)
    (out / 'val' / 'old.txt').write_text('old')
    before = tree(out / 'train')
    add_pair(dataset, 'val', '00000070')
    convert(dataset, out, splits=['val'], num_workers=1, overwrite=True, progress_bar=False)
    assert sorted(tree(out / 'val')) == ['index.json', 'shard.00000.mds']
    assert len(raw_samples(out / 'val')) == COUNTS['val'] + 1
    assert tree(out / 'train') == before


def test_refusal_and_overwrite_on_s3(dataset: Path, s3: S3):
    url = f's3://{s3.bucket}/ade'
    convert(dataset, url, num_workers=1, size_limit=SMALL, progress_bar=False)
    many = s3.list_keys()
    with pytest.raises(UserError, match=f'not empty: {url}/train, {url}/val; --overwrite'):
        convert(dataset, url, num_workers=1, progress_bar=False)
    assert s3.list_keys() == many
    for stale in ('shard.00000.mds?old', 'shard.00000.mds/', 'deep/er.txt'):
        s3.client.put_object(Bucket=s3.bucket, Key=f'ade/train/{stale}', Body=b'old')
    s3.client.put_object(Bucket=s3.bucket, Key='ade/training/mine', Body=b'keep')
    convert(dataset, url, num_workers=1, overwrite=True, progress_bar=False)
    new = [f'ade/{split}/{name}' for split in COUNTS for name in ('index.json', 'shard.00000.mds')]
    assert s3.list_keys() == sorted([*new, 'ade/dataset.yaml', 'ade/training/mine'])


def damage(dataset: Path, out: Path) -> Path:
    """Damage the image that comes near the middle of the training split."""
    order = sorted(files_of(dataset, 'train'))
    random.Random(0).shuffle(order)
    image = dataset / 'images/training' / f'ADE_train_{order[7].decode()}.jpg'
    image.write_bytes(b'no image')
    return image


@pytest.mark.parametrize('workers', [1, 2])
def test_a_damaged_image_leaves_nothing_behind(dataset: Path, out: Path, workers: int):
    image = damage(dataset, out)
    with pytest.raises(UserError, match=f'^not an image: {image}$'):
        convert(dataset, out, num_workers=workers, size_limit=SMALL, progress_bar=False)
    assert not out.exists()


def test_a_failed_overwrite_keeps_the_old_folder(dataset: Path, out: Path):
    convert(dataset, out, num_workers=1, progress_bar=False)
    before = tree(out)
    damage(dataset, out)
    with pytest.raises(UserError, match='not an image'):
        convert(dataset, out, num_workers=1, overwrite=True, progress_bar=False)
    assert tree(out) == before
    assert sorted(path.name for path in out.iterdir()) == ['dataset.yaml', 'train', 'val']


def test_a_failure_on_s3_publishes_no_index(
    dataset: Path, out: Path, s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    temporary = tmp_path / 'temporary'
    temporary.mkdir()
    monkeypatch.setattr('tempfile.tempdir', str(temporary))
    convert(dataset, f's3://{s3.bucket}/ade', num_workers=1, progress_bar=False)
    damage(dataset, out)
    with pytest.raises(UserError, match='not an image'):
        convert(dataset, f's3://{s3.bucket}/ade', num_workers=2, size_limit=SMALL, overwrite=True, progress_bar=False)
    assert 'ade/train/shard.00000.mds' in s3.list_keys()
    assert not [key for key in s3.list_keys() if key.endswith('index.json')]
    assert list(temporary.iterdir()) == []
    with pytest.raises(MissingPathError, match='key does not exist'):
        check_readable(f's3://{s3.bucket}/ade/train')


def test_a_shard_is_filled_to_the_byte(dataset: Path):
    """Its limit counts what Streaming writes: a kibibyte at most, and of each sample an offset and three sizes."""
    pairs = find_pairs(dataset, 'train', DATASETS['ade20k'])
    each = [16 + len(pair.uid) + pair.image.stat().st_size + pair.mask.stat().st_size for pair in pairs]
    for count in (1, 3, len(pairs)):
        limit = 1024 + sum(each[:count])
        assert len(plan_shards('train', pairs, limit)[0].pairs) == count
        assert len(plan_shards('train', pairs, limit - 1)[0].pairs) == max(1, count - 1)


def test_on_s3_an_index_comes_after_its_shards_and_goes_before_them(
    dataset: Path, s3: S3, monkeypatch: pytest.MonkeyPatch
):
    """So that whoever reads meanwhile finds all that an index names, or no index."""
    done: list[tuple[str, str]] = []
    real = s3_module.s3_client

    def noting(name: str, call: Any) -> Any:
        def noted(**given: Any) -> Any:
            done.append((name, given['Key']))
            return call(**given)

        return noted

    def client() -> Any:
        made = real()
        for name in ('put_object', 'delete_object'):
            setattr(made, name, noting(name, getattr(made, name)))
        return made

    monkeypatch.setattr(s3_module, 's3_client', client)
    targets.worker_store.cache_clear()
    monkeypatch.setattr(convert_mds, 'ProcessPoolExecutor', lambda *args, **kwargs: ThreadPoolExecutor(1))
    for overwrite in (False, True):
        done.clear()
        convert(dataset, f's3://{s3.bucket}/ade', splits=['train'], num_workers=1, size_limit=SMALL,
                overwrite=overwrite, progress_bar=False)  # fmt: skip
        keys = [(name, key.rpartition('/')[2]) for name, key in done]
        shards = [index for index, (name, key) in enumerate(keys) if name == 'put_object' and key.endswith('.mds')]
        assert len(shards) > 1
        assert keys.index(('put_object', 'index.json')) > max(shards)
        if overwrite:
            assert keys.index(('delete_object', 'index.json')) < min(shards)
    targets.worker_store.cache_clear()


def test_ctrl_c_leaves_nothing_behind(dataset: Path, out: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(convert_mds.tqdm, 'update', interrupt)
    with pytest.raises(KeyboardInterrupt):
        convert(dataset, out, num_workers=2, size_limit=SMALL, progress_bar=False)
    assert not out.exists()
    assert multiprocessing.active_children() == []


def test_sizes_that_differ_are_named(dataset: Path, out: Path):
    image = dataset / 'images/validation/ADE_val_00000003.jpg'
    Image.new('RGB', (8, 9)).save(image)
    with pytest.raises(UserError, match=rf'\(8, 9\) in {image}, \(33, 30\) in .*ADE_val_00000003.png'):
        convert(dataset, out, splits=['val'], num_workers=1, progress_bar=False)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'name': 'ade21k'}, 'name=ade21k is not known'),
        ({'splits': ['test']}, 'split=test is not known'),
        ({'num_workers': 0}, 'num_workers=0 is out of range'),
        ({'size_limit': '4mib'}, "size_limit='4mib' is no number of bytes"),
        ({'size_limit': '4gb'}, "size_limit='4gb' is out of range"),
        ({'compression': 'zip'}, 'compression=zip is not known'),
        ({'hashes': ['sha2']}, 'hashes=sha2 is not known'),
        ({'out': 'ftp://bucket/ade'}, 'out=ftp://bucket/ade: ftp:// is not known. Legal: a folder, s3://, gs://'),
        ({'out': 's3:///ade'}, 'out=s3:///ade names no bucket; expected s3://bucket/path'),
        ({'path': 'nowhere'}, 'dataset folder does not exist: nowhere'),
    ],
)
def test_wrong_values_are_refused_before_any_work(dataset: Path, out: Path, options: dict[str, Any], message: str):
    with pytest.raises(UserError) as error:
        convert(**({'path': dataset, 'out': out, 'progress_bar': False} | options))
    assert message in str(error.value)
    assert not out.exists()


def test_command_line(dataset: Path, out: Path, capfd: pytest.CaptureFixture[str]):
    arguments = ['--out', str(out), '--splits', 'val', '--hashes', '', '--num-workers', '1', '--size-limit', '1mb']
    run('convert', [str(dataset), *arguments])
    printed = capfd.readouterr()
    assert printed.out == f'{out}/val: 5 samples\n'
    assert '5/5' in printed.err
    assert [entry['raw_data']['hashes'] for entry in entries_of(out / 'val')] == [{}]
    with pytest.raises(SystemExit, match='1'):
        run('convert', [str(dataset), '--out', str(out), '--splits', ''])
    assert 'Legal: train, val' in capfd.readouterr().err


def s3_message(dataset: Path, url: str) -> str:
    """What a conversion to ``url`` says; ``check_readable`` must say the same of its index."""
    with pytest.raises(UserError) as written:
        convert(dataset, url, splits=['val'], num_workers=1, progress_bar=False)
    with pytest.raises(UserError) as read:
        check_readable(f'{url}/val')
    assert '\n' not in str(written.value)
    assert str(read.value) == str(written.value).replace(f'{url}/val', f'{url}/val/index.json')
    return str(written.value)


def test_missing_bucket(dataset: Path, s3: S3):
    assert s3_message(dataset, 's3://no-such-bucket/a') == (
        'S3 bucket does not exist: no-such-bucket (in s3://no-such-bucket/a/val)'
    )


def test_missing_credentials(dataset: Path, s3: S3, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv('AWS_ACCESS_KEY_ID')
    monkeypatch.delenv('AWS_SECRET_ACCESS_KEY')
    assert s3_message(dataset, f's3://{s3.bucket}/a') == (
        f'no S3 credentials for s3://{s3.bucket}/a/val: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY'
    )


def test_refused_credentials(dataset: Path, s3: S3):
    s3.check_credentials(after_requests=0)
    message = s3_message(dataset, f's3://{s3.bucket}/a')
    assert message.startswith(f'S3 refused the credentials for s3://{s3.bucket}/a/val (InvalidAccessKeyId)')


def test_credentials_refused_to_a_worker(dataset: Path, s3: S3):
    """Both listings pass, the first upload does not: the error crosses the process boundary whole."""
    s3.check_credentials(after_requests=2)
    with pytest.raises(UserError, match=r'^S3 refused .*/a/val/shard.00000.mds \(InvalidAccessKeyId\)'):
        convert(dataset, f's3://{s3.bucket}/a', splits=['val'], num_workers=1, progress_bar=False)
    s3.check_credentials(float('inf'))
    assert s3.list_keys() == []


def test_missing_key(s3: S3):
    with pytest.raises(MissingPathError, match=f'^S3 key does not exist: s3://{s3.bucket}/a/val/index.json$'):
        check_readable(f's3://{s3.bucket}/a/val/')


def test_endpoint_that_does_not_answer(dataset: Path, s3: S3, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv('S3_ENDPOINT_URL', 'http://127.0.0.1:9')
    with pytest.raises(UserError, match=r'^no answer from the S3 endpoint http://127.0.0.1:9 for s3://bucket/a/index'):
        check_readable('s3://bucket/a')
    monkeypatch.setenv('S3_ENDPOINT_URL', 'localhost:9')
    with pytest.raises(UserError, match="S3_ENDPOINT_URL='localhost:9' is not a URL"):
        s3_client()


def test_split_s3():
    assert split_s3('s3://bucket/some/key/') == ('bucket', 'some/key')
    assert split_s3('s3://bucket') == ('bucket', '')
    for url in ('bucket/key', 's3:/bucket', 's3:///key', 'http://bucket/key'):
        with pytest.raises(UserError, match='expected s3://bucket/key'):
            split_s3(url)


def test_s3_is_not_imported_for_a_folder(dataset: Path, out: Path):
    code = f"""if __name__ == '__main__':
    import sys
    import segrecipes.base.s3
    from segrecipes.storage.convert import convert
    convert({str(dataset)!r}, {str(out)!r}, num_workers=1, progress_bar=False)
    print([name for name in ('boto3', 'botocore') if name in sys.modules])
"""
    root = Path(__file__).parents[2]
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=root, check=True)
    assert result.stdout == '[]\n'
