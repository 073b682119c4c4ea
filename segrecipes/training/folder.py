"""The folder of a run, and what is kept of its config: there, and in each checkpoint."""

from collections.abc import Mapping
from pathlib import Path

from composer import Trainer
from composer.callbacks import CheckpointSaver
from composer.utils import dist

from segrecipes.base.run_files import CONFIG, EVALUATION
from segrecipes.checkpoints.card import ModelCard
from segrecipes.config.describe import save
from segrecipes.config.schema import Config
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
