"""What a preview shows is what training would see, with the classes' colours where the classes are."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segrecipes.reports import preview
from segrecipes.config.schema import Config
from segrecipes.data.loader import build_dataspec
from segrecipes.upstream import check_dataloader
from segrecipes.base.errors import MissingPathError, UserError
from segrecipes.datasets.table import DATASETS
from segrecipes.base.palette import palette
from segrecipes.reports.preview import class_indices, overlay, train_transform
from segrecipes.data.augment import TrainTransform

ROOT = Path(__file__).parents[1]
CLASSES = DATASETS['synthetic'].classes
SETTINGS = ('name=synthetic', 'base_size=48', 'final_size=33')


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What would be drawn, by the names of ``save_grid``'s arguments."""
    values: dict[str, Any] = {}

    def save_grid(path: Path, rows: Any, headings: Any, labels: Any, class_names: Any, title: str) -> None:
        values.update(path=path, rows=rows, headings=headings, labels=labels, class_names=class_names, title=title)

    monkeypatch.setattr(preview, 'save_grid', save_grid)
    return values


def refused(*argv: str) -> str:
    with pytest.raises(UserError) as error:
        preview.main(argv)
    assert '\n' not in str(error.value)
    return str(error.value)


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
    preview.main([str(path), '--show', str(tmp_path / 'new' / 'grid.png'), *SETTINGS])
    assert capsys.readouterr().out == f'{tmp_path}/new/grid.png: 12 samples\n'
    assert [file.name for file in (tmp_path / 'new').iterdir()] == ['grid.png']
    with Image.open(tmp_path / 'new' / 'grid.png') as image:
        assert image.format == 'PNG'
        pixels = np.array(image.convert('RGB')).reshape(-1, 3)
    colors = {tuple(color) for color in np.unique(pixels, axis=0).tolist()}
    used = set(map(tuple, palette(len(CLASSES)).tolist()))
    assert len(colors & used) > len(CLASSES) // 2  # of the legend and of the masks
    assert len(colors) > 1000  # of the images


def test_the_samples_are_those_of_training(synthetic_folder: Path, shown: dict[str, Any], tmp_path: Path) -> None:
    """The first twelve of the first epoch, by the seed that a run has by default."""
    arguments = [*SETTINGS, 'min_resize_scale=0.4', 'flip_probability=0.25', 'keep_ratio=true', 'crop_retries=3']
    preview.main([str(synthetic_folder), '--show', str(tmp_path / 'grid.png'), *arguments])
    transform = TrainTransform(
        base_size=48, final_size=33, min_resize_scale=0.4, flip_probability=0.25, keep_ratio=True, crop_retries=3
    )
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
    images, masks = zip(*spec.dataloader)
    images = [image.permute(1, 2, 0).numpy() for batch in images for image in batch]
    masks = [mask.numpy() for batch in masks for mask in batch]
    assert len(shown['rows']) == len(images) == 12
    for (image, mask_colors, both), labels, expected, mask in zip(
        shown['rows'], shown['labels'], images, masks, strict=True
    ):
        np.testing.assert_array_equal(image, expected)
        table = np.zeros((256, 3), np.uint8)
        table[1 : 1 + len(CLASSES)] = palette(len(CLASSES))
        np.testing.assert_array_equal(mask_colors, table[mask])
        np.testing.assert_array_equal(labels, np.where((mask == 0) | (mask == 255), 255, mask.astype(int) - 1))
        np.testing.assert_array_equal(both, overlay(expected, labels))
    assert (np.stack(masks) == 255).any()  # padding is among them
    assert shown['path'] == tmp_path / 'grid.png'
    assert shown['headings'] == ('image', 'mask', 'both')
    assert shown['class_names'] == CLASSES
    assert shown['title'] == f'{synthetic_folder}: 12 training samples at 33×33'


def test_shards_hold_the_same_samples(
    synthetic_folder: Path, synthetic_mds: Path, shown: dict[str, Any], clean_shared_memory: None
) -> None:
    """In another order; each one's augmentation depends on its name alone."""
    pictures = []
    for path in (synthetic_folder, synthetic_mds):
        preview.main([str(path), '--show', 'grid.png', *SETTINGS])
        pictures.append(sorted(b''.join(part.tobytes() for part in row) for row in shown['rows']))
    assert len(pictures[0]) == 12
    assert pictures[0] == pictures[1]


def test_a_few_of_many(synthetic_folder: Path, shown: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preview, 'SHOWN', 5)
    preview.main([str(synthetic_folder), '--show', 'grid.png', *SETTINGS])
    assert len(shown['rows']) == len(shown['labels']) == 5


def test_arguments_in_any_order(synthetic_folder: Path, shown: dict[str, Any]) -> None:
    pictures = []
    for argv in (
        [str(synthetic_folder), '--show', 'grid.png', *SETTINGS],
        ['--show', 'grid.png', str(synthetic_folder), *SETTINGS],
        [str(synthetic_folder), *SETTINGS, '--show=grid.png'],
    ):
        preview.main(argv)
        pictures.append(shown['rows'])
        assert shown['path'] == Path('grid.png')
    for rows in pictures[1:]:
        assert all(np.array_equal(one[0], other[0]) for one, other in zip(pictures[0], rows, strict=True))


def test_class_indices() -> None:
    mask = np.array([[0, 1, 2], [8, 254, 255]], np.uint8)
    found = class_indices(mask, DATASETS['synthetic'])
    assert found.tolist() == [[255, 0, 1], [7, 253, 255]]
    from_zero = DATASETS['synthetic'].__class__(classes=CLASSES, label_offset=0)
    assert class_indices(mask, from_zero).tolist() == mask.tolist()


