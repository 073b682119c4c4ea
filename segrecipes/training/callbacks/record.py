"""What a run was: when, where, on what, with which versions."""

import json
import shlex
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist

from segrecipes.base.files import write_text
from segrecipes.base.run_files import RECORD
from segrecipes.training.provenance import commits, hardware, versions

FINISHED, STOPPED = 'finished', 'stopped'


class Record(Callback):
    """Writes ``run.json`` with the first batch, and how the run ended with the last; dates are UTC.

    A resumed run keeps the date on which it was started first.

    Args:
        folder: the run's folder, which may name ``{run_name}``.
        facts: what else there is to keep, as JSON takes it.
    """

    def __init__(self, folder: str, facts: Mapping[str, Any]):
        self.folder = folder
        self.facts = dict(facts)
        self.values: dict[str, Any] | None = None
        self._resumed = False

    def fit_start(self, state: State, logger: Logger) -> None:
        self._resumed = state.timestamp.batch > 0

    def batch_start(self, state: State, logger: Logger) -> None:
        if self.values is not None or dist.get_global_rank():
            return
        now = timestamp()
        before = self._before(state) if self._resumed else {}
        self.values = {
            'started': before.get('started', now),
            'resumed': [*before.get('resumed', ()), now] if self._resumed else [],
            'ended': None,
            'state': None,
            'command': command(),
            'hardware': hardware(),
            'versions': versions(),
            'commits': commits(),
            **self.facts,
        }
        self._write(state)

    def fit_end(self, state: State, logger: Logger) -> None:
        self._end(state, FINISHED)

    def close(self, state: State, logger: Logger) -> None:
        self._end(state, STOPPED)

    def _end(self, state: State, how: str) -> None:
        if self.values is not None and self.values['state'] != FINISHED:
            self.values |= {'ended': timestamp(), 'state': how}
            self._write(state)

    def _path(self, state: State) -> Path:
        return Path(self.folder.format(run_name=state.run_name)) / RECORD

    def _before(self, state: State) -> dict[str, Any]:
        with suppress(OSError, ValueError):
            found = json.loads(self._path(state).read_text())
            return found if isinstance(found, dict) else {}
        return {}

    def _write(self, state: State) -> None:
        write_text(self._path(state), json.dumps(self.values, indent=1) + '\n')


def command() -> str:
    """As it was typed: ``python -m segrecipes`` and a door have no folder in their names."""
    program = Path(sys.argv[0])
    return shlex.join([program.parent.name if program.name == '__main__.py' else program.name, *sys.argv[1:]])


def timestamp() -> str:
    return datetime.now(timezone.utc).isoformat(timespec='seconds')
