"""Do the recipes beat the baseline at equal training time? From scratch, on real photographs.

    python benchmarks/recipes.py ../shared/data/camvid_ade [--backbone resnet18] [--seeds 3] [--seconds 480]

CamVid in ADE20K's layout (367 training and 101 validation photographs of 360×480, 11 classes; not part of this
package), crops of 352², scored by ade20k-ss at 360. Every run is main.py's and has the steps that fit into the same
seconds of training, by a short run before, so that SAM's second pass costs it steps; starts and evaluations are not
counted. The averages' half-lives are the published share of a run. Seed by seed through all recipes: what is done when
time runs out can be compared. Writes the record, and benchmarks/records/recipes.png.
"""

import argparse
import contextlib
import gc
import io
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import RECORDS, Benchmark, device, pin

import matplotlib  # isort: skip

matplotlib.use('Agg')
import torch
from matplotlib import pyplot as plt

from segrecipes.config.merge import load_config
from segrecipes.training import run as package
from segrecipes.training.evaluate import shown_results

GPU = device() == 'cuda'
OVERHEAD = 6 if GPU else 15  # seconds a run spends beside training: model, workers, evaluation
RECIPES = ('baseline', 'mild', 'medium', 'hot')
# Half-life of the average as a share of all steps: 1000 of 25 epochs of 158 steps, of 90, 2000 of 240
HALF_LIFE = {'mild': 0.25, 'medium': 0.07, 'hot': 0.05}
SIZES = (
    'model.output_stride=8', 'train_dataset.base_size=360', 'train_dataset.final_size=352',
    'eval_dataset.final_size=360', 'train_dataset.batch_size=16', 'device_train_microbatch_size=16',
    'train_dataset.num_workers=12', 'eval_dataset.num_workers=4', 'model.head_channels=256',
) if GPU else (
    'model.output_stride=32', 'train_dataset.base_size=72', 'train_dataset.final_size=64',
    'eval_dataset.final_size=72', 'train_dataset.batch_size=4', 'train_dataset.num_workers=1',
    'eval_dataset.num_workers=1', 'model.head_channels=16',
)  # fmt: skip


def arguments(recipe: str, seed: int, steps: int, folder: Path, args: argparse.Namespace) -> list[str]:
    argv = [
        'yamls/deeplabv3.yaml', *SIZES, f'seed={seed}', f'max_duration={steps}ba', 'eval_interval=1dur',
        f'recipe_name={"null" if recipe == "baseline" else recipe}', 'eval_protocol=ade20k-ss',
        f'model.backbone_arch={args.backbone}', 'model.backbone_weights=null', 'model.num_classes=11',
        'train_dataset.name=camvid', 'eval_dataset.name=camvid', f'train_dataset.path={args.data}',
        f'eval_dataset.path={args.data}', 'train_dataset.keep_ratio=true', 'train_dataset.prefetch_factor=4',
        'optimizer.lr=0.05', 'callbacks={}', 'loggers.progress_bar=null', f'save_folder={folder}',
        'save_interval=1000ep', 'save_best=false', 'save_overwrite=true',
    ]  # fmt: skip
    if recipe in HALF_LIFE:
        argv.append(f'algorithms.ema.half_life={max(1, round(HALF_LIFE[recipe] * steps))}ba')
    if recipe in ('mild', 'medium'):
        argv.append(f'algorithms.ema.update_interval={max(1, min(10, steps // 100))}ba')
    return argv


