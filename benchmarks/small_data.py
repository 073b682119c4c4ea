"""Which recipe is best for a few hundred photographs at equal time, and what does each part of *small* bring?

    python benchmarks/small_data.py ../shared/data/camvid_ade [--seconds 600] [--seeds 5] [--rows ROW …] [--within S]

CamVid in ADE20K's layout (367 training and 101 validation photographs, 11 classes; not part of this package), a
ResNet-18 from scratch, scored by ade20k-ss at 192. Each run is `segrecipes train` on two cores, as --print shows it,
and has the steps that fit into the same seconds of training by a run of 30 steps before; starts and evaluations are not
counted. All runs of a row have the same steps. A run is a line of records/small_data_runs.jsonl, and is skipped where
it stands there with the same settings: started again, the benchmark goes on. --within begins no run that would not end
in so many seconds. The record is made of all runs there are.
"""

import argparse
import json
import os
import shlex
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

from bench import RECORDS, ROOT, Benchmark, commit, hardware, versions

from segrecipes.sweep.trial import batches_within, run

NAME = 'small_data'
RUNS = RECORDS / f'{NAME}_runs.jsonl'
CORES = 2
OVERHEAD = 60  # seconds that a run spends beside training, at most
DATA = 'train_dataset.path'

COMMON = (
    'dataset=camvid', 'model.backbone_arch=resnet18', 'model.backbone_weights=null', 'model.head_channels=64',
    'model.output_stride=16', 'train_dataset.base_size=192', 'train_dataset.final_size=192',
    'eval_dataset.final_size=192', 'train_dataset.batch_size=16', 'train_dataset.num_workers=1',
    'eval_dataset.num_workers=1', 'optimizer.lr=0.05', 'eval_interval=1dur', 'save_interval=1dur', 'save_best=false',
)  # fmt: skip
# Their published half-lives, which outlast such a run, as the share of the published run that they are
RECIPES = {
    'baseline': ('recipe_name=null',),
    'mild': ('recipe_name=mild', 'algorithms.ema.half_life=0.25dur', 'algorithms.ema.update_interval=5ba'),
    'medium': ('recipe_name=medium', 'algorithms.ema.half_life=0.07dur', 'algorithms.ema.update_interval=5ba'),
    'hot': ('recipe_name=hot', 'algorithms.ema.half_life=0.05dur'),
    'small': ('recipe_name=small',),
}
# What takes each part of small.yaml away. Not its batch size, which all rows have, nor channels last, which is layout.
PARTS = {
    'warm-up': ('scheduler.name=cosine_annealing',),
    'auxiliary head': ('model.auxiliary_weight=0',),
    'class weights': ('model.class_weights=null',),
    'EMA': ('algorithms.ema=null',),
    'progressive resizing': ('algorithms.progressive_resizing=null',),
}
ROWS = RECIPES | {f'small without {part}': ('recipe_name=small', *away) for part, away in PARTS.items()}
PEERS = (
    'Measured before on another day, about ten minutes of two cores each at 192 pixels, n = 1, and not repeated here: '
    "mmsegmentation's DeepLabV3+ R18 with its own schedule 29.7 mIoU, Ultralytics' yolo26n-sem 32.0, ours with mild "
    '32.3.'
)
AHEAD = 5.0  # points that small is to be better by


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('data', type=Path)
    parser.add_argument('--seconds', type=float, default=600, help='of training, on two cores')
    parser.add_argument('--seeds', type=int, default=5)
    parser.add_argument('--rows', nargs='+', choices=ROWS, default=[*ROWS], metavar='ROW', help=', '.join(ROWS))
    parser.add_argument('--within', type=float, default=float('inf'), help='seconds of this call')
    parser.add_argument('--work', type=Path, default=ROOT / 'runs' / NAME)
    parser.add_argument('--print', action='store_true', help='the commands, and run none')
    args = parser.parse_args()
    if args.print:
        for row in args.rows:
            print(shlex.join(['segrecipes', 'train', *arguments(row, args.data)]))
        return
    os.chdir(ROOT)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])  # the runs inherit it
    os.environ['OMP_NUM_THREADS'] = str(CORES)
    end = time.monotonic() + args.within
    for row, seed in missing(args.rows, args.seeds, args.seconds):
        if time.monotonic() + args.seconds + 2 * OVERHEAD > end:
            print('no time is left for another run')
            break
        record = measure(row, seed, args)
        print(f'{row}, seed {seed}: {record["error"] or record["mean_iou"]}', flush=True)
        with RUNS.open('a') as file:
            file.write(json.dumps(record, ensure_ascii=False) + '\n')
    bench = summarize(read_runs(args.seconds), args.seconds)
    if bench is not None:
        bench.finish()


