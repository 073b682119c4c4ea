"""What a preview shows is what training would see, with the classes' colours where the classes are."""

import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segrecipes.base.palette import colorize
from segrecipes.commands import cli
from segrecipes.config.schema import Config
from segrecipes.data.augment import TrainTransform
from segrecipes.data.loader import build_dataspec
from segrecipes.datasets.row import IGNORED
from segrecipes.datasets.table import DATASETS
from segrecipes.evaluation.overlay import overlay
from segrecipes.evaluation.table import get_protocol
from segrecipes.reports import preview
from segrecipes.reports.preview import show_samples
from segrecipes.storage.audit import audit
from segrecipes.storage.convert import convert
from segrecipes.storage.decode import DataError
from segrecipes.storage.folders import find_pairs
from segrecipes.upstream import check_dataloader

ROOT = Path(__file__).parents[2]
LEGAL = sorted([*DATASETS, 'path/to/dataset.yaml'])
ROW = DATASETS['synthetic']
CLASSES = ROW.classes
SETTINGS = ('--name=synthetic', '--base-size', '48', '--final-size=33')


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What would be drawn, by the names of ``save_grid``'s arguments."""
    values: dict[str, Any] = {}

    def save_grid(path: Path, rows: Any, headings: Any, labels: Any, class_names: Any, colors: Any, title: str) -> None:
        values.update(path=path, rows=rows, headings=headings, labels=labels, class_names=class_names, title=title)

    monkeypatch.setattr(preview, 'save_grid', save_grid)
    return values


def run(*argv: str) -> None:
    cli.run('data', argv, 'data.py')


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The last line of what the command says, which has to end with this status."""

    def refused(*argv: str, status: int = 1) -> str:
        with pytest.raises(SystemExit) as stop:
            run(*argv)
        assert stop.value.code == status
        printed = capsys.readouterr()
        assert printed.out == ''
        lines = printed.err.splitlines()
        assert status == 2 or len(lines) == 1  # argparse says how it is called first
        return lines[-1].removeprefix('data.py: ').removeprefix('error: ')

    return refused


# The picture


@pytest.mark.parametrize('storage', ['folder', 'shards'])
def test_a_grid_is_written(
    storage: str,
    synthetic_folder: Path,
    synthetic_mds: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    clean_shared_memory: None,
) -> None:
    path = synthetic_folder if storage == 'folder' else synthetic_mds
    run(str(path), '--show', str(tmp_path / 'new' / 'grid.png'), *SETTINGS)
    assert capsys.readouterr().out == f'{tmp_path}/new/grid.png: 12 samples\n'
    assert [file.name for file in (tmp_path / 'new').iterdir()] == ['grid.png']
    with Image.open(tmp_path / 'new' / 'grid.png') as image:
        assert image.format == 'PNG'
        pixels = np.array(image.convert('RGB')).reshape(-1, 3)
    colors = {tuple(color) for color in np.unique(pixels, axis=0).tolist()}
    used = set(DATASETS['synthetic'].colors)
    assert len(colors & used) > len(CLASSES) // 2  # of the legend and of the masks
    assert len(colors) > 1000  # of the images


def test_the_samples_are_those_of_training(synthetic_folder: Path, shown: dict[str, Any], tmp_path: Path) -> None:
    """The first twelve of the first epoch, by the seed that a run has by default."""
    arguments = [*SETTINGS, '--min-resize-scale', '0.4', '--keep-ratio']
    run(str(synthetic_folder), '--show', str(tmp_path / 'grid.png'), *arguments)
    transform = TrainTransform(base_size=48, final_size=33, min_resize_scale=0.4, keep_ratio=True)
    spec: Any = build_dataspec(
        path=str(synthetic_folder),
        split='train',
        batch_size=4,
        name='synthetic',
        transform=transform,
        seed=Config().seed,
        shuffle=True,
        num_workers=0,
    )
    images, classes, *_ = zip(*spec.dataloader)
    images = [image.permute(1, 2, 0).numpy() for batch in images for image in batch]
    classes = [of_image.numpy() for batch in classes for of_image in batch]
    assert len(shown['rows']) == len(images) == 12
    colors = DATASETS['synthetic'].colors
    for (image, mask_colors, both), labels, expected, of_image in zip(
        shown['rows'], shown['labels'], images, classes, strict=True
    ):
        np.testing.assert_array_equal(image, expected)
        np.testing.assert_array_equal(mask_colors, colorize(of_image, colors))
        np.testing.assert_array_equal(labels, of_image)
        np.testing.assert_array_equal(both, overlay(expected, labels, colors))
    assert (np.stack(classes) == 255).any()  # padding is among them
    assert shown['path'] == tmp_path / 'grid.png'
    assert shown['headings'] == ('image', 'mask', 'both')
    assert shown['class_names'] == CLASSES
    assert shown['title'] == f'{synthetic_folder}: 12 training samples at 33×33'


def test_a_dataset_of_ones_own_says_how_it_is_augmented(
    synthetic_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []
    monkeypatch.setattr(preview, 'show_samples', lambda *arguments: given.extend(arguments) or 12)
    tmp_path.joinpath('dataset.yaml').write_text(f"""
