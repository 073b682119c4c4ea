"""The figures of an evaluation, against mmsegmentation's and against the benchmark's definition, written out."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from segrecipes.base.palette import even_colors
from segrecipes.datasets.table import get_dataset
from segrecipes.evaluation.metrics import MIoU, confusion_matrix, score_predictions
from segrecipes.evaluation.scores import Scores, comparison
from segrecipes.models.mmseg import ensure_ops

ensure_ops()

ADE20K_SAMPLES = Path(__file__).parents[3] / 'shared' / 'data' / 'ade20k_samples' / 'sampleData'
Pairs = list[tuple[np.ndarray, np.ndarray]]  # (prediction 0 … C-1, truth -1 … C-1), (H, W) integers of any size


def scores_of(pairs: Pairs, num_classes: int) -> Scores:
    metric = MIoU(num_classes)
    for prediction, truth in pairs:
        metric.update(score_predictions([torch.from_numpy(prediction)], [torch.from_numpy(truth)], num_classes))
    names = tuple(f'class {index}' for index in range(num_classes))
    return Scores(metric.confusion.numpy(), names, int(metric.images), 'ade20k-ss')


def mmsegmentations(pairs: Pairs, num_classes: int) -> dict[str, np.ndarray]:
    """Per class IoU and Acc, and aAcc, as fractions.

    It counts in float32, which is exact up to 2^24; here the counts are divided in float64.
    """
    from mmseg.evaluation.metrics import IoUMetric

    areas = [
        IoUMetric.intersect_and_union(
            torch.from_numpy(prediction), torch.from_numpy(np.where(truth < 0, 255, truth)), num_classes, 255
        )
        for prediction, truth in pairs
    ]
    totals = [torch.stack(column).double().sum(dim=0) for column in zip(*areas)]
    return dict(IoUMetric.total_area_to_metrics(*totals))  # type: ignore[arg-type]


def benchmarks(pairs: Pairs, num_classes: int) -> dict[str, Any]:
    """ADE20K's development kit, with its labels of 1 … C and 0 for what is not labelled, in percent.

    Histograms of the intersection and the union of each image, of labelled pixels only, are summed over the set.
    """
    intersection, union = np.zeros(num_classes + 1), np.zeros(num_classes + 1)
    correct = labelled = 0
    for prediction, truth in pairs:
        is_labelled = truth + 1 > 0
        predicted, true = (prediction + 1)[is_labelled], (truth + 1)[is_labelled]
        correct += (predicted == true).sum()
        labelled += is_labelled.sum()
        for label in range(1, num_classes + 1):
            intersection[label] += ((predicted == label) & (true == label)).sum()
            union[label] += ((predicted == label) | (true == label)).sum()
    occurs = union[1:] > 0
    iou = np.full(num_classes, np.nan)
    iou[occurs] = 100 * intersection[1:][occurs] / union[1:][occurs]
    accuracy = 100 * correct / labelled
    mean = sum(iou[occurs]) / occurs.sum()
    return {'iou': iou, 'pixel_accuracy': accuracy, 'mean_iou': mean, 'final_score': (accuracy + mean) / 2}


def random_pairs(num_classes: int, sizes: Sequence[tuple[int, int]], seed: int = 0) -> Pairs:
    """Mostly right; a tenth is ignored. Of ten classes or more the last is in no truth, and the one before nowhere."""
    rng = np.random.default_rng(seed)
    true = num_classes - 2 if num_classes >= 10 else num_classes
    legal = np.array([label for label in range(num_classes) if label < true or label == num_classes - 1])
    pairs = []
    for size in sizes:
        truth = rng.integers(0, true, size)
        prediction = np.where(rng.random(size) < 0.6, truth, rng.choice(legal, size))
        pairs.append((prediction, np.where(rng.random(size) < 0.1, -1, truth)))
    return pairs


RAGGED = [(40, 64), (33, 7), (1, 50), (50, 1), (97, 31)]


def real_pairs() -> Pairs:
    """The three images of ADE20K's development kit; "predicted": their masks, moved and with two classes mixed up."""
    if not ADE20K_SAMPLES.is_dir():
        pytest.skip('the three public ADE20K images are not beside the checkout')
    pairs = []
    for file in sorted((ADE20K_SAMPLES / 'annotations').glob('*.png')):
        truth = np.array(Image.open(file)).astype(np.int64) - 1
        prediction = np.roll(truth, (5, -9), axis=(0, 1)).clip(min=0)
        prediction[prediction == 2] = 5
        prediction[:20] = 149
        pairs.append((prediction, truth))
    assert len(pairs) == 3
    return pairs


