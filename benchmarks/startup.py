"""How long from the start of the process to the first training step, and what is it spent on?

    python benchmarks/startup.py

A run of one batch, ``yamls/demo.yaml`` on a few drawn images in a folder, against a process that only imports Composer.
"""

import argparse
import json
import subprocess
import sys
import time
from collections import defaultdict
from tempfile import TemporaryDirectory
from typing import Any

import bench

from segrecipes.datasets.synthetic.write import write_dataset

UNWANTED = ('streaming', 'boto3', 'tensorboard', 'wandb', 'mmseg.datasets', 'matplotlib', 'moto')
LARGEST = 14  # packages shown
OVERRIDES = (
    'max_duration=1ba', 'eval_interval=0ep', 'save_folder=null', 'loggers.progress_bar=null',
    'callbacks.show_results=null', 'train_dataset.is_streaming=false', 'eval_dataset.is_streaming=false',
    'train_dataset.num_workers=0', 'eval_dataset.num_workers=0', 'train_dataset.batch_size=4',
)  # fmt: skip

# Both print what they have found as their last line, times by the clock that all processes share.
IMPORT_COMPOSER = """
import composer, json, sys, time
print(json.dumps({'modules': [*sys.modules], 'imports': time.monotonic()}))
"""
RUN_MAIN = """
import json, runpy, sys, time
from segrecipes.config import merge

marks = {}

def load_config(argv, load_config=merge.load_config):  # main.py calls it when all is imported
    marks['imports'] = time.monotonic()
    import composer

    class MarkFirstBatch(composer.Callback):
        def batch_end(self, state, logger):
            marks['first step'] = time.monotonic()
            marks['batches'] = int(state.timestamp.batch)

    def init(trainer, *args, init=composer.Trainer.__init__, **kwargs):
        marks['data and model'] = time.monotonic()
        init(trainer, *args, **kwargs)

    def fit(trainer, *args, fit=composer.Trainer.fit, **kwargs):
        marks['trainer'] = time.monotonic()
        trainer.state.callbacks.append(MarkFirstBatch())
        fit(trainer, *args, **kwargs)

    composer.Trainer.__init__, composer.Trainer.fit = init, fit
    return load_config(argv)

merge.load_config = load_config
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
print(json.dumps({'modules': [*sys.modules], **marks}))
"""
PHASES = {
    'import composer': ('imports', 'end'),
    'whole run': ('imports', 'data and model', 'trainer', 'first step', 'end'),
}

Runs = dict[str, list[dict[str, Any]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=2)
    options = parser.parse_args()

    bench.pin(1)  # the child processes too
    report = bench.Benchmark('startup', 'How long from the start of the process to the first training step?')
    with TemporaryDirectory() as folder:
        path = write_dataset(folder, num_train=4, num_val=1, progress_bar=False)
        arguments = [
            'main.py',
            'yamls/demo.yaml',
            *OVERRIDES,
            f'train_dataset.path={path}',
            f'eval_dataset.path={path}',
        ]
        imports = import_times(arguments)  # also reads all files once
        runs: Runs = {name: [] for name in PHASES}
        turns = {
            'import composer': lambda: runs['import composer'].append(run(IMPORT_COMPOSER)[0]),
            'whole run': lambda: runs['whole run'].append(run(RUN_MAIN, arguments)[0]),
        }
        seconds = bench.interleave(turns, options.rounds, warmup=0)
    show_phases(report, runs, seconds)
    show_imports(report, imports)
    show_unwanted(report, runs)
    report.finish()


def run(code: str, arguments: list[str] | None = None, *options: str) -> tuple[dict[str, Any], str]:
    """A Python process: what it printed last, with the time it was started and ended at, and its stderr."""
    started = time.monotonic()
    command = [sys.executable, *options, '-c', code, *(arguments or [])]
    done = subprocess.run(command, cwd=bench.ROOT, capture_output=True, text=True)
    ended = time.monotonic()
    assert done.returncode == 0, f'the process failed:\n{done.stderr[-2000:]}'
    found = {'start': started, **json.loads(done.stdout.splitlines()[-1]), 'end': ended}
    assert found.get('batches', 1) == 1, f'{found["batches"]} batches in place of one'
    return found, done.stderr


# What is measured


def show_phases(report: bench.Benchmark, runs: Runs, seconds: dict[str, list[float]]) -> None:
    table = report.table('One process on one core', 's')
    median: dict[str, dict[str, float]] = {}
    for name, phases in PHASES.items():
        median[name] = {'whole': table.add(name, seconds[name])}
        for before, phase in zip(('start', *phases), phases):
            spent = [run[phase] - run[before] for run in runs[name]]
            median[name][phase] = table.add(f'    {phase}', spent)
    ours, composer = median['whole run'], median['import composer']
    report.target(
        'whole run over import composer and the first step',
        ours['whole'] / (composer['whole'] + ours['first step']),
        at_most=1.25,
        why=f'Imports take {ours["imports"]:.2f} s ({composer["imports"]:.2f} s those of composer), building data and '
        f"model {ours['data and model']:.2f} s, Composer's Trainer {ours['trainer']:.2f} s, closing it and leaving "
        f'Python {ours["end"]:.2f} s ({composer["end"]:.2f} s after importing composer alone).',
    )


def import_times(arguments: list[str]) -> dict[str, tuple[float, float]]:
    """Package → seconds in its own modules, and until its first import was done with all that this imports."""
    _, stderr = run(RUN_MAIN, arguments, '-X', 'importtime')
    own: dict[str, float] = defaultdict(float)
    cumulative: dict[str, float] = {}
    for line in stderr.splitlines():
        if not line.startswith('import time:') or 'cumulative' in line:
            continue
        self_time, total, module = line.removeprefix('import time:').split('|')
        package = module.strip().partition('.')[0]
        own[package] += int(self_time) / 1e6
        if module.strip() == package:
            cumulative[package] = int(total) / 1e6
    return {package: (time, cumulative.get(package, time)) for package, time in own.items()}


def show_imports(report: bench.Benchmark, imports: dict[str, tuple[float, float]]) -> None:
    table = report.table('Imports of a run, by python -X importtime, which slows them', 's')
    ranked = sorted(imports, key=lambda package: -imports[package][0])
    for package in ranked[:LARGEST]:
        own, cumulative = imports[package]
        table.add(package, [own], **{'with what it imports first': cumulative})
    table.add(f'{len(ranked) - LARGEST} others', [sum(imports[package][0] for package in ranked[LARGEST:])])


def show_unwanted(report: bench.Benchmark, runs: Runs) -> None:
    of_run, of_composer = runs['whole run'][0]['modules'], runs['import composer'][0]['modules']
    for name in UNWANTED:
        if name in of_run:
            who = 'by composer itself' if name in of_composer else 'and not by composer'
            report.note(f'{name} is imported, {who}.')
    if not any(name in of_run for name in UNWANTED):
        report.note(f'None of these is imported: {", ".join(UNWANTED)}.')


if __name__ == '__main__':
    main()
