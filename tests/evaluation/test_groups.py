"""The Dice of a group's images together, against a slow reference over all their pixels at once."""

import json

import numpy as np
import pytest
import torch
from rich.console import Console

from segrecipes.evaluation.groups import Groups
from segrecipes.evaluation.metrics import score_predictions
from segrecipes.evaluation.scores import Scores

NUM_CLASSES = 4
Slices = dict[str, tuple[np.ndarray, np.ndarray]]  # by uid: prediction, truth with -1 ignored


def slices(seed: int = 0) -> Slices:
    """Of five groups of different lengths; class 3 is in the last group alone, and class 2 nowhere in the first."""
    rng = np.random.default_rng(seed)
    found = {}
    for group, length in enumerate((3, 1, 4, 2, 2)):
        for number in range(length):
            truth = rng.integers(0, 2 if group == 0 else 3, (7, 5))
            truth[:2] = 3 if group == 4 else truth[:2]
            prediction = np.where(rng.random((7, 5)) < 0.3, rng.permutation(truth.ravel()).reshape(7, 5), truth)
            found[f'p{group}_{number}'] = prediction, np.where(rng.random((7, 5)) < 0.2, -1, truth)
    return found


def group_of(uid: str) -> str | None:
    return uid.split('_')[0] if '_' in uid else None


def told(images: Slices) -> Groups:
    groups = Groups(group_of)
    for uid, (prediction, truth) in images.items():
        scored = score_predictions([torch.from_numpy(prediction)], [torch.from_numpy(truth)], NUM_CLASSES)
        groups.add(uid, scored.counts[0].numpy())
    return groups


def reference(images: Slices) -> dict[str, list[float]]:
    """Pixel by pixel, of those labelled."""
    found: dict[str, list[float]] = {}
    for group in sorted({uid.split('_')[0] for uid in images}):
        pixels = [
            pair
            for uid, (prediction, truth) in images.items()
            if uid.split('_')[0] == group
            for pair in zip(prediction.ravel(), truth.ravel())
            if pair[1] >= 0
        ]
        for label in range(NUM_CLASSES):
            both = sum(p == label and t == label for p, t in pixels)
            either = sum(p == label for p, _ in pixels) + sum(t == label for _, t in pixels)
            found.setdefault(group, []).append(100 * 2 * both / either if either else np.nan)
    return found


def test_dice_of_whole_volumes() -> None:
    found, expected = told(slices()).dice(), reference(slices())
    assert [*found] == [*expected] == ['p0', 'p1', 'p2', 'p3', 'p4']
    for group, dice in found.items():
        np.testing.assert_allclose(dice, expected[group], rtol=1e-12)
    assert np.isnan(found['p0'][[2, 3]]).all() and not np.isnan(found['p4']).any()
    of_slices = np.nanmean([values[1] for uid in slices() for values in reference({uid: slices()[uid]}).values()])
    assert abs(of_slices - np.nanmean([dice[1] for dice in found.values()])) > 0.1  # which is another figure


def test_images_without_a_group_are_left_out() -> None:
    images = slices()
    assert [*told({**images, 'alone': images['p0_0']}).dice()] == ['p0', 'p1', 'p2', 'p3', 'p4']
    assert told({'alone': images['p0_0']}).dice() == {}


@pytest.mark.parametrize('ranks', [1, 2, 3])
def test_any_split_over_ranks(ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A volume's slices are on all of them, and the last batches are filled up with what another rank has."""
    uids = [*slices()] + [*slices()][: -len(slices()) % ranks + ranks]
    parts = [told({uid: slices()[uid] for uid in uids[rank::ranks]}) for rank in range(ranks)]
    held = [dict(part.counts) for part in parts]
    monkeypatch.setattr('segrecipes.evaluation.groups.dist.all_gather_object', lambda mine: held)
    for part in parts:
        part.gather()
        for group, dice in part.dice().items():
            np.testing.assert_allclose(dice, reference(slices())[group], rtol=1e-12)


NAMES = ('background', 'tumour', 'rare', 'nowhere')
DICE = {
    'a': np.array([99.0, 80.0, np.nan, np.nan]),
    'b': np.array([98.0, 50.0, 10.0, np.nan]),
    'c': np.array([97.0, 20.0, 30.0, np.nan]),
    'd': np.array([97.0, 70.0, np.nan, np.nan]),
}
WARNING = 'This split leaks.'
SCORES = Scores(np.eye(4, dtype=np.int64), NAMES, 9, 'fit-ss', group_dice=DICE, warning=WARNING)


def test_mean_and_median_leave_out_what_is_nowhere() -> None:
    assert {name: values.tolist()[:3] for name, values in SCORES.dice.items()} == {
        'mean_dice': [97.75, 55.0, 20.0],
        'median_dice': [97.5, 60.0, 20.0],
    }
    assert all(np.isnan(values[3]) for values in SCORES.dice.values())


def test_they_are_written_and_read() -> None:
    written = json.loads(json.dumps(SCORES.to_dict(), allow_nan=False))
    assert written['warning'] == WARNING
    assert written['group_dice']['b'] == [98.0, 50.0, 10.0, None]
    assert (written['classes'][1]['mean_dice'], written['classes'][1]['median_dice']) == (55.0, 60.0)
    assert written['classes'][3]['mean_dice'] is None
    again = Scores.from_dict(written)
    assert again.to_dict() == written
    assert again.warning == WARNING
    lines = SCORES.to_csv().splitlines()
    assert lines[0] == 'class,iou,accuracy,pixel_share,mean_dice,median_dice'
    assert lines[2] == 'tumour,100.00,100.00,25.00,55.00,60.00'
    assert lines[4] == 'nowhere,100.00,100.00,25.00,,'
    assert {line.count(',') for line in lines} == {5}
    with pytest.raises(ValueError, match='group_dice'):
        Scores.from_dict({**written, 'group_dice': {'a': [1.0]}})


def test_they_are_printed() -> None:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(SCORES.table())
    printed = capture.get()
    [tumour] = [line for line in printed.splitlines() if 'tumour' in line]
    assert '55.00' in tumour and '60.00' in tumour
    assert 'of 4 groups' in printed and WARNING in printed
    plain = Scores(np.eye(4, dtype=np.int64), NAMES, 9, 'fit-ss')
    assert not {'warning', 'group_dice'} & plain.to_dict().keys()
    assert plain.dice == {}
