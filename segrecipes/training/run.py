"""Train and evaluate a segmentation network.

composer main.py yamls/deeplabv3.yaml recipe_name=mild
"""

import gc

gc.disable()  # until all is imported: what modules are made of stays, and looking through it takes a second or two

import os
import re
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from composer import Trainer
from composer.core import DataSpec, Evaluator
from composer.utils import dist, get_device, reproducibility
from omegaconf import DictConfig, OmegaConf

import config as config_module
import registry
from callbacks import (
    AtFirstBatch,
    BestCheckpoint,
    Describe,
    SeedEachBatch,
    ShareLabelledCount,
    StopOnNonFiniteLoss,
)
from card import ModelCard
from checkpoints import Checkpoint, load_weights, read_checkpoint
from config import Config, DatasetConfig
from data import build_dataspec
from device import why_no_triton
from errors import UserError, clean_exit
from evaluate import evaluate, show, shown_results
from history import History
from layouts import get_layout
from model import SegmentationModel, build_model, check_names, published_init
from object_store import local_copy
from protocols import Protocol, get_protocol
from transforms import EvalTransform, TrainTransform
from unpickling import check_safe

gc.freeze()
gc.enable()

CPU_INFO = Path('/proc/cpuinfo')


def main(config: Config | DictConfig | Mapping[str, Any], sources: Mapping[str, str] | None = None) -> Trainer:
    """Run a config: train it, or with ``is_train: false`` evaluate it, and return the Trainer.

    Takes the typed config of ``config.load_config`` or a merged OmegaConf one.
    """
    if isinstance(config, Config):
        cfg, sources = config, sources or {}
    else:
        cfg, sources = config_module.merge(cast(DictConfig, OmegaConf.create(cast(dict, config))))
    check_registered(cfg)
    check_names(cfg.model.architecture, cfg.model.backbone_arch)
    protocol = get_protocol(cfg.eval_protocol, cfg.eval_dataset.final_size, cfg.eval_dataset.window_stride)

    # Device and ranks
    device = get_device(None)
    precision, autocast = choose_precision(cfg.precision, device.name)
    microbatch_size = choose_microbatch_size(cfg.device_train_microbatch_size, device.name)
    dist.initialize_dist(device)
    config_module.check_batch_sizes(cfg, dist.get_world_size())
    reproducibility.seed_all(cfg.seed)
    # Training has one crop size, for which cuDNN may try all its kernels, but not the same ones the next time
    torch.backends.cudnn.benchmark = cfg.is_train and not cfg.deterministic_mode
    say(config_module.describe(cfg, sources) + '\n')
    if device.name == 'gpu' and cfg.is_train and why_no_triton():
        say(
            f'the loss and dilated depthwise convolutions run without their own kernels, more slowly: {why_no_triton()}'
        )

    # Data
    train_dataspec = dataspec(cfg.train_dataset, 'train', cfg) if cfg.is_train else None
    eval_dataspec = dataspec(cfg.eval_dataset, 'val', cfg, protocol)

    # Model
    card = model_card(cfg)
    if cfg.load_path and not cfg.is_train:
        cfg.model.backbone_weights = None  # all weights are in the checkpoint
    model = build_model(
        **vars(cfg.model),
        full_size_logits=False,
        train_metrics=cfg.train_metrics,
        autocast=autocast,
        class_names=card.class_names,
        protocol=protocol,
        compile_options={} if cfg.compile is True else cfg.compile or None,
        init_fn=published_init,
    )
    checkpoint, resume_path = load_checkpoint(cfg, model)

    # Optimizer and learning rate
    optimizer = registry.build_one('optimizer', cfg.optimizer, model.parameters())
    scheduler = registry.build_one('scheduler', cfg.scheduler) if cfg.is_train else None

    # Recipe, callbacks, loggers
    algorithms = registry.build('algorithms', cfg.algorithms)
    folder = run_folder(cfg)
    results = cfg.callbacks.get('show_results', {})
    if results is not None:  # null takes them away
        results = {'folder': results_folder(cfg, str(protocol))} | results
    callbacks = [
        SeedEachBatch(),
        ShareLabelledCount(),
        StopOnNonFiniteLoss(),
        AtFirstBatch(lambda state: save_config(cfg, sources, state.run_name)),
        Describe(card),
        *registry.build('callbacks', {**cfg.callbacks, 'show_results': results}),
        *([BestCheckpoint(cfg.save_folder)] if cfg.save_folder and cfg.save_best and cfg.is_train else []),
    ]
    loggers = registry.build('loggers', {k: v for k, v in cfg.loggers.items() if k != 'progress_bar'})
    loggers += [History(folder)] if folder and cfg.is_train else []

    # Trainer
    trainer = build_trainer(
        cfg,
        model=model,
        load_path=resume_path,
        train_dataloader=train_dataspec,
        # All metrics: Composer takes their names for patterns, and the brackets of mIoU[ade20k-ss] would match nothing
        eval_dataloader=Evaluator(label='eval', dataloader=eval_dataspec, metric_names=['']),
        optimizers=optimizer,
        schedulers=scheduler,
        algorithms=algorithms,
        callbacks=callbacks,
        loggers=loggers,
        progress_bar=cfg.loggers.get('progress_bar') is not None,
        device=device,
        precision=precision,
        device_train_microbatch_size=microbatch_size,
    )

    # Run
    if cfg.is_train:
        train(cfg, trainer)
    else:
        evaluate(trainer, checkpoint)
    return trainer


