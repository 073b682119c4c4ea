"""What a sweep may set: keys of a run, and for each of them values to choose from, or a range."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from segrecipes.base.errors import UserError, suggestion
from segrecipes.config.layers import read_yaml

RANGE = ('low', 'high', 'log', 'step')
LEGAL = 'a list of values, {choices: [a, b]}, or a range such as {low: 0.01, high: 1, log: true}'
DIGITS = 4  # of a number drawn from a range: nobody tells 0.0312345 from 0.03123


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, whole ones if both are; on a logarithmic scale, or in steps."""

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def suggest(self, trial: Any, key: str) -> float:
        """What an optuna trial tries."""
        options: dict[str, Any] = {'log': True} if self.log else {} if self.step is None else {'step': self.step}
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(key, self.low, self.high, **options)
        return float(f'{trial.suggest_float(key, self.low, self.high, **options):.{DIGITS}g}')

    def ends(self) -> list[Any]:
        return [self.low, self.high]


@dataclass(frozen=True)
class Choices:
    """Any values a key may have; in a mapping among them, such as an algorithm's arguments, may be ranges again."""

    values: tuple[Any, ...]

    def suggest(self, trial: Any, key: str) -> Any:
        """What an optuna trial tries; it knows each value by its text."""
        texts = [as_text(plain(value)) for value in self.values]
        index = texts.index(trial.suggest_categorical(key, texts))
        value = self.values[index]
        if not isinstance(value, Mapping):
            return value
        return {
            name: of.suggest(trial, f'{key}[{index}].{name}') if isinstance(of, Range | Choices) else of
            for name, of in value.items()
        }

    def ends(self) -> list[Any]:
        """Each value; of a mapping with ranges its smallest and largest."""
        return [
            {name: of.ends()[end] if isinstance(of, Range | Choices) else of for name, of in value.items()}
            if isinstance(value, Mapping)
            else value
            for value in self.values
            for end in ((0, -1) if isinstance(value, Mapping) else (0,))
        ]


Space = dict[str, Range | Choices]


def read_space(path: str | Path) -> Space:
    """A yaml of keys, ``optimizer.lr`` or nested as in a config, and what each may be.

    Raises:
        MissingPathError: there is no such file.
        UserError: all that is wrong with it.
    """
    found, faults = _parse(OmegaConf.to_container(read_yaml(path)), '')
    for key in found:
        above = next((other for other in found if key.startswith(f'{other}.')), None)
        if above is not None:
            faults.append(f'{key} lies in {above}, which has choices of its own: put the range into those')
    if not found and not faults:
        faults.append('no key to search over')
    if faults:
        raise UserError(f'{path}: ' + '\n       '.join(faults))
    return found


def as_text(value: Any) -> str:
    """As it is typed after ``key=``: ``{alpha: 0.2}``, ``null``, ``0.01``."""
    dumped = yaml.safe_dump(value, default_flow_style=True, width=2**20, sort_keys=False)
    return dumped.removesuffix('\n').removesuffix('...').strip()


def plain(value: Any) -> Any:
    """Ranges and choices as the yaml has them."""
    if isinstance(value, Range):
        return {name: getattr(value, name) for name in RANGE if getattr(value, name) not in (None, False)}
    if isinstance(value, Choices):
        return {'choices': [plain(one) for one in value.values]}
    return {key: plain(of) for key, of in value.items()} if isinstance(value, Mapping) else value


def _parse(content: Any, prefix: str) -> tuple[Space, list[str]]:
    found: Space = {}
    faults: list[str] = []
    for name, value in content.items():
        key = f'{prefix}{name}'
        if isinstance(value, Mapping) and not {*RANGE, 'choices'} & {*value}:
            inside, more = _parse(value, f'{key}.')
            found |= inside
            faults += more if value else [f'{key}={{}} must be {LEGAL}']
        else:
            try:
                found[key] = _read(value)
            except ValueError as error:
                faults.append(f'{key}={as_text(value)} {error}')
    return found, faults


def _read(value: Any) -> Range | Choices:
    """ValueError says what is wrong, to be read after ``key=value``."""
    if isinstance(value, Mapping) and 'choices' in value and len(value) == 1:
        value = value['choices']
    if isinstance(value, list):
        return _choices(value)
    if not isinstance(value, Mapping):
        raise ValueError(f'must be {LEGAL}')
    if unknown := next((name for name in value if name not in RANGE), None):
        raise ValueError(f'has {unknown}.{suggestion(unknown, RANGE)}')
    names = ['low', 'high', *(['step'] if 'step' in value else [])]
    given = [value.get(name) for name in names]
    numbers = [number for number in given if isinstance(number, int | float) and not isinstance(number, bool)]
    if len(numbers) < len(names):
        raise ValueError('must have numbers for low and high')
    low, high, *step = numbers
    log = value.get('log', False)
    if not low < high:
        raise ValueError('must have low below high')
    if not isinstance(log, bool) or (log and (low <= 0 or step)):
        raise ValueError('can be log: true only above 0 and without step')
    if step and step[0] <= 0:
        raise ValueError('must have a step above 0')
    return Range(low, high, log, *step)


def _choices(values: list[Any]) -> Choices:
    if not values:
        raise ValueError('must have a value to choose')
    read = []
    for value in values:
        if isinstance(value, Mapping):
            value = {name: _read(of) if _is_space(of) else of for name, of in value.items()}
        read.append(value)
    texts = [as_text(plain(value)) for value in read]
    if twice := next((text for text in texts if texts.count(text) > 1), None):
        raise ValueError(f'has {twice} twice')
    return Choices(tuple(read))


def _is_space(value: Any) -> bool:
    return isinstance(value, Mapping) and bool({'low', 'high', 'choices'} & {*value})
