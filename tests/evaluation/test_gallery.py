"""Which images are shown, whoever saw them in whatever order, and what is written of them."""

import csv
import json
import random
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segrecipes.base.palette import colorize, even_colors
from segrecipes.evaluation.gallery import GROUPS, LONG_SIDE, Gallery
from segrecipes.evaluation.overlay import overlay
from segrecipes.evaluation.pictures import save_grid, save_predictions, side_by_side

NUM_CLASSES = 4
COLORS = even_colors()[10 : 10 + NUM_CLASSES]
Seen = tuple[str, np.ndarray, np.ndarray, np.ndarray]  # uid, image, truth, prediction


def seen(index: int, size: tuple[int, int] | None = None) -> Seen:
    """The image of this number; every seventh is wholly ignored, and some share their scores."""
    rng = np.random.default_rng(index)
    height, width = size or (8 + index % 5, 12)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    truth = np.full((height, width), -1) if index % 7 == 3 else rng.integers(-1, NUM_CLASSES, (height, width))
    wrong = rng.random((height, width)) < (index % 10) / 10
    prediction = np.where(wrong, (truth + 1) % NUM_CLASSES, truth.clip(0)).astype(np.uint8)
    return f'{index:08d}', image, truth, prediction


IMAGES = [seen(index) for index in range(40)]


def add(gallery: Gallery, image: Seen) -> None:
    uid, pixels, truth, prediction = image
    gallery.add(uid, *expected_scores(image), lambda: (pixels, truth, prediction))


def gallery_of(images: list[Seen], per_group: int = 6) -> Gallery:
    gallery = Gallery(per_group)
    for image in images:
        add(gallery, image)
    return gallery


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob('*') if file.is_file()}


def written(gallery: Gallery, folder: Path) -> dict[str, bytes]:
    gallery.write(folder, COLORS)
    return files(folder)


def gathered(ranks: list[Gallery], monkeypatch: pytest.MonkeyPatch) -> list[Gallery]:
    """What each rank has after ``gather``; each is given copies, as pickling makes them."""
    held = [(dict(g.scores), {name: list(group) for name, group in g.groups.items()}) for g in ranks]
    monkeypatch.setattr('segrecipes.evaluation.gallery.dist.all_gather_object', lambda mine: held)
    for gallery in ranks:
        gallery.gather()
    return ranks


def uids(gallery: Gallery) -> dict[str, list[str]]:
    return {name: [picture.uid for picture in group] for name, group in gallery.groups.items()}


def expected_scores(image: Seen) -> tuple[float, float]:
    """Mean over the classes that occur in truth or prediction, and the share of labelled pixels that are right."""
    _, _, truth, prediction = image
    valid = truth >= 0
    if not valid.any():
        return np.nan, np.nan
    ious = []
    for label in range(NUM_CLASSES):
        true, predicted = (truth == label) & valid, (prediction == label) & valid
        if (true | predicted).any():
            ious.append(100 * (true & predicted).sum() / (true | predicted).sum())
    return float(np.mean(ious)), 100 * (truth == prediction)[valid].mean()


# What is kept


def test_scores_of_every_image() -> None:
    gallery = gallery_of(IMAGES)
    assert list(gallery.scores) == [uid for uid, *_ in IMAGES]
    for image in IMAGES:
        np.testing.assert_allclose(gallery.scores[image[0]], expected_scores(image), rtol=1e-12)
    assert np.isnan(gallery.scores['00000003']).all()


def test_groups() -> None:
    scores = {image[0]: expected_scores(image)[0] for image in IMAGES if not np.isnan(expected_scores(image)[0])}
    gallery = gallery_of(IMAGES)
    assert list(gallery.groups) == ['best', 'worst', 'sample']
    assert uids(gallery) == {
        'best': sorted(scores, key=lambda uid: (-round(scores[uid], 9), uid))[:6],
        'worst': sorted(scores, key=lambda uid: (round(scores[uid], 9), uid))[:6],
        'sample': sorted((image[0] for image in IMAGES), key=lambda uid: zlib.crc32(uid.encode()))[:6],
    }
    assert [round(scores[uid]) for uid in uids(gallery)['best'][:3]] == [100] * 3  # ties, in the order of their names


