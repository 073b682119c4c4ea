"""What the folder of a run holds: its settings, its history and its evaluations."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from segrecipes.base.errors import MissingPathError, UserError
from segrecipes.base.run_files import (
    BEST_CHECKPOINT,
    CONFIG,
    EVALUATION,
    HISTORY,
    IMAGE_SCORES,
    IMAGES,
    LATEST_CHECKPOINT,
    RECORD,
    SCORES,
)
from segrecipes.config.describe import MERGED
from segrecipes.evaluation.scores import Scores
from segrecipes.reports.read import (
    History,
    Series,
    Settings,
    read_config,
    read_history,
    read_image_ious,
    read_images,
    read_record,
    read_scores,
)

MIOU = r'metrics/[^/]+/(?:mIoU\[(.+)\]|MIoU)'
WHILE_TRAINING = 'while training'  # in place of a protocol, for the trainer's own metric


@dataclass
class Run:
    """``missing`` says, by what is empty here, why there is none."""

    folder: Path
    label: str
    config: Settings = field(default_factory=lambda: Settings('', {}))
    history: History = field(default_factory=lambda: History({}, {}))
    record: dict[str, Any] = field(default_factory=dict)
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
        found = ((re.fullmatch(pattern, name), series) for name, series in self.history.metrics.items())
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
        rates = self.history.metrics.get('throughput/samples_per_sec')
        return float(np.median(rates.value)) if rates else None

    def last(self, axis: str) -> float | None:
        """The highest 'epoch' or 'seconds' in the history."""
        return max((float(getattr(series, axis).max()) for series in self.history.metrics.values()), default=None)

    @property
    def warning(self) -> str:
        """What the dataset has to say with every figure."""
        return self.scores.warning if self.scores else str(self.record.get('warning') or '')

    @property
    def checkpoint(self) -> Path | None:
        """The best, or else the latest."""
        names = (name.format(rank=0) for name in (BEST_CHECKPOINT, LATEST_CHECKPOINT))
        return next((self.folder / name for name in names if (self.folder / name).is_file()), None)

    @cached_property
    def evaluation(self) -> Path:
        """Where the last evaluation is: in the run's folder, or in evaluate's, averaged weights before raw ones."""
        below = sorted(path.parent for path in self.folder.glob(f'*/{SCORES}'))
        below += sorted(path.parent for path in self.folder.glob(f'*/*/{SCORES}'))
        places = (self.folder / EVALUATION, self.folder, *below)
        return next((place for place in places if (place / SCORES).is_file()), places[0])

    @cached_property
    def evaluations(self) -> list[Scores]:
        """Those after the training too, of averaged and of raw weights, which lie beside the checkpoints."""
        if self.evaluation != self.folder / EVALUATION:  # all is of evaluate, whose folder this is
            found = [path for path in self.folder.rglob(SCORES) if path.parent != self.evaluation]
        else:
            found = [path for depth in ('', '/*') for path in self.folder.glob(f'{EVALUATION}-*{depth}/{SCORES}')]
        return [*([self.scores] if self.scores else []), *map(read_scores, sorted(found))]


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
        path = run.evaluation / Path(name).name if name.startswith(f'{EVALUATION}/') else folder / name
        if path.is_file():
            setattr(run, part, read(path))
        else:
            run.missing[part] = f'{name} is missing'
    if not run.history.metrics:
        run.missing.setdefault('history', f'{HISTORY} holds no metric')
    if run.missing.keys() >= PARTS.keys() - {'config', 'record'}:
        raise UserError(
            f'{folder} is not the folder of a run: neither {HISTORY} with metrics in it nor {EVALUATION}/{SCORES}'
        )
    run.label = run.setting('run_name') or run.label
    return run


PARTS: dict[str, tuple[str, Callable[[Path], Any]]] = {  # of a Run: the file and how it is read
    'config': (CONFIG, read_config),
    'history': (HISTORY, read_history),
    'record': (RECORD, read_record),
    'scores': (f'{EVALUATION}/{SCORES}', read_scores),
    'images': (f'{EVALUATION}/{IMAGES}', read_images),
    'image_ious': (f'{EVALUATION}/{IMAGE_SCORES}', read_image_ious),
}
