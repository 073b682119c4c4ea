"""The schema of a run, the one order in which its sources merge, and what is checked before anything starts.

    python config.py yamls/deeplabv3.yaml recipe_name=mild max_duration=1ep

prints the effective config with the source of every value that is not the default.
"""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from errors import MissingPathError, UserError, choice, clean_exit, suggestion

COMPILE_OPTIONS = ('backend', 'dynamic', 'fullgraph', 'mode', 'options')  # of torch.compile
RECIPE_FOLDER = Path(__file__).parent / 'yamls' / 'recipes'
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
MERGED_RECIPE = 'was {}, which is merged into this file'  # the comment on recipe_name in a saved config


@dataclass
class ModelConfig:
    architecture: str = 'deeplabv3plus'
    num_classes: int = 150
    backbone_arch: str = 'resnet101'
    backbone_weights: str | None = None
    output_stride: int | None = None  # None: the architecture's own
    head_channels: int = 512
    auxiliary_weight: float = 0.0
    sync_bn: bool = True
    cross_entropy_weight: float = 0.375
    dice_weight: float = 1.125
    dice_per: str = 'batch'  # or image: the same loss whatever the microbatch


@dataclass
class DatasetConfig:
    name: str = 'ade20k'  # a row of layouts.LAYOUTS
    is_streaming: bool = False
    path: str | None = MISSING
    local: str | None = None
    base_size: int = 512
    min_resize_scale: float = 0.5
    max_resize_scale: float = 2.0
    keep_ratio: bool = False
    final_size: int = 512
    ignore_background: bool = True
    window_stride: int | None = None  # of eval_protocol=slide, in pixels; None: two thirds of final_size
    batch_size: int = 128  # global: over all ranks
    drop_last: bool = True
    shuffle: bool = True
    # Dataloader
    num_workers: int | None = None  # per rank; None: the node's cores shared out, at most 8
    prefetch_factor: int = 2
    persistent_workers: bool = True
    # Streaming
    predownload: int | None = None  # samples
    cache_limit: str | None = None  # such as 20gb
    num_canonical_nodes: int | None = None
    shuffle_algo: str = 'py1e'
    download_retry: int = 2
    download_timeout: float = 60  # seconds
    validate_hash: str | None = None


@dataclass
class EvalDatasetConfig(DatasetConfig):
    drop_last: bool = False  # accepted for upstream's yamls; every image is scored whatever it says
    shuffle: bool = False


Arguments = dict[str, Any]


@dataclass
class Config:
    """One run. Names and meanings are those of MosaicML's DeepLabV3+ example where it has them."""

    run_name: str | None = None
    is_train: bool = True
    seed: int = 17
    max_duration: str = '128ep'
    eval_interval: str = '1ep'
    eval_protocol: str = 'mosaic-512sq'  # a row of protocols.PROTOCOLS
    device_train_microbatch_size: Any = 'auto'  # int, 'auto', or None for the whole batch
    precision: str = 'auto'
    compile: Any = False  # or a mapping of torch.compile's options, such as {mode: max-autotune-no-cudagraphs}
    deterministic_mode: bool = False  # the same bits from run to run on a GPU too, where it is slower
    train_metrics: bool = False  # costs a pass over the logits each batch

    model: ModelConfig = field(default_factory=ModelConfig)
    train_dataset: DatasetConfig = field(default_factory=DatasetConfig)
    eval_dataset: EvalDatasetConfig = field(default_factory=EvalDatasetConfig)

    optimizer: Arguments = field(
        default_factory=lambda: {'name': 'decoupled_sgdw', 'lr': 0.08, 'momentum': 0.9, 'weight_decay': 5.0e-5}
    )
    scheduler: Arguments | None = field(default_factory=lambda: {'name': 'cosine_annealing'})
    algorithms: dict[str, Any] = field(default_factory=dict)
    callbacks: dict[str, Any] = field(
        default_factory=lambda: {'speed_monitor': {'window_size': 50}, 'lr_monitor': {}, 'memory_monitor': {}}
    )
    loggers: dict[str, Any] = field(default_factory=lambda: {'progress_bar': {}})
    recipe_name: str | None = None

    save_folder: str | None = None
    save_interval: str = '1ep'
    save_num_checkpoints_to_keep: int = -1
    save_overwrite: bool = False
    save_best: bool = True
    load_path: str | None = None
    load_weights_only: bool = False
    trust_checkpoint: bool = False  # load a file that would run code of its own
    autoresume: bool = False
    python_log_level: str | None = None


