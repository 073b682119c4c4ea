"""Shows what an evaluation found."""

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist
from composer.utils.import_helpers import MissingConditionalImportError
from torch import Tensor

from segrecipes.algorithms.ema import EMA
from segrecipes.base.errors import UserError
from segrecipes.base.palette import Color
from segrecipes.base.run_files import PREDICTIONS, class_table, metric
from segrecipes.base.stores import written
from segrecipes.data.batch import UIDS
from segrecipes.data.channels import as_rgb
from segrecipes.data.normalize import to_pixels
from segrecipes.datasets.table import get_dataset
from segrecipes.evaluation.gallery import Arrays, Gallery
from segrecipes.evaluation.groups import Groups
from segrecipes.evaluation.pictures import save_predictions, side_by_side
from segrecipes.evaluation.scores import Scores, defined
from segrecipes.training.callbacks.best import mean_iou, whole_confusion
from segrecipes.training.strategy import STRATEGIES


class ShowResults(Callback):
    """Scores each evaluation in full, logs the figures, and writes them with some pictures into a folder.

    What is written: ``scores.json``, ``scores.csv``, ``image_scores.csv``, ``images.json``, ``images/`` and
    ``predictions.png``. The pictures that are always the same go to TensorBoard and W&B as well.

    Args:
        folder: may name ``{run_name}``, and be a URL; None only logs.
        num_images: pictures of each group: best, worst, and always the same.
        strategy: a row of ``strategy.STRATEGIES``, by which the model is wrapped.
        dataset: what is evaluated, by name or path: its groups are scored as a whole, and its warning is repeated.
        colors: RGB of each class; by default those of ``base.palette``.
    """

    def __init__(
        self,
        folder: str | None = None,
        num_images: int = 6,
        strategy: str = 'ddp',
        dataset: str | None = None,
        colors: Sequence[Color] = (),
    ):
        self.colors = tuple(colors)
        self.strategy = STRATEGIES[strategy]
        self.folder = folder
        self.num_images = num_images
        self.row = None if dataset is None else get_dataset(dataset)
        self.weights: str | None = None  # which the model has, ema or raw; None: asks Composer's EMA
        self.evaluations: list[Scores] = []
        self._gallery: Gallery | None = None
        self._groups: Groups | None = None

    def eval_start(self, state: State, logger: Logger) -> None:
        self._gallery = Gallery(self.num_images) if self.folder else None
        self._groups = Groups(self.row.group_of) if self.row is not None and self.row.group else None
        self._averaged = any(isinstance(algorithm, EMA) and algorithm.ema_started for algorithm in state.algorithms)

    def eval_after_forward(self, state: State, logger: Logger) -> None:
        if len(state.batch) <= UIDS:  # a batch of somebody else's loader
            return
        images, labels, _, uids = state.batch
        scored: Any = state.outputs
        if self._groups is not None:
            for uid, counts in zip(uids, scored.counts.cpu().numpy()):
                self._groups.add(uid, counts)
        if self._gallery is None:
            return
        both_scores = scored.image_scores.tolist()  # all that comes to the host of most images
        of_images = zip(images, labels, scored.predictions)
        for uid, (iou, accuracy), of_image in zip(uids, both_scores, of_images):
            self._gallery.add(uid, iou, accuracy, partial(arrays, *of_image))

    def eval_end(self, state: State, logger: Logger) -> None:
        model = self.strategy.unwrapped(state.model)
        loader: Any = state.dataloader
        confusion, images = whole_confusion(state), mean_iou(state).images.clone()
        dist.all_reduce(images)
        if int(images) != len(loader.dataset):
            raise UserError(f'{int(images)} of the {len(loader.dataset)} images of {loader.dataset} were scored')
        if self._groups is not None:
            self._groups.gather()
        scores = Scores(
            confusion.cpu().numpy(),
            model.class_names,
            int(images),
            str(model.protocol),
            self.weights or ('ema' if self._averaged else 'raw'),
            state.timestamp.epoch.value,
            state.timestamp.batch.value,
            group_dice=self._groups.dice() if self._groups is not None else {},
            warning=self.row.warning if self.row is not None else '',
            colors=self.colors,
        )
        self.evaluations.append(scores)
        logger.log_metrics({metric(name, model.protocol): value for name, value in scores.summary().items()})
        rows = [[name, defined(value)] for name, value in zip(scores.class_names, scores.iou.tolist())]
        for destination in logger.destinations:
            with suppress(MissingConditionalImportError):  # some of Composer's take a table only by pandas
                destination.log_table(['class', 'IoU'], rows, class_table(model.protocol), state.timestamp.batch.value)
        if self.folder and self._gallery is not None:
            self._gallery.gather()
            if dist.get_global_rank() == 0:
                with written(self.folder.format(run_name=state.run_name)) as folder:
                    self._write(folder, scores, logger)

    def _write(self, folder: Path, scores: Scores, logger: Logger) -> None:
        assert self._gallery is not None
        scores.write(folder)
        self._gallery.write(folder, scores.colors)
        shown = self._gallery.groups['sample']
        title = f'epoch {scores.epoch}, mIoU {scores.mean_iou:.1f}, {scores.protocol}'
        if shown:
            save_predictions(folder / PREDICTIONS, shown, scores.class_names, scores.colors, title)
        for picture in shown:
            logger.log_images(side_by_side(picture, scores.colors), f'predictions/{picture.uid}', channels_last=True)


def arrays(image: Tensor | list[Tensor], truth: Tensor, prediction: Tensor) -> Arrays:
    """On the host, what a picture is made of: of several views of an image the largest."""
    image = image[-1] if isinstance(image, list) else image
    return as_rgb(to_pixels(image)), truth.cpu().numpy(), prediction.cpu().numpy()
