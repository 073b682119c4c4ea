"""Trials in turn, each chosen from what those before it came to; all of it in files, from which a sweep goes on."""

import fcntl
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from segrecipes.base.errors import UserError
from segrecipes.base.files import write_text
from segrecipes.sweep.space import Space, as_text, plain
from segrecipes.sweep.trial import batches_within, run

OPTUNA = 'optuna==5.0.0'  # as in pyproject.toml
JOURNAL = 'journal.log'
TRIALS = 'trials.jsonl'
BEST = 'best.yaml'
PACKAGES = ('torch', 'mosaicml', 'mmsegmentation', 'optuna')
# Beneath what the command line says: of most trials nobody wants more than the last checkpoint
USUAL = ('save_interval=1dur', 'save_best=false', 'eval_interval=1dur')

Record = dict[str, Any]


class Study:
    """A sweep's trials in a folder.

    Args:
        folder: of the sweep; used by one process at a time, which the trials of a killed one count among.
        argv: ``[yaml, key=value, …]`` of every trial.
        metric: a name among ``trial.figures``, of which the most is sought.
        seconds: of training that each trial has; None leaves ``max_duration`` as it is.
        seed: of the sampler, and of every trial unless the space has it.

    Raises:
        UserError: optuna is missing, or the folder holds a sweep of something else.
    """

    def __init__(
        self, folder: Path, argv: Sequence[str], space: Space, *, metric: str, seconds: float | None, seed: int
    ):
        optuna = import_optuna()
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        self.folder, self.argv, self.space = folder, [argv[0], *USUAL, *argv[1:]], space
        self.metric, self.seconds, self.seed, self.lock = metric, seconds, seed, -1
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
        self.study = optuna.create_study(storage=storage, study_name='sweep', direction='maximize', load_if_exists=True)
        asked = {
            'run': ' '.join(argv),
            'space': {key: as_text(plain(of)) for key, of in space.items()},
            'metric': metric,
            'seconds': seconds,
        }
        there = self.study.user_attrs.get('asked', asked)
        if there != asked:
            differs = '; '.join(f'{key} {there[key]}, not {asked[key]}' for key in asked if there[key] != asked[key])
            raise UserError(f'{folder} holds another sweep: {differs}. Choose another --out.')
        self.study.set_user_attr('asked', asked)

    def records(self) -> list[Record]:
        """Of every trial that has ended, in their order."""
        return [trial.user_attrs['record'] for trial in self.study.get_trials() if trial.state.is_finished()]

    def run(self, trials: int) -> Iterator[Record]:
        """Run trials until there are so many, the failed among them; first those that were not finished."""
        from optuna.samplers import TPESampler
        from optuna.trial import Trial, TrialState

        with locked(self.folder) as self.lock:
            unfinished = self.study.get_trials(states=(TrialState.RUNNING,))
            while unfinished or len(self.records()) < trials:
                number = unfinished[0].number if unfinished else len(self.study.trials)
                self.study.sampler = TPESampler(seed=self.seed + number)  # a sweep that was stopped draws the same
                trial = Trial(self.study, unfinished.pop(0)._trial_id) if unfinished else self.study.ask()
                yield self._run_one(trial)

    def _run_one(self, trial: Any) -> Record:
        from optuna.trial import TrialState

        params = {key: of.suggest(trial, key) for key, of in self.space.items()}
        argv = [*self.argv, *(f'{key}={as_text(value)}' for key, value in params.items())]
        folder = self.folder / f'trial-{trial.number}'
        started = time.monotonic()
        record: Record = {
            'trial': trial.number, 'state': 'failed', 'metric': self.metric, 'score': None, 'params': params,
            'seed': params.get('seed', self.seed),
            'date': datetime.now(timezone.utc).isoformat(timespec='seconds'),
            'versions': {name: version(name) for name in PACKAGES},
        }  # fmt: skip
        try:
            if self.seconds is not None:
                batches = batches_within(self.seconds, argv, self.folder / f'{folder.name}-speed', (self.lock,))
                argv.append(f'max_duration={batches}ba')
            record |= asdict(run(argv, folder, (self.lock,)))
        except UserError as error:
            record |= {'error': str(error), 'seconds': time.monotonic() - started}
        score = record.get('figures', {}).get(self.metric)
        if score is not None:
            record |= {'state': 'complete', 'score': score}
        elif record['error'] is None:
            record['error'] = f'{self.metric} is not defined'
        record['argv'] = argv
        trial.set_user_attr('record', record)
        self.study.tell(trial, score, state=TrialState.FAIL if score is None else None)
        write_text(self.folder / TRIALS, ''.join(f'{json.dumps(one)}\n' for one in self.records()))
        return record


def best(records: Sequence[Record]) -> Record | None:
    return max((record for record in records if record['score'] is not None), key=score_of, default=None)


def score_of(record: Record) -> float:
    return -1.0 if record['score'] is None else record['score']


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """The descriptor of a lock on the folder, which a trial inherits: of a sweep that was killed one may still run."""
    with (folder / '.lock').open('w') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f'{folder} is in use by another sweep, or by a trial of one that was killed') from None
        yield file.fileno()


def import_optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise UserError(f'segrecipes sweep needs optuna, which is not installed: pip install {OPTUNA}') from error
    return optuna
