"""The recipes for few pictures, run for real: each of their parts is seen at work, and fits the run's length."""

import json
from pathlib import Path
from typing import Any

import pytest
from composer.algorithms import EMA, MixUp
from helpers.runs import arguments, run

BATCHES = 20


def trained(folder: Path, out: Path, *more: str) -> tuple[Any, list[dict[str, Any]]]:
    """The trainer, and what was logged of each batch."""
    argv = [one for one in arguments(folder) if not one.startswith(('save_folder', 'callbacks', 'optimizer.lr'))]
    keep = ('callbacks={lr_monitor: {}}', 'optimizer.lr=0.01', 'model.backbone_weights=null', 'eval_interval=1dur')
    trainer = run([*argv, *keep, f'max_duration={BATCHES}ba', f'save_folder={out}', 'save_best=false', *more])
    lines = [json.loads(line) for line in (out / 'history.jsonl').read_text().splitlines()]
    return trainer, [line['metrics'] for line in lines if 'loss/train/total' in line['metrics']]


def found(trainer: Any, kind: type) -> Any:
    return next(one for one in trainer.state.algorithms if isinstance(one, kind))


@pytest.mark.slow
def test_small(synthetic_folder: Path, tmp_path: Path) -> None:
    trainer, logged = trained(synthetic_folder, tmp_path, 'recipe_name=small', 'train_dataset.batch_size=4')
    assert len(logged) == BATCHES
    assert found(trainer, EMA).smoothing == pytest.approx(0.5)  # a half-life of one batch of 20
    # A half until 0.3 of the run, whole from 0.7, in steps of 8 pixels; the last fifth logs nothing more
    sides = [metrics.get('progressive_resizing/width', 32) for metrics in logged]
    assert sides[:6] == [16] * 6 and sides[14:] == [32] * 6 and sides == sorted(sides) and 24 in sides
    assert all(metrics['loss/train/auxiliary'] > 0 for metrics in logged)
    weights = trainer.state.model._loss_fn.keywords['class_weights']
    assert len(weights) == 8 and len({*weights}) > 1
    rates = [value for metrics in logged for name, value in metrics.items() if name.startswith('lr-')]
    assert max(rates) == pytest.approx(0.01) and rates[-1] < 0.001 and rates[0] < 0.001


@pytest.mark.slow
def test_small_gpu_with_a_smoothed_target(synthetic_folder: Path, tmp_path: Path) -> None:
    """Without MixUp, which label smoothing does not go with; class weights do."""
    smoothed = ('algorithms.mixup=null', 'algorithms.label_smoothing.smoothing=0.1', 'train_dataset.batch_size=4')
    trainer, logged = trained(synthetic_folder, tmp_path, 'recipe_name=small_gpu', *smoothed)
    assert len(logged) == BATCHES and found(trainer, EMA).smoothing == pytest.approx(0.5)
    assert not any(isinstance(one, MixUp) for one in trainer.state.algorithms)
    backbone, head = (trainer.state.optimizers[0].param_groups[index]['initial_lr'] for index in (0, 1))
    assert sorted((backbone, head)) == pytest.approx([0.001, 0.01])
