"""Each dataset in the folders it is shipped in, rebuilt small: its pairs, and every label of its masks."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segrecipes.datasets.file import read_dataset, to_yaml
from segrecipes.datasets.row import ILLEGAL, DatasetRow
from segrecipes.datasets.table import DATASETS
from segrecipes.storage.convert import convert
from segrecipes.storage.decode import decode_mask
from segrecipes.storage.folders import find_pairs
from segrecipes.storage.shards import StreamingSegmentation

Uids = dict[str, list[str]]  # by split
SIZE = (16, 16)  # holds every label once


def photograph(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(root / name)


def draw(root: Path, name: str, labels: list[int], palette: bool = False) -> None:
    """A mask of these labels, over and over; a palette's colours are not its labels."""
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    mask = Image.fromarray(np.resize(np.array(labels, np.uint8), SIZE))
    if palette:
        mask.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
    mask.save(root / name)


def camvid(root: Path) -> Uids:
    uids = {'train': ['0001TP_006690', '0006R0_f00930'], 'val': ['0016E5_07959'], 'test': ['Seq05VD_f00000']}
    for split, stems in uids.items():
        for stem in stems:
            photograph(root, f'CamVid/{split}/{stem}.png')
            draw(root, f'CamVid/{split}annot/{stem}.png', [*range(12)])
        (root / f'CamVid/{split}.txt').write_text(f'/SegNet/CamVid/{split}/{stems[0]}.png\n')
    return uids


def cityscapes(root: Path) -> Uids:
    """Names of one city's frames also stand in no other; beside the masks lie three other files of each."""
    uids = {
        'train': ['aachen_000000_000019', 'aachen_000001_000019', 'ulm_000000_000019'],
        'val': ['munster_000000_000019'],
        'test': ['berlin_000000_000019'],
    }
    for split, names in uids.items():
        for uid in names:
            place = f'{split}/{uid.split("_")[0]}/{uid}'
            photograph(root, f'leftImg8bit/{place}_leftImg8bit.png')
            draw(root, f'gtFine/{place}_gtFine_labelIds.png', [*range(34)])
            photograph(root, f'gtFine/{place}_gtFine_color.png', f'gtFine/{place}_gtFine_instanceIds.png')
            (root / f'gtFine/{place}_gtFine_polygons.json').write_text('{}')
    return {split: uids[split] for split in ('train', 'val')}


def voc(root: Path) -> Uids:
    """Most photographs have no mask, and are on no list of these."""
    uids = {'train': ['2007_000032', '2011_003276'], 'val': ['2007_000033']}
    root = root / 'VOCdevkit/VOC2012'
    photograph(root, *(f'JPEGImages/{stem}.jpg' for stems in uids.values() for stem in stems), 'JPEGImages/2008_1.jpg')
    (root / 'ImageSets/Segmentation').mkdir(parents=True)
    for split, stems in {**uids, 'trainval': [*uids['train'], *uids['val']]}.items():
        (root / f'ImageSets/Segmentation/{split}.txt').write_text('\n'.join(stems) + '\n')
        for stem in stems:
            draw(root, f'SegmentationClass/{stem}.png', [*range(21), 255], palette=True)
            draw(root, f'SegmentationObject/{stem}.png', [*range(7), 255], palette=True)
    return uids


def context(root: Path) -> Uids:
    uids = {'train': ['2008_000002'], 'val': ['2008_000003', '2010_006086']}
    root = root / 'VOCdevkit/VOC2010'
    photograph(root, *(f'JPEGImages/{stem}.jpg' for stems in uids.values() for stem in stems), 'JPEGImages/2008_1.jpg')
    (root / 'ImageSets/SegmentationContext').mkdir(parents=True)
    for split, stems in uids.items():
        (root / f'ImageSets/SegmentationContext/{split}.txt').write_text('\n'.join(stems))
        for stem in stems:
            draw(root, f'SegmentationClassContext/{stem}.png', [*range(60)])
    return uids


def coco_stuff(root: Path) -> Uids:
    uids = {'train': ['000000000009', '000000000025'], 'val': ['000000000139']}
    for split, stems in uids.items():
        for stem in stems:
            photograph(root, f'images/{split}2017/{stem}.jpg')
            draw(root, f'annotations/{split}2017/{stem}.png', [*range(182), 255])  # of all of COCO's numbers
            draw(root, f'annotations/{split}2017/{stem}_labelTrainIds.png', [*range(171), 255])
    return uids


