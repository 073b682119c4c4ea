"""What our runs add to Composer's: a stop on a lost loss, resumable randomness, the best checkpoint, results."""

import math
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from composer.callbacks import CheckpointSaver
from composer.core import Callback, Event, State
from composer.loggers import Logger
from composer.utils import dist, parse_uri
from torch import Tensor

from card import ModelCard
from ema import EMA
from errors import UserError
from gallery import Arrays, Gallery
from metrics import MIoU
from model import unwrapped
from pictures import save_predictions, side_by_side
from scores import Scores
from transforms import to_pixels


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


class ShareLabelledCount(Callback):
    """Averages over all ranks the number of labelled pixels an image that each batch came with.

    The cross entropy of a rank is then divided by what that of all ranks is divided by. Reduced on the device, because
    a GPU's process group takes no tensor of the host; before the first pass, where no rank can be out of memory yet.
    """

    def batch_start(self, state: State, logger: Logger) -> None:
        if dist.get_world_size() == 1:
            return
        images, masks, labelled = state.batch
        mean = state.device.tensor_to_device(labelled.mean())
        dist.all_reduce(mean)
        state.batch = images, masks, (mean / dist.get_world_size()).expand(len(masks))


class AtFirstBatch(Callback):
    """Calls ``action`` once the run has been let start: Composer refuses an occupied folder only at ``fit``."""

    def __init__(self, action: Callable[[State], None]):
        self.action: Callable[[State], None] | None = action

    def batch_start(self, state: State, logger: Logger) -> None:
        if self.action is not None:
            self.action(state)
            self.action = None


class Describe(Callback):
    """Keeps the model's card in each checkpoint, which is then used without a yaml."""

    def __init__(self, card: ModelCard):
        self.card = card

    def state_dict(self) -> dict[str, Any]:
        return self.card.to_dict()


