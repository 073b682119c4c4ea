import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from segrecipes.base.errors import MissingPathError, UserError
from segrecipes.datasets.ade20k import ANY_NAME
from segrecipes.datasets.row import DatasetRow, Split
from segrecipes.datasets.table import DATASETS
from segrecipes.storage.decode import decode_image, decode_mask
from segrecipes.storage.folders import find_pairs, has_split, split_folder

ADE20K = DATASETS['ade20k']
LAYOUT = replace(ADE20K, uid=ANY_NAME)  # of anybody's pictures
DATA = Path(__file__).parents[3] / 'shared' / 'data'


def touch(root: Path, *names: str) -> Path:
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return root


def dataset(root: Path, *stems: str, split: str = 'training', suffix: str = '.jpg') -> Path:
    touch(root, *(f'images/{split}/{stem}{suffix}' for stem in stems))
    return touch(root, *(f'annotations/{split}/{stem}.png' for stem in stems))


def uids(path: Path, split: str = 'train', row: DatasetRow = LAYOUT) -> list[str]:
    return [pair.uid for pair in find_pairs(path, split, row)]


@pytest.mark.parametrize('nested', [False, True])
def test_pairs_by_stem_in_the_order_of_names(tmp_path, nested) -> None:
    root = tmp_path / 'ADEChallengeData2016' if nested else tmp_path
    stems = [f'ADE_train_{number:08d}' for number in (30, 4, 200, 1)]
    dataset(root, *stems)
    touch(root, 'annotations/training/ADE_train_00000007.png')  # a mask without an image is no pair
    pairs = find_pairs(tmp_path, 'train', LAYOUT)
    assert [pair.uid for pair in pairs] == ['00000001', '00000004', '00000030', '00000200']
    for pair in pairs:
        assert pair.image == root / f'images/training/ADE_train_{pair.uid}.jpg'
        assert pair.mask == root / f'annotations/training/ADE_train_{pair.uid}.png'
    assert find_pairs(str(tmp_path), 'train', LAYOUT) == pairs


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
    assert LAYOUT.excluded == {'train': set(EXCLUDED)}
    assert all(not row.excluded for name, row in DATASETS.items() if name != 'ade20k')
    dataset(tmp_path, *(f'ADE_train_{uid}' for uid in ('00000001', *EXCLUDED)))
    dataset(tmp_path, *(f'ADE_val_{uid}' for uid in EXCLUDED), split='validation')
    assert uids(tmp_path, 'train') == ['00000001']
    assert uids(tmp_path, 'val') == list(EXCLUDED)
    assert len(uids(tmp_path, 'train', replace(LAYOUT, excluded={}))) == 5


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
        find_pairs(tmp_path, 'train', LAYOUT)
    missing: list[str] = []
    assert [pair.uid for pair in find_pairs(tmp_path, 'train', LAYOUT, missing)] == ['a', 'b']
    assert missing == [message, message.replace('c.jpg', 'd.jpg').replace('c.png', 'd.png')]


@pytest.mark.parametrize(('first', 'second'), [('a.jpg', 'a.png'), ('ADE_train_a.jpg', 'a.jpg')])
def test_two_images_with_one_name_are_refused(tmp_path, first, second) -> None:
    for name in (first, second):
        touch(tmp_path, f'images/training/{name}', f'annotations/training/{Path(name).stem}.png')
    with pytest.raises(UserError, match='two images with one name') as error:
        find_pairs(tmp_path, 'train', LAYOUT)
    assert f'{tmp_path}/images/training/{first} ' in str(error.value)
    assert f'{tmp_path}/images/training/{second};' in str(error.value)


def test_a_folder_without_images_is_named(tmp_path) -> None:
    touch(tmp_path, 'images/training/readme.txt', 'annotations/training/a.png')
    with pytest.raises(UserError, match='no image in ') as error:
        find_pairs(tmp_path, 'train', LAYOUT)
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
        find_pairs(root, 'train', LAYOUT)
    assert f'does not exist: {expected}' in str(error.value)
    assert isinstance(error.value, FileNotFoundError)
    assert has_split(root, 'train', LAYOUT) is absent.startswith('annotations')  # by its images


def test_has_split(tmp_path) -> None:
    dataset(tmp_path, 'a')
    assert has_split(tmp_path, 'train', LAYOUT)
    assert not has_split(tmp_path, 'val', LAYOUT)


