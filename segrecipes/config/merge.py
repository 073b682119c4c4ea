"""The one order in which the sources of a config merge."""

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from segrecipes.base.errors import UserError, suggestion
from segrecipes.config.aliases import full_key
from segrecipes.config.check import check
from segrecipes.config.dataset import (
    name_datasets,
    name_run,
    read_dataset_layer,
    with_in_channels,
    with_num_classes,
)
from segrecipes.config.layers import available, layer_file, one_line, read_yaml, yaml_file
from segrecipes.config.loss import with_one_weight
from segrecipes.config.schema import GROUPING, Config, DatasetConfig, OhemConfig
from segrecipes.config.settings import ARGUMENTS, COMMAND_LINE, Settings, as_layer

# What an evaluation has for itself: every image is scored once, in order
NOT_INHERITED = ('drop_last', 'shuffle')
RUN_NAMES = {'RUN_NAME', 'COMPOSER_RUN_NAME'}  # from which Composer takes the name of a run that has none
# Where a dataset is: one that the command line names has none of it from the yaml
PLACE = {'name', 'path', 'local', 'is_streaming'}


def load_config(argv: Sequence[str]) -> tuple[Config, dict[str, str]]:
    """``[yaml, key=value, …]`` → the effective config and the source of each value that is not the default.

    Merged in this order, the later one winning: schema, dataset file, yaml, recipe file, the yaml's own block for that
    recipe, command line. What ``eval_dataset`` is not given by any of them it has from ``train_dataset``.

    Raises:
        UserError: no yaml, an unknown key, a value of the wrong type, an unknown recipe.
    """
    return load(argv[0] if argv else '', argv[1:])


def load(config: str | Path | Mapping[str, Any], *settings: Settings) -> tuple[Config, dict[str, str]]:
    """:func:`load_config` of a yaml or a mapping, and what is set over it: the later of ``settings`` wins."""
    is_mapping = isinstance(config, Mapping)
    if not is_mapping and (not config or '=' in str(config)):
        raise UserError('the first argument must be a yaml config, such as yamls/deeplabv3.yaml')
    given = as_layer(config) if is_mapping else read_yaml(yaml_file(str(config)))
    over = ARGUMENTS if any(isinstance(layer, Mapping) for layer in settings) else COMMAND_LINE
    merged = cast(DictConfig, OmegaConf.merge({}, *map(as_layer, settings)))
    return merge(given, merged, name='config' if is_mapping else str(config), over=over)


def merge(
    given: DictConfig | Mapping[Any, Any],
    command_line: DictConfig | None = None,
    *,
    name: str = 'config',
    over: str = COMMAND_LINE,
) -> tuple[Config, dict[str, str]]:
    """Merge a yaml's content and a command line over the schema; see :func:`load_config`."""
    given = given if isinstance(given, DictConfig) else OmegaConf.create(dict(given))
    command_line = OmegaConf.create({}) if command_line is None else command_line
    recipe_name, dataset_name = (_named(key, command_line, given) for key in ('recipe_name', 'dataset'))

    blocks = {*available('recipe_name'), *([recipe_name] if recipe_name else [])}
    given, block = _without(given, blocks), _block(given, recipe_name)
    command_line, command_block = _without(command_line, blocks), _block(command_line, recipe_name)
    recipe, recipe_file = read_layer('recipe_name', recipe_name)
    dataset, dataset_file = read_layer('dataset', dataset_name)
    if dataset_name != _named('dataset', given) and OmegaConf.select(dataset, 'train_dataset.path'):
        given = _without_place(given)

    config, sources = OmegaConf.structured(Config), {}
    for source, layer in (
        (dataset_file, dataset),
        (name, given),
        (recipe_file, recipe),
        (f'{name}: {recipe_name}', block),
        (f'{over}: {recipe_name}', command_block),
        (over, command_line),
    ):
        dropped = _drop_arguments(config, layer, sources)
        config = _merge_layer(config, layer, source)
        sources |= dict.fromkeys(_leaves(layer), source)
        sources |= {key: f'{source}, {note}' for key, note in dropped.items()}
        config = with_one_weight(config, layer, source, sources)
    config.recipe_name, config.dataset = recipe_name, dataset_name
    name_datasets(config, sources)
    for key in (field.name for field in fields(DatasetConfig) if field.name not in NOT_INHERITED):
        is_given = f'train_dataset.{key}' in sources and not OmegaConf.is_missing(config.train_dataset, key)
        if is_given and f'eval_dataset.{key}' not in sources:
            config.eval_dataset[key] = config.train_dataset[key]
            sources[f'eval_dataset.{key}'] = f'train_dataset.{key}'
    config = with_in_channels(with_num_classes(config, sources), sources)
    try:
        result = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise UserError(f'{name}: {error.full_key} is not set ({one_line(error)})') from error
    assert isinstance(result, Config)
    check(result)
    if result.is_train and not result.run_name and not result.autoresume and not RUN_NAMES & os.environ.keys():
        result.run_name, sources['run_name'] = name_run(name, result), 'yaml and dataset'
    return result, sources


