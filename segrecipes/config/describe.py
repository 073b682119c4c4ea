"""A config as text, with the source of every value that is not the default."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from segrecipes.base.files import write_text
from segrecipes.config.schema import Config
from segrecipes.config.settings import ARGUMENTS, COMMAND_LINE

MERGED = 'was {}, which is merged into this file'  # the comment on recipe_name and dataset in a saved config


def describe(config: Config, sources: Mapping[str, str]) -> str:
    """The effective config as yaml, with the source of every value that is not the default as a comment."""
    return annotated(OmegaConf.structured(config), sources)


def outline(config: Config, sources: Mapping[str, str]) -> str:
    """What of the config is not the default, or stands on the command line, as :func:`describe` has it.

    Without what ``eval_dataset`` has from ``train_dataset``.
    """
    values, defaults = (OmegaConf.structured(one) for one in (config, Config()))
    chosen = OmegaConf.create({})
    for key, source in sources.items():
        value, default = (OmegaConf.select(one, key, default=None) for one in (values, defaults))
        if source.startswith((COMMAND_LINE, ARGUMENTS)) or (
            value != default and not source.startswith('train_dataset.')
        ):
            OmegaConf.update(chosen, key, value)
    return annotated(OmegaConf.create({key: chosen[key] for key in values if key in chosen}), sources)


def annotated(config: DictConfig, sources: Mapping[str, str]) -> str:
    lines: list[str] = []
    path: list[str] = []
    for line in OmegaConf.to_yaml(config).rstrip().split('\n'):  # not at U+2028 in a name
        match = re.match(r'( *)([^\s:-][^:]*):(.*)', line)
        if match:
            path = [*path[: len(match[1]) // 2], match[2]]
            source = sources.get('.'.join(path))
            line = f'{line:<56}  # {source}' if source else line
        lines.append(line)
    return '\n'.join(lines)


def save(config: Config, sources: Mapping[str, str], path: Path) -> None:
    """Write what :func:`describe` says, as a config that runs again as this one did."""
    # Both are merged in already; named here, the recipe would be merged over what the command line had changed.
    named = {key: getattr(config, key) for key in ('recipe_name', 'dataset')}
    merged = {key: MERGED.format(name) for key, name in named.items() if name is not None}
    sources = {key: source for key, source in sources.items() if key not in named} | merged
    write_text(path, describe(replace(config, **dict.fromkeys(named)), sources) + '\n')
