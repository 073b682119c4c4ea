import inspect
import re
import shutil
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from composer.utils import dist
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from segrecipes.base.errors import MissingPathError, UserError
from segrecipes.data.augment import TrainTransform, sample_rng
from segrecipes.data.batch import collate_pairs, with_count
from segrecipes.data.loader import CheckedDataLoader, EpochSampler, build_dataspec
from segrecipes.data.normalize import IMAGENET_CHANNEL_MEAN, IMAGENET_CHANNEL_STD
from segrecipes.datasets.table import DATASETS
from segrecipes.evaluation.table import get_protocol
from segrecipes.storage.convert import convert
from segrecipes.storage.decode import DataError, decode_mask
from segrecipes.storage.folders import find_pairs
from segrecipes.upstream import build_ade20k_dataspec

TRAIN = TrainTransform(base_size=48, final_size=32)
EVAL: Any = get_protocol('mosaic-512sq', 32)
ROW = DATASETS['synthetic']


class Numbers(Dataset):
    """Sample i of an epoch is (epoch, i)."""

    def __init__(self, size: int):
        self.size = size
        self.resume_sample = 0

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        return torch.tensor(key), torch.tensor(0)


class Stream(IterableDataset):
    """Promises ``promised`` samples and delivers ``delivered``."""

    def __init__(self, promised: int, delivered: int):
        self.promised, self.delivered = promised, delivered

    def __len__(self) -> int:
        return self.promised

    def __str__(self) -> str:
        return 's3://bucket/stream'

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return ((torch.tensor(i), torch.tensor(i)) for i in range(self.delivered))


def spec_of(path: Path, split: str = 'train', **arguments: Any) -> Any:
    given: dict[str, Any] = {
        'path': str(path),
        'split': split,
        'batch_size': 4,
        'name': 'synthetic',
        'num_classes': 8,
        'transform': TRAIN if split == 'train' else EVAL,
        'shuffle': split == 'train',
        **arguments,
    }
    return build_dataspec(**given)


def epoch_of(spec: Any, epoch: int = 0) -> list[tuple[bytes, bytes]]:
    """The bytes of each sample of an epoch, in their order."""
    loader = spec.dataloader
    if isinstance(loader.sampler, EpochSampler):
        loader.sampler.set_epoch(epoch)
    return [
        (image.contiguous().numpy().tobytes(), mask.numpy().tobytes())
        for images, masks, *_ in loader
        for image, mask in zip(images, masks)
    ]


def fault_of(loader: Any) -> str:
    """The message of the DataError that iterating raises."""
    with pytest.raises(DataError) as caught:
        list(loader)
    for error in (caught.value, caught.value.__context__):  # lets go of the workers now, not in some later collection
        if error is not None:
            traceback.clear_frames(error.__traceback__)
    return str(caught.value)


# Which samples an epoch holds


def sampler(size: int, ranks: int, rank: int, epoch: int = 0, **arguments: Any) -> EpochSampler:
    made = EpochSampler(Numbers(size), num_replicas=ranks, rank=rank, seed=17, **arguments)
    made.set_epoch(epoch)
    return made


