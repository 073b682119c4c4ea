"""A config as text, with the source of every value that is not the default."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from omegaconf import OmegaConf

from segrecipes.base.files import write_text
from segrecipes.config.schema import Config

MERGED = 'was {}, which is merged into this file'  # the comment on recipe_name and dataset in a saved config


def describe(config: Config, sources: Mapping[str, str]) -> str:
    """The effective config as yaml, with the source of every value that is not the default as a comment."""
    lines: list[str] = []
    path: list[str] = []
    for line in OmegaConf.to_yaml(OmegaConf.structured(config)).rstrip().split('\n'):  # not at U+2028 in a name
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