def check_registered(cfg: Config) -> None:
    """Refuse unknown algorithms, callbacks, … and wrong arguments, all of them at once."""
    faults = [
        *registry.check_one('optimizer', cfg.optimizer),
        *registry.check_one('scheduler', cfg.scheduler),
        *registry.check('algorithms', cfg.algorithms),
        *registry.check('callbacks', cfg.callbacks),
        *registry.check('loggers', cfg.loggers),
    ]
    if faults:
        raise UserError('\n       '.join(faults))


def choose_precision(precision: str, device: str) -> tuple[str, torch.dtype | None]:
    """Composer's precision, and the dtype our own autocast runs the network in.

    Composer has no reduced precision on a CPU; there ``bf16`` is torch's CPU autocast.
    """
    bf16 = ('fp32', torch.bfloat16)
    legal = {
        'cpu': {'auto': bf16 if has_bf16_instructions() else ('fp32', None), 'fp32': ('fp32', None), 'bf16': bf16},
        'gpu': {
            'auto': ('amp_bf16' if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else 'amp_fp16', None),
            'fp32': ('fp32', None),
            'amp_fp16': ('amp_fp16', None),
            'amp_bf16': ('amp_bf16', None),
        },
    }.get(device, {'auto': ('fp32', None), 'fp32': ('fp32', None)})
    if precision not in legal:
        needs = ' needs a GPU, and none is visible' if precision.startswith('amp') else f' is not possible on {device}'
        raise UserError(f'precision={precision}{needs}. Legal here: {", ".join(legal)}.')
    return legal[precision]


def has_bf16_instructions() -> bool:
    """Whether this CPU multiplies in bfloat16; others emulate it, more slowly than float32."""
    flags = CPU_INFO.read_text() if CPU_INFO.exists() else ''
    return 'avx512_bf16' in flags or 'amx_bf16' in flags


def choose_microbatch_size(size: int | str | None, device: str) -> int | str | None:
    if size == 'auto' and device != 'gpu':
        say(f"device_train_microbatch_size=auto needs a GPU to try sizes on; on {device} it is each rank's whole batch")
        return None
    return size


def dataspec(dataset: DatasetConfig, split: str, cfg: Config, protocol: Protocol | None = None) -> DataSpec:
    """The DataSpec of ``train_dataset`` or ``eval_dataset``."""
    assert dataset.path is not None
    cores = len(os.sched_getaffinity(0)) // dist.get_local_world_size()
    num_workers = max(1, min(8, cores)) if dataset.num_workers is None else dataset.num_workers
    workers = {'persistent_workers': dataset.persistent_workers, 'prefetch_factor': dataset.prefetch_factor}
    batch_size = dataset.batch_size // dist.get_world_size()
    if protocol is None:
        transform = TrainTransform(
            dataset.base_size,
            dataset.final_size,
            dataset.min_resize_scale,
            dataset.max_resize_scale,
            dataset.keep_ratio,
        )
    elif protocol.resize == 'square':
        transform = EvalTransform(dataset.final_size)
    else:
        transform, batch_size = protocol, 1  # images of any size, so one at a time
    streaming = (
        'predownload', 'cache_limit', 'num_canonical_nodes', 'shuffle_algo',
        'download_retry', 'download_timeout', 'validate_hash',
    )  # fmt: skip
    return build_dataspec(
        path=dataset.path,
        split=split,
        batch_size=batch_size,
        name=dataset.name,
        is_streaming=dataset.is_streaming,
        local=dataset.local,
        num_classes=cfg.model.num_classes,
        ignore_background=dataset.ignore_background,
        transform=transform,
        third='labelled' if protocol is None else 'uids',
        seed=cfg.seed,
        drop_last=dataset.drop_last and split == 'train',  # every image is scored
        shuffle=dataset.shuffle and split == 'train',
        streaming={key: getattr(dataset, key) for key in streaming},
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        **(workers if num_workers else {}),
    )


