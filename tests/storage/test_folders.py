import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from segrecipes.base.errors import MissingPathError, UserError
from segrecipes.datasets.table import DATASETS, get_dataset
from segrecipes.datasets.row import DatasetRow
from segrecipes.storage.folders import find_pairs, has_split, split_folder
from segrecipes.base.palette import palette
from segrecipes.storage.decode import decode_image, decode_mask

ADE20K = DATASETS['ade20k']
DATA = Path(__file__).parents[2] / 'shared' / 'data'


def touch(root: Path, *names: str) -> Path:
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return root


def dataset(root: Path, *stems: str, split: str = 'training', suffix: str = '.jpg') -> Path:
    touch(root, *(f'images/{split}/{stem}{suffix}' for stem in stems))
    return touch(root, *(f'annotations/{split}/{stem}.png' for stem in stems))


def uids(path: Path, split: str = 'train', layout: DatasetRow = ADE20K) -> list[str]:
    return [pair.uid for pair in find_pairs(path, split, layout)]


@pytest.mark.parametrize('nested', [False, True])
def test_pairs_by_stem_in_the_order_of_names(tmp_path, nested) -> None:
    root = tmp_path / 'ADEChallengeData2016' if nested else tmp_path
    stems = [f'ADE_train_{number:08d}' for number in (30, 4, 200, 1)]
    dataset(root, *stems)
    touch(root, 'annotations/training/ADE_train_00000007.png')  # a mask without an image is no pair
    pairs = find_pairs(tmp_path, 'train', ADE20K)
    assert [pair.uid for pair in pairs] == ['00000001', '00000004', '00000030', '00000200']
    for pair in pairs:
        assert pair.image == root / f'images/training/ADE_train_{pair.uid}.jpg'
        assert pair.mask == root / f'annotations/training/ADE_train_{pair.uid}.png'
    assert find_pairs(str(tmp_path), 'train', ADE20K) == pairs


def test_the_splits_have_folders_of_their_own(tmp_path) -> None:
    dataset(tmp_path, 'ADE_train_1', 'ADE_train_2')
    dataset(tmp_path, 'ADE_val_3', split='validation')
    assert uids(tmp_path, 'train') == ['1', '2']
    assert uids(tmp_path, 'val') == ['3']


@pytest.mark.parametrize(
    ('stem', 'uid'), [('ADE_val_7', '7'), ('frame', 'frame'), ('my_ADE_train_7', 'my_ADE_train_7'), ('a.b', 'a.b')]
)
def test_names_need_no_prefix(tmp_path, stem, uid) -> None:
    assert uids(dataset(tmp_path, stem)) == [uid]


