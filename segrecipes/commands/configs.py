"""What the verbs that run a config have in common: a yaml, ``key=value``, and what can stand there."""

import argparse
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from segrecipes.config.layers import YAMLS, available
from segrecipes.config.schema import Config
from segrecipes.datasets.table import DATASETS
from segrecipes.evaluation.table import NAMES as PROTOCOLS
from segrecipes.models.architectures import ARCHITECTURES
from segrecipes.models.backbones.table import BACKBONES

CHOICES = {
    'model.architecture': ARCHITECTURES,
    'model.backbone_arch': BACKBONES,
    'train_dataset.name': DATASETS,
    'eval_protocol': PROTOCOLS,
    'recipe_name': available('recipe_name'),
    'dataset': available('dataset'),
}


def add_arguments(parser: argparse.ArgumentParser, or_else: str = '') -> None:
    yamls = ', '.join(sorted(file.stem for file in YAMLS.glob('*.yaml') if file.stem != 'mcloud_run'))
    parser.add_argument('config', help=f'a yaml, such as yamls/deeplabv3.yaml; by name: {yamls}{or_else}')
    parser.add_argument('settings', nargs='*', metavar='key=value', help='keys of the yaml, which these override')
    choices = '\n'.join(f'  {key}: {", ".join(table)}' for key, table in CHOICES.items())
    defaults = '\n'.join(f'  {key}={value}' for key, value in leaves(Config()))
    parser.epilog = f'choices:\n{choices}\n\nkeys and their defaults:\n{defaults}'


def leaves(config: Any, prefix: str = '') -> list[tuple[str, Any]]:
    """Every key of the schema and its default; the arguments of algorithms and the like are not taken apart."""
    found = []
    for field in fields(config):
        value, name = getattr(config, field.name, MISSING), f'{prefix}{field.name}'
        found += leaves(value, f'{name}.') if is_dataclass(value) else [(name, in_yaml(value))]
    return found


def in_yaml(value: Any) -> Any:
    return (
        {None: 'null', True: 'true', False: 'false'}.get(value, value) if not isinstance(value, dict | list) else value
    )
