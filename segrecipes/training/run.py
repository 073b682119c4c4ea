"""A run from its config: the table of contents of a training, and of an evaluation."""

import gc

gc.disable()  # until all is imported: what modules are made of stays, and looking through it takes a second or two

from collections.abc import Mapping
from typing import Any

import torch
from composer import Trainer
from composer.core import Evaluator
from composer.utils import dist, get_device, reproducibility

from segrecipes.base.device import why_no_triton
from segrecipes.base.run_files import EVAL_LABEL
from segrecipes.config.check import check_batch_sizes
from segrecipes.config.describe import describe, outline
from segrecipes.config.merge import merge
from segrecipes.config.schema import Config
from segrecipes.evaluation.table import get_protocol
from segrecipes.models.heads import published_init
from segrecipes.training import registry
from segrecipes.training.advice import advice
from segrecipes.training.callbacks.batches import AtFirstBatch, SeedEachBatch, ShareLabelledCount, WeighLabelledCount
from segrecipes.training.callbacks.best import BestCheckpoint
from segrecipes.training.callbacks.describe import Describe
from segrecipes.training.callbacks.history import History
from segrecipes.training.callbacks.interrupt import StopOnSignal
from segrecipes.training.callbacks.monitor import with_metrics
from segrecipes.training.callbacks.record import Record
from segrecipes.training.callbacks.stops import StopOnNonFiniteLoss, StopOnUnlabelledEpoch
from segrecipes.training.checks import check_registered
from segrecipes.training.data import dataspec, images
from segrecipes.training.device import choose_microbatch_size, choose_precision, say
from segrecipes.training.durations import batches_of, in_batches
from segrecipes.training.evaluate import evaluate
from segrecipes.training.folder import model_card, reserve_folder, results_folder, run_folder, save_config
from segrecipes.training.losses import loss_options, with_class_weights
from segrecipes.training.optimizer import build_optimizer
from segrecipes.training.provenance import facts
from segrecipes.training.restore import load_checkpoint
from segrecipes.training.strategy import STRATEGIES
from segrecipes.training.tasks.segmentation import build_model
from segrecipes.training.trainer import bar_hidden, build_trainer, train

gc.freeze()
gc.enable()


