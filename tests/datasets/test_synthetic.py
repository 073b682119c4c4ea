import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segrecipes.base.errors import UserError
from segrecipes.commands.cli import run
from segrecipes.datasets.synthetic import scenes
from segrecipes.datasets.synthetic import write as synthetic
from segrecipes.datasets.synthetic.row import ROW
from segrecipes.datasets.synthetic.scenes import draw_scene
from segrecipes.datasets.synthetic.write import write_dataset
from segrecipes.storage.folders import find_pairs

NUM_CLASSES = len(ROW.classes)
Scene = tuple[np.ndarray, np.ndarray]


def scenes_of(split: int, count: int) -> list[Scene]:
    return [draw_scene(np.random.default_rng((0, split, i)), 128) for i in range(count)]


@pytest.fixture(scope='module')
def train_scenes() -> list[Scene]:
    return scenes_of(0, 120)


@pytest.fixture(scope='module')
def val_scenes() -> list[Scene]:
    return scenes_of(1, 40)


def read(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob('*')) if file.is_file()}


def write(path: Path, **arguments: int) -> Path:
    return write_dataset(path, **{'num_train': 3, 'num_val': 2, 'size': 48, 'progress_bar': False, **arguments})


def test_files_and_pairs(tmp_path: Path) -> None:
    assert write(tmp_path / 'data') == tmp_path / 'data'
    root = tmp_path / 'data' / 'ADEChallengeData2016'
    assert set(read(root)) == {
        'synthetic.json',
        *(f'images/training/ADE_train_0000000{i}.jpg' for i in (1, 2, 3)),
        *(f'annotations/training/ADE_train_0000000{i}.png' for i in (1, 2, 3)),
        *(f'images/validation/ADE_val_0000000{i}.jpg' for i in (1, 2)),
        *(f'annotations/validation/ADE_val_0000000{i}.png' for i in (1, 2)),
    }
    assert sorted(path.name for path in (tmp_path / 'data').iterdir()) == [root.name]  # no scratch folder
    for index, (split, count) in enumerate((('train', 3), ('val', 2))):
        pairs = find_pairs(tmp_path / 'data', split, ROW)
        assert [pair.uid for pair in pairs] == [f'{i + 1:08d}' for i in range(count)]
        for i, pair in enumerate(pairs):
            drawn_image, drawn_labels = draw_scene(np.random.default_rng((0, index, i)), 48)
            with Image.open(pair.image) as image, Image.open(pair.mask) as mask:
                assert (image.mode, mask.mode) == ('RGB', 'L')
                np.testing.assert_array_equal(np.asarray(mask), drawn_labels)
                assert np.abs(np.asarray(image, np.float32) - drawn_image).mean() < 6  # JPEG


def test_the_same_arguments_give_the_same_bytes_and_more_scenes_extend_them(tmp_path: Path) -> None:
    first, again, longer = (read(write(tmp_path / name, num_train=n)) for name, n in (('a', 3), ('b', 3), ('c', 5)))
    assert first == again
    scenes = {name: data for name, data in first.items() if not name.endswith('.json')}
    assert {name: longer[name] for name in scenes} == scenes
    assert len(longer) == len(first) + 4


def test_seeds_splits_and_scenes_differ(tmp_path: Path) -> None:
    masks = [
        data for seed in (0, 1) for name, data in read(write(tmp_path / str(seed), seed=seed)).items() if 'png' in name
    ]
    assert len(set(masks)) == len(masks) == 10


@pytest.mark.parametrize('size', [48, 128, 200])
def test_shapes_and_types(size: int) -> None:
    sides = set()
    for seed in range(10):
        image, labels = draw_scene(np.random.default_rng(seed), size)
        assert image.dtype == labels.dtype == np.uint8
        assert image.shape == (*labels.shape, 3)
        assert labels.max() <= NUM_CLASSES
        sides.update(labels.shape)
    assert round(0.9 * size) <= min(sides) < max(sides) <= round(1.2 * size)


