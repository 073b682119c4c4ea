import json
import random
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from composer import Trainer
from composer.core import Callback, DataSpec
from composer.devices import DeviceCPU
from composer.loggers import InMemoryLogger, LoggerDestination
from composer.models import ComposerModel
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from torchmetrics import Metric

from segrecipes.algorithms.ema import EMA
from segrecipes.base.errors import UserError
from segrecipes.checkpoints.card import ModelCard
from segrecipes.checkpoints.read import read_checkpoint
from segrecipes.data.batch import collate_views
from segrecipes.data.normalize import normalize
from segrecipes.evaluation.metrics import MIoU, score_predictions
from segrecipes.evaluation.scores import Scores
from segrecipes.evaluation.table import get_protocol
from segrecipes.models.spec import NetworkSpec
from segrecipes.training.callbacks.batches import AtFirstBatch, SeedEachBatch, ShareLabelledCount, WeighLabelledCount
from segrecipes.training.callbacks.best import BestCheckpoint
from segrecipes.training.callbacks.describe import Describe
from segrecipes.training.callbacks.results import ShowResults
from segrecipes.training.callbacks.stops import StopOnNonFiniteLoss
from segrecipes.training.callbacks.table import CALLBACKS
from segrecipes.training.registry import REGISTRY
from segrecipes.training.strategy import STRATEGIES

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


def test_labelled_pixels_are_averaged_over_the_ranks(monkeypatch: pytest.MonkeyPatch):
    """Here three labelled pixels an image; on the other rank six."""
    monkeypatch.setattr('composer.utils.dist.get_world_size', lambda: 2)
    monkeypatch.setattr('composer.utils.dist.all_reduce', lambda mean: mean.add_(6))
    images, masks, labelled = torch.zeros(2, 3, 1, 6), torch.zeros(2, 1, 6), torch.tensor([3.0, 3.0])
    uids = ['a', 'b']
    state: Any = SimpleNamespace(batch=(images, masks, labelled, uids), device=DeviceCPU())
    ShareLabelledCount(STRATEGIES['ddp']).batch_start(state, None)  # type: ignore[arg-type]
    assert state.batch[0] is images and state.batch[1] is masks
    assert state.batch[2].tolist() == [4.5, 4.5]
    assert state.batch[3] is uids
    assert labelled.tolist() == [3, 3]


def test_labelled_pixels_are_weighed():
    images, classes = torch.zeros(2, 3, 1, 3), torch.tensor([[[0, 1, 255]], [[1, 1, 255]]], dtype=torch.uint8)
    state: Any = SimpleNamespace(batch=(images, classes, torch.tensor([2.0, 2.0]), ['a', 'b']))
    WeighLabelledCount((0.5, 3.0)).batch_start(state, None)  # type: ignore[arg-type]
    assert state.batch[0] is images and state.batch[1] is classes
    assert state.batch[2].tolist() == [(0.5 + 3 * 3) / 2] * 2
    assert state.batch[3] == ['a', 'b']


def test_what_is_to_be_done_at_the_first_batch_is_done_once():
    seen = []
    callback = AtFirstBatch(seen.append)
    callback.after_dataloader('first', None)  # type: ignore[arg-type]
    callback.after_dataloader('second', None)  # type: ignore[arg-type]
    assert seen == ['first']


# The card


def test_a_checkpoint_has_its_card(tmp_path: Path):
    card = ModelCard(
        NetworkSpec('deeplabv3plus', 4, 'resnet18', head_channels=16), class_names=NAMES, label_offset=0, image_size=32
    )
    assert Describe(card).state_dict() == card.to_dict()
    fit(tmp_path, [5], callbacks=[Describe(card)])
    assert read_checkpoint(tmp_path / 'latest-rank0.pt').card == card


# The best checkpoint

BATCHES_PER_EPOCH = 3