path: {synthetic_folder}/ADEChallengeData2016
classes: [{', '.join(CLASSES)}]
labels: 1
splits: {{train: images/training/*, val: images/validation/*}}
mask: ['^images/(.+)\\.jpg$', 'annotations/\\1.png']
config: {{train_dataset: {{final_size: 40, right_angle_turns: true, rotation: 9}}}}
""")
    run(str(tmp_path), '--show', 'grid.png', '--rotation=7')
    assert given[-1] == TrainTransform(final_size=40, right_angle_turns=True, rotation=7.0)


def test_shards_hold_the_same_samples(
    synthetic_folder: Path, synthetic_mds: Path, shown: dict[str, Any], clean_shared_memory: None
) -> None:
    """In another order; each one's augmentation depends on its name alone."""
    pictures = []
    for path in (synthetic_folder, synthetic_mds):
        run(str(path), '--show', 'grid.png', *SETTINGS)
        pictures.append(sorted(b''.join(part.tobytes() for part in row) for row in shown['rows']))
    assert len(pictures[0]) == 12
    assert pictures[0] == pictures[1]


def test_a_few_of_many(synthetic_folder: Path, shown: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preview, 'SHOWN', 5)
    run(str(synthetic_folder), '--show', 'grid.png', *SETTINGS)
    assert len(shown['rows']) == len(shown['labels']) == 5


def test_arguments_in_any_order(synthetic_folder: Path, shown: dict[str, Any]) -> None:
    pictures = []
    for argv in (
        [str(synthetic_folder), '--show', 'grid.png', *SETTINGS],
        ['--show', 'grid.png', str(synthetic_folder), *SETTINGS],
        [str(synthetic_folder), *SETTINGS, '--show=grid.png'],
    ):
        run(*argv)
        pictures.append(shown['rows'])
        assert shown['path'] == Path('grid.png')
    for rows in pictures[1:]:
        assert all(np.array_equal(one[0], other[0]) for one, other in zip(pictures[0], rows, strict=True))


@pytest.mark.parametrize(
    ('labels', 'ignored', 'expected'),
    [
        (1, {255}, {0: IGNORED, 1: 0, 2: 1, 8: 7, 255: IGNORED}),
        (0, {255}, {0: 0, 1: 1, 2: 2, 7: 7, 8: 8, 255: IGNORED}),
        ({255: 1, 0: 0, 3: 2, 8: 2}, {1}, {255: 1, 0: 0, 3: 2, 8: 2, 1: IGNORED}),
    ],
)
@pytest.mark.usefixtures('clean_shared_memory')
def test_labels_mean_the_same_wherever_they_are_read(
    labels: Any, ignored: set[int], expected: dict[int, int], synthetic_folder: Path, tmp_path: Path,
    shown: dict[str, Any], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Folder, shards, check and preview: by the row alone."""
    row = replace(ROW, classes=tuple('abcdefghi'), labels=labels, ignored=frozenset(ignored))
    monkeypatch.setitem(DATASETS, 'other', row)
    root = shutil.copytree(synthetic_folder, tmp_path / 'data')
    legal = np.array([*expected], np.uint8)
    for number, file in enumerate(sorted(root.rglob('*.png'))):
        height, width = np.array(Image.open(file)).shape
        Image.fromarray(np.random.default_rng(number).choice(legal, (height, width))).save(file)
    convert(root, tmp_path / 'mds', name='other', num_workers=1, progress_bar=False)

    table = np.full(256, 99)
    table[legal] = [*expected.values()]
    masks = {pair.uid: table[np.array(Image.open(pair.mask))] for pair in find_pairs(root, 'val', row)}
    keep: Any = get_protocol('ade20k-ss', 48)  # scores masks as they are
    for path in (root, tmp_path / 'mds'):
        spec: Any = build_dataspec(
            path=str(path), split='val', batch_size=1, name='other', num_classes=9, is_streaming=path != root,
            transform=keep, collate_fn=keep.collate,
        )  # fmt: skip
        read = {uid: classes.numpy() for [_], [classes], _, [uid] in spec.dataloader}
        assert read.keys() == masks.keys()
        assert all(np.array_equal(read[uid], masks[uid]) for uid in masks)

        found = dict(audit(str(path), row=row))['val']
        assert found.faults == []
        counted = np.bincount(row.label_map(9), found.labels, 256)
        np.testing.assert_array_equal(counted, sum(np.bincount(mask.ravel(), minlength=256) for mask in masks.values()))

        same_size = TrainTransform(48, 48, 1.0, 1.0, flip_probability=0)
        show_samples(Path('grid.png'), str(path), None, 'other', same_size)
        present = np.unique(np.stack(shown['labels']))
        assert set(present.tolist()) == set(expected.values())


@pytest.mark.parametrize('label', [1, 254])
def test_an_illegal_label_is_one_everywhere(
    label: int, synthetic_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = shutil.copytree(synthetic_folder, tmp_path / 'data')
    row = replace(ROW, classes=('a', 'b'), labels={0: 0, 255: 1}, ignored=frozenset())
    for file in root.rglob('*.png'):
        Image.fromarray(np.full(np.array(Image.open(file)).shape, 255, np.uint8)).save(file)
    assert all(finding.faults == [] for _, finding in audit(str(root), row=row))
    mask = find_pairs(root, 'train', row)[2].mask
    labels = np.array(Image.open(mask))
    labels[:30, :30] = label
    Image.fromarray(labels).save(mask)
    [(_, finding), _] = audit(str(root), row=row)
    assert finding.faults == [f'label {label} in mask {mask} is none of the dataset. Legal: 0, 255']
    monkeypatch.setitem(DATASETS, 'other', row)
    with pytest.raises(DataError, match=f'^label {label} in the mask of sample 00000003 .* Legal: 0, 255'):
        show_samples(tmp_path / 'grid.png', str(root), None, 'other', TrainTransform(48, 33))


def test_lgg(shown: dict[str, Any]) -> None:
    path = ROOT.parent / 'shared/data/lgg_mri'
    if not path.is_dir():
        pytest.skip(f'no brain MRI in {path}')
    assert show_samples(Path('grid.png'), str(path), None, 'lgg', TrainTransform(256, 256, 1.0, 1.0)) == 12
    assert shown['class_names'] == ('background', 'tumour')
    assert set(np.unique(np.stack(shown['labels'])).tolist()) == {0, 1}


# Arguments


@pytest.mark.parametrize(
    ('text', 'values'),
    [
        ('', {}),
        ('--final-size=33', {'final_size': 33}),
        ('--keep-ratio', {'keep_ratio': True}),
        ('--min-resize-scale=1e-1', {'min_resize_scale': 0.1}),
        ('--max-resize-scale 2 --base-size 48', {'max_resize_scale': 2.0, 'base_size': 48}),
        ('--min-resize-scale=1 --max-resize-scale=1', {'min_resize_scale': 1.0, 'max_resize_scale': 1.0}),
        (
            '--flip-probability=0 --vertical-flip-probability=0.5',
            {
                'flip_probability': 0.0,
                'vertical_flip_probability': 0.5,
            },
        ),
        ('--right-angle-turns --rotation 15', {'right_angle_turns': True, 'rotation': 15.0}),
        (
            '--brightness=0.1 --contrast=0.2 --saturation=0.3 --hue=0.04 --max-class-share=1',
            {
                'brightness': 0.1,
                'contrast': 0.2,
                'saturation': 0.3,
                'hue': 0.04,
                'max_class_share': 1.0,
            },
        ),
        ('--blur-probability=0.5 --blur-sigma=3', {'blur_probability': 0.5, 'blur_sigma': 3.0}),
        ('"--albumentations=[{name: CLAHE}]"', {'albumentations': [{'name': 'CLAHE'}]}),
        ('--config=yamls/deeplabv3.yaml', {'base_size': 360, 'final_size': 352, 'keep_ratio': True}),
        (
            '--config=deeplabv3 --hue=0 --final-size=9',
            {
                'base_size': 360,
                'final_size': 9,
                'keep_ratio': True,
                'hue': 0.0,
            },
        ),
    ],
)
def test_settings(text: str, values: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    given: list[Any] = []
    monkeypatch.setattr(preview, 'show_samples', lambda *arguments: given.extend(arguments) or 3)
    monkeypatch.chdir(ROOT)
    run('data', 'cache', '--name=camvid', '--show', 'grid.png', *shlex.split(text))
    out, path, local, name, transform = given
    assert (out, path, local, name) == (Path('grid.png'), 'data', 'cache', 'camvid')
    assert transform == TrainTransform(**values)
    assert all(type(value) is type(getattr(TrainTransform(), key)) for key, value in vars(transform).items())
    assert capsys.readouterr().out == 'grid.png: 3 samples\n'


@pytest.mark.parametrize(
    ('argument', 'message'),
    [
        ('--finalsize=33', 'unrecognized arguments: --finalsize=33'),
        ('--batch-size=4', 'unrecognized arguments: --batch-size=4'),
        ('final_size=33', 'unrecognized arguments: final_size=33'),
        ('--final-size=abc', "argument --final-size: invalid int value: 'abc'"),
        ('--final-size=33.5', "argument --final-size: invalid int value: '33.5'"),
        ('--final-size=', "argument --final-size: invalid int value: ''"),
        ('--min-resize-scale=often', "argument --min-resize-scale: invalid float value: 'often'"),
        ('--keep-ratio=3', "argument --keep-ratio: ignored explicit argument '3'"),
    ],
)
def test_malformed_settings(
    synthetic_folder: Path, tmp_path: Path, refused: Callable[..., str], argument: str, message: str
) -> None:
    given = (str(synthetic_folder), 'cache', '--show', str(tmp_path / 'grid.png'), argument)
    assert refused(*given, status=2) == message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ('argument', 'message'),
    [
        ('--final-size=0', '--final-size=0 must be positive'),
        ('--base-size=-4', '--base-size=-4 must be positive'),
        ('--min-resize-scale=0', '--min-resize-scale=0.0 must be positive'),
        ('--max-resize-scale=nan', '--max-resize-scale=nan must be positive'),
        ('--max-resize-scale=inf', '--max-resize-scale=inf must be positive'),
        ('--hue=0.6', '--hue=0.6 must be 0 … 0.5'),
        ('--rotation=-1', '--rotation=-1.0 must be 0 … 180'),
        ('--flip-probability=1.5', '--flip-probability=1.5 must be 0 … 1'),
        ('--max-class-share=0', '--max-class-share=0.0 must be above 0, at most 1'),
        ('--albumentations=3', '--albumentations=3 must be a list of transforms, such as [{name: CLAHE, p: 0.2}]'),
        ('--config=none.yaml', 'config file does not exist: none.yaml'),
        ('--min-resize-scale=3', '--min-resize-scale=3.0 is above --max-resize-scale'),
        ('--name=nope', f'train_dataset.name=nope is not known. Legal: {", ".join(LEGAL)}.'),
    ],
)
def test_wrong_settings(
    synthetic_folder: Path, tmp_path: Path, refused: Callable[..., str], argument: str, message: str
) -> None:
    given = (str(synthetic_folder), '--show', str(tmp_path / 'grid.png'), '--name=synthetic', argument)
    assert refused(*given) == message
    assert list(tmp_path.iterdir()) == []


def test_missing_folders(tmp_path: Path, refused: Callable[..., str]) -> None:
    out = str(tmp_path / 'grid.png')
    assert refused(f'{tmp_path}/none', '--show', out) == f'dataset folder does not exist: {tmp_path}/none'
    (tmp_path / 'images' / 'training').mkdir(parents=True)
    assert refused(str(tmp_path), '--show', out).startswith(f'no image in {tmp_path}/images/training; ')
    (tmp_path / 'images' / 'training' / 'ADE_train_00000001.jpg').touch()
    missing = f'dataset folder does not exist: {tmp_path}/annotations/training '
    assert refused(str(tmp_path), '--show', out).startswith(missing)
    assert not Path(out).exists()


def test_shards_without_a_training_split(
    tmp_path: Path, clean_shared_memory: None, refused: Callable[..., str]
) -> None:
    (tmp_path / 'val').mkdir()
    (tmp_path / 'val' / 'index.json').write_text('{}')
    assert str(tmp_path) in refused(str(tmp_path), '--show', str(tmp_path / 'grid.png'))


def test_labels_that_the_dataset_does_not_have(
    synthetic_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
) -> None:
    """Another one's classes could not name them."""
    monkeypatch.setitem(DATASETS, 'few', replace(ROW, classes=CLASSES[:2]))
    message = refused(str(synthetic_folder), '--show', str(tmp_path / 'grid.png'), '--name=few')
    assert 'is none of the dataset' in message and 'Legal: 0…2, 255.' in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('taken', ['a folder', 'below a file'])
def test_a_picture_that_cannot_be_written(
    synthetic_folder: Path, tmp_path: Path, taken: str, refused: Callable[..., str]
) -> None:
    path = tmp_path / 'grid.png'
    if taken == 'a folder':
        path.mkdir()
    else:
        (tmp_path / 'file').touch()
        path = tmp_path / 'file' / 'grid.png'
    message = refused(str(synthetic_folder), '--show', str(path), *SETTINGS)
    assert message.startswith(f'--show={path}: cannot be written (')


def test_command(synthetic_folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, ROOT / 'data.py', synthetic_folder, '--show', 'grid.png', *SETTINGS]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, 'grid.png: 12 samples\n', '')
    assert [file.name for file in tmp_path.iterdir()] == ['grid.png']


def test_one_line_for_what_goes_wrong(
    synthetic_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, 'argv', ['data.py', str(synthetic_folder), '--show', 'grid.png', '--final-size=0'])
    with pytest.raises(SystemExit) as stop:
        check_dataloader()
    assert stop.value.code == 1
    assert tuple(capsys.readouterr()) == ('', 'error: --final-size=0 must be positive\n')
