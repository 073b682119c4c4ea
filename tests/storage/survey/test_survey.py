"""What data init makes of folders as people lay them out, against what was laid out."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.layouts import LAYOUTS, draw, stems, write_text
from helpers.runs import ROOT, TINY, evaluations, launch, run
from PIL import Image

from segrecipes.commands.cli import run as run_verb
from segrecipes.datasets.file import read_dataset, read_file
from segrecipes.datasets.row import IGNORED, ILLEGAL
from segrecipes.storage.folders import find_pairs
from segrecipes.storage.survey.splits import FRAME, group_of

TINY_NETWORK = [argument for argument in TINY if 'dataset' not in argument]


def lay_out(name: str, folder: Path) -> dict[str, dict[str, str]]:
    return LAYOUTS[name].write(folder)


@pytest.mark.parametrize('name', LAYOUTS)
def test_layout(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / 'data'
    expected = lay_out(name, folder)
    run_verb('data', ['init', str(folder)])
    row, layout = read_dataset(folder), LAYOUTS[name]

    found = {
        split: {
            str(pair.image.relative_to(folder)): str(pair.mask.relative_to(folder))
            for pair in find_pairs(folder, split, row)
        }
        for split in row.splits
    }
    if '' in expected:  # split by us
        assert {*found} == {'train', 'val'}
        assert found['train'] | found['val'] == expected['']
        assert not found['train'].keys() & found['val'].keys()
        assert 0.1 <= len(found['val']) / len(expected['']) <= 0.34
    else:
        assert found == expected

    table = row.label_map(len(row.classes))
    classes = {label: None if index == IGNORED else int(index) for label, index in enumerate(table) if index != ILLEGAL}
    assert classes == layout.classes
    assert row.classes == layout.names
    assert {label for label in layout.labels if table[label] == ILLEGAL} == set()
    assert row.name == 'data'
    for key, value in layout.more.items():
        assert getattr(row, key) == value, key

    config = read_file(folder).config
    batch_size = 2  # of some twenty images
    assert config['train_dataset'] == {
        'base_size': 40, 'final_size': 32, 'keep_ratio': True, 'batch_size': batch_size,
    }  # fmt: skip
    assert config['eval_dataset'] == {'final_size': 40}
    assert config['eval_protocol'] == 'fit-ss'
    printed = capsys.readouterr().out
    for what in ('pairs', 'splits', 'labels', 'classes', 'sizes', 'config', 'images'):
        assert re.search(rf'^{what} ', printed, re.MULTILINE), what
    assert f'{len(found["train"])}, val {len(found["val"])}' in printed


@pytest.mark.parametrize(('name', 'group', 'count'), [('patients', r'/(TCGA_\d)/', 8), ('beside', r'/(film.)_', 6)])
def test_groups_stay_whole(name: str, group: str, count: int, tmp_path: Path) -> None:
    lay_out(name, tmp_path)
    run_verb('data', ['init', str(tmp_path)])
    row = read_dataset(tmp_path)
    train, val = (
        {found for pair in find_pairs(tmp_path, split, row) for found in re.findall(group, str(pair.image))}
        for split in ('train', 'val')
    )
    assert train and val and not train & val
    assert len(train) + len(val) == count


@pytest.mark.parametrize('name', LAYOUTS)
def test_check_and_training(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], clean_shared_memory) -> None:
    """As a person would go on: data PATH, then train with dataset=PATH and no other key of the data."""
    folder = tmp_path / 'data'
    lay_out(name, folder)
    run_verb('data', ['init', str(folder)])
    run_verb('data', [str(folder)])
    row = read_dataset(folder)
    assert f'train: {len(find_pairs(folder, "train", row))} images with masks' in capfd.readouterr().out
    trainer = run([str(ROOT / 'yamls/deeplabv3.yaml'), *TINY_NETWORK, f'dataset={folder}', 'max_duration=1ep'])
    assert trainer.state.timestamp.epoch == 1
    scores = evaluations(trainer)[-1]
    assert scores.class_names == row.classes
    assert scores.images == len(find_pairs(folder, 'val', row))


def refused(folder: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    before = sorted(folder.rglob('*'))
    with pytest.raises(SystemExit) as stop:
        run_verb('data', ['init', str(folder), *arguments])
    assert stop.value.code == 1
    assert sorted(folder.rglob('*')) == before
    error = capsys.readouterr().err
    assert error.startswith('error: ') and error.count('\n') == 1
    return error


def test_a_file_that_is_there_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lay_out('splits above', tmp_path)
    (tmp_path / 'dataset.yaml').write_text('mine')
    assert f'{tmp_path}/dataset.yaml exists; --force replaces it' in refused(tmp_path, capsys)
    assert (tmp_path / 'dataset.yaml').read_text() == 'mine'
    run_verb('data', ['init', str(tmp_path), '--force', '--name=weeds'])
    assert read_dataset(tmp_path).name == 'weeds'


def test_no_pairing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert f'dataset folder does not exist: {tmp_path}/none' in refused(tmp_path / 'none', capsys)
    assert f'no picture in {tmp_path}; expected files ending in .bmp, ' in refused(tmp_path, capsys)
    for folder, suffix in (('photos', 'jpg'), ('masks', 'png')):
        (tmp_path / folder).mkdir()
        for stem in 'ab':
            Image.new('RGB', (8, 8)).save(tmp_path / folder / f'{stem if suffix == "jpg" else stem * 2}.{suffix}')
    message = refused(tmp_path, capsys)
    assert 'Found: 2 .png in masks/ (aa.png, …); 2 .jpg in photos/ (a.jpg, …). Looked for: masks in folders' in message
    assert 'mask, masks, label, labels, annotation' in message


def rewrite_masks(folder: Path, change) -> None:
    for file in sorted((folder / 'masks').rglob('*.png')):
        change(np.array(Image.open(file))).save(file)


def in_colors(mask: np.ndarray) -> Image.Image:
    return Image.fromarray(np.array([[10, 20, 30], [255, 0, 9]], np.uint8)[mask // 255])


def smoothed(mask: np.ndarray) -> Image.Image:
    """50 labels between the extremes, on a twentieth of the pixels."""
    pixels = np.repeat([0, 255, *range(40, 90)], [950, 950, *[2] * 50])
    return Image.fromarray(pixels.astype(np.uint8).reshape(40, 50))


@pytest.mark.parametrize(
    ('change', 'expected'),
    [
        (in_colors, r'/masks/train/000\.png are pictures in colours, .* occur: (#0a141e, #ff0009|#ff0009, #0a141e)\. '),
        (lambda mask: Image.fromarray(mask).convert('RGB'), r'/masks/train/000\.png have three equal channels'),
        (lambda mask: Image.fromarray(0 * mask), r'only label 0 occurs in 14 masks'),
        (
            smoothed,
            r'52 labels occur \(0, 40…89, 255\), and 95% of the pixels have 0 or 255: masks with smoothed edges',
        ),
    ],
)
def test_masks_of_which_no_classes_can_be_made(
    change, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lay_out('splits below', tmp_path)
    rewrite_masks(tmp_path, change)
    assert re.search(expected, refused(tmp_path, capsys))


def test_what_is_alone_and_damaged_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lay_out('splits below', tmp_path)
    (tmp_path / 'masks/train/003.png').write_bytes(b'no picture')
    run_verb('data', ['init', str(tmp_path)])
    printed = capsys.readouterr().out
    assert 'images without a mask, which are left out: 1, images/train/lonely.jpg\n' in printed
    assert 'masks without an image: 1, masks/val/left.png\n' in printed
    assert f'masks that cannot be read: 1, damaged mask {tmp_path}/masks/train/003.png' in printed
    assert 'labels   in 13 of the 14 masks: 0, 255\n' in printed


def test_the_door_leads_there_too(tmp_path: Path) -> None:
    lay_out('splits above', tmp_path / 'init')  # a folder of that name is ./init
    done = launch(sys.executable, str(ROOT / 'data.py'), 'init', str(tmp_path / 'init'))
    assert (done.returncode, done.stderr) == (0, '')
    assert len(find_pairs(tmp_path / 'init', 'train', read_dataset(tmp_path / 'init'))) == 9
    run_verb('data', [f'{tmp_path}/init'])


def test_what_is_laid_out_like_a_dataset_of_ours_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ('ade20k', 'splits above'):
        lay_out(name, tmp_path / name)
        run_verb('data', ['init', str(tmp_path / name)])
        printed = capsys.readouterr().out
        known = 'if it is one, dataset=ade20k knows its classes'
        assert (known in printed) == (name == 'ade20k')


def test_breeds_are_no_films(tmp_path: Path) -> None:
    """beagle_1 … beagle_10 are numbered things of a kind, film_01 … film_10 may be frames."""
    for name, form, group in (('breeds', '{}_{}', None), ('films', '{}_{:02}', FRAME)):
        images = [
            f'images/{form.format(kind, n)}.jpg' for kind in ('beagle', 'pug', 'husky', 'collie') for n in range(1, 11)
        ]
        assert group_of(images)[0] == group, name


def test_pictures_of_one_name_that_differ_in_their_suffix(tmp_path: Path) -> None:
    pairs = draw(tmp_path, 'all/{}.jpg', 'all/{}.png', stems(12, '{}'), (0, 1, 2))
    run_verb('data', ['init', str(tmp_path)])
    row = read_dataset(tmp_path)
    found = [pair for split in ('train', 'val') for pair in find_pairs(tmp_path, split, row)]
    assert {str(pair.image.relative_to(tmp_path)): str(pair.mask.relative_to(tmp_path)) for pair in found} == pairs


def test_one_list_alone(tmp_path: Path) -> None:
    """What it does not name trains."""
    names = stems(12, '{}')
    draw(tmp_path, 'images/{}.jpg', 'labels/{}.png', names, (0, 1, 2))
    write_text(tmp_path / 'valid.txt', '\n'.join(f'{name}.jpg' for name in names[8:]))
    run_verb('data', ['init', str(tmp_path)])
    row = read_dataset(tmp_path)
    found = {split: {pair.image.stem for pair in find_pairs(tmp_path, split, row)} for split in ('train', 'val')}
    assert found == {'train': {*names[:8]}, 'val': {*names[8:]}}


def test_test_is_kept_from_training_where_nothing_is_called_val(tmp_path: Path) -> None:
    for split, count in (('train', 20), ('test', 5)):
        draw(tmp_path, f'{split}/images/{{}}.jpg', f'{split}/masks/{{}}.png', stems(count, split + '{}'), (0, 1, 2))
    run_verb('data', ['init', str(tmp_path)])
    row = read_dataset(tmp_path)
    found = {split: [pair.image.parts[-3] for pair in find_pairs(tmp_path, split, row)] for split in row.splits}
    assert found['test'] == ['test'] * 5
    assert {*found['train'], *found['val']} == {'train'} and len(found['train'] + found['val']) == 20