class Scripted(ComposerModel):
    """After each epoch 0 … 9 of ten pixels are right, as the script has it: 5 times that is the mIoU in percent."""

    def __init__(self, script: Sequence[float]):
        super().__init__()
        self.script = script
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.batches: Tensor
        self.register_buffer('batches', torch.zeros((), dtype=torch.int64))
        self.class_names, self.protocol = ('right', 'wrong'), get_protocol('mosaic-512sq', 32)
        self.metric = MIoU(2)

    def forward(self, batch: Any) -> Tensor:
        self.batches += 1
        return self.weight * 1.0

    def loss(self, outputs: Tensor, batch: Any, *args: Any, **kwargs: Any) -> Tensor:
        return outputs.sum()

    def eval_forward(self, batch: Any, outputs: Any = None) -> Tensor:
        right = self.script[(int(self.batches) - 1) // BATCHES_PER_EPOCH]
        return (torch.arange(10) >= right).long().expand(len(batch[0]), 1, 10)

    def get_metrics(self, is_train: bool) -> dict[str, Metric]:
        return {} if is_train else {'MIoU': self.metric}

    def update_metric(self, batch: Any, outputs: Any, metric: Metric) -> None:
        metric.update(score_predictions(outputs, batch[1] if self.script[0] >= 0 else batch[1] - 1, 2))


def fit(folder: Path | str, script: Sequence[float], callbacks: Sequence[Callback] = (), **arguments: Any) -> Scripted:
    """An epoch for each number of the script."""
    model = Scripted(script)
    data = [(torch.zeros(3, 1, 10), torch.zeros(1, 10, dtype=torch.int64))] * BATCHES_PER_EPOCH
    loader: Any = DataLoader(data, batch_size=1)  # type: ignore[arg-type]
    options = {'max_duration': f'{len(script)}ep', 'save_folder': str(folder)} | arguments
    trainer = trainer_of(
        model,
        train_dataloader=loader,
        eval_dataloader=loader,
        optimizers=torch.optim.SGD(model.parameters(), 0.1),
        callbacks=list(callbacks),
        **options,
    )
    trainer.fit()
    trainer.close()
    return model


def best_files(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.glob('best*'))


def batches_of(checkpoint: Path) -> int:
    return int(torch.load(checkpoint, weights_only=False)['state']['model']['batches'])


@pytest.mark.parametrize(
    ('script', 'best'),
    [([2, 5, 3, 7, 7, 6], 4), ([9, 8, 7], 1), ([0, 1, 2], 3), ([4], 1), ([3, 3, 3], 1), ([0, 0], 1)],
)
def test_the_best_checkpoint_is_kept(script: list[int], best: int, tmp_path: Path):
    """The first of equals; the one before is removed when a better comes."""
    fit(tmp_path, script, [BestCheckpoint(str(tmp_path))])
    name = f'best-ep{best}-ba{3 * best}-rank0.pt'
    assert best_files(tmp_path) == [name, 'best-rank0.pt']
    assert (tmp_path / 'best-rank0.pt').resolve() == (tmp_path / name).resolve()
    assert batches_of(tmp_path / 'best-rank0.pt') == 3 * best
    assert batches_of(tmp_path / 'latest-rank0.pt') == 3 * len(script)
    assert len(list(tmp_path.glob('ep*-rank0.pt'))) == len(script)  # the others are left alone


def test_the_folder_may_name_the_run(tmp_path: Path):
    folder = f'{tmp_path}/{{run_name}}/checkpoints'
    fit(folder, [1, 2], [BestCheckpoint(folder)], run_name='mine')
    assert best_files(tmp_path / 'mine' / 'checkpoints') == ['best-ep2-ba6-rank0.pt', 'best-rank0.pt']
    assert [file.name for file in tmp_path.iterdir()] == ['mine']


def test_an_evaluation_without_a_labelled_pixel_is_not_the_best(tmp_path: Path):
    fit(tmp_path, [-1, 5], [BestCheckpoint(str(tmp_path))])
    assert best_files(tmp_path) == []


@pytest.mark.parametrize('eval_interval', ['1ba', '2ba'])
def test_the_best_in_the_middle_of_an_epoch(eval_interval: str, tmp_path: Path):
    fit(tmp_path, [2, 7, 1], [BestCheckpoint(str(tmp_path))], eval_interval=eval_interval)
    assert batches_of(tmp_path / 'best-rank0.pt') == 4
    assert best_files(tmp_path) == ['best-ep1-ba4-rank0.pt', 'best-rank0.pt']


@pytest.mark.parametrize('max_duration', ['2ba', '5ba'])
def test_the_best_at_the_end_of_a_run_that_ends_within_an_epoch(max_duration: str, tmp_path: Path):
    """Composer evaluates once more then, after the last moment it saves checkpoints at."""
    fit(tmp_path, [2, 7], [BestCheckpoint(str(tmp_path))], max_duration=max_duration)
    assert batches_of(tmp_path / 'best-rank0.pt') == int(max_duration[0])
    assert len(best_files(tmp_path)) == 2


RESUMED = {
    'a better one comes': ([2, 5], [2, 5, 3, 7], 4),
    'none comes': ([2, 5], [2, 5, 3, 4], 2),
    'the best was not the last': ([5, 2], [5, 2, 3, 4], 1),
    'a better one after that': ([5, 2], [5, 2, 3, 6], 4),
    'an equal one': ([5], [5, 5], 1),
}


@pytest.mark.parametrize('case', RESUMED)
def test_a_resumed_run_knows_the_best_of_before(case: str, tmp_path: Path):
    first, whole, best = RESUMED[case]
    options = {'run_name': 'again', 'autoresume': True}
    fit(tmp_path, first, [BestCheckpoint(str(tmp_path))], **options)
    fit(tmp_path, whole, [BestCheckpoint(str(tmp_path))], **options)
    assert best_files(tmp_path) == [f'best-ep{best}-ba{3 * best}-rank0.pt', 'best-rank0.pt']
    assert batches_of(tmp_path / 'best-rank0.pt') == 3 * best


def test_resuming_into_another_folder_leaves_the_first_run_whole(tmp_path: Path):
    fit(tmp_path / 'first', [2, 5], [BestCheckpoint(f'{tmp_path}/first')])
    options = {'load_path': f'{tmp_path}/first/latest-rank0.pt'}
    fit(tmp_path / 'second', [2, 5, 7], [BestCheckpoint(f'{tmp_path}/second')], **options)
    assert best_files(tmp_path / 'second') == ['best-ep3-ba9-rank0.pt', 'best-rank0.pt']
    assert best_files(tmp_path / 'first') == ['best-ep2-ba6-rank0.pt', 'best-rank0.pt']
    assert batches_of(tmp_path / 'first' / 'best-rank0.pt') == 6


def test_a_run_that_starts_from_another_has_a_best_of_its_own(tmp_path: Path):
    fit(tmp_path / 'first', [2, 5], [BestCheckpoint(f'{tmp_path}/first')])
    options = {'load_path': f'{tmp_path}/first/latest-rank0.pt'}
    fit(tmp_path / 'second', [2, 5, 1], [BestCheckpoint(f'{tmp_path}/second')], **options)
    assert best_files(tmp_path / 'second') == ['best-ep3-ba9-rank0.pt', 'best-rank0.pt']


def test_a_moved_run_keeps_its_best(tmp_path: Path):
    fit(tmp_path / 'first', [2, 5], [BestCheckpoint(f'{tmp_path}/first')])
    (tmp_path / 'first').rename(tmp_path / 'moved')
    options = {'load_path': f'{tmp_path}/moved/latest-rank0.pt'}
    fit(tmp_path / 'moved', [2, 5, 1], [BestCheckpoint(f'{tmp_path}/moved')], **options)
    assert best_files(tmp_path / 'moved') == ['best-ep2-ba6-rank0.pt', 'best-rank0.pt']


def test_a_moved_run_goes_on(tmp_path: Path):
    fit(tmp_path / 'first', [2, 5], [BestCheckpoint(f'{tmp_path}/first')])
    (tmp_path / 'first').rename(tmp_path / 'moved')
    options = {'load_path': f'{tmp_path}/moved/latest-rank0.pt'}
    fit(tmp_path / 'moved', [2, 5, 7], [BestCheckpoint(f'{tmp_path}/moved')], **options)
    assert batches_of(tmp_path / 'moved' / 'best-rank0.pt') == 9


def test_resuming_takes_the_latest_checkpoint_not_the_best(tmp_path: Path):
    options = {'run_name': 'again', 'autoresume': True}
    fit(tmp_path, [5, 2, 1], [BestCheckpoint(str(tmp_path))], **options)
    model = fit(tmp_path, [5, 2, 1, 1], [BestCheckpoint(str(tmp_path))], **options)
    assert int(model.batches) == 12
    assert (tmp_path / 'ep4-ba12-rank0.pt').exists()


# Results


class Scenes(Dataset):
    """(image, labels, count, uid): each normalised pixel's red channel names the class that Given predicts there."""

    def __init__(self, truths: np.ndarray, predictions: np.ndarray, named: bool = True):
        self.truths, self.named = torch.from_numpy(truths), named
        images = torch.zeros(len(predictions), 3, *predictions.shape[1:], dtype=torch.uint8)
        images[:, 0] = torch.from_numpy(predictions)
        self.images = normalize(images)

    def __len__(self) -> int:
        return len(self.truths)

    def __str__(self) -> str:
        return 'the scenes'

    def __getitem__(self, index: int) -> Any:
        return self.images[index], self.truths[index], *([0.0, f'{index:04d}'] if self.named else [])


class Given(ComposerModel):
    """Predicts the class that an image's red channel names."""

    def __init__(self, protocol: str = 'mosaic-512sq'):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.class_names, self.protocol = NAMES, get_protocol(protocol, 32)
        self.metric = MIoU(len(NAMES))

    def forward(self, batch: Any) -> Any:
        return self.weight.sum()

    def loss(self, outputs: Any, batch: Any, *args: Any, **kwargs: Any) -> Tensor:
        return outputs.sum()

    def eval_forward(self, batch: Any, outputs: Any = None) -> Any:
        """All the next class while the weight is not positive."""
        images, labels = batch[:2]
        images = [views[-1] for views in images] if isinstance(images, list) else images
        return score_predictions([self.predict(image[None])[0].byte() for image in images], labels, len(NAMES))

    def predict(self, images: Tensor) -> Tensor:
        red = (images[:, 0] * 255 * 0.229 + 255 * 0.485).round().long()
        return red if self.weight > 0 else (red + 1) % len(NAMES)

    def get_metrics(self, is_train: bool) -> dict[str, Metric]:
        return {} if is_train else {'MIoU': self.metric}

    def update_metric(self, batch: Any, outputs: Any, metric: Metric) -> None:
        metric.update(outputs)


class KeepImages(LoggerDestination):
    def __init__(self):
        self.images: dict[str, np.ndarray] = {}

    def log_images(self, images: Any, name: str = 'Images', channels_last: bool = False, *args: Any, **kwargs: Any):
        assert channels_last
        self.images[name] = images


def scenes(count: int = 9, named: bool = True) -> Scenes:
    """Classes 0 to 2 occur, class 3 never does, and -1 is not scored."""
    rng = np.random.default_rng(0)
    truths = rng.integers(-1, 3, (count, 8, 8))
    share = np.linspace(0.9, 0.1, count)[:, None, None]
    predictions = np.where(rng.random((count, 8, 8)) < share, truths.clip(0), rng.integers(0, 3, (count, 8, 8)))
    return Scenes(truths, predictions, named)


def evaluated(data: Any, results: ShowResults, batch_size: int = 2, **arguments: Any) -> Trainer:
    loader = DataSpec(
        DataLoader(data, batch_size=batch_size, **arguments), get_num_samples_in_batch=lambda batch: len(batch[0])
    )
    trainer = trainer_of(Given(), eval_dataloader=loader, callbacks=[results], loggers=[InMemoryLogger(), KeepImages()])
    trainer.eval()
    return trainer


def confusion_of(data: Scenes) -> np.ndarray:
    predictions = np.round(data.images[:, 0].numpy() * 255 * 0.229 + 255 * 0.485).astype(int)
    confusion = np.zeros((4, 4), np.int64)
    for truth, predicted in zip(data.truths.numpy().ravel(), predictions.ravel()):
        if truth >= 0:
            confusion[truth, predicted] += 1
    return confusion


@pytest.mark.parametrize('batch_size', [1, 2, 9])
def test_results(tmp_path: Path, batch_size: int):
    data, results = scenes(), ShowResults(f'{tmp_path}/{{run_name}}/results', num_images=2)
    trainer = evaluated(data, results, batch_size)
    (scores,) = results.evaluations
    wanted = Scores(confusion_of(data), NAMES, 9, 'mosaic-512sq@32')
    np.testing.assert_array_equal(scores.confusion, wanted.confusion)
    assert scores.to_dict() == wanted.to_dict()
    assert 20 < scores.mean_iou < 80
    folder = tmp_path / trainer.state.run_name / 'results'
    assert json.loads((folder / 'scores.json').read_text()) == wanted.to_dict()
    assert (folder / 'scores.csv').read_bytes() == wanted.to_csv().encode()
    assert sorted(file.name for file in folder.iterdir()) == [
        'image_scores.csv', 'images', 'images.json', 'predictions.png', 'scores.csv', 'scores.json',
    ]  # fmt: skip
    with Image.open(folder / 'predictions.png') as picture:
        picture.load()
        assert picture.format == 'PNG'
        assert min(picture.size) > 100
    entries = {entry['uid']: entry for entry in json.loads((folder / 'images.json').read_text())['images']}
    by_group = {
        group: sorted(uid for uid, entry in entries.items() if group in entry['groups'])
        for group in ('best', 'worst', 'sample')
    }
    assert [len(group) for group in by_group.values()] == [2, 2, 2]
    assert by_group['best'] == ['0000', '0001']
    assert '0008' in by_group['worst']
    for uid, entry in entries.items():
        for part in ('truth', 'prediction'):
            with Image.open(folder / entry[part]) as image:
                labels = np.array(image)
            truth = data.truths[int(uid)].numpy()
            wanted_labels = np.where(truth < 0, 255, truth) if part == 'truth' else None
            if wanted_labels is not None:
                np.testing.assert_array_equal(labels, wanted_labels)
            else:
                red = np.round(data.images[int(uid), 0].numpy() * 255 * 0.229 + 255 * 0.485)
                np.testing.assert_array_equal(labels, red)
    assert len((folder / 'image_scores.csv').read_text().splitlines()) == 10


def test_what_is_logged(tmp_path: Path):
    results = ShowResults(str(tmp_path), num_images=2)
    trainer = evaluated(scenes(), results)
    memory, kept = trainer.logger.destinations[:2]
    assert isinstance(memory, InMemoryLogger)
    assert isinstance(kept, KeepImages)
    (scores,) = results.evaluations
    for name in ('pixel_accuracy', 'mean_accuracy', 'mIoU', 'final_score'):
        ((_, value),) = memory.data[f'metrics/eval/{name}[mosaic-512sq@32]']
        assert value == getattr(scores, name.replace('mIoU', 'mean_iou'))
    ((_, value),) = memory.data['metrics/eval/MIoU']
    assert float(value) == pytest.approx(scores.mean_iou, rel=1e-6)
    entries = json.loads((tmp_path / 'images.json').read_text())['images']
    sample = [entry['uid'] for entry in entries if 'sample' in entry['groups']]
    assert sorted(kept.images) == sorted(f'predictions/{uid}' for uid in sample)
    assert {image.shape for image in kept.images.values()} == {(8, 24, 3)}


def test_pictures_are_the_images_before_they_were_normalised(tmp_path: Path):
    results = ShowResults(str(tmp_path), num_images=9)
    data = scenes()
    rng = np.random.default_rng(1)
    pixels = torch.from_numpy(rng.integers(0, 256, (9, 3, 8, 8), dtype=np.uint8))
    pixels[:, 0] = (data.images[:, 0] * 255 * 0.229 + 255 * 0.485).round().byte()
    data.images = normalize(pixels)
    kept = evaluated(data, results).logger.destinations[1]
    assert isinstance(kept, KeepImages)
    assert len(kept.images) == 9
    for name, picture in kept.images.items():
        np.testing.assert_array_equal(picture[:, :8], pixels[int(name[-4:])].permute(1, 2, 0).numpy())


def test_each_evaluation_starts_anew(tmp_path: Path):
    results = ShowResults(str(tmp_path), num_images=2)
    trainer = evaluated(scenes(), results)
    files = {file: file.read_bytes() for file in tmp_path.rglob('*') if file.is_file()}
    model: Any = trainer.state.model
    model.weight.data.fill_(-1)  # other predictions
    trainer.eval()
    assert json.loads((tmp_path / 'scores.json').read_text()) == results.evaluations[1].to_dict()
    assert results.evaluations[1].mean_iou < results.evaluations[0].mean_iou
    model.weight.data.fill_(1)
    trainer.eval()
    assert {file: file.read_bytes() for file in tmp_path.rglob('*') if file.is_file()} == files
    assert results.evaluations[2].to_dict() == results.evaluations[0].to_dict()


def test_without_a_folder_it_only_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    results = ShowResults()
    trainer = evaluated(scenes(), results)
    memory, kept = trainer.logger.destinations[:2]
    assert isinstance(memory, InMemoryLogger)
    assert isinstance(kept, KeepImages)
    assert 'metrics/eval/mIoU[mosaic-512sq@32]' in memory.data
    assert kept.images == {}
    assert len(results.evaluations) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(('num_images', 'named'), [(0, True), (6, False)])
def test_without_pictures_it_writes_the_scores(num_images: int, named: bool, tmp_path: Path):
    """None are asked for, or the images have no names."""
    results = ShowResults(str(tmp_path), num_images=num_images)
    evaluated(scenes(named=named), results)
    assert json.loads((tmp_path / 'scores.json').read_text()) == results.evaluations[0].to_dict()
    assert len((tmp_path / 'image_scores.csv').read_text().splitlines()) == (10 if named else 1)


def test_images_of_any_size_with_several_views(tmp_path: Path):
    """As a protocol's batches are: of the views the last, the largest, is shown."""
    rng = np.random.default_rng(0)
    samples = []
    for index, size in enumerate([(6, 9), (8, 8), (5, 12)]):
        truth = torch.from_numpy(rng.integers(-1, 3, size))
        pixels = torch.zeros(3, *size, dtype=torch.uint8)
        pixels[0] = truth.clamp(min=0)
        pixels[1] = index
        samples.append(([normalize(pixels) + 9, normalize(pixels)], truth, f'name {index}'))
    results = ShowResults(str(tmp_path), num_images=3)
    kept = evaluated(samples, results, collate_fn=collate_views).logger.destinations[1]
    assert isinstance(kept, KeepImages)
    assert results.evaluations[0].images == 3
    assert results.evaluations[0].mean_iou == 100
    assert results.evaluations[0].labelled.sum() == sum((truth >= 0).sum() for _, truth, _ in samples)
    for index, (_, truth, uid) in enumerate(samples):
        picture = kept.images[f'predictions/{uid}']
        assert picture.shape == (truth.shape[0], 3 * truth.shape[1], 3)
        np.testing.assert_array_equal(picture[:, : truth.shape[1], 0], truth.clamp(min=0))
        assert (picture[:, : truth.shape[1], 1] == index).all()


def test_an_image_that_was_not_scored_ends_the_run(tmp_path: Path):
    results = ShowResults(str(tmp_path))
    with pytest.raises(UserError, match=r'^7 of the 9 images of the scenes were scored$'):
        evaluated(scenes(), results, sampler=list(range(7)))
    assert results.evaluations == []
    assert list(tmp_path.iterdir()) == []


def test_an_image_that_was_scored_twice_ends_the_run():
    with pytest.raises(UserError, match=r'^10 of the 9 images of the scenes were scored$'):
        evaluated(scenes(), ShowResults(), sampler=[*range(9), 0])


def test_a_part_of_a_dataset_is_whole():
    results = ShowResults()
    evaluated(Subset(scenes(), [1, 4]), results)
    assert results.evaluations[0].images == 2


@pytest.mark.parametrize(('ema', 'weights'), [(None, ['raw', 'raw']), ('1ba', ['ema', 'ema']), ('4ba', ['raw', 'ema'])])
def test_whether_the_weights_are_averaged(ema: str | None, weights: list[str], tmp_path: Path):
    """``ema`` is when the average starts. A name given from outside holds."""
    results, named = ShowResults(), ShowResults()
    named.weights = 'raw'
    algorithms = [EMA(half_life='2ba', update_interval='1ba', ema_start=ema)] if ema else []
    fit(tmp_path, [2, 5], [results, named], algorithms=algorithms)
    assert [scores.weights for scores in results.evaluations] == weights
    assert [scores.weights for scores in named.evaluations] == ['raw', 'raw']
    assert [(scores.epoch, scores.batch) for scores in results.evaluations] == [(1, 3), (2, 6)]
    assert [scores.mean_iou for scores in results.evaluations] == [10, 25]


def test_it_can_be_named_in_a_config():
    assert CALLBACKS['show_results'] is ShowResults
    assert REGISTRY['callbacks']['show_results'] is ShowResults