def test_an_unknown_split_names_the_known_ones(tmp_path) -> None:
    with pytest.raises(UserError, match=r"split=vall .*Did you mean 'val'\? Legal: train, val\."):
        split_folder(tmp_path, 'vall', LAYOUT)


def test_the_users_home_is_expanded(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv('HOME', str(tmp_path))
    dataset(tmp_path / 'data', 'a')
    assert uids(Path('~/data')) == ['a']


def test_another_dataset_is_one_row(tmp_path) -> None:
    cityscapes = DatasetRow(
        classes=('road',),
        root='leftImg8bit',
        splits={'train': Split('train/x/*'), 'val': Split('dev/x/*')},
        mask=(r'/x/(.+)\.\w+$', r'/y/\1.png'),
        uid=r'/(?:city_)?([^/]+)\.\w+$',
        labels=0,
    )
    touch(tmp_path, 'leftImg8bit/dev/x/city_9.png', 'leftImg8bit/dev/y/city_9.png')
    ((uid, image, mask),) = find_pairs(tmp_path, 'val', cityscapes)
    assert (uid, image, mask) == (
        '9',
        tmp_path / 'leftImg8bit/dev/x/city_9.png',
        tmp_path / 'leftImg8bit/dev/y/city_9.png',
    )


@pytest.fixture
def ade20k_samples() -> Path:
    path = DATA / 'ade20k_samples'
    if not path.is_dir():
        pytest.skip(f'no LAYOUT samples in {path}')
    return path


@pytest.fixture
def camvid() -> Path:
    path = DATA / 'camvid_ade'
    if not path.is_dir():
        pytest.skip(f'no CamVid in {path}')
    return path


def test_ade20k_samples(ade20k_samples) -> None:
    mask = (r'^images/(.+)\.\w+$', r'annotations/\1.png')
    row = replace(LAYOUT, root='sampleData', splits={'val': Split('images/*')}, mask=mask)
    pairs = find_pairs(ade20k_samples, 'val', row)
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
    assert uids(camvid, split, LAYOUT) == [pair.uid for pair in pairs]  # also by LAYOUT's own row, of 150 classes


# Splits that share a folder

SHARED = DatasetRow(
    classes=('a', 'b'),
    splits={'train': Split('*/*.png', share=(0, 0.75)), 'val': Split('*/*.png', share=(0.75, 1))},
    group=r'^([^/]+)/',
    skipped=r'_mask\.png$',
    mask=(r'\.png$', '_mask.png'),
    uid=r'([^/]+)\.\w+$',
    labels=0,
)


def slices(root: Path, groups: int, of_each: int = 3) -> set[str]:
    stems = {f'patient{group}/{group}_{number}' for group in range(groups) for number in range(of_each)}
    touch(root, *(f'{stem}{end}' for stem in stems for end in ('.png', '_mask.png')))
    return stems


def test_a_share_of_the_groups(tmp_path) -> None:
    """All of a patient on one side, each on either, and about as many on a side as it is told to have."""
    stems = slices(tmp_path, 200)
    sides = {split: find_pairs(tmp_path, split, SHARED) for split in ('train', 'val')}
    found = [str(pair.image.relative_to(tmp_path).with_suffix('')) for pairs in sides.values() for pair in pairs]
    assert sorted(found) == sorted(stems)
    patients = {split: {pair.image.parent.name for pair in pairs} for split, pairs in sides.items()}
    assert patients['train'].isdisjoint(patients['val'])
    assert len(patients['train'] | patients['val']) == 200
    assert 130 < len(patients['train']) < 170
    assert all(pair.mask == pair.image.with_name(f'{pair.uid}_mask.png') for pair in sides['val'])


def test_a_share_does_not_depend_on_what_else_is_there(tmp_path) -> None:
    """A patient that comes later moves no other one to the other side."""
    slices(tmp_path / 'few', 20)
    slices(tmp_path / 'many', 60, of_each=5)
    for split in ('train', 'val'):
        few, many = ({pair.image.parent.name for pair in find_pairs(tmp_path / name, split, SHARED)}
                     for name in ('few', 'many'))  # fmt: skip
        assert few == {name for name in many if int(name.removeprefix('patient')) < 20}


def test_a_share_without_groups_goes_by_the_uid(tmp_path) -> None:
    slices(tmp_path, 40)
    row = replace(SHARED, group=None)
    sides = {split: uids(tmp_path, split, row) for split in ('train', 'val')}
    assert sorted(sides['train'] + sides['val']) == sorted(
        f'{group}_{number}' for group in range(40) for number in range(3)
    )
    assert {uid.split('_')[0] for uid in sides['train']} & {uid.split('_')[0] for uid in sides['val']}


def test_a_share_that_has_nobody(tmp_path) -> None:
    slices(tmp_path, 1)
    counts = {}
    for split in ('train', 'val'):
        try:
            counts[split] = len(find_pairs(tmp_path, split, SHARED))
        except UserError as error:
            assert str(error) == f'none of the 3 images in {tmp_path} is in the {split} split'
    assert [*counts.values()] == [3]


LISTED = DatasetRow(
    classes=('a',),
    root='VOC',
    splits={name: Split('images/*', listed=f'sets/{name}.txt') for name in ('train', 'val')},
    mask=(r'^images/(.+)\.\w+$', r'masks/\1.png'),
    uid=r'([^/]+)\.\w+$',
    labels=0,
)


@pytest.mark.parametrize('line', ['{}', '{}.jpg', 'images/{}', 'images/{}.jpg', '  {}\t', '{}\n'])
def test_listed_splits(tmp_path, line) -> None:
    """Images of both splits lie in one folder; a list names its own, in any order."""
    for stem in ('a', 'b', 'c.d', 'e'):
        touch(tmp_path / 'VOC', f'images/{stem}.jpg', f'masks/{stem}.png')
    (tmp_path / 'VOC/sets').mkdir()
    for split, stems in {'train': ('c.d', 'a'), 'val': ('e',)}.items():
        (tmp_path / f'VOC/sets/{split}.txt').write_text('\n'.join(line.format(stem) for stem in stems))
    assert uids(tmp_path, 'train', LISTED) == ['a', 'c.d']
    assert uids(tmp_path, 'val', LISTED) == ['e']


def test_a_list_that_is_missing_or_names_what_is_missing(tmp_path) -> None:
    touch(tmp_path, 'images/a.jpg', 'masks/a.png')
    with pytest.raises(MissingPathError, match=f'^list of images does not exist: {tmp_path}/sets/train.txt$'):
        find_pairs(tmp_path, 'train', LISTED)
    (tmp_path / 'sets').mkdir()
    (tmp_path / 'sets/train.txt').write_text('a\nc\nb\n')
    with pytest.raises(MissingPathError, match=f'^{tmp_path}/sets/train.txt names an image that does not exist: b$'):
        find_pairs(tmp_path, 'train', LISTED)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'mask': (r'\.tif$', '.png')}, r'no mask for this path by \.tif$'),
        ({'uid': r'(\d+)$'}, 'is no picture of ade20k'),
    ],
)
def test_a_path_that_a_row_does_not_understand(tmp_path, change, message) -> None:
    touch(tmp_path, 'images/training/a.jpg', 'annotations/training/a.png')
    with pytest.raises(UserError) as error:
        find_pairs(tmp_path, 'train', replace(LAYOUT, **change))
    assert str(error.value).startswith('images/training/a.jpg')
    assert message in str(error.value)


# Real pictures of the brain


@pytest.fixture
def lgg() -> Path:
    path = DATA / 'lgg_mri'
    if not path.is_dir():
        pytest.skip(f'no brain MRI in {path}')
    return path


def test_lgg(lgg) -> None:
    row = DATASETS['lgg']
    sides = {split: find_pairs(lgg, split, row) for split in ('train', 'val')}
    files = {file.stem for file in lgg.rglob('*.tif') if not file.stem.endswith('_mask')}
    assert sorted(pair.uid for pairs in sides.values() for pair in pairs) == sorted(files)
    patients = {split: {pair.image.parent for pair in pairs} for split, pairs in sides.items()}
    assert patients['train'] and patients['val']
    assert patients['train'].isdisjoint(patients['val'])
    labels = set()
    for uid, image_file, mask_file in [pair for pairs in sides.values() for pair in pairs[::9]]:
        assert mask_file == image_file.with_name(f'{uid}_mask.tif')
        image, mask = decode_image(image_file, uid), decode_mask(mask_file, uid)
        assert image.shape == (*mask.shape, 3) == (256, 256, 3)
        labels |= set(np.unique(mask).tolist())
    assert labels == {0, 255}
