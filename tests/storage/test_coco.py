"""Masks of COCO's instances, pixel by pixel, from files made by hand."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.runs import ROOT
from PIL import Image
from pycocotools import mask as rle

from segrecipes.commands import convert_coco
from segrecipes.commands.cli import main
from segrecipes.config.merge import load_config
from segrecipes.datasets.file import read_file
from segrecipes.storage.audit import audit
from segrecipes.storage.folders import find_pairs

SIZE = (12, 16)  # (height, width)
# By ids that are neither in order nor without gaps; of "animal" the first id is the lowest of all
CATEGORIES = [
    {'id': 44, 'name': 'bottle', 'supercategory': 'kitchen'},
    {'id': 3, 'name': 'car', 'supercategory': 'vehicle'},
    {'id': 90, 'name': 'zebra', 'supercategory': 'animal'},
    {'id': 2, 'name': 'cat', 'supercategory': 'animal'},
    {'id': 8, 'name': 'truck', 'supercategory': 'vehicle'},
]
NAMES = {
    'coco80': ('background', 'cat', 'car', 'truck', 'bottle', 'zebra'),
    'coco12': ('background', 'animal', 'vehicle', 'kitchen'),
}
Annotation = dict[str, Any]


def box(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    pixels = np.zeros(SIZE, bool)
    pixels[top:bottom, left:right] = True
    return pixels


def polygon(top: int, left: int, bottom: int, right: int) -> list[float]:
    return [left, top, right, top, right, bottom, left, bottom]


def counts(pixels: np.ndarray) -> list[int]:
    """Run lengths down the columns, those of the background first."""
    runs, current = [0], False
    for pixel in pixels.T.ravel().tolist():
        if pixel != current:
            runs.append(0)
            current = pixel
        runs[-1] += 1
    return runs


def compressed(pixels: np.ndarray) -> dict[str, Any]:
    found: Any = rle.encode(np.asfortranarray(pixels.astype(np.uint8)))
    return {'size': [*SIZE], 'counts': found['counts'].decode()}


def annotation(number: int, image: int, category: int, segmentation: Any, crowd: int = 0) -> Annotation:
    return {'id': number, 'image_id': image, 'category_id': category, 'segmentation': segmentation, 'iscrowd': crowd}


IMAGES = {7: 'small_on_large.jpg', 2: 'crowd.jpg', 11: 'empty.jpg', 5: 'forms.png'}
NAMED = (*IMAGES.values(),)
ANNOTATIONS = [
    # The small one is annotated first, and lies on top all the same; the third hides a part of the first
    annotation(1, 7, 3, [polygon(2, 2, 6, 8)]),
    annotation(2, 7, 90, [polygon(0, 0, 12, 12)]),
    annotation(3, 7, 44, [polygon(4, 5, 6, 9)]),
    # A crowd below a cat
    annotation(4, 2, 8, {'size': [*SIZE], 'counts': counts(box(1, 1, 9, 15))}, crowd=1),
    annotation(5, 2, 2, [polygon(3, 3, 6, 6)]),
    # Two polygons of one thing, and run lengths of things that are no crowd
    annotation(6, 5, 8, [polygon(0, 0, 2, 3), polygon(5, 4, 7, 9)]),
    annotation(7, 5, 44, {'size': [*SIZE], 'counts': counts(box(9, 0, 12, 2))}),
    annotation(8, 5, 2, compressed(box(9, 10, 12, 16))),
]


def expected(image: str, classes: str) -> np.ndarray:
    """By hand: what is seen of each class, back to front."""
    seen = {
        'small_on_large.jpg': [('zebra', (0, 0, 12, 12)), ('car', (2, 2, 6, 8)), ('bottle', (4, 5, 6, 9))],
        'crowd.jpg': [('ignored', (1, 1, 9, 15)), ('cat', (3, 3, 6, 6))],
        'empty.jpg': [],
        'forms.png': [('truck', (0, 0, 2, 3)), ('truck', (5, 4, 7, 9)), ('bottle', (9, 0, 12, 2)),
                      ('cat', (9, 10, 12, 16))],
    }[image]  # fmt: skip
    above = {str(entry['name']): str(entry['supercategory']) for entry in CATEGORIES}
    mask = np.zeros(SIZE, np.uint8)
    for name, corners in seen:
        name = above.get(name, name) if classes == 'coco12' else name
        mask[box(*corners)] = 255 if name == 'ignored' else NAMES[classes].index(name)
    return mask


def write_instances(file: Path, named: dict[int, str] = IMAGES, **changes: Any) -> Path:
    content = {
        'images': [
            {'id': number, 'file_name': name, 'height': SIZE[0], 'width': SIZE[1]} for number, name in named.items()
        ],
        'categories': CATEGORIES,
        'annotations': [entry for entry in ANNOTATIONS if entry['image_id'] in named],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content | changes))
    return file


def photograph(folder: Path, names: Iterable[str] = NAMED) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(folder / name)
    return folder


def masks_of(dataset: Path, split: str) -> dict[str, np.ndarray]:
    """By the image's name, as a run would read them."""
    found = read_file(dataset)
    return {
        pair.image.name: found.row.label_map()[np.array(Image.open(pair.mask))]
        for pair in find_pairs(found.folder, split, found.row)
    }