def model_card(cfg: Config) -> ModelCard:
    """What a checkpoint of this run says of itself."""
    layout, model = get_layout(cfg.eval_dataset.name), cfg.model
    return ModelCard(
        architecture=model.architecture,
        num_classes=model.num_classes,
        backbone_arch=model.backbone_arch,
        output_stride=model.output_stride,
        head_channels=model.head_channels,
        auxiliary=model.auxiliary_weight > 0,
        class_names=layout.classes,
        dataset=cfg.eval_dataset.name,
        label_offset=layout.label_offset if cfg.eval_dataset.ignore_background else 0,
        image_size=cfg.eval_dataset.final_size,
    )


def load_checkpoint(cfg: Config, model: SegmentationModel) -> tuple[Checkpoint | None, str | None]:
    """Weights to train from go into the model; a whole training state is left to the Trainer, by its path."""
    if cfg.load_path is None:
        return None, None
    path = local_copy(cfg.load_path.format(rank=dist.get_global_rank(), local_rank=dist.get_local_rank()))
    checkpoint = read_checkpoint(path, cfg.trust_checkpoint)
    if cfg.is_train and not cfg.load_weights_only and checkpoint.kind == 'composer':
        check_safe(path, cfg.trust_checkpoint)  # the Trainer will run what is in it
        return checkpoint, path
    if cfg.is_train:
        load_weights(model.module, checkpoint.weights, f'load_path={cfg.load_path}')
    return checkpoint, None


def results_folder(cfg: Config, protocol: str) -> str | None:
    """Where an evaluation's results go: into the run's folder, or, without a training, beside the checkpoint."""
    if cfg.is_train:
        folder = run_folder(cfg)
        return f'{folder}/evaluation' if folder else None
    if cfg.load_path is None:
        return None
    return str((Path() if '://' in cfg.load_path else Path(cfg.load_path).parent) / f'evaluation-{protocol}')


def run_folder(cfg: Config) -> str | None:
    """Where config, history and results go: beside the checkpoints, if they are on disk."""
    return None if not cfg.save_folder or '://' in cfg.save_folder else cfg.save_folder


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
    try:
        trainer.fit()
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
    state = trainer.state
    if state.max_duration is not None and state.timestamp < state.max_duration:
        raise UserError(f'the run ended at {state.timestamp.batch} before its max_duration={state.max_duration}')


def save_config(cfg: Config, sources: Mapping[str, str], run_name: str) -> None:
    """Keep the effective config in the run's folder."""
    folder = run_folder(cfg)
    if folder and dist.get_global_rank() == 0:
        config_module.save(cfg, sources, Path(folder.format(run_name=run_name)) / 'config.yaml')


def summarize(cfg: Config, trainer: Trainer) -> None:
    """The last evaluation, or all of a run that only evaluates, and where everything is."""
    results = shown_results(trainer)
    if results is None:
        return
    show(results.evaluations[-1:] if cfg.is_train else results.evaluations)
    for what, folder in {'results': results.folder, 'checkpoints': cfg.save_folder if cfg.is_train else None}.items():
        if folder:
            say(f'{what}: {folder.format(run_name=trainer.state.run_name)}')


def ignore_known_warnings() -> None:
    """Of the libraries, about what is meant here; a user can do nothing about them."""
    for message in (
        'The memory monitor only works on CUDA devices',
        'Cannot split ',  # the last, smaller batch of an evaluation
        'SAM has known issues of weight mismatch',  # Composer's; sam.py has not
        'Negative label indices are being ignored',  # MixUp, on ignored pixels
    ):
        warnings.filterwarnings('ignore', message=re.escape(message))


def say(line: str) -> None:
    if dist.get_global_rank() == 0:
        print(line, flush=True)


@clean_exit
def cli() -> None:
    cfg, sources = config_module.load_config(sys.argv[1:])
    ignore_known_warnings()
    trainer = main(cfg, sources)
    trainer.close()  # waits for uploads, and fails with them
    summarize(cfg, trainer)


if __name__ == '__main__':
    cli()