@pytest.mark.parametrize('shuffle', [False, True])
@pytest.mark.parametrize('ranks', [1, 2, 3])
def test_ranks_share_out_each_sample_once(ranks: int, shuffle: bool):
    for size in (12, 13):
        keys = [list(sampler(size, ranks, rank, 5, shuffle=shuffle, drop_last=False)) for rank in range(ranks)]
        padding = -size % ranks
        assert {len(part) for part in keys} == {(size + padding) // ranks}
        assert {epoch for part in keys for epoch, _ in part} == {5}
        dealt = [part[i][1] for i in range(len(keys[0])) for part in keys]  # as the ranks take turns
        assert sorted(dealt[:size]) == list(range(size))
        assert dealt[size:] == dealt[:padding]
        assert (dealt[:size] == list(range(size))) is not shuffle


def test_epochs_have_orders_of_their_own():
    first, second = ([index for _, index in sampler(12, 1, 0, epoch, shuffle=True)] for epoch in (0, 1))
    assert sorted(first) == sorted(second)
    assert first != second
    assert first == [index for _, index in sampler(12, 1, 0, 0, shuffle=True)]


def test_skip_counts_for_one_epoch_only():
    made = sampler(12, 2, 1, 3, shuffle=True)
    whole = list(made)
    made.skip = 4
    assert list(made) == whole[4:]
    assert list(made) == whole


def be_rank(rank: int, world_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment no longer says who one is, once a run in this process has initialised torch's ranks."""
    monkeypatch.setattr(dist, 'get_global_rank', lambda: rank)
    monkeypatch.setattr(dist, 'get_world_size', lambda: world_size)


def test_global_batches_do_not_depend_on_ranks(synthetic_folder: Path, monkeypatch: pytest.MonkeyPatch):
    def batches(world_size: int, rank: int) -> list[set[bytes]]:
        be_rank(rank, world_size, monkeypatch)
        spec = spec_of(synthetic_folder, batch_size=4 // world_size)
        samples = [image for image, _ in epoch_of(spec, 2)]
        size = 4 // world_size
        return [set(samples[start : start + size]) for start in range(0, len(samples), size)]

    single = batches(1, 0)
    assert [len(batch) for batch in single] == [4, 4, 4]
    assert len(set.union(*single)) == 12
    assert [a | b for a, b in zip(batches(2, 0), batches(2, 1), strict=True)] == single


# The checked loader


@pytest.mark.parametrize(('drop_last', 'expected'), [(False, 10), (True, 8)])
@pytest.mark.parametrize('num_workers', [0, 1])
def test_an_epoch_cut_short_is_an_error(drop_last: bool, expected: int, num_workers: int):
    def loader(delivered: int) -> CheckedDataLoader:
        return CheckedDataLoader(Stream(10, delivered), batch_size=4, drop_last=drop_last, num_workers=num_workers)

    assert sum(len(images) for images, _ in loader(10)) == expected
    message = fault_of(loader(4))
    assert message.startswith(
        f'rank 0 was delivered 4 of the {expected} samples of this epoch by s3://bucket/stream; the run stops here'
    )
    assert f'delivered 0 of the {expected} ' in fault_of(loader(0))


def test_an_epoch_cut_short_on_one_rank(monkeypatch: pytest.MonkeyPatch):
    be_rank(3, 4, monkeypatch)
    assert fault_of(CheckedDataLoader(Stream(10, 9), batch_size=4)).startswith('rank 3 was delivered 9 of the 10 ')


def test_too_many_samples_are_an_error_too():
    assert 'was delivered 12 of the 10 samples' in fault_of(CheckedDataLoader(Stream(10, 12), batch_size=4))


@pytest.mark.parametrize('num_workers', [0, 2])
def test_resumed_epoch_holds_what_was_not_seen(synthetic_folder: Path, num_workers: int):
    whole = {epoch: epoch_of(spec_of(synthetic_folder), epoch) for epoch in (3, 4)}
    spec = spec_of(synthetic_folder, num_workers=num_workers)
    spec.dataloader.dataset.load_state_dict(spec.dataloader.dataset.state_dict(8, True))
    assert epoch_of(spec, 3) == whole[3][8:]
    assert epoch_of(spec, 4) == whole[4]


def test_resumed_at_the_end_of_an_epoch(synthetic_folder: Path):
    spec = spec_of(synthetic_folder)
    whole = epoch_of(spec, 4)
    spec.dataloader.dataset.load_state_dict({'sample_in_epoch': 12})
    assert epoch_of(spec, 3) == []
    assert epoch_of(spec, 4) == whole


@pytest.mark.parametrize('rank', [0, 1])
def test_resumed_samples_count_over_all_ranks(synthetic_folder: Path, rank: int, monkeypatch: pytest.MonkeyPatch):
    be_rank(rank, 2, monkeypatch)
    spec = spec_of(synthetic_folder, batch_size=2)
    whole = epoch_of(spec, 3)
    spec.dataloader.dataset.load_state_dict({'sample_in_epoch': 8})
    assert len(whole) == 6
    assert epoch_of(spec, 3) == whole[4:]


# What a sample is


def test_a_sample_is_its_file_transformed_with_its_own_generator(synthetic_folder: Path):
    """Against the plain steps, written out."""
    samples = epoch_of(spec_of(synthetic_folder, shuffle=False), 6)
    pairs = find_pairs(synthetic_folder, 'train', ROW)
    classes_of = ROW.label_map(8)
    for (uid, image_file, mask_file), (image_bytes, mask_bytes) in zip(pairs, samples, strict=True):
        with Image.open(image_file) as image, Image.open(mask_file) as mask:
            wanted = TRAIN(np.array(image), classes_of[np.array(mask)], sample_rng(17, 6, uid))
        assert image_bytes == np.ascontiguousarray(wanted[0].transpose(2, 0, 1)).tobytes()
        assert mask_bytes == wanted[1].tobytes()


def test_a_sample_depends_on_epoch_and_seed_only(synthetic_folder: Path):
    first = epoch_of(spec_of(synthetic_folder), 0)
    assert epoch_of(spec_of(synthetic_folder, num_workers=2), 0) == first
    assert set(epoch_of(spec_of(synthetic_folder, shuffle=False, batch_size=3), 0)) == set(first)
    assert set(epoch_of(spec_of(synthetic_folder), 1)).isdisjoint(first)
    assert set(epoch_of(spec_of(synthetic_folder, seed=18), 0)).isdisjoint(first)


@pytest.mark.filterwarnings('ignore:unclosed file:ResourceWarning')
@pytest.mark.usefixtures('clean_shared_memory')
@pytest.mark.parametrize('split', ['train', 'val'])
def test_shards_give_the_same_samples(synthetic_folder: Path, synthetic_mds: Path, split: str):
    local = epoch_of(spec_of(synthetic_folder, split))
    streamed = epoch_of(spec_of(synthetic_mds, split, is_streaming=True))
    assert len(set(local)) == {'train': 12, 'val': 5}[split]
    assert sorted(streamed) == sorted(local)
    assert (streamed == local) is (split == 'val')


@pytest.mark.parametrize(('ignore_background', 'offset'), [(True, 1), (False, 0)])
def test_what_the_network_gets(synthetic_folder: Path, ignore_background: bool, offset: int):
    spec = spec_of(synthetic_folder, 'val', ignore_background=ignore_background, num_classes=9 - offset)
    images, classes, labelled, uids = next(iter(spec.dataloader))
    assert (images.shape, images.dtype) == ((4, 3, 32, 32), torch.uint8)
    assert (classes.shape, classes.dtype) == ((4, 32, 32), torch.uint8)
    assert uids == [f'{number:08}' for number in range(1, 5)]
    for (_, _, mask), found in zip(find_pairs(synthetic_folder, 'val', ROW), classes):
        wanted = EVAL.resize_mask(np.array(Image.open(mask))).astype(int) - offset
        np.testing.assert_array_equal(found.numpy(), np.where(wanted < 0, 255, wanted))
    assert labelled.tolist() == [(classes != 255).sum().item() / 4] * 4
    assert (spec.get_num_samples_in_batch([images, classes]), spec.batch_transforms(images)) == (4, images)
    classes[0, 0, :4] = torch.tensor([0, 7, 8 - offset, 255])
    pixels, labels, *rest = spec.microbatch_transforms((images, classes, labelled, uids))
    assert rest == [labelled, uids]
    assert labels.dtype == torch.int64
    assert labels[0, 0, :4].tolist() == [0, 7, 8 - offset, -1]
    assert (labels.min(), labels.max()) == (-1, 8 - offset)
    for channel in range(3):
        wanted = (images[:, channel].double() - IMAGENET_CHANNEL_MEAN[channel]) / IMAGENET_CHANNEL_STD[channel]
        torch.testing.assert_close(pixels[:, channel].double(), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize('ignore_background', [True, False])
def test_a_training_batch_has_its_labelled_pixels(synthetic_folder: Path, ignore_background: bool):
    """Counted by the workers, or, where a batch is loaded as a pair, before it goes to the device."""
    options: Any = {'ignore_background': ignore_background, 'num_classes': 9}
    annotated = spec_of(synthetic_folder, **options)
    pairs = spec_of(synthetic_folder, **options, collate_fn=collate_pairs)
    for batch, pair in zip(annotated.dataloader, pairs.dataloader, strict=True):
        assert annotated.batch_transforms(batch) is batch
        _, labels, counts, uids = annotated.microbatch_transforms(batch)
        assert counts.dtype == torch.float32
        assert counts.tolist() == [(labels != -1).sum().item() / 4] * 4
        assert len(uids) == 4
        assert len(pair) == 2
        assert torch.equal(with_count(pair)[2], counts)


@pytest.mark.filterwarnings('ignore:unclosed file:ResourceWarning')
@pytest.mark.usefixtures('clean_shared_memory')
@pytest.mark.parametrize('split', ['train', 'val'])
def test_views_of_a_protocol(synthetic_folder: Path, synthetic_mds: Path, split: str):
    """Of a folder and of shards: each image by itself, in its own size."""
    protocol: Any = get_protocol('ade20k-ss', 64)
    for path, is_streaming in ((synthetic_folder, False), (synthetic_mds, True)):
        given = {'is_streaming': is_streaming, 'transform': protocol, 'collate_fn': protocol.collate, 'shuffle': False}
        found = {uid: (views, classes, labelled)
                 for batch in spec_of(path, split, batch_size=3, **given).dataloader
                 for views, classes, labelled, uid in zip(*batch)}  # fmt: skip
        pairs = find_pairs(synthetic_folder, split, ROW)
        assert sorted(found) == [pair.uid for pair in pairs]
        for uid, image, mask in pairs:
            views, classes, _ = found[uid]
            np.testing.assert_array_equal(classes.numpy(), ROW.label_map(8)[np.array(Image.open(mask))])
            [expected] = protocol.views(np.array(Image.open(image)))
            assert len(views) == 1 and tuple(views[0].shape[1:]) == expected.shape[:2]


@pytest.mark.filterwarnings('ignore:unclosed file:ResourceWarning')
@pytest.mark.usefixtures('clean_shared_memory')
@pytest.mark.parametrize('fast_masks', [False, True])
def test_lgg_from_its_folder_and_from_shards(tmp_path: Path, fast_masks: bool):
    """Real pictures in TIFF, whose labels 0 and 255 both are classes."""
    path = Path(__file__).parents[3] / 'shared/data/lgg_mri'
    if not path.is_dir():
        pytest.skip(f'no brain MRI in {path}')
    options: Any = {'name': 'lgg', 'num_classes': 2, 'batch_size': 9, 'drop_last': False}
    counts = convert(path, tmp_path, name='lgg', num_workers=1, fast_masks=fast_masks, progress_bar=False)
    assert sum(counts.values()) == len(list(path.rglob('*_mask.tif')))
    for split in ('train', 'val'):
        parts = [[*zip(*batch)] for batch in spec_of(path, split, **options).dataloader]
        streamed = [[*zip(*batch)] for batch in spec_of(tmp_path, split, **options, is_streaming=True).dataloader]
        folder, shards = (
            {uid: (image.numpy().tobytes(), classes.numpy()) for batch in batches for image, classes, _, uid in batch}
            for batches in (parts, streamed)
        )
        assert len(folder) == counts[split] and folder.keys() == shards.keys()
        for uid, (image, classes) in folder.items():
            assert image == shards[uid][0]
            np.testing.assert_array_equal(classes, shards[uid][1])
        found = set(np.unique(np.stack([classes for _, classes in folder.values()])).tolist())
        assert found - {255} == {0, 1}
        assert (255 in found) is (split == 'train')  # padding


# What cannot be delivered


@pytest.fixture
def damaged(synthetic_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(synthetic_folder, tmp_path / 'data')) / 'ADEChallengeData2016'


def truncate(image: Path, mask: Path) -> str:
    image.write_bytes(image.read_bytes()[:900])
    return rf'^damaged image {image}: '


def no_image(image: Path, mask: Path) -> str:
    image.write_bytes(b'nothing of the kind')
    return rf'^damaged image {image}: '


def truncate_mask(image: Path, mask: Path) -> str:
    mask.write_bytes(mask.read_bytes()[:100])
    return rf'^damaged mask {mask}: '


def large_label(image: Path, mask: Path) -> str:
    labels = np.array(Image.open(mask))
    labels[0, :2] = 9, 255
    Image.fromarray(labels).save(mask)
    return r'^label 9 in the mask of sample 00000003 is none of the dataset\. Legal: 0…8, 255\. .*data init'


def other_size(image: Path, mask: Path) -> str:
    Image.new('L', (20, 10)).save(mask)
    return r'^sizes differ for sample 00000003: image \(\d+, \d+\), mask \(10, 20\)'


def rgb_mask(image: Path, mask: Path) -> str:
    Image.new('RGB', (20, 10)).save(mask)
    return rf'^mask {mask} must have one channel of labels 0…255; it is uint8 \(10, 20, 3\)$'


@pytest.mark.parametrize('num_workers', [0, 2])
@pytest.mark.parametrize('damage', [truncate, no_image, truncate_mask, large_label, other_size, rgb_mask])
def test_a_damaged_sample_is_told_in_one_line(damaged: Path, damage: Any, num_workers: int):
    name = 'ADE_train_00000003'
    wanted = damage(damaged / f'images/training/{name}.jpg', damaged / f'annotations/training/{name}.png')
    message = fault_of(spec_of(damaged, num_workers=num_workers).dataloader)
    assert '\n' not in message
    assert 'Traceback' not in message
    assert re.search(wanted, message)


@pytest.mark.parametrize(
    ('num_classes', 'ignore_background', 'largest'), [(8, True, 8), (9, False, 8), (None, True, 254)]
)
def test_largest_label(damaged: Path, num_classes: int | None, ignore_background: bool, largest: int):
    mask = damaged / 'annotations/validation/ADE_val_00000002.png'
    labels = np.array(Image.open(mask))

    def loader(label: int) -> Any:
        labels[:4, :4] = label
        Image.fromarray(labels).save(mask)
        return spec_of(damaged, 'val', num_classes=num_classes, ignore_background=ignore_background).dataloader

    assert sum(len(images) for images, *_ in loader(largest)) == 5
    assert sum(len(images) for images, *_ in loader(255)) == 5
    if num_classes:
        assert fault_of(loader(largest + 1)).startswith(f'label {largest + 1} in the mask of sample 00000002 is none ')


def test_palette_and_bilevel_masks(tmp_path: Path):
    labels = np.array([[0, 1], [1, 0]], np.uint8)
    palette = Image.new('P', (2, 2))
    palette.putdata(labels.ravel().tolist())
    palette.putpalette([200, 0, 0, 0, 100, 0])
    for number, mask in enumerate((palette, Image.fromarray(labels.astype(bool)), Image.fromarray(labels))):
        mask.save(tmp_path / f'{number}.png')
        decoded = decode_mask(tmp_path / f'{number}.png', 'a')
        assert decoded.dtype == np.uint8
        np.testing.assert_array_equal(decoded, labels)


@pytest.mark.parametrize(
    ('batch_size', 'drop_last', 'enough'), [(12, True, True), (13, True, False), (13, False, True)]
)
def test_too_few_samples_for_a_batch(synthetic_folder: Path, batch_size: int, drop_last: bool, enough: bool):
    if enough:
        spec = spec_of(synthetic_folder, batch_size=batch_size, drop_last=drop_last)
        assert [len(images) for images, *_ in spec.dataloader] == [12]
        return
    with pytest.raises(UserError) as error:
        spec_of(synthetic_folder, batch_size=batch_size, drop_last=drop_last)
    message = str(error.value)
    assert [part for part in (str(synthetic_folder), 'train split', ', 12, ', 'of 13') if part not in message] == []


def test_missing_folders(synthetic_folder: Path, damaged: Path):
    with pytest.raises(MissingPathError, match=r'^dataset folder does not exist: /no/such/folder$'):
        spec_of(Path('/no/such/folder'))
    shutil.rmtree(damaged / 'annotations/validation')
    with pytest.raises(MissingPathError, match=r'annotations/validation .*the val split'):
        spec_of(damaged, 'val')
    (damaged / 'annotations/training/ADE_train_00000004.png').unlink()
    with pytest.raises(MissingPathError, match=r'^image without mask: .*ADE_train_00000004\.jpg'):
        spec_of(damaged)
    with pytest.raises(UserError, match=r"name=synthetik is not known\. Did you mean 'synthetic'\?"):
        spec_of(synthetic_folder, name='synthetik')


def test_mosaics_function(synthetic_folder: Path):
    defaults = {name: p.default for name, p in inspect.signature(build_ade20k_dataspec).parameters.items()}
    assert (defaults['is_streaming'], defaults['drop_last'], defaults['shuffle']) == (True, True, True)
    assert (defaults['base_size'], defaults['final_size'], defaults['split']) == (512, 512, 'train')
    for split, sizes in (('train', [5, 5]), ('val', [5])):
        spec = build_ade20k_dataspec(
            str(synthetic_folder), False, None, batch_size=5, split=split, base_size=48, final_size=32
        )
        assert [len(images) for images, _ in spec.dataloader] == sizes
        loader: Any = spec.dataloader
        assert loader.dataset.make_sample.transform == (TrainTransform(48, 32, 0.5, 2.0) if split == 'train' else EVAL)
        for pair in loader:  # as in the example, until it is counted on its way to the device
            given = spec.batch_transforms(pair)
            if split == 'train':
                assert torch.equal(given[2], with_count(pair)[2])
            else:
                assert given is pair