CASES = {
    'two classes': (lambda: random_pairs(2, RAGGED), 2),
    'five classes': (lambda: random_pairs(5, RAGGED), 5),
    'absent classes': (lambda: random_pairs(12, RAGGED), 12),
    '150 classes': (lambda: random_pairs(150, RAGGED), 150),
    'few of 150': (lambda: random_pairs(6, RAGGED), 150),
    'one pixel': (lambda: random_pairs(3, [(1, 1)], seed=1), 3),
    'one right pixel': (lambda: [(np.array([[1]]), np.array([[1]]))], 3),
    'one wrong pixel': (lambda: [(np.array([[2]]), np.array([[1]]))], 3),
    'an ignored image': (lambda: [*random_pairs(5, RAGGED), (np.full((9, 9), 4), np.full((9, 9), -1))], 5),
    'all right': (lambda: [(truth.clip(0), truth) for _, truth in random_pairs(5, RAGGED)], 5),
    'all wrong': (lambda: [((truth + 1) % 5, truth) for _, truth in random_pairs(5, RAGGED)], 5),
    'real images': (real_pairs, 150),
}


@pytest.mark.parametrize('case', CASES)
def test_equal_mmsegmentations(case: str) -> None:
    make, num_classes = CASES[case]
    pairs = make()
    scores, theirs = scores_of(pairs, num_classes), mmsegmentations(pairs, num_classes)
    close = {'rtol': 1e-9, 'atol': 0, 'equal_nan': True}
    np.testing.assert_allclose(scores.iou, 100 * theirs['IoU'], **close)
    np.testing.assert_allclose(scores.accuracy, 100 * theirs['Acc'], **close)
    np.testing.assert_allclose(scores.pixel_accuracy, 100 * theirs['aAcc'], **close)
    np.testing.assert_allclose(scores.mean_iou, 100 * np.nanmean(theirs['IoU']), **close)
    np.testing.assert_allclose(scores.mean_accuracy, 100 * np.nanmean(theirs['Acc']), **close)
    assert scores.images == len(pairs)


@pytest.mark.parametrize('case', CASES)
def test_equal_the_benchmarks(case: str) -> None:
    make, num_classes = CASES[case]
    pairs = make()
    scores, theirs = scores_of(pairs, num_classes), benchmarks(pairs, num_classes)
    for name, value in theirs.items():
        np.testing.assert_allclose(getattr(scores, name), value, rtol=1e-9, atol=0, err_msg=name)


def test_the_cases_cover_the_conventions() -> None:
    scores = scores_of(random_pairs(12, RAGGED), 12)
    assert scores.iou[11] == 0  # predicted, in no truth: no IoU is 0
    assert np.isnan(scores.accuracy[11])
    assert np.isnan(scores.iou[10])  # nowhere: undefined, and left out of the mean
    assert np.isnan(scores.accuracy[10])
    assert scores.mean_iou == pytest.approx(scores.iou[[*range(10), 11]].mean())
    assert scores.mean_accuracy == pytest.approx(scores.accuracy[:10].mean())
    assert 20 < scores.mean_iou < 60


def test_real_images_are_what_the_test_takes_them_for() -> None:
    scores = scores_of(real_pairs(), 150)
    assert 10 < (~np.isnan(scores.iou)).sum() < 100
    assert 50 < scores.pixel_accuracy < 60  # the sky was taken away
    assert 10 < scores.mean_iou < scores.mean_accuracy < 90


def test_counted_a_piece_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    (prediction, truth), *_ = random_pairs(12, [(40, 64)])
    whole = confusion_matrix(torch.from_numpy(prediction), torch.from_numpy(truth), 12)
    monkeypatch.setattr('segrecipes.evaluation.metrics.COUNTED_AT_ONCE', 37)
    parts = confusion_matrix(torch.from_numpy(prediction).byte(), torch.from_numpy(truth), 12)
    assert torch.equal(whole, parts)
    wanted = torch.zeros(12, 12, dtype=torch.int64)
    for predicted, true in zip(prediction.flat, truth.flat):
        wanted[true, predicted] += int(true >= 0)
    assert torch.equal(whole, wanted)
    assert wanted.sum() == (truth >= 0).sum()