class BestCheckpoint(Callback):
    """Keeps the checkpoint of the best evaluation beside the latest: ``best-rank{rank}.pt``, a link to it.

    Args:
        folder: Composer's ``save_folder``.
    """

    def __init__(self, folder: str):
        name = 'best-ep{epoch}-ba{batch}-rank{rank}.pt'
        remote = Path(parse_uri(folder)[2])
        # One inside this callback, because the Trainer takes the first it is given for the one it resumes from.
        self.saver = CheckpointSaver(
            folder=folder,
            filename=name,
            remote_file_name=str(remote / name),
            latest_filename='best-rank{rank}.pt',
            latest_remote_file_name=str(remote / 'best-rank{rank}.pt'),
            save_interval=self._is_due,
            overwrite=True,
            num_checkpoints_to_keep=1,
        )
        self.best = -math.inf
        self._improved = False
        self._fit_has_ended = False

    def run_event(self, event: Event, state: State, logger: Logger) -> None:
        if event == Event.FIT_START:
            folder = Path(self.saver.filename.format(state)).parent
            saved = [folder / Path(path).name for path in self.saver.all_saved_checkpoints_to_timestamp]
            self.saver.saved_checkpoints = [str(path) for path in saved if path.exists()]
            if not self.saver.saved_checkpoints and self.saver.remote_uploader is None:
                self.best = -math.inf  # a run of its own, which starts from another's checkpoint
        self.saver.run_event(event, state, logger)
        if event == Event.EVAL_END:
            value = float(mean_iou(state).compute())
            if value > self.best:
                self.best, self._improved = value, True
            if self._fit_has_ended:  # Composer's last evaluation comes after its last checkpoint
                self.saver.batch_checkpoint(state, logger)
                self.saver.fit_end(state, logger)
        self._fit_has_ended = event == Event.FIT_END or (self._fit_has_ended and event != Event.FIT_START)

    def _is_due(self, state: State, event: Event) -> bool:
        due, self._improved = self._improved, False
        return due

    def post_close(self) -> None:
        self.saver.post_close()

    def state_dict(self) -> dict[str, Any]:
        return {'best': self.best, **self.saver.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = state['best']
        self.saver.load_state_dict(state)


class ShowResults(Callback):
    """Scores each evaluation in full, logs the figures, and writes them with some pictures into a folder.

    What is written: ``scores.json``, ``scores.csv``, ``image_scores.csv``, ``images.json``, ``images/`` and
    ``predictions.png``. The pictures that are always the same go to TensorBoard and W&B as well.

    Args:
        folder: may name ``{run_name}``; None only logs.
        num_images: pictures of each group: best, worst, and always the same.
    """

    def __init__(self, folder: str | None = None, num_images: int = 6):
        self.folder = folder
        self.num_images = num_images
        self.weights: str | None = None  # which the model has, ema or raw; None: asks Composer's EMA
        self.evaluations: list[Scores] = []
        self._gallery: Gallery | None = None

    def eval_start(self, state: State, logger: Logger) -> None:
        self._gallery = Gallery(len(unwrapped(state.model).class_names), self.num_images) if self.folder else None
        self._averaged = any(isinstance(algorithm, EMA) and algorithm.ema_started for algorithm in state.algorithms)

    def eval_after_forward(self, state: State, logger: Logger) -> None:
        images, labels, *uids = state.batch
        if self._gallery is None or not uids:
            return
        scored: Any = state.outputs
        both_scores = scored.image_scores.tolist()  # all that comes to the host of most images
        of_images = zip(images, labels, scored.predictions)
        for uid, (mean_iou, pixel_accuracy), of_image in zip(*uids, both_scores, of_images):
            self._gallery.add(uid, mean_iou, pixel_accuracy, partial(arrays, *of_image))

    def eval_end(self, state: State, logger: Logger) -> None:
        model = unwrapped(state.model)
        loader: Any = state.dataloader
        confusion, images = (value.clone() for value in (mean_iou(state).confusion, mean_iou(state).images))
        dist.all_reduce(confusion)
        dist.all_reduce(images)
        if int(images) != len(loader.dataset):
            raise UserError(f'{int(images)} of the {len(loader.dataset)} images of {loader.dataset} were scored')
        scores = Scores(
            confusion.cpu().numpy(),
            model.class_names,
            int(images),
            str(model.protocol),
            self.weights or ('ema' if self._averaged else 'raw'),
            state.timestamp.epoch.value,
            state.timestamp.batch.value,
        )
        self.evaluations.append(scores)
        figures = {('mIoU' if name == 'mean_iou' else name): value for name, value in scores.summary().items()}
        logger.log_metrics({f'metrics/eval/{name}[{model.protocol}]': value for name, value in figures.items()})
        if self.folder and self._gallery is not None:
            self._gallery.gather()
            if dist.get_global_rank() == 0:
                self._write(Path(self.folder.format(run_name=state.run_name)), scores, logger)

    def _write(self, folder: Path, scores: Scores, logger: Logger) -> None:
        assert self._gallery is not None
        scores.write(folder)
        self._gallery.write(folder)
        shown = self._gallery.groups['sample']
        title = f'epoch {scores.epoch}, mIoU {scores.mean_iou:.1f}, {scores.protocol}'
        if shown:
            save_predictions(folder / 'predictions.png', shown, scores.class_names, title)
        for picture in shown:
            logger.log_images(side_by_side(picture), f'predictions/{picture.uid}', channels_last=True)


def arrays(image: Tensor | list[Tensor], truth: Tensor, prediction: Tensor) -> Arrays:
    """On the host, what a picture is made of: of several views of an image the largest."""
    image = image[-1] if isinstance(image, list) else image
    return to_pixels(image), truth.cpu().numpy(), prediction.cpu().numpy()


def mean_iou(state: State) -> MIoU:
    """The metric of the evaluation that has just ended, with this rank's confusion matrix."""
    return next(metric for metric in state.eval_metrics['eval'].values() if isinstance(metric, MIoU))


CALLBACKS: dict[str, type] = {'show_results': ShowResults}
