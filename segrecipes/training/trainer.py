"""Composer's Trainer from a config, and what it raises told in one message."""

import atexit
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from composer import Trainer
from composer.core import Engine

from segrecipes.base.errors import UserError
from segrecipes.config.schema import Config
from segrecipes.training.callbacks.interrupt import Stopped
from segrecipes.training.callbacks.progress import ProgressBar
from segrecipes.training.tasks.segmentation import SegmentationModel


def build_trainer(cfg: Config, *, model: SegmentationModel, **kwargs: Any) -> Trainer:
    """A Trainer; what is wrong with a checkpoint to load becomes one message."""
    try:
        return Trainer(
            model=model,
            run_name=cfg.run_name,
            max_duration=cfg.max_duration,
            eval_interval=cfg.eval_interval,
            save_folder=cfg.save_folder if cfg.is_train else None,
            save_interval=cfg.save_interval,
            save_num_checkpoints_to_keep=cfg.save_num_checkpoints_to_keep,
            save_overwrite=cfg.save_overwrite,
            autoresume=cfg.autoresume and cfg.is_train,
            spin_dataloaders=False,  # our datasets start where a checkpoint left off
            seed=cfg.seed,
            deterministic_mode=cfg.deterministic_mode,
            python_log_level=cfg.python_log_level,
            **kwargs,
        )
    except RuntimeError as error:
        if 'state_dict' not in str(error):
            raise
        mismatch = next((line.strip() for line in str(error).splitlines() if 'size mismatch' in line), '')
        raise UserError(
            f'load_path={cfg.load_path} does not fit this model (model.architecture={cfg.model.architecture}, '
            f'model.backbone_arch={cfg.model.backbone_arch}, model.num_classes={cfg.model.num_classes}). {mismatch}'
        ) from error


def train(cfg: Config, trainer: Trainer) -> None:
    """``trainer.fit``, to the end."""
    state = trainer.state
    if state.max_duration is not None and state.timestamp >= state.max_duration:
        raise UserError(
            f'max_duration={cfg.max_duration} is not beyond the checkpoint that the run goes on from, which is of '
            f'epoch {state.timestamp.epoch.value}, batch {state.timestamp.batch.value}. Set a longer one; or '
            'load_weights_only=true, which begins anew from its weights.'
        )
    try:
        with bar_hidden(trainer):
            trainer.fit()
    except Stopped:
        close(trainer)  # and its uploads with it
        raise
    except FileExistsError as error:
        raise UserError(
            f'save_folder={cfg.save_folder} already holds {error.args[0].split(" may conflict")[0]}. Choose another '
            'folder, or set save_overwrite=true, or autoresume=true to go on with that run.'
        ) from error
    except ValueError as error:
        if 'more than 1 value per channel' not in str(error):
            raise
        raise UserError(
            f'model.architecture={cfg.model.architecture} pools to one pixel, and its batch norm needs '
            'two samples or more: raise train_dataset.batch_size or device_train_microbatch_size to 2 or more a rank'
        ) from error
    if state.max_duration is not None and state.timestamp < state.max_duration:
        raise UserError(f'the run ended at {state.timestamp.batch} before its max_duration={state.max_duration}')


@contextmanager
def bar_hidden(trainer: Trainer) -> Iterator[None]:
    """Whatever happens, afterwards no bar is on the screen, nor drawn again."""
    try:
        yield
    finally:
        for logger in trainer.logger.destinations:
            if isinstance(logger, ProgressBar):
                logger.hide()


def close(trainer: Trainer) -> None:
    """``trainer.close``, which waits for uploads and fails with them; afterwards the trainer's memory can be had again.

    Composer keeps each Trainer, its network and its optimizer for the end of the process, closed or not.
    """
    trainer.close()
    atexit.unregister(Engine._close)