def test_every_class_has_enough_pixels(train_scenes: list[Scene]) -> None:
    labels = np.concatenate([labels.ravel() for _, labels in train_scenes[:60]])
    share = np.bincount(labels, minlength=NUM_CLASSES + 1) / labels.size
    assert len(share) == NUM_CLASSES + 1
    assert 0.01 <= share[0] <= 0.03, share
    assert share[1:].min() >= 0.015, share
    assert share.max() <= 0.5, share


def test_mask_edges_lie_on_image_edges(train_scenes: list[Scene]) -> None:
    """The image changes most where the label does: moving the mask by one pixel either way loses contrast."""
    for axis in (0, 1):
        contrast = dict.fromkeys((-2, -1, 0, 1, 2), 0.0)
        for image, labels in train_scenes[:40]:
            step = np.abs(np.diff(image.astype(np.float32), axis=axis)).mean(-1)
            edge = np.diff(labels.astype(int), axis=axis) != 0
            for shift in contrast:
                moved = np.roll(edge, shift, axis)
                contrast[shift] += step[moved].mean() / 40
        assert max(contrast, key=lambda shift: contrast[shift]) == 0, contrast
        assert contrast[0] > 1.5 * max(contrast[-2], contrast[2]), contrast


def test_a_lone_ball_is_labelled_where_it_is_painted() -> None:
    canvas = scenes.Canvas(np.random.default_rng(0), 64, 64)
    canvas.image[:], canvas.label = (0, 255, 0), 6
    before = canvas.image.copy()
    canvas.paint(scenes.disc(30, 34, 12), np.zeros(3))
    touched = np.abs(canvas.image - before).sum(-1) > 0
    y, x = np.mgrid[:64, :64] + 0.5
    distance = np.hypot(x - 30, y - 34)
    assert (canvas.labels[distance < 11] == 6).all()
    assert (canvas.labels[distance > 12.5] == 0).all()
    assert not touched[distance > 13].any()
    assert abs((canvas.labels == 6).sum() - np.pi * 12**2) < 12
    canvas.tint(scenes.disc(10, 10, 6), np.zeros(3), 0.5)
    assert canvas.labels[10, 10] == 0
    np.testing.assert_allclose(canvas.image[10, 10], (0, 127.5, 0))


def test_things_are_at_least_8_pixels_across() -> None:
    names = [name for name in ROW.classes if name not in ('sky', 'ground')]
    for name in names:
        for seed in range(20):
            canvas = scenes.Canvas(np.random.default_rng(seed), 200, 200)
            canvas.label = 1
            scenes.KINDS[name].draw(canvas, 100, 150, 0.75)  # as far away as it gets
            y, x = np.nonzero(canvas.labels)
            assert min(np.ptp(x), np.ptp(y)) + 1 >= 8, (name, seed)


def test_colour_alone_does_not_solve_it(train_scenes: list[Scene], val_scenes: list[Scene]) -> None:
    """The most frequent class of each colour, counted on the training scenes, is a poor prediction."""

    def colors_and_classes(scenes: list[Scene]) -> tuple[np.ndarray, np.ndarray]:
        image = np.concatenate([image.reshape(-1, 3) for image, _ in scenes]) >> 4
        classes = np.concatenate([labels.ravel() for _, labels in scenes]).astype(int) - 1
        return (image.astype(int) @ (256, 16, 1))[classes >= 0], classes[classes >= 0]

    colors, classes = colors_and_classes(train_scenes)
    table = np.bincount(colors * NUM_CLASSES + classes, minlength=16**3 * NUM_CLASSES).reshape(-1, NUM_CLASSES)
    colors, classes = colors_and_classes(val_scenes)
    predicted = table.argmax(1)[colors]
    confusion = np.bincount(classes * NUM_CLASSES + predicted, minlength=NUM_CLASSES**2).reshape(NUM_CLASSES, -1)
    hits = np.diag(confusion)
    iou = hits / (confusion.sum(0) + confusion.sum(1) - hits)
    assert iou.mean() < 0.4, iou.round(3)
    assert iou[2:].max() < 0.45, iou.round(3)


