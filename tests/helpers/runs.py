"""Runs of a tiny network: in this process, or started as a person does."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from segrecipes.config.merge import load_config
from segrecipes.evaluation.scores import Scores
from segrecipes.training.evaluate import shown_results
from segrecipes.training.run import main

ROOT = Path(__file__).parents[2]
TINY = (
    'model.backbone_arch=resnet18', 'model.backbone_weights=null', 'model.head_channels=16',
    'train_dataset.name=synthetic', 'eval_dataset.name=synthetic',
    'train_dataset.final_size=32', 'train_dataset.base_size=32', 'eval_dataset.final_size=32',
    'train_dataset.batch_size=4', 'eval_dataset.batch_size=2',
    'train_dataset.num_workers=0', 'eval_dataset.num_workers=0',
    'optimizer.lr=0.01', 'callbacks={}', 'loggers={progress_bar: null}', 'save_folder=null',
)  # fmt: skip


def arguments(folder: Path, *more: str, yaml: str = 'yamls/deeplabv3.yaml', mds: bool = False) -> list[str]:
    data = [f'train_dataset.path={folder}', f'eval_dataset.path={folder}']
    data += ['train_dataset.is_streaming=true', 'eval_dataset.is_streaming=true'] if mds else []
    return [str(ROOT / yaml), *TINY, *data, *more]


def run(argv: list[str]) -> Any:
    trainer = main(*load_config(argv))
    trainer.close()
    return trainer


def launch(*command: str, timeout: float = 300, **more: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
        env=environment(**more),
    )


def environment(**more: str) -> dict[str, str]:
    """That of a process of its own, which finds the commands beside this Python."""
    path = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
    return {**os.environ, 'PATH': path, 'OMP_NUM_THREADS': '1', **more}


def evaluations(trainer: Any) -> list[Scores]:
    results = shown_results(trainer)
    assert results is not None
    return results.evaluations


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint, weights_only=False)['state']['model']


def assert_same_weights(first: Path, second: Path) -> None:
    a, b = weights(first), weights(second)
    assert a.keys() == b.keys()
    assert [key for key in a if not torch.equal(a[key], b[key])] == []