def train(recipe: str, seed: int, steps: int, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """One run: its mean IoU, steps and images a second, and the loss by second of training."""
    with contextlib.redirect_stdout(io.StringIO()):
        trainer = package.main(*load_config(arguments(recipe, seed, steps, folder, args)))
        results = shown_results(trainer)
        assert results is not None
        trainer.close()
    history = [json.loads(line) for line in (folder / 'history.jsonl').read_text().splitlines()]
    key = 'loss/train/total'
    losses = [(line['seconds'], line['metrics'][key]) for line in history if key in line['metrics']]
    trained = trainer.state.timestamp.total_wct.total_seconds()
    images = trainer.state.timestamp.sample.value / trained
    found = {'recipe': recipe, 'seed': seed, 'steps': steps, 'seconds': trained, 'images/s': images, 'losses': losses}
    found |= {'mean_iou': results.evaluations[-1].mean_iou}
    del trainer, results
    gc.collect()
    torch.cuda.empty_cache()
    return found


def steady_rate(losses: list[tuple[float, float]]) -> float:
    """Steps a second of the last two thirds of a run."""
    late = losses[len(losses) // 3 :]
    return (len(late) - 1) / max(1e-3, late[-1][0] - late[0][0])


def draw(runs: list[dict[str, Any]], path: Path, title: str) -> None:
    """Loss by second, every run; mean IoU by recipe."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout='constrained', width_ratios=(3, 2))
    for index, recipe in enumerate(RECIPES):
        of_recipe = [run for run in runs if run['recipe'] == recipe]
        for run in of_recipe:
            window = max(1, len(run['losses']) // 50)
            seconds, losses = zip(*run['losses'])
            smooth = [statistics.mean(losses[max(0, i - window) : i + 1]) for i in range(len(losses))]
            label = recipe if run is of_recipe[0] else None
            left.plot(seconds, smooth, color=f'C{index}', alpha=0.7, linewidth=1, label=label)
        right.scatter([index] * len(of_recipe), [run['mean_iou'] for run in of_recipe], color=f'C{index}')
    left.set(xlabel='seconds of training', ylabel='training loss')
    left.legend(frameon=False)
    right.set(xticks=range(len(RECIPES)), xticklabels=RECIPES, ylabel='mean IoU, %')
    for axis in (left, right):
        axis.spines[['top', 'right']].set_visible(False)
    figure.suptitle(title)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('data', type=Path)
    parser.add_argument('--backbone', default='resnet18')
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--seconds', type=float, default=480, help='for all runs together')
    args = parser.parse_args()
    if not GPU:
        pin(2)
    end = time.monotonic() + args.seconds
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as work:
        rates = {
            recipe: steady_rate(train(recipe, 0, 110 if GPU else 12, Path(work, f'{recipe}-0'), args)['losses'])
            for recipe in RECIPES
        }
        each = max(1.0, (end - time.monotonic()) / (args.seeds * len(RECIPES)) - OVERHEAD)
        bench = Benchmark('recipes', 'The recipes at equal training time')
        for seed in range(1, args.seeds + 1):
            for recipe in RECIPES:
                if time.monotonic() + each + OVERHEAD > end + OVERHEAD:
                    bench.note(f'{recipe}, seed {seed}: no time was left.')
                    continue
                steps = max(2, round(each * rates[recipe]))
                runs.append(train(recipe, seed, steps, Path(work, f'{recipe}-{seed}'), args))
    size = 'crops of 352²' if GPU else 'crops of 64²'
    title = f'CamVid, {args.backbone}, {size}, {each:.0f} s of training'
    table = bench.table(title, unit='mean IoU, %')
    baseline = {run['seed']: run['mean_iou'] for run in runs if run['recipe'] == 'baseline'}
    for recipe in RECIPES:
        of_recipe = [run for run in runs if run['recipe'] == recipe]
        if not of_recipe:
            continue
        values = [run['mean_iou'] for run in of_recipe]
        gains = [run['mean_iou'] - baseline[run['seed']] for run in of_recipe if run['seed'] in baseline]
        table.add(
            recipe, values,
            mean=f'{statistics.mean(values):.2f} ± {statistics.stdev(values) if len(values) > 1 else 0:.2f}',
            **{'over the baseline': f'{statistics.mean(gains):+.2f}' if gains else ''},
            steps=of_recipe[0]['steps'], **{'images/s': statistics.median(run['images/s'] for run in of_recipe)},
        )  # fmt: skip
    if runs:
        draw(runs, RECORDS / 'recipes.png', title)
    bench.finish()


if __name__ == '__main__':
    main()
