"""What a run's dataset says of its config: where it is, what it is called, and how many classes it has."""

import re
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from segrecipes.base.errors import MissingPathError, UserError
from segrecipes.config.layers import read_yaml
from segrecipes.config.schema import Config
from segrecipes.datasets.file import FILE, read_file
from segrecipes.datasets.row import CURE
from segrecipes.datasets.table import USUAL, get_dataset, locate


def read_dataset_layer(path: Path) -> DictConfig:
    """The keys of a file of yamls/datasets; or, of the ``dataset.yaml`` of somebody's pictures, those it stands for.

    Raises:
        MissingPathError: there is no such file.
        UserError: it is not right.
    """
    if path.name == FILE and not path.is_file():
        raise MissingPathError(f'no {FILE} in {path.parent}; segrecipes data init {path.parent} writes one')
    content = read_yaml(path)
    if 'classes' not in content:
        return content
    file = read_file(path)
    own = {'train_dataset': {'name': str(path), 'path': str(file.folder), 'is_streaming': False}}
    return OmegaConf.merge(own, dict(file.config))  # type: ignore[return-value]


def name_datasets(config: DictConfig, sources: dict[str, str]) -> None:
    """Give a dataset that has no name the one that its path says; ``eval_dataset`` has it from ``train_dataset``."""
    for key in ('train_dataset', 'eval_dataset'):
        dataset = config[key]
        if dataset.name is None and (OmegaConf.is_missing(dataset, 'path') or dataset.path is None):
            dataset.name = USUAL
        elif dataset.name is None:
            dataset.name, dataset.path = locate(None, dataset.path)
            if dataset.name != USUAL:
                sources[f'{key}.name'] = f'{key}.path'


def with_in_channels(config: DictConfig, sources: dict[str, str]) -> DictConfig:
    """The config with ``model.in_channels``, which is that of the dataset.

    Raises:
        UserError: it is set, and another; or the two datasets have images of different channels.
    """
    names = config.train_dataset.name, config.eval_dataset.name
    count, other = (get_dataset(name).channels for name in names)
    if count != other:
        raise UserError(f'images of {names[0]} have {count} channels and those of {names[1]} {other}')
    if OmegaConf.is_missing(config.model, 'in_channels'):
        if count != 3:
            sources['model.in_channels'] = 'train_dataset.name'
        return OmegaConf.merge(config, {'model': {'in_channels': count}})  # type: ignore[return-value]
    if config.model.in_channels != count:
        raise UserError(
            f'model.in_channels={config.model.in_channels}, but images of {names[0]} have {count}. Leave it out; '
            f'channels in {FILE} says how many they have'
        )
    return config


def with_num_classes(config: DictConfig, sources: dict[str, str]) -> DictConfig:
    """The config with ``model.num_classes``, which is that of the dataset.

    Raises:
        UserError: it is set, and another; or the two datasets have different classes.
    """
    counts = {}
    for key in ('train_dataset', 'eval_dataset'):
        names = get_dataset(config[key].name).class_names(config[key].ignore_background)
        counts[f'{key}.name={config[key].name}'] = len(names)
    (first, count), (second, other) = counts.items() if len(counts) == 2 else (*counts.items(),) * 2
    if count != other:
        raise UserError(f'{first} has {count} classes and {second} has {other}; one network cannot have both')
    if OmegaConf.is_missing(config.model, 'num_classes'):
        sources['model.num_classes'] = 'train_dataset.name'
        return OmegaConf.merge(config, {'model': {'num_classes': count}})  # type: ignore[return-value]
    if config.model.num_classes != count:
        raise UserError(
            f'model.num_classes={config.model.num_classes}, but {first} has {count} classes. Leave model.num_classes '
            f'out. {CURE}'
        )
    return config


def name_run(yaml: str, config: Config) -> str:
    """``deeplabv3-camvid``, of yamls/deeplabv3.yaml and the dataset."""
    assert config.train_dataset.name is not None
    dataset = get_dataset(config.train_dataset.name).name or 'dataset'
    return re.sub(r'[^\w.-]+', '-', f'{Path(yaml).stem}-{dataset}')
