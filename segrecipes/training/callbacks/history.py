"""All metrics of a run, batch by batch, as lines of JSON in its folder."""

import json
import math
from pathlib import Path
from typing import Any, TextIO

from composer.core import State
from composer.loggers import Logger, LoggerDestination
from composer.utils import dist

from segrecipes.base.run_files import HISTORY


class History(LoggerDestination):
    """Writes ``history.jsonl``: batch, epoch, samples seen, seconds of training and what was logged, a line a batch.

    What was logged are metrics, and tables where there are some: of each its columns and rows.

    A resumed run goes on below what it finds; of two lines about a batch the later one holds. A new run starts anew,
    once its first batch is done: Composer refuses an occupied folder only at ``fit``.

    Args:
        folder: the run's folder, which may name ``{run_name}``.
    """

    def __init__(self, folder: str):
        self.folder = folder
        self._resumed = False
        self._pending: dict[str, float] = {}
        self._tables: dict[str, Any] = {}
        self._has_begun = False
        self._file: TextIO | None = None

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        self._pending |= {name: float(value) for name, value in metrics.items()}

    def log_table(
        self, columns: list[str], rows: list[list[Any]], name: str = 'Table', step: int | None = None
    ) -> None:
        self._tables[name] = {'columns': columns, 'rows': rows}

    def fit_start(self, state: State, logger: Logger) -> None:
        self._resumed = state.timestamp.batch > 0

    def batch_start(self, state: State, logger: Logger) -> None:
        self._has_begun = True

    def batch_end(self, state: State, logger: Logger) -> None:
        self._write(state)

    def epoch_end(self, state: State, logger: Logger) -> None:
        self._write(state)

    def eval_end(self, state: State, logger: Logger) -> None:
        self._write(state)

    def close(self, state: State, logger: Logger) -> None:
        if self._has_begun:  # what a run that was ended by its last batch has logged of it
            self._write(state)
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, state: State) -> None:
        metrics, self._pending = self._pending, {}
        tables, self._tables = self._tables, {}
        if not metrics or dist.get_global_rank() or state.timestamp.batch == 0:
            return
        if self._file is None:
            path = Path(self.folder.format(run_name=state.run_name)) / HISTORY
            path.parent.mkdir(parents=True, exist_ok=True)
            if self._resumed and path.exists():
                drop_cut_line(path)
            self._file = path.open('a' if self._resumed else 'w', buffering=1)
            self._resumed = True
        time = state.timestamp
        line = {
            'batch': time.batch.value,
            'epoch': time.epoch.value,
            'sample': time.sample.value,
            'seconds': round(time.total_wct.total_seconds(), 3) if time.total_wct else 0,
            'metrics': {name: value if math.isfinite(value) else None for name, value in metrics.items()},
        } | ({'tables': tables} if tables else {})
        self._file.write(json.dumps(line) + '\n')


def drop_cut_line(path: Path) -> None:
    """Take off the end of a file what a killed process left of its last line."""
    with path.open('rb+') as file:
        file.truncate(path.read_bytes().rfind(b'\n') + 1)