@pytest.mark.parametrize('classes', NAMES)
def test_one_file(classes: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Four fifths of the images train, and an image without annotation is all background."""
    file, images = write_instances(tmp_path / 'instances.json'), photograph(tmp_path / 'images')
    photograph(images, ['not_listed.jpg'])
    out = tmp_path / 'out'
    main(['convert', 'coco', str(file), '--images', str(images), '--out', str(out), '--classes', classes])
    assert f'{out}: all, 4 masks' in capsys.readouterr().out
    row = read_file(out).row
    assert row.classes == NAMES[classes]
    assert (row.labels, row.ignored, row.name) == (0, {255}, classes)
    masks = masks_of(out, 'train')
    assert len(masks) == 3
    masks |= masks_of(out, 'val')
    assert {*masks} == {*IMAGES.values()}
    for name, mask in masks.items():
        np.testing.assert_array_equal(mask, expected(name, classes), err_msg=name)
    with Image.open(out / 'masks/empty.png') as mask:
        assert (mask.mode, mask.getextrema()) == ('L', (0, 0))
    config, _ = load_config([str(ROOT / 'yamls/deeplabv3.yaml'), f'dataset={out}'])
    assert config.model.num_classes == len(NAMES[classes])
    assert all(finding.faults == [] for _, finding in audit(str(read_file(out).folder), row=row))


@pytest.mark.parametrize(
    ('images', 'out'), [('coco', 'coco12'), ('a/coco', 'b/c/masks'), ('.', 'out'), ('x y [1]', 'z')]
)
def test_a_file_a_split(images: str, out: str, tmp_path: Path) -> None:
    """In COCO's own folders, wherever the masks go; names that a pattern could misread stay names."""
    halves = {'train': {7: IMAGES[7], 11: IMAGES[11]}, 'val': {2: IMAGES[2], 5: IMAGES[5]}}
    files = []
    for split, half in halves.items():
        files.append(write_instances(tmp_path / f'annotations/instances_{split}2017.json', half))
        photograph(tmp_path / images / f'{split}2017', half.values())
    main(['convert', 'coco', *map(str, files), '--images', str(tmp_path / images), '--out', str(tmp_path / out)])
    for split, half in halves.items():
        masks = masks_of(tmp_path / out, split)
        assert {*masks} == {*half.values()}
        for name, mask in masks.items():
            np.testing.assert_array_equal(mask, expected(name, 'coco80'))


def test_masks_beside_images_of_their_names(tmp_path: Path) -> None:
    """A mask is no image, though it is below the same folder and called the same."""
    file = write_instances(tmp_path / 'instances.json', {5: IMAGES[5], 7: IMAGES[7]})
    photograph(tmp_path, [IMAGES[5], IMAGES[7]])
    main(['convert', 'coco', str(file), '--images', str(tmp_path), '--out', str(tmp_path / 'out')])
    assert {*masks_of(tmp_path / 'out', 'train'), *masks_of(tmp_path / 'out', 'val')} == {IMAGES[5], IMAGES[7]}


def changed(**values: Any) -> list[Annotation]:
    return [{**ANNOTATIONS[0], **values}]


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'annotations': changed(category_id=99)}, 'annotation 1 is of an image or a category that is not listed'),
        ({'annotations': changed(image_id=99)}, 'annotation 1 is of an image or a category that is not listed'),
        ({'annotations': changed(segmentation=[])}, 'small_on_large.jpg: annotation 1 has no segmentation of (12, 16)'),
        ({'annotations': changed(segmentation=compressed(np.ones((3, 3))) | {'size': [3, 3]})}, 'has no segmentation'),
        ({'annotations': changed(segmentation=None)}, 'has no segmentation'),
        ({'categories': [{'id': 1}]}, "is not of the form of COCO's instances: 'name' is missing"),
        ({'categories': [{'id': 1, 'name': 'background'}], 'annotations': []}, 'each by another name'),
        ({'images': None}, "is not of the form of COCO's instances: "),
        ({'images': [{'id': 1, 'file_name': '../x.jpg', 'height': 1, 'width': 1}], 'annotations': []}, 'leads out of'),
        ({'images': [{'id': 1, 'file_name': 'x.jpg', 'height': 1, 'width': 1}], 'annotations': []},
         'image does not exist: '),
    ],
)  # fmt: skip
def test_what_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, images = write_instances(tmp_path / 'instances.json', **changes), photograph(tmp_path / 'images')
    assert message in refused(capsys, [file], images, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def refused(capsys: pytest.CaptureFixture[str], files: list[Path], images: Path, out: Path, *more: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(['convert', 'coco', *map(str, files), '--images', str(images), '--out', str(out), *more])
    assert stop.value.code == 1
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ('arrange', 'message'),
    [
        (lambda root: ([root / 'none.json'], []), 'file of annotations does not exist: '),
        (lambda root: ([root / 'notes.json'], []), 'is no JSON'),
        (lambda root: ([root / 'a.json', root / 'b.json'], []), 'each must be named after its split'),
        (lambda root: ([root / 'train.json', root / 'test.json'], []), 'is named after the val split'),
        (lambda root: ([root / 'a.json'], ['--classes', 'coco8']), '--classes=coco8 is not known. Did you mean'),
        (lambda root: ([root / 'train.json', root / 'val_other.json'], []), 'do not have the same categories'),
    ],
)  # fmt: skip
def test_files_that_are_refused(
    arrange: Callable[[Path], Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ('a', 'b', 'train', 'test'):
        write_instances(tmp_path / f'{name}.json')
    write_instances(tmp_path / 'val_other.json', categories=[*CATEGORIES, {'id': 1, 'name': 'x', 'supercategory': 'y'}])
    (tmp_path / 'notes.json').write_text('not')
    files, more = arrange(tmp_path)
    assert message in refused(capsys, files, photograph(tmp_path / 'images'), tmp_path / 'out', *more)
    assert not (tmp_path / 'out').exists()


def test_a_folder_that_is_not_empty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, images = write_instances(tmp_path / 'instances.json'), photograph(tmp_path / 'images')
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out/mine.txt').touch()
    assert f'not empty: {tmp_path}/out' in refused(capsys, [file], images, tmp_path / 'out')
    assert [file.name for file in (tmp_path / 'out').iterdir()] == ['mine.txt']


def test_the_view_of_a_square_with_its_padding(tmp_path: Path) -> None:
    """The command that ``--help`` shows for a U-Net at 384 pixels is one that a run takes."""
    file, images = write_instances(tmp_path / 'instances.json'), photograph(tmp_path / 'images')
    main(['convert', 'coco', str(file), '--images', str(images), '--out', str(tmp_path / 'coco12')])
    command = (convert_coco.__doc__ or '').partition('eval_protocol=')
    words = ('eval_protocol=' + command[2].partition('\n\n')[0]).replace('\\\n', ' ').split()
    config, _ = load_config([str(ROOT / 'yamls/deeplabv3.yaml'), f'dataset={tmp_path}/coco12', *words])
    for dataset in (config.train_dataset, config.eval_dataset):
        assert dataset.pad_to_square
        assert (dataset.base_size, dataset.final_size, dataset.keep_ratio) == (384, 384, False)
        assert (dataset.min_resize_scale, dataset.max_resize_scale) == (1, 1)
    assert config.eval_protocol == 'mosaic-512sq'
