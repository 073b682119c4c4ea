"""What a sweep has found: its trials as a table, and the best of them as a recipe."""

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.table import Table

from segrecipes.base.files import write_text
from segrecipes.config.layers import layer_file
from segrecipes.config.merge import load_config
from segrecipes.sweep.space import as_text
from segrecipes.sweep.study import Record, best, score_of
from segrecipes.training.callbacks.progress import clock


def line(record: Record, records: Sequence[Record], metric: str) -> str:
    """``trial  3  mIoU 32.11  best 33.02 (trial 1)  01:12  optimizer.lr=0.05``, of the one that has just ended."""
    top = best(records)
    found = 'failed' if record['score'] is None else f'{metric} {record["score"]:.2f}'
    so_far = [] if top is None else [f'best {top["score"]:.2f} (trial {top["trial"]})']
    said = [record['error'].splitlines()[0]] if record['error'] else []
    params = ' '.join(f'{key}={as_text(value)}' for key, value in record['params'].items())
    return '  '.join([f'trial {record["trial"]:>2}', found, *so_far, clock(record['seconds']), params, *said])


def table(records: Sequence[Record], metric: str) -> Table:
    """The trials, the best first and the failed last."""
    shown = Table(title=f'{len(records)} trials', title_justify='left')
    keys = list(records[0]['params']) if records else []
    for name in ('trial', metric, 'time', *keys):
        shown.add_column(name, justify='right', overflow='fold')
    for record in sorted(records, key=score_of, reverse=True):
        score = 'failed' if record['score'] is None else f'{record["score"]:.2f}'
        values = (as_text(record['params'][key]) for key in keys)
        shown.add_row(str(record['trial']), score, clock(record['seconds']), *values)
    return shown


def write_recipe(record: Record, path: Path, argv: Sequence[str], trials: int) -> str:
    """Write and return the recipe of a trial; ``argv`` is what all trials had, without ``recipe_name``."""
    settings = [setting for setting in argv[1:] if not setting.startswith('recipe_name=')]
    command = shlex.join(['segrecipes', 'train', argv[0], *settings, f'recipe_name={path}'])
    text = (
        f'# {command}\n#\n'
        f'# {record["metric"]} {record["score"]:.2f} in trial {record["trial"]}, the best of {trials}, each of one seed'
        ' and chosen by these\n# very images: expect less of other seeds and other images.\n'
        f'{OmegaConf.to_yaml(OmegaConf.create(as_recipe(record["argv"], record["params"])))}'
    )
    write_text(path, text)
    return text


def as_recipe(argv: Sequence[str], keys: Mapping[str, Any]) -> dict[str, Any]:
    """What ``argv`` sets of these keys, and what the recipe that it names sets: a recipe that stands for both."""
    config, sources = load_config(argv)
    name = config.recipe_name
    of_recipe = (
        {os.path.relpath(layer_file('recipe_name', name)), f'{argv[0]}: {name}', f'command line: {name}'}
        if name
        else set()
    )
    recipe = OmegaConf.create({})
    for key, value in _leaves(asdict(config)):
        source = sources.get(key, '').partition(', without ')[0]
        if any(key == one or key.startswith(f'{one}.') for one in keys) or source in of_recipe:
            OmegaConf.update(recipe, key, value, force_add=True)
    recipe.pop('recipe_name', None)
    found: Any = OmegaConf.to_container(recipe)
    return found


def _leaves(config: Mapping[str, Any], prefix: str = '') -> list[tuple[str, Any]]:
    """Full names and values; an empty mapping is a value."""
    found = []
    for name, value in config.items():
        key = f'{prefix}{name}'
        found += _leaves(value, f'{key}.') if isinstance(value, Mapping) and value else [(key, value)]
    return found
