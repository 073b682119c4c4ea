"""Shares of a run where Composer takes batches or epochs only, so that one recipe fits any length."""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from composer.core import Time, TimeUnit

from segrecipes.config.schema import Config
from segrecipes.training.device import say

# By kind and name, without underscores, the arguments; others, such as swa_start and t_warmup, Composer resolves itself
SHARES = {
    ('algorithms', 'ema'): ('half_life', 'update_interval'),
    ('algorithms', 'swa'): ('update_interval',),
    ('callbacks', 'earlystopper'): ('patience',),
}


def check_shares(cfg: Config) -> list[str]:
    """What is wrong with them, a line each."""
    return [
        f'{kind}.{name}.{argument}={value} must be a share of the run above 0 and up to 1dur, such as 0.05dur'
        for kind in ('algorithms', 'callbacks')
        for name, argument, value in _shares(kind, getattr(cfg, kind))
        if not re.fullmatch(r'\d*\.?\d+(e-?\d+)?dur', value) or not 0 < float(value[:-3]) <= 1
    ]


def in_batches(kind: str, specs: Mapping[str, Any], batches: int) -> dict[str, Any]:
    """``{name: arguments}`` of a kind, with each share of a run of ``batches`` batches as so many, 1 at least.

    Shares of one algorithm become the same unit, which Composer's EMA asks of its two.
    """
    resolved = dict(specs)
    for name, argument, value in _shares(kind, specs):
        time = f'{max(1, round(float(value[:-3]) * batches))}ba'
        if batches:
            say(f'{kind}.{name}.{argument}={value} is {time} of {batches}')
        resolved[name] = {**resolved[name], argument: time}
    return resolved


def batches_of(cfg: Config, dataloader: Any) -> int:
    """Batches of the whole run; 0 of an evaluation, which has no training data."""
    if dataloader is None:
        return 0
    end = Time.from_timestring(cfg.max_duration)
    if end.unit == TimeUnit.EPOCH:
        return end.value * len(dataloader)
    return end.value if end.unit == TimeUnit.BATCH else math.ceil(end.value / cfg.train_dataset.batch_size)


def _shares(kind: str, specs: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(name, argument, value) of those that end in dur."""
    for name, arguments in specs.items():
        for argument in SHARES.get((kind, name.replace('_', '').lower()), ()):
            value = arguments.get(argument) if isinstance(arguments, Mapping) else None
            if isinstance(value, str) and value.endswith('dur'):
                yield name, argument, value