def test_a_wholly_ignored_image_is_neither_best_nor_worst() -> None:
    ignored = [image for image in IMAGES if np.isnan(expected_scores(image)[0])]
    assert len(ignored) == 6
    gallery = gallery_of(ignored)
    assert uids(gallery)['best'] == uids(gallery)['worst'] == []
    assert sorted(uids(gallery)['sample']) == [image[0] for image in ignored]


def test_the_sample_does_not_depend_on_the_predictions() -> None:
    others = [(uid, image, truth, (prediction + 1) % NUM_CLASSES) for uid, image, truth, prediction in IMAGES]
    assert uids(gallery_of(IMAGES))['sample'] == uids(gallery_of(others))['sample']
    assert uids(gallery_of(IMAGES))['best'] != uids(gallery_of(others))['best']


@pytest.mark.parametrize('per_group', [1, 6, 100])
def test_any_order_gives_the_same_files(per_group: int, tmp_path: Path) -> None:
    first = written(gathered_alone(gallery_of(IMAGES, per_group)), tmp_path / 'first')
    assert len(first) == 2 + 3 * len({uid for group in uids(gallery_of(IMAGES, per_group)).values() for uid in group})
    for seed in range(5):
        shuffled = random.Random(seed).sample(IMAGES, len(IMAGES))
        assert written(gathered_alone(gallery_of(shuffled, per_group)), tmp_path / str(seed)) == first


def gathered_alone(gallery: Gallery) -> Gallery:
    gallery.gather()
    return gallery