def test_overlay() -> None:
    """Half the image and half the class's colour, rounded down; ignored pixels as they are."""
    image = np.array([[[255, 254, 3], [100, 50, 0], [1, 2, 3]]], np.uint8)
    labels = np.array([[0, 2, 255]])
    first, third = (palette(3)[index].tolist() for index in (0, 2))
    assert (first, third) == ([128, 0, 0], [128, 128, 0])
    found = overlay(image, labels)
    assert found.dtype == np.uint8
    assert found.tolist() == [[[191, 127, 1], [114, 89, 0], [1, 2, 3]]]


# Arguments


@pytest.mark.parametrize(
    ('text', 'values'),
    [
        ('', {}),
        ('final_size=33', {'final_size': 33}),
        ('keep_ratio=true', {'keep_ratio': True}),
        ('keep_ratio=False', {'keep_ratio': False}),
        ('min_resize_scale=1e-1 hue=0', {'min_resize_scale': 0.1, 'hue': 0.0}),
        ('max_resize_scale=2 brightness=.5 crop_retries=0', {'brightness': 0.5, 'crop_retries': 0}),
        ('min_resize_scale=1 max_resize_scale=1', {'min_resize_scale': 1.0, 'max_resize_scale': 1.0}),
    ],
)
def test_settings(text: str, values: dict[str, Any]) -> None:
    transform = train_transform(dict(item.split('=') for item in text.split()))
    assert transform == TrainTransform(**values)
    assert all(type(value) is type(getattr(TrainTransform(), key)) for key, value in vars(transform).items())


LEGAL = (
    'Legal: base_size, brightness, contrast, crop_retries, final_size, flip_probability, hue, keep_ratio, '
    'max_class_share, max_resize_scale, min_resize_scale, name, saturation.'
)


@pytest.mark.parametrize(
    ('argument', 'message'),
    [
        ('finalsize=33', f"finalsize=33 is not known. Did you mean 'final_size'? {LEGAL}"),
        ('batch_size=4', f"batch_size=4 is not known. Did you mean 'base_size'? {LEGAL}"),
        ('zoom=4', f'zoom=4 is not known. {LEGAL}'),
        ('final_size=abc', 'final_size=abc must be a whole number'),
        ('final_size=33.5', 'final_size=33.5 must be a whole number'),
        ('final_size=', 'final_size= must be a whole number'),
        ('crop_retries=true', 'crop_retries=true must be a whole number'),
        ('hue=[1', 'hue=[1 must be a number'),
        ('flip_probability=often', 'flip_probability=often must be a number'),
        ('keep_ratio=3', 'keep_ratio=3 must be true or false'),
        ('final_size=0', 'final_size=0 must be positive'),
        ('base_size=-4', 'base_size=-4 must be positive'),
        ('min_resize_scale=0', 'min_resize_scale=0.0 must be positive'),
        ('max_resize_scale=nan', 'max_resize_scale=nan must be positive'),
        ('max_resize_scale=inf', 'max_resize_scale=inf must be positive'),
        ('min_resize_scale=3', 'min_resize_scale=3.0 is above max_resize_scale'),
        ('name=nope', 'train_dataset.name=nope is not known. Legal: ade20k, camvid, synthetic.'),
    ],
)
def test_wrong_settings(synthetic_folder: Path, tmp_path: Path, argument: str, message: str) -> None:
    assert refused(str(synthetic_folder), '--show', str(tmp_path / 'grid.png'), 'name=synthetic', argument) == message
    assert list(tmp_path.iterdir()) == []


def test_missing_folders(tmp_path: Path) -> None:
    out = str(tmp_path / 'grid.png')
    with pytest.raises(MissingPathError, match=f'^dataset folder does not exist: {tmp_path}/none$'):
        preview.main([f'{tmp_path}/none', '--show', out])
    (tmp_path / 'images' / 'training').mkdir(parents=True)
    with pytest.raises(MissingPathError, match=f'^dataset folder does not exist: {tmp_path}/annotations/training '):
        preview.main([str(tmp_path), '--show', out])
    assert not Path(out).exists()


def test_shards_without_a_training_split(tmp_path: Path, clean_shared_memory: None) -> None:
    (tmp_path / 'val').mkdir()
    (tmp_path / 'val' / 'index.json').write_text('{}')
    assert str(tmp_path) in refused(str(tmp_path), '--show', str(tmp_path / 'grid.png'))


def test_labels_that_the_dataset_does_not_have(
    synthetic_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one's classes could not name them."""
    few = DATASETS['synthetic'].__class__(classes=CLASSES[:2])
    monkeypatch.setitem(DATASETS, 'few', few)
    message = refused(str(synthetic_folder), '--show', str(tmp_path / 'grid.png'), 'name=few')
    assert 'is above 2, the largest' in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('taken', ['a folder', 'below a file'])
def test_a_picture_that_cannot_be_written(synthetic_folder: Path, tmp_path: Path, taken: str) -> None:
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
    monkeypatch.setattr(sys, 'argv', ['data.py', str(synthetic_folder), '--show', 'grid.png', 'final_size=abc'])
    with pytest.raises(SystemExit) as stop:
        check_dataloader()
    assert stop.value.code == 1
    assert tuple(capsys.readouterr()) == ('', 'error: final_size=abc must be a whole number\n')
