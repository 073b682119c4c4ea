"""Several runs side by side: what differs between their configs, and class by class."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from segrecipes.evaluation.scores import defined
from segrecipes.evaluation.table import without_alias
from segrecipes.reports.run import Run

NAMES = ('run_name', 'save_folder')  # in which any two runs differ


class ClassDifference(NamedTuple):
    """IoU of a class in percent in each run, and how much more it is than in the first: None where it has none."""

    name: str
    ious: list[float | None]
    more: list[float | None]


def not_comparable(runs: Sequence[Run]) -> list[str]:
    """What differs between runs so that their scores cannot be compared: one line each."""
    faults = []
    for what, of in {
        'final evaluation': {run.label: run.scores.protocol for run in runs if run.scores},
        'evaluation while training': {run.label: run.best[2] for run in runs if run.best},
        'dataset': {run.label: run.setting('eval_dataset', 'name') for run in runs if run.config.values},
    }.items():
        if len({value and without_alias(value) for value in of.values()}) > 1:
            faults.append(f'{what}: ' + ', '.join(f'{value or "?"} ({label})' for label, value in of.items()))
    return faults


def config_differences(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """Keys whose values differ, with the value in each run, '–' where it is not set; none where a config is missing."""
    if not all(run.config.values for run in runs):
        return []
    flat = [dict(flattened(run.config.values)) for run in runs]
    keys = dict.fromkeys(key for values in flat for key in values)
    rows = [(key, [values.get(key, '–') for values in flat]) for key in keys if key not in NAMES]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def flattened(values: Mapping[str, Any], above: str = '') -> Iterator[tuple[str, str]]:
    """``optimizer.lr`` and its value, as a yaml has it."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flattened(value, f'{above}{key}.')
        else:
            yield (
                f'{above}{key}',
                'null' if value is None else str(value).lower() if isinstance(value, bool) else str(value),
            )


def class_differences(runs: Sequence[Run]) -> list[ClassDifference]:
    """The classes that all of the runs have, those that differ most first."""
    tables = [
        {name: defined(iou) for name, iou in zip(run.scores.class_names, run.scores.iou.tolist())} if run.scores else {}
        for run in runs
    ]
    if sum(map(bool, tables)) < 2:
        return []
    rows = []
    for name in next(filter(None, tables)):
        if all(not table or name in table for table in tables):
            ious = [table.get(name) for table in tables]
            more = [None if iou is None or ious[0] is None else iou - ious[0] for iou in ious]
            rows.append(ClassDifference(name, ious, more))
    return sorted(rows, key=lambda row: -max((abs(value) for value in row.more if value is not None), default=0))
