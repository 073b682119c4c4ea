"""A new thing of each kind is one row, shown by a throw-away one that is run the way a person would."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from composer.core import Callback, State
from composer.loggers import Logger
from helpers.runs import arguments, evaluations, run
from PIL import Image
from torch import Tensor, nn

from segrecipes.checkpoints.export import export
from segrecipes.checkpoints.formats.table import FORMATS, Format
from segrecipes.checkpoints.network import load_network
from segrecipes.datasets.row import DatasetRow, Split
from segrecipes.datasets.table import DATASETS
from segrecipes.evaluation.protocols import EvalProtocol
from segrecipes.evaluation.table import PROTOCOLS
from segrecipes.inference.predictor import Predictor
from segrecipes.models.architectures import ARCHITECTURES, Architecture
from segrecipes.models.spec import NetworkSpec
from segrecipes.training.callbacks.table import CALLBACKS

pytestmark = pytest.mark.usefixtures('clean_shared_memory')


class Pixelwise(nn.Module):
    """A network without a backbone: each 2×2 pixels for themselves."""

    auxiliary = None

    def __init__(self, num_classes: int):
        super().__init__()
        self.conv = nn.Conv2d(3, num_classes, 2, stride=2)

    def logits(self, images: Tensor) -> Tensor:
        return self.conv(images)

    def heads(self, images: Tensor) -> tuple[Tensor, None]:
        return self.conv(images), None


def pixelwise(spec: NetworkSpec, backbone_weights: str | None, auxiliary: bool) -> Any:
    return Pixelwise(spec.num_classes)


def test_an_architecture(synthetic_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained, kept, scored and used on a picture."""
    monkeypatch.setitem(ARCHITECTURES, 'pixelwise', Architecture(pixelwise, output_stride=2))
    trainer = run(
        arguments(synthetic_folder, 'model.architecture=pixelwise', 'max_duration=2ba', f'save_folder={tmp_path}')
    )
    assert isinstance(trainer.state.model.module, Pixelwise)
    labels = Predictor(tmp_path / 'latest-rank0.pt')(np.zeros((20, 30, 3), np.uint8))
    assert labels.shape == (20, 30)


def test_a_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files in other places under other names, a listed split, 255 a class and 7 ignored."""
    row = DatasetRow(
        classes=('ground', 'crack'),
        splits={'train': Split('photos/*.png', listed='train.txt'), 'val': Split('photos/*.png', listed='val.txt')},
        mask=(r'^photos/(.+)\.png$', r'labels/\1_mask.png'),
        uid=r'/([^/]+)\.png$',
        labels={0: 0, 255: 1},
        ignored=frozenset({7}),
    )
    monkeypatch.setitem(DATASETS, 'cracks', row)
    rng = np.random.default_rng(0)
    for folder in ('photos', 'labels'):
        (tmp_path / folder).mkdir()
    for index in range(8):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(tmp_path / f'photos/{index}.png')
        mask = rng.choice(np.array([0, 255, 7], np.uint8), (40, 40))
        Image.fromarray(mask).save(tmp_path / f'labels/{index}_mask.png')
    (tmp_path / 'train.txt').write_text('0\n1\n2\n3\n4\n5\n')
    (tmp_path / 'val.txt').write_text('6\n7\n')
    trainer = run(arguments(tmp_path, 'train_dataset.name=cracks', 'eval_dataset.name=cracks', 'max_duration=1ep'))
    (found,) = evaluations(trainer)
    assert found.class_names == ('ground', 'crack')
    masks = [np.asarray(Image.open(tmp_path / f'labels/{index}_mask.png').resize((32, 32), 0)) for index in (6, 7)]
    assert found.labelled.tolist() == [sum((mask == label).sum() for mask in masks) for label in (0, 255)]


def test_a_recipe(synthetic_folder: Path, tmp_path: Path) -> None:
    (tmp_path / 'mine.yaml').write_text('max_duration: 1ba\nalgorithms: {label_smoothing: {smoothing: 0.1}}\n')
    trainer = run(arguments(synthetic_folder, f'recipe_name={tmp_path}/mine.yaml'))
    assert trainer.state.timestamp.batch == 1
    assert 'LabelSmoothing' in {type(algorithm).__name__ for algorithm in trainer.state.algorithms}


def test_a_protocol(synthetic_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In training, and for pictures."""
    monkeypatch.setitem(
        PROTOCOLS, 'halves', lambda size, stride: EvalProtocol('halves', size, ratios=(0.5, 1.0), flip=True)
    )
    trainer = run(
        arguments(synthetic_folder, 'eval_protocol=halves', 'max_duration=1ba', 'eval_interval=1dur',
                  f'save_folder={tmp_path}')
    )  # fmt: skip
    assert [found.protocol for found in evaluations(trainer)] == ['halves@32']
    assert list(trainer.state.eval_metrics['eval']) == ['CrossEntropy[halves@32]', 'mIoU[halves@32]']

    from segrecipes.commands.cli import run as verb

    picture = next(synthetic_folder.rglob('*.jpg'))
    verb('predict', [f'{tmp_path}/latest-rank0.pt', str(picture), '--protocol', 'halves', '--out', f'{tmp_path}/out'])
    assert '"protocol": "halves@32"' in (tmp_path / 'out' / 'shares.json').read_text()


def test_a_format(synthetic_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = ModuleType('segrecipes.checkpoints.formats.plain')
    module.save = lambda network, card, path: torch.save((network, card), path)
    module.load = lambda path: torch.load(path, weights_only=False)[0]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(FORMATS, 'plain', Format('.plain', 'plain'))
    run(arguments(synthetic_folder, 'max_duration=1ba', 'eval_interval=0ba', f'save_folder={tmp_path}'))
    card, network = load_network(tmp_path / 'latest-rank0.pt')
    differences = export(network, card, tmp_path / 'network.plain', 'plain')
    assert [difference.largest for difference in differences] == [0, 0, 0]


class Counting(Callback):
    def __init__(self, start: int):
        self.count = start

    def batch_end(self, state: State, logger: Logger) -> None:
        self.count += 1


def test_a_callback(synthetic_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CALLBACKS, 'counting', Counting)
    trainer = run(
        arguments(synthetic_folder, 'max_duration=2ba', 'eval_interval=0ba', 'callbacks={counting: {start: 5}}')
    )
    (callback,) = [callback for callback in trainer.state.callbacks if isinstance(callback, Counting)]
    assert callback.count == 7
