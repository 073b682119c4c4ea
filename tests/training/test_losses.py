"""Losses, and what the classes weigh in them, in runs."""

from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from helpers.runs import arguments, launch, run
from omegaconf import OmegaConf
from PIL import Image

from segrecipes.training.tasks import segmentation

pytestmark = pytest.mark.usefixtures('clean_shared_memory')

SAVED = 'save_interval=1ba', 'max_duration=1ba', 'algorithms={}', 'eval_interval=0ba'


def counted_by_hand(folder: Path) -> tuple[list[float], list[float]]:
    """Inverse and median frequency weights of the drawn masks' labels 1 … 8, image by image."""
    pixels, around = np.zeros(8), np.zeros(8)
    for file in sorted(folder.rglob('annotations/training/*.png')):
        mask = np.asarray(Image.open(file))
        for index in range(8):
            count = (mask == index + 1).sum()
            pixels[index] += count
            around[index] += (mask != 0).sum() if count else 0
    assert pixels.all()
    inverse, shares = pixels.sum() / pixels, pixels / around
    return (inverse / inverse.mean()).tolist(), (np.median(shares) / shares).tolist()


def saved_weights(folder: Path) -> list[float]:
    return list(OmegaConf.load(folder / 'config.yaml').model.class_weights)


@pytest.mark.parametrize('mds', [False, True], ids=['folder', 'mds'])
def test_class_weights_of_the_training_masks(
    mds: bool, synthetic_folder: Path, synthetic_mds: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data = synthetic_mds if mds else synthetic_folder
    for name, expected in zip(('inverse', 'median_frequency'), counted_by_hand(synthetic_folder)):
        save = f'save_folder={tmp_path}/{name}'
        run(arguments(data, *SAVED, save, f'model.class_weights={name}', mds=mds))
        assert saved_weights(tmp_path / name) == pytest.approx(expected, rel=1e-5)
        shown = capsys.readouterr().out
        assert f'model.class_weights={name} of 12 training masks: sky {expected[0]:.3g}, ground ' in shown


def test_two_ranks_count_as_one_and_a_kept_config_counts_no_more(synthetic_folder: Path, tmp_path: Path) -> None:
    argv = arguments(synthetic_folder, *SAVED, f'save_folder={tmp_path}/two', 'model.class_weights=inverse')
    process = launch('composer', '-n', '2', 'main.py', *argv)
    assert process.returncode == 0, process.stderr
    assert process.stdout.count('model.class_weights=inverse of 12 training masks: ') == 1
    assert saved_weights(tmp_path / 'two') == pytest.approx(counted_by_hand(synthetic_folder)[0], rel=1e-5)
    run([str(tmp_path / 'two/config.yaml'), f'save_folder={tmp_path}/again'])
    assert saved_weights(tmp_path / 'again') == saved_weights(tmp_path / 'two')


@pytest.mark.parametrize('microbatch', [4, 2])
def test_all_losses_with_mixup_and_what_they_are_divided_by(
    microbatch: int, synthetic_folder: Path, tmp_path: Path
) -> None:
    weights = [0.5, 2, 1, 0.25, 3, 1, 1, 4]
    seen: list[tuple[Any, dict[str, Any], dict[str, float]]] = []
    real = segmentation.segmentation_loss

    def noting(logits: torch.Tensor, target: Any, **options: Any) -> dict[str, torch.Tensor]:
        losses = real(logits, target, **options)
        seen.append((target, options, {name: loss.item() for name, loss in losses.items()}))  # Composer scales in place
        return losses

    with mock.patch.object(segmentation, 'segmentation_loss', noting):
        run(arguments(
            synthetic_folder, 'max_duration=1ba', f'model.class_weights={weights}', 'algorithms.mixup={}',
            'model.loss={cross_entropy: 1, dice: 0.5, focal: 2, lovasz: 0.5}', 'model.focal_gamma=1.5',
            f'device_train_microbatch_size={microbatch}', 'eval_interval=0ba',
        ))  # fmt: skip
    assert len(seen) == 4 // microbatch
    labels = torch.cat([target.labels for target, _, _ in seen])
    assert labels.shape == (4, 32, 32)
    total = torch.tensor(weights)[labels[labels != -1]].sum()
    for _, options, parts in seen:
        assert options['pixels_per_image'].item() == pytest.approx(total.item() / 4)
        assert options['focal_gamma'] == 1.5
        assert parts.keys() == {'total', 'cross_entropy', 'dice', 'focal', 'lovasz'}
        expected = parts['cross_entropy'] + 0.5 * parts['dice'] + 2 * parts['focal'] + 0.5 * parts['lovasz']
        assert parts['total'] == pytest.approx(expected, rel=1e-5)


def test_hard_pixels_train(synthetic_folder: Path) -> None:
    trainer = run(arguments(synthetic_folder, 'max_duration=1ba', 'model.ohem={min_kept: 10}', 'eval_interval=0ba'))
    assert trainer.state.timestamp.batch == 1


def test_an_evaluation_counts_nothing(synthetic_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run(arguments(synthetic_folder, *SAVED, f'save_folder={tmp_path}'))
    run(arguments(
        synthetic_folder, f'load_path={tmp_path}/latest-rank0.pt', 'is_train=false', 'model.class_weights=inverse'
    ))  # fmt: skip
    assert 'training masks' not in capsys.readouterr().out
