import csv
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from composer import Trainer
from composer.models import ComposerModel
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchmetrics import Metric

from callbacks import CALLBACKS, SeedEachBatch, ShowResults, StopOnNonFiniteLoss
from errors import UserError

NAMES = ('sky', 'ground', 'tree', 'boat')


def state_of(batch: int = 7, seed: int = 17, **losses: float) -> Any:
    return SimpleNamespace(
        rank_zero_seed=seed,
        timestamp=SimpleNamespace(batch=SimpleNamespace(value=batch)),
        total_loss_dict={f'loss/train/{name}': loss for name, loss in losses.items()},
    )


# A loss that is lost


@pytest.mark.parametrize('loss', [float('nan'), float('inf'), float('-inf')])
def test_a_loss_that_is_not_finite_ends_the_run(loss: float):
    with pytest.raises(UserError) as error:
        StopOnNonFiniteLoss().batch_end(state_of(total=1.5, dice=loss), None)  # type: ignore[arg-type]
    assert str(error.value).startswith(f'the loss is not finite in batch 7 (total=1.5, dice={loss}); ')
    assert 'optimizer.lr' in str(error.value)


def test_a_finite_loss_does_not():
    StopOnNonFiniteLoss().batch_end(state_of(total=1e30, dice=0.0, cross_entropy=-1.0), None)  # type: ignore[arg-type]
    StopOnNonFiniteLoss().batch_end(state_of(), None)  # type: ignore[arg-type]


class Diverging(ComposerModel):
    """Its loss is infinite in its third batch."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.batches = 0

    def forward(self, batch: Any) -> Tensor:
        self.batches += 1
        return self.weight * (float('inf') if self.batches == 3 else 1.0)

    def loss(self, outputs: Tensor, batch: Any, *args: Any, **kwargs: Any) -> Tensor:
        return outputs.sum()


def trainer_of(model: ComposerModel, **arguments: Any) -> Trainer:
    return Trainer(model=model, device='cpu', progress_bar=False, **arguments)


def test_the_run_ends_before_a_checkpoint_of_it(tmp_path: Path):
    model = Diverging()
    trainer = trainer_of(
        model,
        train_dataloader=DataLoader([(torch.zeros(1), torch.zeros(1))] * 8, batch_size=1),  # type: ignore[arg-type]
        optimizers=torch.optim.SGD(model.parameters(), 0.1),
        max_duration='8ba',
        save_folder=str(tmp_path),
        save_interval='1ba',
        callbacks=[StopOnNonFiniteLoss()],
    )
    with pytest.raises(UserError, match=r'^the loss is not finite in batch 3 \(total=inf\); '):
        trainer.fit()
    trainer.close()
    assert sorted(file.name for file in tmp_path.glob('ep*')) == ['ep0-ba1-rank0.pt', 'ep0-ba2-rank0.pt']


# Random numbers


def draws(batch: int, seed: int = 17) -> tuple[float, float, float]:
    SeedEachBatch().batch_start(state_of(batch, seed), None)  # type: ignore[arg-type]
    return float(torch.rand(())), float(np.random.rand()), random.random()


def test_draws_depend_on_seed_rank_and_batch(monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(1)
    first = draws(3)
    _ = torch.rand(5), np.random.rand(5), random.random()
    assert draws(3) == first
    others = [draws(4), draws(3, seed=18), draws(17, seed=3)]
    monkeypatch.setattr('composer.utils.dist.get_global_rank', lambda: 1)
    others.append(draws(3))
    for other in others:
        assert all(a != b for a, b in zip(first, other))
    assert len({*others, first}) == 5


# Results


class Given(ComposerModel):
    """Predicts the class that an image's red channel names."""

    def __init__(self):
        super().__init__()
        from metrics import MIoU

        self.weight = torch.nn.Parameter(torch.ones(1))
        self.class_names = NAMES
        self.metric = MIoU(len(NAMES), ignore_index=-1)

    def forward(self, batch: Any) -> Tensor:
        predicted = batch[0][:, 0].long()
        return torch.nn.functional.one_hot(predicted, len(NAMES)).permute(0, 3, 1, 2).float() * self.weight

    def loss(self, outputs: Any, batch: Any, *args: Any, **kwargs: Any) -> Tensor:
        return outputs.sum()

    def get_metrics(self, is_train: bool) -> dict[str, Metric]:
        return {} if is_train else {'MIoU': self.metric}

    def update_metric(self, batch: Any, outputs: Any, metric: Metric) -> None:
        metric.update(outputs, batch[1])


