"""What share of small faults in the package's logic do its tests notice?

    make mutants
    python tests/mutants.py --each 10 --seed 0 --floors base config

cosmic-ray changes an operator, a number, a comparison … in a copy of the checkout: of each floor a sample with a fixed
seed. The tests of that floor run on each, without the slow ones; a fault that none of them notices is printed.
"""

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from cosmic_ray.work_db import WorkDB, use_db  # type: ignore[import-not-found]  # of an environment of its own
from cosmic_ray.work_item import TestOutcome, WorkerOutcome, WorkResult  # type: ignore[import-not-found]

ROOT = Path(__file__).parents[1]
# By floor: what is mutated, and the tests that are to notice
FLOORS: dict[str, tuple[str, list[str]]] = {
    'base': ('segrecipes/base', ['tests/base']),
    'datasets': ('segrecipes/datasets', ['tests/datasets', 'tests/storage/test_folders.py']),
    'config': ('segrecipes/config', ['tests/config', 'tests/test_yamls.py']),
    'data': ('segrecipes/data', ['tests/data']),
    'storage': ('segrecipes/storage', ['tests/storage']),
    'evaluation': ('segrecipes/evaluation', ['tests/evaluation']),
    'losses': ('segrecipes/models/losses/sliced.py', ['tests/models/test_losses.py']),
    'weighted': ('segrecipes/models/losses/weighted.py', ['tests/models/test_weighted_loss.py']),
    'lovasz': ('segrecipes/models/losses/lovasz.py', ['tests/models/test_lovasz.py']),
    'registry': ('segrecipes/training/registry.py', ['tests/training/test_registry.py']),
}
# Types are no logic, and what is decorated by a library cannot be told without it
OPERATORS_LEFT_OUT = ('core/RemoveDecorator', 'core/ReplaceBinaryOperator_BitOr')
SKIPPED = WorkerOutcome.SKIPPED
SECONDS = 300  # a mutant that takes longer hangs, and is noticed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--each', type=int, default=10, help='mutants of each floor; default: 10')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--python', default=sys.executable, help='that runs the tests; default: this one')
    parser.add_argument('--floors', nargs='+', choices=FLOORS, default=[*FLOORS])
    args = parser.parse_args()
    noticed = total = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / 'checkout'
        listed = subprocess.run(['git', 'ls-files'], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for name in listed.splitlines():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
        for floor in args.floors:
            killed, survivors = examine(copy, floor, args.each, args.seed, args.python)
            noticed, total = noticed + killed, total + killed + len(survivors)
            print(f'{floor}: {killed} of {killed + len(survivors)} noticed', flush=True)
            for survivor in survivors:
                print(f'  not noticed: {survivor}', flush=True)
    print(f'{noticed} of {total} mutants noticed: {noticed / max(1, total):.1%}')


def examine(copy: Path, floor: str, count: int, seed: int, python: str) -> tuple[int, list[str]]:
    """How many of a floor's sample were noticed, and the diffs of the others."""
    module, tests = FLOORS[floor]
    command = ' '.join([python, '-m pytest -x -q -p no:cacheprovider -m "not slow"', *tests])
    settings = copy / f'{floor}.toml'
    settings.write_text(
        f'[cosmic-ray]\nmodule-path = "{module}"\ntimeout = {SECONDS}\nexcluded-modules = ["**/__init__.py"]\n'
        f'test-command = \'{command}\'\n[cosmic-ray.distributor]\nname = "local"\n'
    )
    session = copy / f'{floor}.sqlite'
    cosmic_ray = [sys.executable, '-m', 'cosmic_ray.cli']
    subprocess.run([*cosmic_ray, 'init', settings.name, session.name], cwd=copy, check=True)
    with use_db(str(session), WorkDB.Mode.open) as database:
        keep_sample(database, count, random.Random(seed))
    subprocess.run([*cosmic_ray, 'exec', settings.name, session.name], cwd=copy, check=True)
    with use_db(str(session), WorkDB.Mode.open) as database:
        results = [result for _, result in database.completed_work_items if result.worker_outcome != SKIPPED]
    killed = sum(result.test_outcome != TestOutcome.SURVIVED for result in results)
    return killed, [changed(result) for result in results if result.test_outcome == TestOutcome.SURVIVED]


def keep_sample(database: Any, count: int, rng: random.Random) -> None:
    """Mark all but ``count`` of the mutants as skipped; they are drawn by place, for jobs get new names each time."""
    places = {item.job_id: place(item.mutations[0]) for item in database.work_items}
    wanted = [job for job, where in places.items() if not where[2].startswith(OPERATORS_LEFT_OUT)]
    sample = set(rng.sample(sorted(wanted, key=places.__getitem__), min(count, len(wanted))))
    database.set_multiple_results(places.keys() - sample, WorkResult(worker_outcome=SKIPPED))


def place(mutation: Any) -> tuple[str, Any, str, int]:
    return str(mutation.module_path), mutation.start_pos, mutation.operator_name, mutation.occurrence


def changed(result: Any) -> str:
    """The lines that a mutant has in place of others."""
    lines = [line for line in (result.diff or '').splitlines() if line[:1] in '+-' and line[:3] not in ('+++', '---')]
    path = next((line[4:] for line in (result.diff or '').splitlines() if line.startswith('+++')), '')
    return f'{path}: ' + ' → '.join(line[1:].strip() for line in lines)


if __name__ == '__main__':
    main()
