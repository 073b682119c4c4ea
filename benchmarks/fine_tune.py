"""What is a checkpoint of drawn landscapes worth on photographs? Fine-tuned on CamVid, against from scratch.

    python benchmarks/fine_tune.py ../shared/data/camvid_ade [--epochs 10] [--first-epochs 7] [--seeds 3]

CamVid in ADE20K's layout (367 training and 101 validation photographs, 11 classes; not part of this package), crops of
128², scored as the benchmark does at 192. Every run is a command as one types it: ``segrecipes train`` on the drawn
landscapes, and again with ``load_path`` and ``load_weights_only=true``, which makes the last layers new. Each seed has
a checkpoint of its own. From scratch there is a run of the same epochs on CamVid, and one of more epochs, which sees as
many images as the landscapes and CamVid together. One thread a run, two at once: about 23 minutes of two cores.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench import ROOT, Benchmark

DRAWN, PHOTOGRAPHS = 400, 367  # training images
SETTINGS = (
    'recipe_name=mild', 'algorithms.ema.half_life=40ba', 'algorithms.ema.update_interval=2ba', 'optimizer.lr=0.05',
    'eval_interval=1dur', 'loggers.progress_bar=null', 'train_dataset.batch_size=16', 'train_dataset.final_size=128',
    'train_dataset.num_workers=0', 'eval_dataset.num_workers=0', 'train_dataset.is_streaming=false',
    'save_interval=1000ep', 'save_best=false',
)  # fmt: skip
CAMVID = ('dataset=camvid', 'train_dataset.base_size=192', 'eval_dataset.final_size=192', 'eval_dataset.batch_size=1')
SLOWER = 'optimizer.lr_factors={backbone: 0.3}'


def segrecipes(*arguments: str) -> dict[str, float]:
    """A command in a process of its own, of one thread: its wall and CPU seconds."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, '-m', 'segrecipes', *arguments],
        cwd=ROOT, stdout=subprocess.DEVNULL, env={**os.environ, 'OMP_NUM_THREADS': '1'},
    )  # fmt: skip
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f'failed with status {os.waitstatus_to_exitcode(status)}: segrecipes {" ".join(arguments)}')
    return {'seconds': time.perf_counter() - started, 'cpu': usage.ru_utime + usage.ru_stime}


def train(folder: Path, seed: int, epochs: int, *more: str) -> dict[str, float]:
    """A training, and its mean IoU in %."""
    common = (f'seed={seed}', f'max_duration={epochs}ep', f'save_folder={folder}', 'save_overwrite=true')
    cost = segrecipes('train', 'yamls/demo.yaml', *SETTINGS, *common, *more)
    return {**cost, 'mean_iou': json.loads((folder / 'evaluation' / 'scores.json').read_text())['mean_iou']}


def tune(first: Future, checkpoint: Path, folder: Path, seed: int, epochs: int, *more: str) -> dict[str, float]:
    """A training from a checkpoint, once that is there."""
    first.result()
    return train(folder, seed, epochs, f'load_path={checkpoint}', 'load_weights_only=true', *more)


def row(table: Any, name: str, runs: Sequence[dict[str, float]], **extra: Any) -> list[float]:
    values = [run['mean_iou'] for run in runs]
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    table.add(
        name, values, mean=f'{statistics.mean(values):.2f} ± {spread:.2f}',
        **extra, **{'CPU s a run': statistics.mean(run['cpu'] for run in runs)},
    )  # fmt: skip
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('data', type=Path)
    parser.add_argument('--epochs', type=int, default=10, help='on CamVid')
    parser.add_argument('--first-epochs', type=int, default=7, help='on the drawn landscapes')
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--drawn', type=int, default=DRAWN, help='training images of the landscapes')
    parser.add_argument('--work', type=Path, default=ROOT / 'runs' / 'fine_tune')
    args = parser.parse_args()
    data, work = args.data.resolve(), args.work.resolve()
    drawn = work / f'drawn-{args.drawn}'
    if not drawn.exists():
        segrecipes('synthesize', '--path', str(drawn), '--num-train', str(args.drawn), '--num-val', '40')
    longer = args.epochs + round(args.first_epochs * args.drawn / PHOTOGRAPHS)
    camvid = (*CAMVID, f'train_dataset.path={data}')
    with ThreadPoolExecutor(2) as pool:  # one thread each: two at once finish sooner than one on both cores
        first, runs = {}, {}
        for seed in range(1, args.seeds + 1):
            folder = {name: work / f'{name}-{seed}' for name in ('first', 'same', 'longer', 'tuned', 'slower')}
            landscapes = ('train_dataset.base_size=144', f'train_dataset.path={drawn}')
            first[seed] = pool.submit(train, folder['first'], seed, args.first_epochs, *landscapes)
            runs['longer', seed] = pool.submit(train, folder['longer'], seed, longer, *camvid)
            runs['same', seed] = pool.submit(train, folder['same'], seed, args.epochs, *camvid)
            for name, more in {'tuned': (), 'slower': (SLOWER,)}.items():
                checkpoint = folder['first'] / 'latest-rank0.pt'
                arguments = first[seed], checkpoint, folder[name], seed, args.epochs, *camvid, *more
                runs[name, seed] = pool.submit(tune, *arguments)

    def of(name: str) -> list[dict[str, float]]:
        return [run.result() for (found, _), run in runs.items() if found == name]

    bench = Benchmark('fine_tune', 'CamVid from a checkpoint of drawn landscapes, and from scratch')
    table = bench.table(f'DeepLabV3+ R18, crops of 128², {args.epochs} epochs of CamVid', unit='mean IoU, %')
    same = row(table, 'from scratch', of('same'), epochs=args.epochs)
    more = row(table, 'from scratch, as many images in all', of('longer'), epochs=longer)
    tuned = row(table, 'fine-tuned', of('tuned'), epochs=args.epochs)
    row(table, f'fine-tuned, {SLOWER.partition("=")[2]}', of('slower'), epochs=args.epochs)
    gain, over_more = (statistics.mean(a - b for a, b in zip(tuned, other)) for other in (same, more))
    bench.target('mean IoU of fine-tuning over from scratch, points, at equal epochs', gain, at_least=0)
    bench.note(f'Over from scratch with as many images in all: {over_more:+.2f} points.')
    pretrained = [run.result() for run in first.values()]
    bench.note(
        f'The checkpoints: {args.first_epochs} epochs of {args.drawn} landscapes, '
        f'{statistics.mean(run["mean_iou"] for run in pretrained):.1f} % mean IoU on theirs, '
        f'{statistics.mean(run["cpu"] for run in pretrained):.0f} CPU seconds each.'
    )
    bench.finish()


if __name__ == '__main__':
    main()
