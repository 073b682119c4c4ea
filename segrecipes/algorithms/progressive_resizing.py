"""Composer's progressive resizing, whose masks follow the images, and the count of their pixels follows the masks."""

import composer.algorithms
from composer.core import Event, State
from composer.loggers import Logger

from segrecipes.data.batch import mean_labelled


class ProgressiveResizing(composer.algorithms.ProgressiveResizing):
    """Begins with small images, by which early steps are faster: https://github.com/fastai/fastbook, chapter 7

    Images and masks shrink alike, by their nearest pixels, or are cropped. Cross entropy is divided by the labelled
    pixels that are left: by those of before it would begin with ``initial_scale``² of its weight.

    Args:
        mode: ``resize`` or ``crop``.
        initial_scale: of the images' sides, until ``delay_fraction`` of the run; from there it grows in proportion.
        finetune_fraction: of the run, its last, with images as they are, whether a multiple or not.
        size_increment: sides are a multiple of it.
    """

    def __init__(
        self,
        mode: str = 'resize',
        initial_scale: float = 0.5,
        finetune_fraction: float = 0.2,
        delay_fraction: float = 0.5,
        size_increment: int = 4,
    ):
        super().__init__(mode, initial_scale, finetune_fraction, delay_fraction, size_increment, resize_targets=True)

    def apply(self, event: Event, state: State, logger: Logger | None = None) -> None:
        elapsed = state.get_elapsed_duration()
        if elapsed is not None and elapsed.value >= 1 - self.finetune_fraction:
            return
        super().apply(event, state, logger)
        images, classes, _, *more = state.batch
        state.batch = images, classes, mean_labelled(classes), *more
