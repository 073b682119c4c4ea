"""What types alone do not say of a config."""

import re
from typing import Any

from segrecipes.base.errors import UserError, suggestion, unknown_name
from segrecipes.base.stores import has_checkpoints, is_url
from segrecipes.config.augmentation import faults_of
from segrecipes.config.loss import check_loss
from segrecipes.config.schema import Config
from segrecipes.evaluation.table import NAMES
from segrecipes.models.architectures import ARCHITECTURES
from segrecipes.models.backbones.table import BACKBONES

NOT_NEGATIVE = ('lr', 'momentum', 'weight_decay')  # of an optimizer
COMPILE_OPTIONS = ('backend', 'dynamic', 'fullgraph', 'mode', 'options')  # of torch.compile
# What Composer takes and reaches: it refuses to end after seconds or at a share of the end, and counts no tokens in
# images and no iterations unless told of what. An interval of 0 is never, a share of 0 a division by it.
INTERVAL = (
    r'\d+(ep|ba|sp|sec)|(0?\.\d*[1-9]\d*|1(\.0*)?)dur',
    'a whole number of ep, ba, sp or sec, such as 1ep or 500ba, or a share of the run up to 1dur, such as 0.1dur',
)
DURATIONS = {
    'max_duration': (r'0*[1-9]\d*(ep|ba|sp)', 'a whole number of ep, ba or sp, 1 or more, such as 25ep or 1000ba'),
    'eval_interval': INTERVAL,
    'save_interval': INTERVAL,
}


def check(config: Config) -> None:
    """What types alone do not say. All faults are reported together."""
    faults = [
        f'{key}={getattr(config, key)!r} must be {legal}'
        for key, (pattern, legal) in DURATIONS.items()
        if not re.fullmatch(pattern, getattr(config, key))
    ]
    for key, name, table in (
        ('model.architecture', config.model.architecture, ARCHITECTURES),
        ('model.backbone_arch', config.model.backbone_arch, BACKBONES),
        ('eval_protocol', config.eval_protocol, NAMES),
    ):
        if name not in table:
            faults.append(str(unknown_name(key, name, table)))
    for key, value in config.optimizer.items():
        if key in NOT_NEGATIVE and value is not None and not is_at_least_zero(value):
            faults.append(f'optimizer.{key}={value} must be a number, 0 or more')
    size = config.device_train_microbatch_size
    if not (size in (None, 'auto') or (isinstance(size, int) and size > 0)):
        faults.append(f"device_train_microbatch_size={size!r} must be a positive number, 'auto' or null")
    if isinstance(config.compile, dict):
        unknown = [name for name in config.compile if name not in COMPILE_OPTIONS]
        faults += [
            f'compile.{name} is not an option of torch.compile.{suggestion(name, COMPILE_OPTIONS)}' for name in unknown
        ]
    elif not isinstance(config.compile, bool):
        faults.append(f'compile={config.compile!r} must be true, false or a mapping of {", ".join(COMPILE_OPTIONS)}')
    for key, dataset in {'train_dataset': config.train_dataset, 'eval_dataset': config.eval_dataset}.items():
        if dataset.path is None:
            faults.append(f'{key}.path is not set: the folder of the dataset, or a URL such as s3://bucket/folder')
        elif '://' in dataset.path and not dataset.is_streaming:
            faults.append(f'{key}.path={dataset.path} is remote: set {key}.is_streaming=true and {key}.local=./cache')
        elif '://' in dataset.path and dataset.local is None:
            faults.append(f'{key}.local is not set: the folder that keeps what is downloaded from {dataset.path}')
        faults += faults_of(dataset, lambda name, key=key: f'{key}.{name}')
        if dataset.batch_size <= 0:
            faults.append(f'{key}.batch_size={dataset.batch_size} must be positive')
        if dataset.num_workers is not None and dataset.num_workers < 0:
            faults.append(f'{key}.num_workers={dataset.num_workers} must be 0 or more')
        if dataset.window_stride is not None and not 0 < dataset.window_stride <= dataset.final_size:
            faults.append(f'{key}.window_stride={dataset.window_stride} must be 1 … final_size={dataset.final_size}')
        if dataset.prefetch_factor < 1:
            faults.append(f'{key}.prefetch_factor={dataset.prefetch_factor} must be 1 or more')
    if config.model.dice_per not in ('batch', 'image'):
        faults.append(f'model.dice_per={config.model.dice_per} must be batch or image')
    faults += check_loss(config)
    if not 0 <= config.seed < 2**32:
        faults.append(f'seed={config.seed} must be 0 or more, and below 2**32')
    if config.autoresume and not (config.run_name and config.save_folder):
        faults.append('autoresume=true needs run_name and save_folder, by which a restarted run finds its checkpoint')
    if config.save_folder and is_url(config.save_folder) and not has_checkpoints(config.save_folder):
        faults.append(
            f'save_folder={config.save_folder}: Composer saves no checkpoints there. Keep the run in a folder, or in '
            "another store; Predictor(…).push_to_hub('owner/name') publishes its network"
        )
    if faults:
        raise UserError('\n       '.join(faults))


def is_at_least_zero(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def check_batch_sizes(config: Config, world_size: int) -> None:
    for key, dataset in {'train_dataset': config.train_dataset, 'eval_dataset': config.eval_dataset}.items():
        if dataset.batch_size % world_size:
            below, above = dataset.batch_size // world_size * world_size, -(-dataset.batch_size // world_size)
            raise UserError(
                f'{key}.batch_size={dataset.batch_size} is the global batch size and does not divide by the '
                f'{world_size} ranks of this run. Legal: a multiple of {world_size}, such as '
                f'{below or world_size} or {above * world_size}.'
            )