def arguments(row: str, data: Path | str) -> list[str]:
    return ['yamls/deeplabv3.yaml', *COMMON, f'{DATA}={data}', *ROWS[row]]


def missing(rows: Sequence[str], seeds: int, seconds: float) -> Iterator[tuple[str, int]]:
    """Seed by seed through all rows: what is done when time runs out can be compared."""
    done = {(run['row'], run['seed']) for run in read_runs(seconds)}
    for seed in range(1, seeds + 1):
        yield from ((row, seed) for row in rows if (row, seed) not in done)


def read_runs(seconds: float) -> list[dict[str, Any]]:
    """Those that had so much time and the settings of now, at whatever commit; those that failed are made again."""
    lines = RUNS.read_text().splitlines() if RUNS.is_file() else []
    return [
        run
        for run in map(json.loads, lines)
        if run['budget'] == seconds and run['settings'] == setting(run['row']) and run['error'] is None
    ]


def setting(row: str) -> list[str] | None:
    return arguments(row, 'PATH') if row in ROWS else None


def measure(row: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    argv = [*arguments(row, args.data), f'seed={seed}']
    before = [run['batches'] for run in read_runs(args.seconds) if run['row'] == row]
    batches = before[0] if before else batches_within(args.seconds, argv, args.work / 'speed')
    outcome = run([*argv, f'max_duration={batches}ba'], args.work / f'{row.replace(" ", "-")}-{seed}')
    return {
        'row': row, 'seed': seed, 'budget': args.seconds, 'batches': batches, 'settings': setting(row),
        'mean_iou': outcome.figures.get('mIoU'), **asdict(outcome), 'date': date.today().isoformat(),
        'commit': commit(), 'hardware': hardware(), 'versions': versions(),
    }  # fmt: skip


def summarize(runs: Sequence[dict[str, Any]], seconds: float) -> Benchmark | None:
    """The usual record, of runs of one budget; None of none."""
    if not runs:
        return None
    bench = Benchmark(NAME, 'Recipes on a few hundred photographs at equal time')
    table = bench.table(f'CamVid, ResNet-18 from scratch, {seconds:g} s of training on {CORES} cores', 'mIoU, %')
    by_row = {row: {run['seed']: run for run in runs if run['row'] == row} for row in ROWS}
    small = by_row['small']
    means = {}
    for row, of_row in by_row.items():
        if not of_row:
            continue
        values = [run['mean_iou'] for run in of_row.values()]
        both = [of_row[seed]['mean_iou'] - small[seed]['mean_iou'] for seed in of_row if seed in small]
        means[row] = statistics.mean(values)
        table.add(
            row, values, mean=mean_and_spread(values),
            **{'over small, seed by seed': '' if row == 'small' or not both else mean_and_spread(both, '+')},
            steps=next(iter(of_row.values()))['batches'],
            **{'CPU s': round(statistics.median(run['cpu_seconds'] for run in of_row.values()))},
        )  # fmt: skip
    others = {row: means[row] for row in RECIPES if row in means and row != 'small'}
    if 'small' in means and others:
        best = max(others, key=others.__getitem__)
        bench.target(f'small over the best other recipe, {best}', means['small'] - others[best], at_least=AHEAD)
    bench.note('Mean ± standard deviation over seeds; CPU seconds of the whole process, starts and evaluations too.')
    bench.note(PEERS)
    return bench


def mean_and_spread(values: Sequence[float], sign: str = '') -> str:
    spread = f' ± {statistics.stdev(values):.2f}' if len(values) > 1 else ''
    return f'{statistics.mean(values):{sign}.2f}{spread}'


if __name__ == '__main__':
    main()