# By hand

CONFUSION = np.array([[6, 2, 0, 0], [1, 3, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]])  # true class by predicted class
SCORES = Scores(CONFUSION, ('sky', 'a "tree", tall', 'car', 'boat'), 7, 'ade20k-ss', 'ema', epoch=3, batch=12)
NOTHING = Scores(np.zeros((2, 2), np.int64), ('sky', 'tree'), 1, 'slide@32')


def test_figures_by_hand() -> None:
    np.testing.assert_allclose(SCORES.iou, [100 * 6 / 9, 100 * 3 / 7, 0, np.nan])
    np.testing.assert_allclose(SCORES.accuracy, [75, 60, np.nan, np.nan])
    np.testing.assert_allclose(SCORES.pixel_share, [100 * 8 / 13, 100 * 5 / 13, 0, 0])
    np.testing.assert_allclose(SCORES.predicted_share, [100 * 7 / 13, 100 * 5 / 13, 100 / 13, 0])
    assert SCORES.labelled.tolist() == [8, 5, 0, 0]
    assert SCORES.pixel_accuracy == pytest.approx(100 * 9 / 13)
    assert SCORES.mean_accuracy == pytest.approx(67.5)
    mean_iou = (100 * 6 / 9 + 100 * 3 / 7 + 0) / 3
    assert SCORES.mean_iou == pytest.approx(mean_iou)
    assert SCORES.final_score == pytest.approx((100 * 9 / 13 + mean_iou) / 2)
    assert SCORES.summary() == {
        'pixel_accuracy': SCORES.pixel_accuracy,
        'mean_accuracy': SCORES.mean_accuracy,
        'mean_iou': SCORES.mean_iou,
        'final_score': SCORES.final_score,
    }


def test_nothing_labelled_has_no_figures() -> None:
    assert np.isnan([*NOTHING.summary().values(), *NOTHING.iou, *NOTHING.accuracy, *NOTHING.pixel_share]).all()


# What is written


def test_json(tmp_path: Path) -> None:
    SCORES.write(tmp_path / 'new' / 'folder')
    text = (tmp_path / 'new' / 'folder' / 'scores.json').read_text()
    written = json.loads(text)
    assert written == SCORES.to_dict()
    assert {key: written[key] for key in ('protocol', 'weights', 'epoch', 'batch', 'images')} == {
        'protocol': 'ade20k-ss', 'weights': 'ema', 'epoch': 3, 'batch': 12, 'images': 7,
    }  # fmt: skip
    assert {name: written[name] for name in SCORES.summary()} == SCORES.summary()
    assert written['confusion'] == CONFUSION.tolist()
    assert written['classes'][1] == {
        'name': 'a "tree", tall',
        'color': list(even_colors()[1]),
        'iou': pytest.approx(100 * 3 / 7),
        'accuracy': pytest.approx(60),
        'pixel_share': pytest.approx(100 * 5 / 13),
        'predicted_share': pytest.approx(100 * 5 / 13),
    }
    assert [entry['iou'] for entry in written['classes']][2:] == [0, None]
    assert [entry['accuracy'] for entry in written['classes']][2:] == [None, None]
    assert sorted(file.name for file in (tmp_path / 'new' / 'folder').iterdir()) == ['scores.csv', 'scores.json']


def test_json_has_no_nan(tmp_path: Path) -> None:
    NOTHING.write(tmp_path)
    text = (tmp_path / 'scores.json').read_text()
    written = json.loads(text, parse_constant=lambda name: pytest.fail(f'{name} is no JSON'))
    assert {written[name] for name in NOTHING.summary()} == {None}
    assert {value for entry in written['classes'] for key, value in entry.items() if key not in ('name', 'color')} == {
        None
    }


def test_the_figures_can_be_made_again_from_the_json() -> None:
    pairs = random_pairs(12, RAGGED)
    scores = scores_of(pairs, 12)
    written = json.loads(json.dumps(scores.to_dict()))
    again = Scores.from_dict(written)
    assert {name: written[name] for name in again.summary()} == again.summary()
    np.testing.assert_array_equal(again.confusion, scores.confusion)
    assert again.to_dict() == written
    assert (again.class_names, again.colors) == (scores.class_names, scores.colors)


