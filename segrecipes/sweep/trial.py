"""One trial: a run of ``segrecipes train`` in a process of its own, and what came of it."""

import json
import math
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from segrecipes.base.errors import UserError
from segrecipes.base.run_files import EVALUATION, HISTORY, MEAN_IOU, SCORES
from segrecipes.evaluation.scores import Scores

LOG = 'log.txt'
PATIENCE = 10  # seconds
PROBE = 30  # batches that a run's speed is measured on
SLOW = 3  # of these, in which all is done for the first time: they count as those after them


@dataclass(frozen=True)
class Outcome:
    """What a run came to: the figures of its last evaluation, or why it has none.

    ``seconds`` and ``cpu_seconds`` are of the whole process and its workers, ``train_seconds`` of its batches alone.
    """

    figures: dict[str, float]
    protocol: str | None
    error: str | None
    seconds: float
    cpu_seconds: float
    train_seconds: float


def run(argv: Sequence[str], folder: Path, pass_fds: Sequence[int] = ()) -> Outcome:
    """Train as ``argv`` says, into ``folder``, of which nothing from before is kept; what it prints goes to a file."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    command = [sys.executable, '-m', 'segrecipes', 'train', *argv, f'save_folder={folder}']
    started, cpu = time.monotonic(), children_cpu()
    with (folder / LOG).open('w') as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=pass_fds)
        try:
            status = process.wait()
        finally:
            end(process)
    spent = time.monotonic() - started, children_cpu() - cpu
    error = None if status == 0 else reason((folder / LOG).read_text(errors='replace'), status)
    scores = folder / EVALUATION / SCORES
    if error is None and not scores.is_file():
        error = 'it was not evaluated: eval_interval must come before the end, and callbacks.show_results stay'
    found = Scores.from_dict(json.loads(scores.read_text())) if error is None else None
    history = read_history(folder)
    return Outcome(
        {} if found is None else figures(found),
        None if found is None else found.protocol,
        error,
        *(round(seconds, 1) for seconds in spent),
        train_seconds=history[-1][1] if history else 0.0,
    )


def end(process: subprocess.Popen) -> None:
    """A run that is told to end finishes its batch, and writes a checkpoint that a trial has no use for."""
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def figures(scores: Scores) -> dict[str, float]:
    """What a sweep may seek the most of, in percent."""
    by_class = {f'iou.{name}': float(iou) for name, iou in zip(scores.class_names, scores.iou)}
    found = {MEAN_IOU if name == 'mean_iou' else name: value for name, value in scores.summary().items()} | by_class
    return {name: value for name, value in found.items() if not math.isnan(value)}


def reason(log: str, status: int) -> str:
    """Why a run ended: its message, or the last line of a traceback."""
    if status < 0:
        return f'killed by signal {-status}'
    message = log.rpartition('\nerror: ')[2] if '\nerror: ' in f'\n{log}' else log.rstrip().rpartition('\n')[2]
    return message.removeprefix('error: ').strip() or f'exit status {status}'


def batches_within(seconds: float, argv: Sequence[str], folder: Path, pass_fds: Sequence[int] = ()) -> int:
    """How many batches of this run take so long, by those of a short one; starts and evaluations are not counted.

    Raises:
        UserError: the short run failed.
    """
    outcome = run([*argv, f'max_duration={PROBE}ba', 'eval_interval=1dur'], folder, pass_fds)
    if outcome.error is not None:
        raise UserError(outcome.error)
    ends = [seconds for _, seconds in read_history(folder)]
    took = [end - start for start, end in pairwise(ends)][SLOW - 1 :]
    shutil.rmtree(folder)
    return max(1, round(seconds * PROBE / max(1e-3, sum(took) + sum(took[:SLOW]))))


def read_history(folder: Path) -> list[tuple[int, float]]:
    """Batch and seconds of training so far, line by line."""
    path = folder / HISTORY
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return [(line['batch'], line['seconds']) for line in lines]


def children_cpu() -> float:
    """CPU seconds of all processes that this one has started and that have ended, with theirs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