def read_layer(key: str, name: str | None) -> tuple[DictConfig, str]:
    """The content and the file of a recipe or a dataset; nothing for None."""
    if name is None:
        return OmegaConf.create({}), ''
    path = layer_file(key, name)
    read = read_dataset_layer if key == 'dataset' else read_yaml
    return read(path), os.path.relpath(path)


def _named(key: str, *layers: DictConfig) -> str | None:
    """The first that has the key says what it is."""
    name = next((layer[key] for layer in layers if key in layer), None)
    return None if name in (None, '', 'none') else str(name)


def _without(layer: DictConfig, keys: set[str]) -> DictConfig:
    return OmegaConf.masked_copy(layer, [str(key) for key in layer if key not in keys])


def _without_place(layer: DictConfig) -> DictConfig:
    """Without what a yaml says of the dataset that another one takes the place of."""
    layer = copy.deepcopy(layer)
    for key in ('train_dataset', 'eval_dataset'):
        if isinstance(layer.get(key), DictConfig):
            layer[key] = _without(layer[key], PLACE)
    if isinstance(layer.get('model'), DictConfig):
        layer['model'] = _without(layer['model'], {'num_classes'})
    return layer


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
    ohem = OmegaConf.select(layer, 'model.ohem')
    if not isinstance(ohem, DictConfig | None):
        legal = [field.name for field in fields(OhemConfig)]
        raise UserError(f'{source}: model.ohem={ohem} must hold keys, {{}} for none.{suggestion(ohem, legal)}')
    try:
        return OmegaConf.merge(config, layer)  # type: ignore[return-value]
    except ConfigKeyError as error:
        raise _unknown_key(error, source) from error
    except OmegaConfBaseException as error:
        key = getattr(error, 'full_key', None)
        raise UserError(f'{source}: {key}: {one_line(error)}' if key else f'{source}: {one_line(error)}') from error


def _drop_arguments(config: DictConfig, layer: DictConfig, sources: dict[str, str]) -> dict[str, str]:
    """An optimizer or scheduler of another name does not have the arguments of the one below it; says which went."""
    notes = {}
    for key in ('optimizer', 'scheduler'):
        before, given = config[key], layer.get(key)
        if not isinstance(before, DictConfig) or not isinstance(given, DictConfig) or 'name' not in given:
            continue
        old, arguments = before.get('name'), [str(name) for name in before if name not in ('name', *GROUPING)]
        if _squashed(given.name) == _squashed(old) or not arguments:
            continue
        config[key] = {str(name): before[name] for name in before if name not in arguments}
        for name in arguments:
            sources.pop(f'{key}.{name}', None)
        notes[f'{key}.name'] = f'without {", ".join(arguments)} of {old}'
    return notes


def _squashed(name: object) -> str:
    """As the registry compares names."""
    return str(name).replace('_', '').lower()


def _unknown_key(error: ConfigKeyError, source: str) -> UserError:
    unknown = str(error.full_key or error.key)
    if meant := full_key(unknown):
        return UserError(f'{source}: unknown key {unknown}. Did you mean {meant}?')
    parent = error.parent_node
    legal = [str(key) for key in parent] if isinstance(parent, DictConfig) else []
    return UserError(f'{source}: unknown key {unknown}.{suggestion(unknown.rpartition(".")[2], legal)}')


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