@pytest.mark.parametrize(
    ('change', 'error'),
    [
        ({'confusion': [[1, 2]]}, ValueError),
        ({'confusion': [['x'] * 4] * 4}, ValueError),
        ({'classes': []}, ValueError),
        ({'classes': [{'name': 'sky'}]}, ValueError),
        ({'classes': None}, TypeError),
        ({'images': None}, TypeError),
    ],
)
def test_another_json_is_refused(change: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        Scores.from_dict(SCORES.to_dict() | change)
    for name in change:
        with pytest.raises(KeyError):
            Scores.from_dict({key: value for key, value in SCORES.to_dict().items() if key != name})


def test_csv() -> None:
    assert list(csv.reader(io.StringIO(SCORES.to_csv()))) == [
        ['class', 'iou', 'accuracy', 'pixel_share'],
        ['sky', '66.67', '75.00', '61.54'],
        ['a "tree", tall', '42.86', '60.00', '38.46'],
        ['car', '0.00', '', '0.00'],
        ['boat', '', '', '0.00'],
        ['mean', '36.51', '67.50', ''],
        ['pixel accuracy', '', '69.23', ''],
    ]


def test_written_files_replace_what_was_there(tmp_path: Path) -> None:
    NOTHING.write(tmp_path)
    SCORES.write(tmp_path)
    assert json.loads((tmp_path / 'scores.json').read_text())['images'] == 7
    assert (tmp_path / 'scores.csv').read_bytes() == SCORES.to_csv().encode()


# What is printed


def printed(table: Any) -> str:
    console = Console(width=200, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined]


def cells(table: Any) -> list[list[str]]:
    lines = printed(table).replace('┃', '│').splitlines()
    return [[cell.strip() for cell in line.strip('│').split('│')] for line in lines if '│' in line]


def test_table_of_classes() -> None:
    assert 'ade20k-ss, ema weights, 7 images' in printed(SCORES.table())
    assert cells(SCORES.table()) == [
        ['class', 'IoU', 'accuracy', 'share of pixels'],
        ['sky', '66.67', '75.00', '61.54'],
        ['a "tree", tall', '42.86', '60.00', '38.46'],
        ['car', '0.00', '', '0.00'],
        ['boat', '', '', '0.00'],
        ['mean', '36.51', '67.50', ''],
    ]


def test_remarks() -> None:
    assert NOTHING.remarks() == [
        'no pixel of these images has a class: there is nothing to score, and no figure is defined'
    ]
    names = ('sky', 'tree', 'car', 'boat')
    confusion = np.array([[5, 0, 1, 0], [2, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    assert Scores(confusion, names, 1, 'slide').remarks() == [
        'never predicted, though labelled: tree',
        'in no mask, yet predicted: car',
        'neither labelled nor predicted, and in no mean: boat',
    ]
    assert Scores(np.eye(4, dtype=np.int64), names, 1, 'slide').remarks() == []
    many = Scores(np.diag([1] + [0] * 20), tuple(f'c{index}' for index in range(21)), 1, 'slide').remarks()
    assert many == [
        f'neither labelled nor predicted, and in no mean: {", ".join(f"c{i}" for i in range(1, 13))} and 8 more'
    ]


def test_one_line() -> None:
    assert str(SCORES) == (
        'ade20k-ss, ema weights, 7 images: pixel accuracy 69.23, mean accuracy 67.50, mean iou 36.51, final score 52.87'
    )


def test_table_of_evaluations() -> None:
    assert cells(comparison([SCORES, NOTHING])) == [
        ['protocol', 'weights', 'images', 'pixel acc.', 'mean acc.', 'mean IoU', 'final'],
        ['ade20k-ss', 'ema', '7', '69.23', '67.50', '36.51', '52.87'],
        ['slide@32', 'raw', '1', '', '', '', ''],
    ]


def test_150_class_names_fit_their_rows() -> None:
    names = get_dataset('ade20k').classes
    scores = Scores(np.eye(150, dtype=np.int64), names, 1, 'ade20k-ss')
    assert [row[0] for row in csv.reader(io.StringIO(scores.to_csv()))][1:151] == list(names)
    assert [entry['name'] for entry in scores.to_dict()['classes']] == list(names)