def test_scenes_are_those_of_the_records() -> None:
    """The demo's figures are of these pixels; with another OpenCV they may round otherwise."""
    images, masks = hashlib.sha256(), hashlib.sha256()
    for index in range(24):
        image, mask = draw_scene(np.random.default_rng((0, 0, index)), 96)
        images.update(image.tobytes())
        masks.update(mask.tobytes())
    assert (images.hexdigest()[:16], masks.hexdigest()[:16]) == ('b27dab7c20efadac', '2914eb6e432ad703')


def test_the_same_arguments_again_do_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path)
    mask = next(tmp_path.rglob('*.png'))
    os.utime(mask, (1, 1))
    assert write(tmp_path) == tmp_path
    assert mask.stat().st_mtime == 1
    assert 'nothing to do' in capsys.readouterr().out


def test_other_arguments_or_other_images_are_refused(tmp_path: Path) -> None:
    write(tmp_path / 'a')
    before = read(tmp_path / 'a')
    with pytest.raises(UserError, match='ADEChallengeData2016 already holds') as refusal:
        write(tmp_path / 'a', seed=1)
    assert str(tmp_path / 'a') in str(refusal.value)
    assert read(tmp_path / 'a') == before
    for folder in ('ADEChallengeData2016/images/training', 'images/training'):
        path = tmp_path / folder.split('/')[0] / 'b'
        (path / folder).mkdir(parents=True)
        (path / folder / 'mine.jpg').touch()
        with pytest.raises(UserError, match='already holds'):
            write(path)
        assert list(read(path)) == [f'{folder}/mine.jpg']


def test_unrelated_files_beside_it_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / 'notes.txt').write_text('mine')
    (tmp_path / 'ADEChallengeData2016').mkdir()
    write(tmp_path)
    assert (tmp_path / 'notes.txt').read_text() == 'mine'
    assert len(find_pairs(tmp_path, 'train', ROW)) == 3


@pytest.mark.parametrize('failure', [OSError('disk full'), KeyboardInterrupt()])
def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException) -> None:
    drawn = 0

    def fail_late(rng: np.random.Generator, size: int) -> Scene:
        nonlocal drawn
        drawn += 1
        if drawn > 2:
            raise failure
        return draw_scene(rng, size)

    with monkeypatch.context() as patch:
        patch.setattr(synthetic, 'draw_scene', fail_late)
        with pytest.raises(type(failure)):
            write(tmp_path)
    assert drawn == 3
    assert list(tmp_path.iterdir()) == []
    write(tmp_path)
    assert len(find_pairs(tmp_path, 'train', ROW)) == 3


@pytest.mark.parametrize('name, value', [('num_train', 0), ('num_val', 0), ('size', 47), ('seed', -1)])
def test_values_out_of_range(tmp_path: Path, name: str, value: int) -> None:
    with pytest.raises(UserError, match=f'{name}={value} is too small; legal: '):
        write(tmp_path / 'data', **{name: value})
    assert not (tmp_path / 'data').exists()


def test_path_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / 'file').touch()
    with pytest.raises(UserError, match='cannot create the folder'):
        write(tmp_path / 'file')


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = f'--path {tmp_path} --num-train 2 --num-val 1 --size 48 --seed 3'.split()
    run('synthesize', arguments)
    marker = tmp_path / 'ADEChallengeData2016' / 'synthetic.json'
    assert json.loads(marker.read_text()) == {'num_train': 2, 'num_val': 1, 'size': 48, 'seed': 3}
    with pytest.raises(SystemExit) as stop:
        run('synthesize', [*arguments[:-1], '4'])
    assert stop.value.code == 1
    assert 'error: ' in capsys.readouterr().err
