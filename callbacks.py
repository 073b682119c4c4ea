"""What our runs add to Composer's: a stop on a lost loss, resumable randomness, results to look at."""

import csv
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist
from rich.console import Console
from rich.table import Table

from errors import UserError
from metrics import iou_from_confusion
from pictures import save_predictions
from transforms import IMAGENET_CHANNEL_MEAN, IMAGENET_CHANNEL_STD


class StopOnNonFiniteLoss(Callback):
    """Ends the run on a NaN or infinite loss, before a checkpoint of that state is written.

    Composer has already brought the loss to the host for its loggers, so looking at it costs nothing.
    """

    def batch_end(self, state: State, logger: Logger) -> None:
        losses = state.total_loss_dict
        if any(not math.isfinite(loss) for loss in losses.values()):
            values = ', '.join(f'{name.removeprefix("loss/train/")}={loss}' for name, loss in losses.items())
            raise UserError(
                f'the loss is not finite in batch {state.timestamp.batch.value} ({values}); no checkpoint of it was '
                'written. Lower optimizer.lr, or use precision=fp32 or amp_bf16 in place of amp_fp16.'
            )


class SeedEachBatch(Callback):
    """Seeds the global generators by (seed, rank, batch), so that MixUp and dropout do not notice a resumed run.

    Also before each pass over the batch: both of SAM's, and one repeated with a smaller microbatch, draw alike.
    """

    def before_train_batch(self, state: State, logger: Logger) -> None:
        self.batch_start(state, logger)

    def batch_start(self, state: State, logger: Logger) -> None:
        entropy = (state.rank_zero_seed, dist.get_global_rank(), state.timestamp.batch.value)
        seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)


class AtFirstBatch(Callback):
    """Calls ``action`` once the run has been let start: Composer refuses an occupied folder only at ``fit``."""

    def __init__(self, action: Callable[[State], None]):
        self.action: Callable[[State], None] | None = action

    def batch_start(self, state: State, logger: Logger) -> None:
        if self.action is not None:
            self.action(state)
            self.action = None


class ShowResults(Callback):
    """Writes IoU by class as a CSV table and some predictions as a picture after each evaluation.

    Args:
        folder: where ``iou.csv`` and ``predictions.png`` go.
        num_images: how many of rank 0's images are shown, taken from all over the evaluation.
    """

    def __init__(self, folder: str, num_images: int = 6):
        self.folder = Path(folder)
        self.num_images = num_images
        self._samples: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def eval_start(self, state: State, logger: Logger) -> None:
        self._samples = []

    def eval_batch_end(self, state: State, logger: Logger) -> None:
        batches = int(state.dataloader_len or 1)
        wanted = -(-self.num_images // batches)
        interval = max(1, batches // self.num_images)
        if dist.get_global_rank() or state.eval_timestamp.batch.value % interval:
            return
        images, labels = (tensor[:wanted].cpu() for tensor in state.batch)
        predictions = state.outputs[:wanted].argmax(dim=1).cpu().numpy()  # type: ignore[index]
        pixels = images.permute(0, 2, 3, 1).numpy() * IMAGENET_CHANNEL_STD + IMAGENET_CHANNEL_MEAN
        self._samples += zip(pixels.round().clip(0, 255).astype(np.uint8), labels.numpy(), predictions)

    def eval_end(self, state: State, logger: Logger) -> None:
        iou = iou_by_class(state)
        if dist.get_global_rank():
            return
        names: Any = state.model.class_names
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / 'iou.csv.partial'
        with partial.open('w', newline='') as file:
            csv.writer(file).writerows([('class', 'IoU'), *zip(names, (f'{value:.4f}' for value in iou))])
            csv.writer(file).writerow(('mean', f'{np.nanmean(iou):.4f}'))
        partial.replace(self.folder / 'iou.csv')
        title = f'epoch {state.timestamp.epoch.value}, mean IoU {np.nanmean(iou):.1%}'
        images, truths, predictions = zip(*self._samples[: self.num_images])
        save_predictions(self.folder / 'predictions.png', images, truths, predictions, names, title)

    def show(self) -> None:
        """Print the table of the last evaluation, and where it and the picture are."""
        table = Table('class', 'IoU')
        with (self.folder / 'iou.csv').open() as file:
            for name, value in list(csv.reader(file))[1:]:
                table.add_row(name, value)
        Console().print(table)
        print(f'picture: {self.folder / "predictions.png"}\ntable: {self.folder / "iou.csv"}')


def iou_by_class(state: State) -> np.ndarray:
    """Intersection over union of each class over all ranks: (C,) float64, NaN where a class never occurs."""
    metric: Any = state.eval_metrics['eval']['MIoU']
    confusion = metric.confusion.clone()
    dist.all_reduce(confusion)
    return iou_from_confusion(confusion).cpu().numpy()


CALLBACKS: dict[str, type] = {'show_results': ShowResults}
