"""Training steps of Composer's trainer, to be timed: what train_step.py and algorithms.py share."""

import itertools
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench import device

import torch  # isort: skip
import composer.metrics
import composer.optim
from composer import Trainer
from composer.core import Algorithm, Callback, DataSpec, State
from composer.loggers import Logger
from composer.loss import DiceLoss, soft_cross_entropy
from torch import Tensor
from torchmetrics import MetricCollection

from segrecipes.algorithms.sgdw import DecoupledSGDW
from segrecipes.data.batch import with_count
from segrecipes.data.normalize import to_network
from segrecipes.models.heads import published_init
from segrecipes.models.mmseg import ensure_ops
from segrecipes.models.spec import NetworkSpec
from segrecipes.training.callbacks.batches import SeedEachBatch, ShareLabelledCount
from segrecipes.training.callbacks.stops import StopOnNonFiniteLoss
from segrecipes.training.strategy import STRATEGIES
from segrecipes.training.tasks.segmentation import SegmentationModel, build_model

warnings.filterwarnings('ignore')
ensure_ops()


@dataclass(frozen=True)
class Setting:
    """One network on one size of batch."""

    backbone_arch: str
    batch_size: int
    size: int
    num_classes: int = 150
    head_channels: int = 512
    output_stride: int = 8

    def network(self, **options: Any) -> SegmentationModel:
        """The same weights each time."""
        torch.manual_seed(0)
        spec = NetworkSpec(
            'deeplabv3plus', self.num_classes, self.backbone_arch, self.output_stride, self.head_channels
        )
        return build_model(
            spec,
            cross_entropy_weight=0.375,
            dice_weight=1.125,
            init_fn=published_init,
            **options,
        )

    def batches(self, count: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        """The same uint8 batch over and over, as the dataloader gives it, pinned for a GPU."""
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(
            256, (self.batch_size, self.size, self.size, 3), generator=generator, dtype=torch.uint8
        ).permute(0, 3, 1, 2)
        shape = self.batch_size, self.size, self.size
        # Drawn as the labels of a mask file, whose 0 is no class: 255 once it is read
        classes = torch.randint(self.num_classes + 1, shape, generator=generator, dtype=torch.uint8) - 1
        batch = with_count((images, classes))
        return [tuple(part.pin_memory() for part in batch) if device() == 'cuda' else batch] * count  # type: ignore


class Clock(Callback):
    """Seconds between the ends of batches; the host waits for the device only where the clock is read."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def batch_end(self, state: State, logger: Logger) -> None:
        self.ends.append(time.perf_counter())


@dataclass
class TrainerSteps:
    """A Trainer that trains ``steps`` batches a call; the call returns seconds a step, without the first."""

    model: SegmentationModel
    batches: Sequence[tuple[Tensor, ...]]
    optimizer: torch.optim.Optimizer
    precision: str = 'fp32'
    algorithms: Sequence[Algorithm] = ()
    callbacks: Sequence[Callback] = ()
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        data = DataSpec(
            self.batches,
            microbatch_transforms=to_network,
            get_num_samples_in_batch=lambda batch: len(batch[0]),
        )
        self.trainer = Trainer(
            model=self.model,
            train_dataloader=data,
            optimizers=self.optimizer,
            max_duration='0ba',
            precision=self.precision,
            device_train_microbatch_size=len(self.batches[0][0]),
            algorithms=list(self.algorithms),
            callbacks=[self.clock, *self.callbacks],
            device='gpu' if device() == 'cuda' else 'cpu',
            progress_bar=False,
            log_to_console=False,
        )

    def __call__(self) -> list[float]:
        self.clock.ends.clear()
        self.trainer.fit(duration=f'{len(self.batches)}ba')
        return [after - before for before, after in zip(self.clock.ends, self.clock.ends[1:])]

    def close(self) -> None:
        self.trainer.close()


def ours(
    setting: Setting,
    steps: int,
    precision: str,
    algorithms: Sequence[Algorithm] = (),
    compile_config: dict[str, Any] | None = None,
) -> TrainerSteps:
    """As main.py builds it."""
    torch.backends.cudnn.benchmark = True
    model = setting.network(full_size_logits=False, compile_options=compile_config)
    optimizer = DecoupledSGDW(model.parameters(), lr=0.001, momentum=0.9, weight_decay=5e-5)
    callbacks = [SeedEachBatch(), ShareLabelledCount(STRATEGIES['ddp']), StopOnNonFiniteLoss()]
    return TrainerSteps(model, setting.batches(steps), optimizer, precision, algorithms, callbacks)


composer_dice = DiceLoss(softmax=True, batch=True, ignore_absent_classes=True)


def upstream_loss(logits: Tensor, target: Tensor, pixels_per_image: Tensor | None = None) -> dict[str, Tensor]:
    cross_entropy, dice = soft_cross_entropy(logits, target, ignore_index=-1), composer_dice(logits, target)
    return {'total': 0.375 * cross_entropy + 1.125 * dice, 'cross_entropy': cross_entropy, 'dice': dice}


def upstream(setting: Setting, steps: int, precision: str) -> TrainerSteps:
    """The same network with what MosaicML's example uses: Composer's losses, optimizer and train metrics."""
    model = setting.network(full_size_logits=True)
    model._loss_fn = upstream_loss
    metrics = [
        composer.metrics.CrossEntropy(ignore_index=-1),
        composer.metrics.MIoU(setting.num_classes, ignore_index=-1),
    ]
    model.train_metrics = MetricCollection(metrics)
    # Composer's metrics take logits, not what ours are given
    model.eval_forward = lambda batch, outputs=None: outputs  # type: ignore[method-assign]
    model.update_metric = lambda batch, outputs, metric: metric.update(outputs, batch[1])  # type: ignore
    optimizer = composer.optim.DecoupledSGDW(model.parameters(), lr=0.001, momentum=0.9, weight_decay=5e-5)
    pairs = [batch[:2] for batch in setting.batches(steps)]
    return TrainerSteps(model, pairs, optimizer, precision)


def bare_loop(setting: Setting, steps: int) -> Callable[[], list[float]]:
    """A loop of plain PyTorch around the same network, loss and optimizer, which logs its loss each step."""
    model = setting.network(full_size_logits=False).to(device())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9, weight_decay=5e-5)
    transform = to_network

    def run() -> list[float]:
        ends = []
        model.train()
        for batch in setting.batches(steps):
            batch = transform([tensor.to(device(), non_blocking=True) for tensor in batch])
            loss = model.loss(model(batch), batch)['total']
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()
            ends.append(time.perf_counter())
        return [after - before for before, after in itertools.pairwise(ends)]

    return run


def rounds_of(runs: dict[str, Callable[[], list[float]]], rounds: int) -> dict[str, list[float]]:
    """Run each in turn, ``rounds`` times after one that does not count; milliseconds of all their steps."""
    milliseconds: dict[str, list[float]] = {name: [] for name in runs}
    for index in range(rounds + 1):
        for name, run in runs.items():
            steps = run()
            if index:
                milliseconds[name] += [1000 * step for step in steps]
    return milliseconds


def first_loss(run: TrainerSteps) -> float:
    """Of the first batch, which must not depend on the settings."""
    run()
    return run.trainer.state.total_loss_dict['loss/train/total']