def load_config(argv: Sequence[str]) -> tuple[Config, dict[str, str]]:
    """``[yaml, key=value, …]`` → the effective config and the source of each value that is not the default.

    Merged in this order, the later one winning: schema, yaml, recipe file, the yaml's own block for that recipe,
    command line.

    Raises:
        UserError: no yaml, an unknown key, a value of the wrong type, an unknown recipe.
    """
    if not argv or '=' in argv[0]:
        raise UserError('the first argument must be a yaml config, such as yamls/deeplabv3.yaml')
    for argument in argv[1:]:
        if '=' not in argument:
            raise UserError(f"'{argument}' is not of the form key=value, such as max_duration=10ep")
    try:
        command_line = OmegaConf.from_dotlist(list(argv[1:]))
    except Exception as error:  # yaml's own errors on a value that is not yaml
        raise UserError(f'command line: {_one_line(error)}') from error
    return merge(read_yaml(argv[0]), command_line, name=argv[0])


def merge(given: DictConfig, command_line: DictConfig | None = None, *, name: str = 'config') -> tuple[Config, dict]:
    """Merge a yaml's content and a command line over the schema; see :func:`load_config`."""
    command_line = OmegaConf.create({}) if command_line is None else command_line
    recipe_name = command_line.get('recipe_name', given.get('recipe_name'))
    recipe_name = None if recipe_name in (None, '', 'none') else str(recipe_name)

    blocks = {*available_recipes(), *([recipe_name] if recipe_name else [])}
    given, block = _without(given, blocks), _block(given, recipe_name)
    command_line, command_block = _without(command_line, blocks), _block(command_line, recipe_name)
    recipe, recipe_file = read_recipe(recipe_name)

    config, sources = OmegaConf.structured(Config), {}
    for source, layer in (
        (name, given),
        (recipe_file, recipe),
        (f'{name}: {recipe_name}', block),
        (f'command line: {recipe_name}', command_block),
        ('command line', command_line),
    ):
        config = _merge_layer(config, layer, source)
        sources |= dict.fromkeys(_leaves(layer), source)
    config.recipe_name = recipe_name
    try:
        result = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise UserError(f'{name}: {error.full_key} is not set ({_one_line(error)})') from error
    assert isinstance(result, Config)
    check(result)
    return result, sources


def read_yaml(path: str | Path) -> DictConfig:
    if not Path(path).is_file():
        raise MissingPathError(f'config file does not exist: {path}')
    try:
        content = OmegaConf.load(path)
    except Exception as error:
        raise UserError(f'{path} is not a yaml file: {_one_line(error)}') from error
    if not isinstance(content, DictConfig):
        raise UserError(f'{path} must hold keys and values at its top level')
    return content


def available_recipes() -> dict[str, Path]:
    return {file.stem: file for file in sorted(RECIPE_FOLDER.glob('*.yaml'))}


def read_recipe(recipe_name: str | None) -> tuple[DictConfig, str]:
    """The recipe's content and file: a name in ``yamls/recipes``, or a path; nothing for None."""
    if recipe_name is None:
        return OmegaConf.create({}), ''
    files = available_recipes()
    path = files.get(recipe_name, Path(recipe_name))
    if recipe_name not in files and path.suffix not in ('.yaml', '.yml'):
        raise choice('recipe_name', recipe_name, [*files, 'null', 'path/to/recipe.yaml'])
    return read_yaml(path), os.path.relpath(path)


def check(config: Config) -> None:
    """What types alone do not say. All faults are reported together."""
    faults = [
        f'{key}={getattr(config, key)!r} must be {legal}'
        for key, (pattern, legal) in DURATIONS.items()
        if not re.fullmatch(pattern, getattr(config, key))
    ]
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
            faults.append(f'{key}.path is not set: the folder of the dataset, or s3://bucket/folder')
        elif '://' in dataset.path and not dataset.is_streaming:
            faults.append(f'{key}.path={dataset.path} is remote: set {key}.is_streaming=true and {key}.local=./cache')
        elif '://' in dataset.path and dataset.local is None:
            faults.append(f'{key}.local is not set: the folder that keeps what is downloaded from {dataset.path}')
        for name in ('batch_size', 'final_size', 'base_size', 'min_resize_scale', 'max_resize_scale'):
            if getattr(dataset, name) <= 0:
                faults.append(f'{key}.{name}={getattr(dataset, name)} must be positive')
        if dataset.min_resize_scale > dataset.max_resize_scale:
            faults.append(f'{key}.min_resize_scale={dataset.min_resize_scale} is above max_resize_scale')
        if dataset.num_workers is not None and dataset.num_workers < 0:
            faults.append(f'{key}.num_workers={dataset.num_workers} must be 0 or more')
        if dataset.window_stride is not None and not 0 < dataset.window_stride <= dataset.final_size:
            faults.append(f'{key}.window_stride={dataset.window_stride} must be 1 … final_size={dataset.final_size}')
        if dataset.prefetch_factor < 1:
            faults.append(f'{key}.prefetch_factor={dataset.prefetch_factor} must be 1 or more')
    if config.model.dice_per not in ('batch', 'image'):
        faults.append(f'model.dice_per={config.model.dice_per} must be batch or image')
    if not 0 <= config.seed < 2**32:
        faults.append(f'seed={config.seed} must be 0 or more, and below 2**32')
    if config.autoresume and not (config.run_name and config.save_folder):
        faults.append('autoresume=true needs run_name and save_folder, by which a restarted run finds its checkpoint')
    if faults:
        raise UserError('\n       '.join(faults))