@pytest.mark.parametrize('per_group', [1, 6])
@pytest.mark.parametrize('ranks', [1, 2, 3, 8])
def test_any_split_over_ranks_gives_the_same_files(
    ranks: int, per_group: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last batches are filled up with images of other ranks, so that all have as many."""
    alone = written(gathered_alone(gallery_of(IMAGES, per_group)), tmp_path / 'alone')
    padded = IMAGES + IMAGES[: -len(IMAGES) % ranks]
    split = [gallery_of(padded[rank::ranks], per_group) for rank in range(ranks)]
    for rank, gallery in enumerate(gathered(split, monkeypatch)):
        assert written(gallery, tmp_path / str(rank)) == alone
    backwards = [gallery_of(padded[rank::ranks][::-1], per_group) for rank in reversed(range(ranks))]
    assert written(gathered(backwards, monkeypatch)[0], tmp_path / 'backwards') == alone


def test_a_rank_without_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = written(gathered_alone(gallery_of(IMAGES)), tmp_path / 'alone')
    ranks = gathered([Gallery(), gallery_of(IMAGES)], monkeypatch)
    assert written(ranks[0], tmp_path / 'empty') == alone


def test_an_image_that_comes_twice_counts_once() -> None:
    once, twice = gallery_of(IMAGES[:3]), gallery_of(IMAGES[:3] + IMAGES[:3])
    assert once.scores == twice.scores
    assert uids(once) == uids(twice)
    assert [len(group) for group in uids(twice).values()] == [3, 3, 3]


def test_few_pictures_are_held_at_a_time() -> None:
    gallery = Gallery(per_group=2)
    for image in IMAGES:
        add(gallery, image)
        assert all(len(group) <= 2 for group in gallery.groups.values())
    assert len(gallery.scores) == 40


# Pictures


def test_pictures_are_as_they_were_given() -> None:
    gallery = gallery_of(IMAGES)
    given = {image[0]: image for image in IMAGES}
    for picture in (picture for group in gallery.groups.values() for picture in group):
        _, image, truth, prediction = given[picture.uid]
        np.testing.assert_array_equal(picture.image, image)
        np.testing.assert_array_equal(picture.truth, np.where(truth < 0, 255, truth))
        np.testing.assert_array_equal(picture.prediction, prediction)
        assert {part.dtype for part in picture[3:]} == {np.dtype(np.uint8)}
        np.testing.assert_equal((picture.mean_iou, picture.pixel_accuracy), gallery.scores[picture.uid])


def test_pictures_are_copies() -> None:
    """A batch's memory may be used again."""
    image, truth, prediction = (part.copy() for part in IMAGES[0][1:])
    gallery = gallery_of([('given', image, truth, prediction)])
    for part in (image, truth, prediction):
        part[:] = 0
    np.testing.assert_array_equal(gallery.groups['best'][0].image, IMAGES[0][1])
    np.testing.assert_array_equal(gallery.groups['best'][0].truth, np.where(IMAGES[0][2] < 0, 255, IMAGES[0][2]))
    np.testing.assert_array_equal(gallery.groups['best'][0].prediction, IMAGES[0][3])


@pytest.mark.parametrize(
    ('size', 'shrunk'), [((1500, 2048), (750, 1024)), ((2048, 10), (1024, 5)), ((3000, 1), (1024, 1))]
)
def test_large_pictures_are_shrunk(size: tuple[int, int], shrunk: tuple[int, int]) -> None:
    """Labels to their nearest pixel, never to one in between; the scores are those of all pixels."""
    uid, image, truth, prediction = seen(1, size)
    truth[:, : size[1] // 2], image[:] = 3, 77
    gallery = gallery_of([(uid, image, truth, prediction)])
    picture = gallery.groups['best'][0]
    assert picture.image.shape == (*shrunk, 3)
    assert picture.truth.shape == picture.prediction.shape == shrunk
    assert (picture.image == 77).all()
    assert set(np.unique(picture.truth)) <= {0, 1, 2, 3, 255}
    assert (picture.truth[:, : shrunk[1] // 2] == 3).all()
    rows = np.floor(np.arange(shrunk[0]) * (size[0] / shrunk[0])).astype(int)
    columns = np.floor(np.arange(shrunk[1]) * (size[1] / shrunk[1])).astype(int)
    np.testing.assert_array_equal(picture.prediction, prediction[rows][:, columns])
    np.testing.assert_allclose(gallery.scores[uid], expected_scores((uid, image, truth, prediction)), rtol=1e-12)


def test_a_picture_at_the_limit_stays() -> None:
    gallery = gallery_of([seen(2, (10, LONG_SIDE))])
    np.testing.assert_array_equal(gallery.groups['best'][0].image, seen(2, (10, LONG_SIDE))[1])


def test_a_view_of_another_size_is_shown_in_the_size_of_its_truth() -> None:
    """What the network was shown may be larger or smaller than the image."""
    for factor in (2, 0.5):
        uid, _, truth, prediction = seen(1, (12, 20))
        view = np.full((int(12 * factor), int(20 * factor), 3), 90, np.uint8)
        picture = gallery_of([(uid, view, truth, prediction)]).groups['best'][0]
        assert picture.image.shape == (12, 20, 3)
        assert (picture.image == 90).all()


# What is written


def test_images_json_and_its_files(tmp_path: Path) -> None:
    gallery = gathered_alone(gallery_of(IMAGES, 12))
    names = written(gallery, tmp_path)
    entries = json.loads((tmp_path / 'images.json').read_text())['images']
    pictures = {picture.uid: picture for group in gallery.groups.values() for picture in group}
    assert sorted(entry['uid'] for entry in entries) == sorted(pictures)
    mentioned = {'images.json', 'image_scores.csv'}
    for entry in entries:
        picture = pictures[entry['uid']]
        assert set(entry) == {'uid', 'groups', 'mean_iou', 'pixel_accuracy', 'image', 'truth', 'prediction'}
        assert entry['groups'] == [name for name in GROUPS if entry['uid'] in uids(gallery)[name]]
        assert entry['mean_iou'] == (None if np.isnan(picture.mean_iou) else picture.mean_iou)
        assert entry['pixel_accuracy'] == (None if np.isnan(picture.mean_iou) else picture.pixel_accuracy)
        assert entry['image'] == f'images/{entry["uid"]}.jpg'
        assert entry['truth'] == f'images/{entry["uid"]}-truth.png'
        assert entry['prediction'] == f'images/{entry["uid"]}-prediction.png'
        with Image.open(tmp_path / entry['image']) as image:
            assert (image.format, image.size) == ('JPEG', picture.image.shape[1::-1])
        for part in ('truth', 'prediction'):
            with Image.open(tmp_path / entry[part]) as image:
                assert (image.format, image.mode) == ('PNG', 'P')
                np.testing.assert_array_equal(np.array(image), getattr(picture, part))
                labels, shown = getattr(picture, part), np.array(image.convert('RGBA'))
                np.testing.assert_array_equal(shown[..., 3], np.where(labels == 255, 0, 255))  # ignored is nothing
                np.testing.assert_array_equal(shown[labels < 255, :3], np.array(COLORS)[labels[labels < 255]])
        mentioned |= {entry['image'], entry['truth'], entry['prediction']}
    assert mentioned == set(names)
    assert any(entry['mean_iou'] is None for entry in entries)  # a sample that is wholly ignored


def test_jpeg_looks_like_the_image(tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.linspace(0, 255, 64).astype(np.uint8)[:, None, None], (64, 48, 3))
    labels = np.zeros((64, 48), int)
    written(gallery_of([('ramp', ramp, labels, labels.astype(np.uint8))]), tmp_path)
    with Image.open(tmp_path / 'images' / 'ramp.jpg') as image:
        assert np.abs(np.array(image).astype(int) - ramp).max() < 12


def test_scores_csv(tmp_path: Path) -> None:
    gallery = gathered_alone(gallery_of(IMAGES[::-1]))
    gallery.write(tmp_path, COLORS)
    header, *rows = list(csv.reader((tmp_path / 'image_scores.csv').open(newline='')))
    assert header == ['uid', 'mean_iou', 'pixel_accuracy']
    assert [row[0] for row in rows] == [image[0] for image in IMAGES]
    for row, image in zip(rows, IMAGES):
        wanted = expected_scores(image)
        assert row[1:] == (['', ''] if np.isnan(wanted[0]) else [f'{value:.2f}' for value in wanted])


def test_pictures_of_before_are_removed(tmp_path: Path) -> None:
    written(gallery_of(IMAGES[:20]), tmp_path)
    (tmp_path / 'scores.json').write_text('{}')
    assert written(gathered_alone(gallery_of(IMAGES[20:])), tmp_path / 'fresh') == {
        name: content
        for name, content in written(gathered_alone(gallery_of(IMAGES[20:])), tmp_path).items()
        if name != 'scores.json' and not name.startswith('fresh')
    }
    assert (tmp_path / 'scores.json').exists()


def test_names_with_slashes_stay_in_their_folder(tmp_path: Path) -> None:
    _, image, truth, prediction = IMAGES[0]
    names = set(written(gallery_of([('../a/b', image, truth, prediction)]), tmp_path / 'out'))
    assert names == {
        'images.json', 'image_scores.csv',
        'images/.._a_b.jpg', 'images/.._a_b-truth.png', 'images/.._a_b-prediction.png',
    }  # fmt: skip
    assert [file.name for file in tmp_path.iterdir()] == ['out']
    assert json.loads((tmp_path / 'out' / 'images.json').read_text())['images'][0]['uid'] == '../a/b'


# Colours


def test_side_by_side() -> None:
    picture = gallery_of([IMAGES[1]]).groups['best'][0]
    row = side_by_side(picture, COLORS)
    height, width = picture.truth.shape
    assert (row.shape, row.dtype) == ((height, 3 * width, 3), np.uint8)
    for index, part in enumerate(
        (picture.image, colorize(picture.truth, COLORS), colorize(picture.prediction, COLORS))
    ):
        np.testing.assert_array_equal(row[:, index * width : (index + 1) * width], part)


@pytest.mark.parametrize('count', [1, 3, 4, 7])
def test_grid(count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The prediction is striped where nothing is labelled."""
    drawn: dict[str, Any] = {}

    def keep(path: Path, rows: Any, headings: Any, labels: Any, *more: Any) -> None:
        drawn.update(rows=rows, headings=headings, labels=labels)
        save_grid(path, rows, headings, labels, *more)

    monkeypatch.setattr('segrecipes.evaluation.pictures.save_grid', keep)
    pictures = gallery_of(IMAGES[:count], 10).groups['sample']
    save_predictions(tmp_path / 'new' / 'grid.png', pictures, ('sky', 'ground', 'tree', 'boat'), COLORS, 'title')
    assert drawn['headings'] == ('image', 'ground truth', 'prediction')
    assert len(drawn['rows']) == count
    for picture, (image, truth, prediction) in zip(pictures, drawn['rows']):
        np.testing.assert_array_equal(image, picture.image)
        scored = np.where(picture.truth == 255, 255, picture.prediction).astype(np.uint8)
        np.testing.assert_array_equal(truth, overlay(picture.image, picture.truth, COLORS, 0.7))
        np.testing.assert_array_equal(prediction, overlay(picture.image, scored, COLORS, 0.7))
    with Image.open(tmp_path / 'new' / 'grid.png') as grid:
        grid.load()
        assert grid.format == 'PNG'
    assert [file.name for file in (tmp_path / 'new').iterdir()] == ['grid.png']