# By the row: its files, and the names of some labels; all others are ignored
LAYOUTS: dict[str, tuple[Callable[[Path], Uids], dict[int, str]]] = {
    'camvid-segnet': (camvid, dict(enumerate((
        'sky', 'building', 'pole', 'road', 'pavement', 'tree', 'sign', 'fence', 'car', 'pedestrian', 'bicyclist',
    )))),
    'cityscapes': (cityscapes, {
        7: 'road', 8: 'sidewalk', 11: 'building', 12: 'wall', 13: 'fence', 17: 'pole', 19: 'traffic light',
        20: 'traffic sign', 21: 'vegetation', 22: 'terrain', 23: 'sky', 24: 'person', 25: 'rider', 26: 'car',
        27: 'truck', 28: 'bus', 31: 'train', 32: 'motorcycle', 33: 'bicycle',
    }),
    'voc2012': (voc, dict(enumerate(DATASETS['voc2012'].classes))),
    'pascal_context60': (context, dict(enumerate(DATASETS['pascal_context60'].classes))),
    'pascal_context59': (context, dict(enumerate(DATASETS['pascal_context59'].classes, start=1))),
    'coco_stuff': (coco_stuff, dict(enumerate(DATASETS['coco_stuff'].classes))),
}  # fmt: skip


@pytest.fixture(params=LAYOUTS)
def shipped(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[DatasetRow, Path, Uids, dict[int, str]]:
    build, names = LAYOUTS[request.param]
    return DATASETS[request.param], tmp_path, build(tmp_path), names


def classes_by_hand(mask: np.ndarray, row: DatasetRow, names: dict[int, str]) -> np.ndarray:
    """Pixel by pixel."""
    found = [row.classes.index(names[label]) if label in names else 255 for label in mask.ravel().tolist()]
    return np.array(found, np.uint8).reshape(mask.shape)


def test_pairs_and_labels(shipped: tuple[DatasetRow, Path, Uids, dict[int, str]]) -> None:
    row, folder, uids, names = shipped
    assert {*row.splits} == {*uids}
    for split, expected in uids.items():
        pairs = find_pairs(folder, split, row)
        assert sorted(pair.uid for pair in pairs) == sorted(expected)
        if (folder / row.root).is_dir():  # also from within
            assert find_pairs(folder / row.root, split, row) == pairs
        for _, image, mask in pairs:
            assert image.is_file()
            labels = np.array(Image.open(mask))  # of a palette, the indices
            assert decode_mask(mask, 'mask').tolist() == labels.tolist()
            classes = row.label_map(len(row.classes))[labels]
            assert (classes != ILLEGAL).all()
            np.testing.assert_array_equal(classes, classes_by_hand(labels, row, names))
            assert {*np.unique(classes).tolist()} - {255} == {*range(len(row.classes))}


@pytest.mark.usefixtures('clean_shared_memory')
@pytest.mark.filterwarnings('ignore:unclosed file:ResourceWarning')
def test_shards_of_palette_masks(tmp_path: Path) -> None:
    """With masks as they are, and encoded anew: the indices, not the colours."""
    voc(tmp_path / 'files')
    pairs = {pair.uid: pair for pair in find_pairs(tmp_path / 'files', 'train', DATASETS['voc2012'])}
    for fast in (False, True):
        out = tmp_path / str(fast)
        convert(tmp_path / 'files', out, name='voc2012', num_workers=1, fast_masks=fast, progress_bar=False)
        shards = StreamingSegmentation(path=str(out), local=None, split='train', make_sample=None, batch_size=1)
        for sample in map(shards.read, range(shards.size)):
            labels = np.array(Image.open(pairs[sample['uid']].mask))
            np.testing.assert_array_equal(decode_mask(sample['y'], 'mask'), labels)


@pytest.mark.parametrize('name', DATASETS)
def test_a_row_is_what_its_file_says(name: str, tmp_path: Path) -> None:
    """Splits, colours and all; the folder that may stand between is for rows alone."""
    (tmp_path / 'dataset.yaml').write_text(to_yaml(DATASETS[name]))
    assert read_dataset(tmp_path) == replace(DATASETS[name], root='')


@pytest.mark.parametrize(('name', 'module', 'theirs'), [
    ('ade20k', 'ade', 'ADE20KDataset'), ('cityscapes', 'cityscapes', 'CityscapesDataset'),
    ('voc2012', 'voc', 'PascalVOCDataset'), ('pascal_context60', 'pascal_context', 'PascalContextDataset'),
    ('pascal_context59', 'pascal_context', 'PascalContextDataset59'), ('coco_stuff', 'coco_stuff', 'COCOStuffDataset'),
])  # fmt: skip
def test_names_and_colours_are_mmsegmentations(name: str, module: str, theirs: str) -> None:
    """In the order of the classes, by which its published checkpoints are read."""
    from segrecipes.models.mmseg import ensure_ops

    ensure_ops()
    from importlib import import_module

    meta = getattr(import_module(f'mmseg.datasets.{module}'), theirs).METAINFO
    row = DATASETS[name]
    if name != 'ade20k':  # whose synonyms are chosen otherwise
        assert row.classes == meta['classes']
    assert row.colors in ((), tuple(map(tuple, meta['palette'])))
    assert row.colors or name.startswith(('pascal', 'coco'))
