"""What the folder of a run holds: its settings, its history and its evaluation."""

import csv
import io
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from segrecipes.base.errors import MissingPathError, UserError
from segrecipes.base.run_files import CONFIG, EVALUATION, HISTORY, IMAGE_SCORES, IMAGES, SCORES
from segrecipes.config.describe import MERGED
from segrecipes.evaluation.scores import Scores

GROUPS = ('worst', 'best', 'sample')  # of images, in the order they are looked at
MIOU = r'metrics/[^/]+/(?:mIoU\[(.+)\]|MIoU)'
WHILE_TRAINING = 'while training'  # in place of a protocol, for the trainer's own metric
FAULTS = (KeyError, TypeError, ValueError, OverflowError)  # of values that are not what a file should hold


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


@dataclass
class Run:
    """``missing`` says, by what is empty here, why there is none."""

    folder: Path
    label: str
    config: Settings = field(default_factory=lambda: Settings('', {}))
    history: dict[str, Series] = field(default_factory=dict)
    scores: Scores | None = None
    images: list[dict[str, Any]] = field(default_factory=list)
    image_ious: list[float] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)

    def setting(self, *keys: str) -> str:
        """A value of the config, such as ``setting('model', 'architecture')``; '' where there is none."""
        value: Any = self.config.values
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return '' if value is None else str(value)

    @property
    def recipe(self) -> str:
        """A saved config has its recipe merged in, and keeps the name of it as a comment."""
        merged = re.search(f'^recipe_name:.*# {MERGED.format("(.+)")}', self.config.text, re.MULTILINE)
        name = merged[1] if merged else self.setting('recipe_name')
        return '' if name == 'None' else name

    def matching(self, pattern: str) -> dict[str, Series]:
        """The metrics whose whole names match, by the group in the pattern; None is where that takes no part."""
        found = ((re.fullmatch(pattern, name), series) for name, series in self.history.items())
        return {match[1]: series for match, series in found if match}

    @property
    def mious(self) -> dict[str, Series]:
        """Mean IoU in percent by protocol, that of the final evaluation first, the trainer's own metric last."""
        found = {protocol or WHILE_TRAINING: series for protocol, series in self.matching(MIOU).items()}
        final = self.scores.protocol if self.scores else None
        return dict(sorted(found.items(), key=lambda item: (item[0] != final, item[0] == WHILE_TRAINING)))

    @property
    def best(self) -> tuple[float, int, str] | None:
        """Highest mean IoU in percent, its epoch and its protocol."""
        for protocol, series in self.mious.items():
            index = int(series.value.argmax())
            return float(series.value[index]), int(series.epoch[index]), protocol
        return None

    @property
    def throughput(self) -> float | None:
        rates = self.history.get('throughput/samples_per_sec')
        return float(np.median(rates.value)) if rates else None

    def last(self, axis: str) -> float | None:
        """The highest 'epoch' or 'seconds' in the history."""
        return max((float(getattr(series, axis).max()) for series in self.history.values()), default=None)


def read_run(folder: str | Path) -> Run:
    """All there is in a run folder; ``missing`` names what there is not.

    Raises:
        MissingPathError: no such folder.
        UserError: it holds neither a history nor an evaluation, or a file of it is damaged.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise MissingPathError(f'run folder does not exist: {folder}')
    run = Run(folder, label=folder.resolve().name)
    for part, (name, read) in PARTS.items():
        if (folder / name).is_file():
            setattr(run, part, read(folder / name))
        else:
            run.missing[part] = f'{name} is missing'
    if not run.history:
        run.missing.setdefault('history', f'{HISTORY} holds no metric')
    if run.missing.keys() >= PARTS.keys() - {'config'}:
        raise UserError(
            f'{folder} is not the folder of a run: neither {HISTORY} with metrics in it nor {EVALUATION}/{SCORES}'
        )
    run.label = run.setting('run_name') or run.label
    return run


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


def read_history(path: Path) -> dict[str, Series]:
    """Each metric of ``history.jsonl``. Lines of a batch add up; a run that goes back to a batch starts anew there."""
    records: dict[int, tuple[float, float, dict[str, Any]]] = {}
    last = -1
    lines = read_bytes(path).split(b'\n')
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            # Behind a line that a kill cut off, a resumed run goes on without a newline.
            record = json.loads(line[max(0, line.rfind(b'{"batch":')) :])
            batch, metrics = int(record['batch']), dict(record['metrics'])
            epoch, seconds = float(record['epoch']), float(record['seconds'])
        except FAULTS as error:
            if number == len(lines) and isinstance(error, ValueError):
                break  # cut off, too: no newline ends it
            raise damaged(f'{path}, line {number}', error) from error
        if batch < last:
            records = {kept: value for kept, value in records.items() if kept <= batch}
        known = records[batch][2] if batch in records else {}
        records[batch], last = (epoch, seconds, known | metrics), batch
    points: dict[str, list[tuple[float, ...]]] = {}
    for batch, (epoch, seconds, metrics) in records.items():
        for name, value in metrics.items():
            if isinstance(value, int | float) and math.isfinite(value):
                points.setdefault(name, []).append((batch, epoch, seconds, value))
    return {name: Series(*np.array(rows, np.float64).T) for name, rows in points.items()}


def read_scores(path: Path) -> Scores:
    values = read_json(path)
    try:
        return Scores.from_dict(values)
    except FAULTS as error:
        raise damaged(path, error) from error


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


PARTS: dict[str, tuple[str, Callable[[Path], Any]]] = {  # of a Run: the file and how it is read
    'config': (CONFIG, read_config),
    'history': (HISTORY, read_history),
    'scores': (f'{EVALUATION}/{SCORES}', read_scores),
    'images': (f'{EVALUATION}/{IMAGES}', read_images),
    'image_ious': (f'{EVALUATION}/{IMAGE_SCORES}', read_image_ious),
}


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
