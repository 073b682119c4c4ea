"""The folder of a run, and what is kept of its config: there, and in each checkpoint."""

import atexit
import itertools
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

from composer import Trainer
from composer.callbacks import CheckpointSaver
from composer.utils import dist

from segrecipes.base.errors import UserError
from segrecipes.base.run_files import CONFIG, EVALUATION
from segrecipes.checkpoints.card import ModelCard
from segrecipes.config.describe import save
from segrecipes.config.schema import Config
from segrecipes.config.settings import ARGUMENTS, COMMAND_LINE
from segrecipes.datasets.table import get_dataset
from segrecipes.training.callbacks.best import BestCheckpoint


def results_folder(cfg: Config, protocol: str) -> str | None:
    """Where an evaluation's results go: into the run's folder, or, without a training, beside the checkpoint."""
    if cfg.is_train:
        folder = run_folder(cfg)
        return f'{folder}/{EVALUATION}' if folder else None
    if cfg.load_path is None:
        return None
    return str((Path() if '://' in cfg.load_path else Path(cfg.load_path).parent) / f'{EVALUATION}-{protocol}')


def run_folder(cfg: Config) -> str | None:
    """Where config, history and results go: beside the checkpoints, if they are on disk."""
    return None if not cfg.save_folder or '://' in cfg.save_folder else cfg.save_folder


def reserve_folder(cfg: Config, sources: Mapping[str, str]) -> None:
    """Make the run's folder, and number the run's name where there is such a run already; on rank 0, for all ranks.

    A name from the command line is left as it is, and so is that of a run which is to go on or to be written over.
    """
    folder, name = run_folder(cfg), cfg.run_name
    is_given = sources.get('run_name') in (COMMAND_LINE, ARGUMENTS) or cfg.autoresume or cfg.save_overwrite
    if name is None or folder is None or '{run_name}' not in folder or is_given or not cfg.is_train:
        return
    names = [name]
    if dist.get_global_rank() == 0:
        names = [next(filter(partial(made, folder), numbered(name)))]
    dist.broadcast_object_list(names)
    cfg.run_name = names[0]


def numbered(name: str) -> Iterator[str]:
    """``name``, ``name-2``, ``name-3``, …"""
    yield name
    yield from (f'{name}-{number}' for number in itertools.count(2))


def made(folder: str, name: str) -> bool:
    """Whether a run's folder was not there, and is now; one in which nothing was ever saved goes with the process."""
    path = Path(folder.format(run_name=name))
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        return False
    except OSError as error:
        raise UserError(f'save_folder={folder}: {path} cannot be made ({error.strerror})') from error
    atexit.register(remove_empty, path)
    return True


def remove_empty(path: Path) -> None:
    with suppress(OSError):
        path.rmdir()


def save_config(cfg: Config, sources: Mapping[str, str], run_name: str) -> None:
    """Keep the effective config in the run's folder."""
    folder = run_folder(cfg)
    if folder and dist.get_global_rank() == 0:
        save(cfg, sources, Path(folder.format(run_name=run_name)) / CONFIG)


def model_card(cfg: Config) -> ModelCard:
    """What a checkpoint of this run says of itself."""
    assert cfg.eval_dataset.name is not None
    dataset = get_dataset(cfg.eval_dataset.name)
    return ModelCard(
        cfg.model.network,
        auxiliary=cfg.model.auxiliary_weight > 0,
        class_names=dataset.class_names(cfg.eval_dataset.ignore_background),
        palette=dataset.class_colors(cfg.eval_dataset.ignore_background),
        dataset=dataset.name,
        label_offset=dataset.label_offset if cfg.eval_dataset.ignore_background else 0,
        image_size=cfg.eval_dataset.final_size,
        warning=dataset.warning,
        values=dataset.values,
    )


def best_checkpoint(trainer: Trainer, folder: str) -> str | None:
    """In a run's ``folder``, a path or a URL, the checkpoint of the best evaluation, or else the latest, if any."""
    callbacks = trainer.state.callbacks
    savers = [callback.saver for callback in callbacks if isinstance(callback, BestCheckpoint)]
    for saver in (*savers, *(callback for callback in callbacks if isinstance(callback, CheckpointSaver))):
        assert saver.latest_filename is not None
        name = saver.latest_filename.filename.format(rank=0)
        if saver.all_saved_checkpoints_to_timestamp if '://' in folder else (Path(folder) / name).exists():
            return f'{folder}/{name}'
    return None