def check_batch_sizes(config: Config, world_size: int) -> None:
    for key, dataset in {'train_dataset': config.train_dataset, 'eval_dataset': config.eval_dataset}.items():
        if dataset.batch_size % world_size:
            below, above = dataset.batch_size // world_size * world_size, -(-dataset.batch_size // world_size)
            raise UserError(
                f'{key}.batch_size={dataset.batch_size} is the global batch size and does not divide by the '
                f'{world_size} ranks of this run. Legal: a multiple of {world_size}, such as '
                f'{below or world_size} or {above * world_size}.'
            )


def describe(config: Config, sources: Mapping[str, str]) -> str:
    """The effective config as yaml, with the source of every value that is not the default as a comment."""
    lines, path = [], []
    for line in OmegaConf.to_yaml(OmegaConf.structured(config)).rstrip().split('\n'):  # not at U+2028 in a name
        match = re.match(r'( *)([^\s:-][^:]*):(.*)', line)
        if match:
            path = [*path[: len(match[1]) // 2], match[2]]
            source = sources.get('.'.join(path))
            line = f'{line:<56}  # {source}' if source else line
        lines.append(line)
    return '\n'.join(lines)


def save(config: Config, sources: Mapping[str, str], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # The recipe is merged in already; named here, it would be merged over what the command line had changed.
    sources = {**sources, 'recipe_name': MERGED_RECIPE.format(config.recipe_name)}
    partial = path.with_suffix('.partial')
    partial.write_text(describe(replace(config, recipe_name=None), sources) + '\n')
    partial.replace(path)


def _without(layer: DictConfig, keys: set[str]) -> DictConfig:
    return OmegaConf.masked_copy(layer, [str(key) for key in layer if key not in keys])


def _block(layer: DictConfig, key: str | None) -> DictConfig:
    block = layer.get(key) if key else None
    if block is None:
        return OmegaConf.create({})
    if not isinstance(block, DictConfig):
        raise UserError(f'{key}={block} must hold the keys this recipe changes, such as {key}.max_duration=1ep')
    return block


def _merge_layer(config: DictConfig, layer: DictConfig, source: str) -> DictConfig:
    for key in ('model', 'train_dataset', 'eval_dataset'):
        if key in layer and not isinstance(layer[key], DictConfig):
            raise UserError(f'{source}: {key}={layer[key]} must hold keys.{suggestion(layer[key], config[key])}')
    try:
        return OmegaConf.merge(config, layer)  # type: ignore[return-value]
    except ConfigKeyError as error:
        raise _unknown_key(error, source) from error
    except OmegaConfBaseException as error:
        key = getattr(error, 'full_key', None)
        raise UserError(f'{source}: {key}: {_one_line(error)}' if key else f'{source}: {_one_line(error)}') from error


def _unknown_key(error: ConfigKeyError, source: str) -> UserError:
    full_key = str(error.full_key or error.key)
    parent = error.parent_node
    legal = [str(key) for key in parent] if isinstance(parent, DictConfig) else []
    return UserError(f'{source}: unknown key {full_key}.{suggestion(full_key.rpartition(".")[2], legal)}')


def _leaves(layer: Any, prefix: str = '') -> list[str]:
    """Full names of all values of a nested mapping; an empty mapping is a value."""
    names = []
    for key in layer:
        value = layer._get_node(key)
        if isinstance(value, DictConfig) and not value._is_none() and len(value):
            names += _leaves(value, f'{prefix}{key}.')
        else:
            names.append(f'{prefix}{key}')
    return names


def _one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ' '.join(line for line in lines if not line.startswith(('full_key:', 'object_type=', 'reference_type=')))


@clean_exit
def main() -> None:
    print(describe(*load_config(sys.argv[1:])))


if __name__ == '__main__':
    main()