@pytest.mark.parametrize('batch_size', [1, 2, 5])
def test_iou_by_class(tmp_path: Path, batch_size: int, capsys: pytest.CaptureFixture[str]):
    """Classes 0 to 2 occur, class 3 never does, and -1 is not scored."""
    rng = np.random.default_rng(0)
    truths = rng.integers(-1, 3, (5, 8, 8))
    predictions = np.where(rng.random((5, 8, 8)) < 0.6, truths.clip(0), rng.integers(0, 3, (5, 8, 8)))
    images = torch.tensor(predictions).float()[:, None].expand(5, 3, 8, 8)
    samples = list(zip(images, torch.tensor(truths)))
    results = ShowResults(str(tmp_path / 'results'), num_images=3)
    trainer = trainer_of(
        Given(),
        eval_dataloader=DataLoader(samples, batch_size=batch_size),  # type: ignore[arg-type]
        callbacks=[results],
    )
    for _ in range(2):  # the second evaluation starts anew
        trainer.eval()

    wanted = {}
    for label in range(3):
        both = any_of = 0
        for truth, predicted in zip(truths.ravel(), predictions.ravel()):
            if truth >= 0:
                both += truth == label and predicted == label
                any_of += label in (truth, predicted)
        wanted[NAMES[label]] = both / any_of
    assert min(wanted.values()) > 0.2
    assert max(wanted.values()) < 0.9

    with (tmp_path / 'results' / 'iou.csv').open() as file:
        header, *rows = list(csv.reader(file))
    assert header == ['class', 'IoU']
    assert rows == [
        *([name, f'{value:.4f}'] for name, value in wanted.items()),
        ['boat', 'nan'],
        ['mean', f'{sum(wanted.values()) / 3:.4f}'],
    ]
    with Image.open(tmp_path / 'results' / 'predictions.png') as picture:
        picture.load()
        assert picture.format == 'PNG'
        assert min(picture.size) > 100
    assert sorted(file.name for file in (tmp_path / 'results').iterdir()) == ['iou.csv', 'predictions.png']
    assert len(results._samples) >= 3

    capsys.readouterr()
    results.show()
    shown = capsys.readouterr().out
    assert all(f'{value:.4f}' in shown for value in wanted.values())
    assert f'{tmp_path}/results/predictions.png' in shown.replace('\n', '')


def test_what_is_pictured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Images as they were before they were normalised, beside their truth and prediction, of the last evaluation."""
    pictured: dict[str, Any] = {}

    def keep(path: Path, images: Any, truths: Any, predictions: Any, names: Any, title: str) -> None:
        pictured.update(images=images, truths=truths, predictions=predictions, names=names, title=title)

    monkeypatch.setattr('callbacks.save_predictions', keep)
    predictions = torch.arange(4)[:, None, None].expand(4, 8, 8)
    truths = torch.arange(4).flip(0)[:, None, None].expand(4, 8, 8)
    images = predictions.float()[:, None].expand(4, 3, 8, 8)
    model = Given()
    trainer = trainer_of(
        model,
        eval_dataloader=DataLoader(list(zip(images, truths)), batch_size=1),  # type: ignore[arg-type]
        callbacks=[ShowResults(str(tmp_path), num_images=4)],
    )
    model.weight.data.fill_(-1)  # other predictions
    trainer.eval()
    assert [int(picture[0, 0]) for picture in pictured['predictions']] == [1, 0, 0, 0]
    model.weight.data.fill_(1)
    trainer.eval()
    assert pictured['names'] == NAMES
    assert pictured['title'] == 'epoch 0, mean IoU 0.0%'
    assert [int(picture[0, 0]) for picture in pictured['predictions']] == [0, 1, 2, 3]
    assert [int(picture[0, 0]) for picture in pictured['truths']] == [3, 2, 1, 0]
    for value, picture in enumerate(pictured['images']):
        assert (picture.shape, picture.dtype) == ((8, 8, 3), np.uint8)
        wanted = [255 * (value * std + mean) for mean, std in zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
        assert picture[0, 0].tolist() == [min(255, round(number)) for number in wanted]


def test_it_can_be_named_in_a_config():
    assert CALLBACKS['show_results'] is ShowResults
