"""The files in a run's folder, each read with one message where it is damaged."""

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from segrecipes.base.errors import UserError
from segrecipes.base.run_files import CLASS_IOUS
from segrecipes.evaluation.scores import Scores

GROUPS = ('worst', 'best', 'sample')  # of images, in the order they are looked at
FAULTS = (KeyError, TypeError, ValueError, OverflowError)  # of values that are not what a file should hold
LOSS = 'loss/train/total'


class Series(NamedTuple):
    """A metric over a run: (N,) float64 each, in the order of batches, finite values only."""

    batch: np.ndarray
    epoch: np.ndarray
    seconds: np.ndarray
    value: np.ndarray


class Settings(NamedTuple):
    """A saved config, as it is written and what that means."""

    text: str
    values: dict[str, Any]


class History(NamedTuple):
    """What a run has logged.

    ``metrics``: by name. ``class_ious``: by protocol and class, in percent. ``lost``: the batch from which on the loss
    was not finite, in a run that ended so.
    """

    metrics: dict[str, Series]
    class_ious: dict[str, dict[str, Series]]
    lost: int | None = None


def read_config(path: Path) -> Settings:
    text = read_text(path)
    try:
        values = yaml.safe_load(text) or {}
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else '?'
        raise UserError(f'{path}, line {line}: damaged yaml: {error.problem}') from error
    except yaml.YAMLError as error:
        raise UserError(f'{path}: damaged yaml: {error}') from error
    if not isinstance(values, dict):
        raise UserError(f'{path}: expected keys and values, found {str(values)[:40]!r}')
    return Settings(text, values)


def read_history(path: Path) -> History:
    """What ``history.jsonl`` holds. Lines of a batch add up; a run that goes back to a batch starts anew there."""
    records: dict[int, tuple[float, float, dict[str, Any], dict[str, Any]]] = {}
    last = -1
    lines = read_bytes(path).split(b'\n')
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            # Behind a line that a kill cut off, a resumed run goes on without a newline.
            record = json.loads(line[max(0, line.rfind(b'{"batch":')) :])
            batch, metrics, tables = int(record['batch']), dict(record['metrics']), dict(record.get('tables', {}))
            epoch, seconds = float(record['epoch']), float(record['seconds'])
        except FAULTS as error:
            if number == len(lines) and isinstance(error, ValueError):
                break  # cut off, too: no newline ends it
            raise damaged(f'{path}, line {number}', error) from error
        if batch < last:
            records = {kept: value for kept, value in records.items() if kept <= batch}
        _, _, known, known_tables = records.get(batch, (0, 0, {}, {}))
        records[batch], last = (epoch, seconds, known | metrics, known_tables | tables), batch

    metrics = series_of((*when, values) for *when, values, _ in with_batch(records))
    class_ious = {}
    for name in {name for *_, tables in records.values() for name in tables}:
        if found := re.fullmatch(rf'[^/]+/{CLASS_IOUS}\[(.+)\]', name):
            rows = ((*when, dict(tables[name]['rows'])) for *when, _, tables in with_batch(records) if name in tables)
            try:
                class_ious[found[1]] = series_of(rows)
            except FAULTS as error:
                raise damaged(f'{path}, {name}', error) from error
    return History(metrics, class_ious, lost_from({batch: record[2] for batch, record in records.items()}))


def with_batch(records: dict[int, tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    return ((batch, *record) for batch, record in records.items())


def series_of(rows: Iterable[tuple[Any, ...]]) -> dict[str, Series]:
    """Of (batch, epoch, seconds, values by name) each name's finite values."""
    points: dict[str, list[tuple[float, ...]]] = {}
    for *when, values in rows:
        for name, value in values.items():
            if isinstance(value, int | float) and math.isfinite(value):
                points.setdefault(str(name), []).append((*when, value))
    return {name: Series(*np.array(rows, np.float64).T) for name, rows in points.items()}


def lost_from(metrics: dict[int, dict[str, Any]]) -> int | None:
    """The first of the batches that end a run without a loss that is finite."""
    lost = None
    for batch, values in metrics.items():
        if LOSS in values:
            value = values[LOSS]
            is_lost = value is None or not math.isfinite(value)
            lost = (lost or batch) if is_lost else None
    return lost


def read_scores(path: Path) -> Scores:
    values = read_json(path)
    try:
        return Scores.from_dict(values)
    except FAULTS as error:
        raise damaged(path, error) from error


def read_record(path: Path) -> dict[str, Any]:
    values = read_json(path)
    if not isinstance(values, dict):
        raise UserError(f'{path}: damaged: expected keys and values')
    return values


def read_images(path: Path) -> list[dict[str, Any]]:
    """The entries of ``images.json``, worst first, then best, then samples."""
    values = read_json(path)
    keys = ('uid', 'groups', 'mean_iou', 'pixel_accuracy', 'image', 'truth', 'prediction')
    try:
        images = [{key: entry[key] for key in keys} for entry in values['images']]
        for entry in images:
            entry.update({key: number(entry[key]) for key in ('mean_iou', 'pixel_accuracy')})
            entry['groups'] = list(dict.fromkeys(map(str, entry['groups'])))
    except FAULTS as error:
        raise damaged(path, error) from error

    def order(entry: dict[str, Any]) -> tuple[int, float]:
        rank = min((GROUPS.index(group) for group in entry['groups'] if group in GROUPS), default=len(GROUPS))
        iou = entry['mean_iou'] or 0.0
        return rank, {0: iou, 1: -iou}.get(rank, 0.0)

    return sorted(images, key=order)


def read_image_ious(path: Path) -> list[float]:
    """Mean IoU in percent of each image that has one."""
    reader = csv.DictReader(io.StringIO(read_text(path)))
    ious = []
    try:
        for row in reader:
            ious += [float(row['mean_iou'])] if row['mean_iou'] else []
    except (*FAULTS, csv.Error) as error:
        raise damaged(f'{path}, line {reader.line_num}', error) from error
    return [iou for iou in ious if math.isfinite(iou)]


def number(value: Any) -> float | None:
    return None if value is None or not math.isfinite(float(value)) else float(value)


def read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f'{path} cannot be read: {error.strerror}') from error


def read_text(path: Path) -> str:
    try:
        return read_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise UserError(f'{path} is not UTF-8 text: {error}') from error


def read_json(path: Path) -> Any:
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f'{path}, line {error.lineno}: damaged JSON: {error.msg}') from error


def damaged(where: object, error: Exception) -> UserError:
    return UserError(f'{where}: damaged: {f"no {error}" if isinstance(error, KeyError) else error}')