@pytest.mark.parametrize('suffix', ['.jpg', '.JPG', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff'])
def test_image_suffixes(tmp_path, suffix) -> None:
    assert uids(dataset(tmp_path, 'a', suffix=suffix)) == ['a']


def test_other_files_are_passed_over(tmp_path) -> None:
    dataset(tmp_path, 'a', 'b')
    touch(tmp_path, 'images/training/notes.txt', 'images/training/._a.jpg', 'images/training/.DS_Store')
    touch(tmp_path, 'images/training/c.gif', 'images/training/sub/d.jpg', 'annotations/training/a.txt')
    assert uids(tmp_path) == ['a', 'b']


EXCLUDED = ('00001701', '00003020', '00008455', '00013508')


def test_excluded_images_are_left_out_of_training_only(tmp_path) -> None:
    assert ADE20K.excluded == set(EXCLUDED)
    assert all(not layout.excluded for name, layout in DATASETS.items() if name != 'ade20k')
    dataset(tmp_path, *(f'ADE_train_{uid}' for uid in ('00000001', *EXCLUDED)))
    dataset(tmp_path, *(f'ADE_val_{uid}' for uid in EXCLUDED), split='validation')
    assert uids(tmp_path, 'train') == ['00000001']
    assert uids(tmp_path, 'val') == list(EXCLUDED)
    assert len(uids(tmp_path, 'train', replace(ADE20K, excluded=frozenset()))) == 5


def test_an_excluded_image_needs_no_mask(tmp_path) -> None:
    dataset(tmp_path, 'ADE_train_00000001')
    touch(tmp_path, 'images/training/ADE_train_00001701.jpg')
    assert uids(tmp_path) == ['00000001']


def test_a_missing_mask_is_named(tmp_path) -> None:
    dataset(tmp_path, 'a', 'b')
    touch(tmp_path, 'images/training/c.jpg', 'images/training/d.jpg', 'annotations/training/c.jpg')
    image, mask = tmp_path / 'images/training/c.jpg', tmp_path / 'annotations/training/c.png'
    message = f'image without mask: {image} needs {mask}'
    with pytest.raises(MissingPathError, match=f'^{re.escape(message)}$'):
        find_pairs(tmp_path, 'train', ADE20K)
    missing: list[str] = []
    assert [pair.uid for pair in find_pairs(tmp_path, 'train', ADE20K, missing)] == ['a', 'b']
    assert missing == [message, message.replace('c.jpg', 'd.jpg').replace('c.png', 'd.png')]


@pytest.mark.parametrize(('first', 'second'), [('a.jpg', 'a.png'), ('ADE_train_a.jpg', 'a.jpg')])
def test_two_images_with_one_name_are_refused(tmp_path, first, second) -> None:
    for name in (first, second):
        touch(tmp_path, f'images/training/{name}', f'annotations/training/{Path(name).stem}.png')
    with pytest.raises(UserError, match='two images with one name') as error:
        find_pairs(tmp_path, 'train', ADE20K)
    assert f'{tmp_path}/images/training/{first} ' in str(error.value)
    assert f'{tmp_path}/images/training/{second};' in str(error.value)


def test_a_folder_without_images_is_named(tmp_path) -> None:
    touch(tmp_path, 'images/training/readme.txt', 'annotations/training/a.png')
    with pytest.raises(UserError, match='no image in ') as error:
        find_pairs(tmp_path, 'train', ADE20K)
    assert str(tmp_path / 'images/training') in str(error.value)
    assert '.bmp, .jpeg, .jpg, .png' in str(error.value)


@pytest.mark.parametrize('absent', ['', 'images', 'images/training', 'annotations', 'annotations/training'])
def test_a_missing_folder_is_named(tmp_path, absent) -> None:
    root = dataset(tmp_path / 'data', 'a')
    (root / absent).rename(tmp_path / 'elsewhere')
    expected = (
        root / absent if absent in ('', 'images/training', 'annotations/training') else root / absent / 'training'
    )
    with pytest.raises(MissingPathError, match='dataset folder does not exist: ') as error:
        find_pairs(root, 'train', ADE20K)
    assert f'does not exist: {expected}' in str(error.value)
    assert isinstance(error.value, FileNotFoundError)
    assert not has_split(root, 'train', ADE20K)


def test_has_split(tmp_path) -> None:
    dataset(tmp_path, 'a')
    assert has_split(tmp_path, 'train', ADE20K)
    assert not has_split(tmp_path, 'val', ADE20K)


def test_an_unknown_split_names_the_known_ones(tmp_path) -> None:
    with pytest.raises(UserError, match=r"split=vall .*Did you mean 'val'\? Legal: train, val\."):
        split_folder(tmp_path, 'vall', ADE20K)


def test_the_users_home_is_expanded(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv('HOME', str(tmp_path))
    dataset(tmp_path / 'data', 'a')
    assert uids(Path('~/data')) == ['a']


def test_another_layout_is_one_row(tmp_path) -> None:
    cityscapes = DatasetRow(
        classes=('road',),
        root='leftImg8bit',
        images='{split}/x',
        masks='{split}/y',
        folders=(('train', 'train'), ('val', 'dev')),
        prefix='city_',
    )
    touch(tmp_path, 'leftImg8bit/dev/x/city_9.png', 'leftImg8bit/dev/y/city_9.png')
    ((uid, image, mask),) = find_pairs(tmp_path, 'val', cityscapes)
    assert (uid, image, mask) == (
        '9',
        tmp_path / 'leftImg8bit/dev/x/city_9.png',
        tmp_path / 'leftImg8bit/dev/y/city_9.png',
    )


def test_get_layout() -> None:
    assert get_dataset('camvid') is DATASETS['camvid']
    with pytest.raises(UserError, match=r"ade20kk .*Did you mean 'ade20k'\? Legal: ade20k, camvid, synthetic\."):
        get_dataset('ade20kk')


@pytest.mark.parametrize(('name', 'count'), [('ade20k', 150), ('camvid', 11), ('synthetic', 8)])
def test_classes(name, count) -> None:
    classes = DATASETS[name].classes
    assert len(classes) == len(set(classes)) == count
    assert all(c == c.strip() and '\n' not in c and c for c in classes)
    assert DATASETS[name].label_offset == 1


def test_palette_is_pascals() -> None:
    """The first colours of the VOC devkit's own map."""
    first = [(128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (0, 128, 128), (128, 128, 128)]
    assert [tuple(colour) for colour in palette(8).tolist()] == [*first, (64, 0, 0)]


@pytest.mark.parametrize('count', [1, 11, 150, 255])
def test_palette_has_distinct_colours_and_no_black(count) -> None:
    colours = palette(count)
    assert colours.shape == (count, 3) and colours.dtype == np.uint8
    assert len({tuple(colour) for colour in colours.tolist()}) == count
    assert colours.any(axis=1).all()


@pytest.fixture
def ade20k_samples() -> Path:
    path = DATA / 'ade20k_samples'
    if not path.is_dir():
        pytest.skip(f'no ADE20K samples in {path}')
    return path


@pytest.fixture
def camvid() -> Path:
    path = DATA / 'camvid_ade'
    if not path.is_dir():
        pytest.skip(f'no CamVid in {path}')
    return path


def test_ade20k_classes_are_the_benchmarks(ade20k_samples) -> None:
    """Row i of the benchmark's own table is label i; our name is the first of its synonyms, once a later one."""
    rows = (ade20k_samples / 'objectInfo150.txt').read_text().splitlines()[1:]
    assert len(rows) == 150
    for index, (row, name) in enumerate(zip(rows, ADE20K.classes), start=1):
        number, *_, synonyms = row.split('\t')
        assert int(number) == index
        assert name in [synonym.strip().lower() for synonym in synonyms.split(',')]


def test_ade20k_samples(ade20k_samples) -> None:
    layout = replace(ADE20K, root='sampleData', images='images', masks='annotations')
    pairs = find_pairs(ade20k_samples, 'val', layout)
    assert [pair.uid for pair in pairs] == ['00000001', '00000002', '00000003']
    for uid, image_path, mask_path in pairs:
        image, mask = decode_image(image_path, uid), decode_mask(mask_path, uid)
        assert image.shape == (*mask.shape, 3)
        assert mask.max() <= 150
        assert len(np.unique(mask)) >= 4


@pytest.mark.parametrize(('split', 'count'), [('train', 367), ('val', 101)])
def test_camvid(camvid, split, count) -> None:
    pairs = find_pairs(camvid, split, DATASETS['camvid'])
    assert len(pairs) == count
    labels = set()
    for pair in pairs[:: count // 12]:
        image, mask = decode_image(pair.image, pair.uid), decode_mask(pair.mask, pair.uid)
        assert image.shape == (360, 480, 3) and mask.shape == (360, 480)
        labels |= set(np.unique(mask).tolist())
    assert labels == set(range(12))
    assert uids(camvid, split, ADE20K) == [pair.uid for pair in pairs]  # also as ADE20K's own layout, of 150 classes