def main(
    config: Config | Mapping[Any, Any], sources: Mapping[str, str] | None = None, verbose: bool = False
) -> Trainer:
    """Run a config: train it, or with ``is_train: false`` evaluate it, and return the Trainer.

    Takes the typed config of ``load_config``, or a mapping such as a merged OmegaConf one. Once nothing is wrong with
    it, what of it was set is printed, or with ``verbose`` all of it.
    """
    cfg, sources = (config, sources or {}) if isinstance(config, Config) else merge(config)
    check_registered(cfg)
    described = describe if verbose else outline
    protocol = get_protocol(cfg.eval_protocol, cfg.eval_dataset.final_size, cfg.eval_dataset.window_stride)

    # Device and ranks
    device = get_device(None)
    precision, autocast = choose_precision(cfg.precision, device.name)
    microbatch_size = choose_microbatch_size(cfg.device_train_microbatch_size, device.name)
    dist.initialize_dist(device)
    check_batch_sizes(cfg, dist.get_world_size())
    reproducibility.seed_all(cfg.seed)
    # Training has one crop size, for which cuDNN may try all its kernels, but not the same ones the next time
    torch.backends.cudnn.benchmark = cfg.is_train and not cfg.deterministic_mode
    if device.name == 'gpu' and cfg.is_train and why_no_triton():
        say(
            f'the loss and dilated depthwise convolutions run without their own kernels, more slowly: {why_no_triton()}'
        )

    # Data
    train_dataspec = dataspec(cfg.train_dataset, 'train', cfg) if cfg.is_train else None
    eval_dataspec = dataspec(cfg.eval_dataset, 'val', cfg, protocol)
    for line in advice(cfg, images(train_dataspec), device.name) if train_dataspec else ():
        say(line)

    # Model
    card = model_card(cfg)
    if card.warning:
        say(f'warning: {card.warning}\n')
    cfg, sources = with_class_weights(cfg, sources, train_dataspec, card.class_names)
    model = build_model(
        cfg.model.network,
        backbone_weights=None if cfg.load_path else cfg.model.backbone_weights,  # a checkpoint has all of them
        auxiliary_weight=cfg.model.auxiliary_weight,
        sync_bn=cfg.model.sync_bn,
        cross_entropy_weight=cfg.model.loss_weights['cross_entropy'],
        dice_weight=cfg.model.loss_weights['dice'],
        dice_per=cfg.model.dice_per,
        loss_options=loss_options(cfg.model),
        full_size_logits=False,
        train_metrics=cfg.train_metrics,
        autocast=autocast,
        class_names=card.class_names,
        protocol=protocol,
        strategy=cfg.strategy,
        compile_options={} if cfg.compile is True else cfg.compile or None,
        init_fn=published_init,
    )
    if card.network.in_channels != 3 and cfg.model.backbone_weights and not cfg.load_path:
        count = card.network.in_channels
        say(f'{count} channels: each has, in the first convolution, the mean of the weights for RGB times 3/{count}')
    checkpoint, resume_path = load_checkpoint(cfg, model, card)
    model.freeze(cfg.model.freeze)

    # Optimizer and learning rate
    optimizer = build_optimizer(cfg.optimizer, model.module)
    scheduler = registry.build_one('scheduler', cfg.scheduler) if cfg.is_train else None

    # Recipe, callbacks, loggers
    batches = batches_of(cfg, train_dataspec and train_dataspec.dataloader)
    algorithms = registry.build('algorithms', in_batches('algorithms', cfg.algorithms, batches))
    folder = run_folder(cfg)
    results = cfg.callbacks.get('show_results', {})
    if results is not None:  # null takes them away
        settings = {'strategy': cfg.strategy, 'dataset': cfg.eval_dataset.name, 'colors': card.palette}
        results = {'folder': results_folder(cfg, str(protocol)), **settings} | results
    metrics = {'train': [*model.get_metrics(True)], EVAL_LABEL: [*model.get_metrics(False)]}
    named = with_metrics(cfg.callbacks, metrics)
    callbacks = [
        *([StopOnSignal(STRATEGIES[cfg.strategy])] if cfg.is_train else []),
        SeedEachBatch(),
        *([WeighLabelledCount(cfg.model.class_weights)] if cfg.model.class_weights else []),
        ShareLabelledCount(STRATEGIES[cfg.strategy]),
        StopOnNonFiniteLoss(),
        StopOnUnlabelledEpoch(),
        AtFirstBatch(lambda state: say(described(cfg, sources) + '\n')),
        AtFirstBatch(lambda state: save_config(cfg, sources, state.run_name)),
        Describe(card),
        *registry.build('callbacks', in_batches('callbacks', {**named, 'show_results': results}, batches)),
        *([BestCheckpoint(cfg.save_folder)] if cfg.save_folder and cfg.save_best and cfg.is_train else []),
    ]
    bar = cfg.loggers.get('progress_bar')
    bar = None if bar is None else {'class_names': card.class_names} | bar
    loggers = registry.build('loggers', {**cfg.loggers, 'progress_bar': bar})
    if folder and train_dataspec is not None:
        loggers.append(History(folder))
        callbacks.append(Record(folder, facts(cfg, model, train_dataspec, eval_dataspec)))

    # Trainer
    reserve_folder(cfg, sources)
    trainer = build_trainer(
        cfg,
        model=model,
        load_path=resume_path,
        train_dataloader=train_dataspec,
        # All metrics: Composer takes their names for patterns, and the brackets of mIoU[ade20k-ss] would match nothing
        eval_dataloader=Evaluator(label=EVAL_LABEL, dataloader=eval_dataspec, metric_names=['']),
        optimizers=optimizer,
        schedulers=scheduler,
        algorithms=algorithms,
        callbacks=callbacks,
        loggers=loggers,
        progress_bar=False,  # Composer's; ours is among the loggers
        device=device,
        precision=precision,
        device_train_microbatch_size=microbatch_size,
        **STRATEGIES[cfg.strategy].trainer_arguments(),
    )

    # Run
    if cfg.is_train:
        train(cfg, trainer)
    else:
        say(described(cfg, sources) + '\n')
        with bar_hidden(trainer):
            evaluate(trainer, checkpoint)
    return trainer
