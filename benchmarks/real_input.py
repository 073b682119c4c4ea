"""How far each architecture gets on real photographs on a CPU: trained from scratch, from a folder and from shards.

    python benchmarks/real_input.py ../shared/data/camvid_ade --epochs 12

Takes CamVid in ADE20K's layout (367 training and 101 validation photographs, 11 classes; not part of this package).
Writes benchmarks/records/real_input.{json,md,png}.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from itertools import repeat
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use('Agg')
from matplotlib import pyplot as plt

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / 'benchmarks' / 'records'
SETTINGS = (
    'recipe_name=mild', 'algorithms.ema.half_life=60ba', 'algorithms.ema.update_interval=5ba',
    'model.num_classes=11', 'model.backbone_arch=resnet18', 'model.backbone_weights=null', 'model.head_channels=64',
    'model.output_stride=16', 'train_dataset.name=camvid', 'eval_dataset.name=camvid',
    'train_dataset.base_size=192', 'train_dataset.final_size=128', 'eval_dataset.final_size=192',
    'train_dataset.batch_size=16', 'eval_dataset.batch_size=8', 'optimizer.lr=0.05',
    'save_interval=100ep', 'eval_interval=100ep', 'loggers.progress_bar=null',
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description='Train each architecture on CamVid, from a folder and from shards.')
    parser.add_argument('path')
    parser.add_argument('--epochs', type=int, default=12)
    parser.add_argument('--at-once', type=int, default=2)
    parser.add_argument('--work', type=Path, default=ROOT / 'runs' / 'real_input')
    options = parser.parse_args()
    mds = options.work / 'mds'
    if not mds.exists():
        subprocess.run(
            [sys.executable, '-m', 'segrecipes', 'convert', options.path, '--out', mds, '--name', 'camvid'], cwd=ROOT
        )
    record = {
        'hardware': f'{_cpu_model()}, {len(os.sched_getaffinity(0))} cores',
        'versions': {name: version(name) for name in ('torch', 'mosaicml', 'mosaicml-streaming', 'mmsegmentation')},
        'commit': subprocess.run(
            ['git', 'rev-parse', '--short', 'HEAD'], cwd=ROOT, capture_output=True, text=True
        ).stdout.strip(),
        'epochs': options.epochs,
        'runs': [],
    }
    jobs = [
        (yaml, source, path)
        for yaml in ('deeplabv3', 'pspnet', 'upernet')
        for source, path in (('folder', Path(options.path)), ('shards', mds))
    ]
    with ThreadPoolExecutor(options.at_once) as pool:  # one thread each: two at once finish sooner than one on both
        record['runs'] = list(pool.map(train, *zip(*jobs), repeat(options)))
    write(record)


def train(yaml: str, source: str, path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One training run in a process of its own: wall and CPU seconds, final IoU by class."""
    results = options.work / f'{yaml}-{source}'
    streaming = str(source == 'shards').lower()
    more = [f'max_duration={options.epochs}ep', f'callbacks.show_results.folder={results}']
    for dataset in ('train_dataset', 'eval_dataset'):
        more += [f'{dataset}.path={path}', f'{dataset}.is_streaming={streaming}']
    command = ['main.py', f'yamls/{yaml}.yaml', *SETTINGS, *more]
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, stdout=subprocess.DEVNULL, env={**os.environ, 'OMP_NUM_THREADS': '1'}
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f'failed with status {os.waitstatus_to_exitcode(status)}: {" ".join(command)}')
    seconds = time.perf_counter() - started
    scores = json.loads((results / 'scores.json').read_text())
    percent = {entry['name']: entry['iou'] for entry in scores['classes']} | {'mean': scores['mean_iou']}
    iou = {name: None if value is None else round(value / 100, 4) for name, value in percent.items()}
    return {
        'yaml': yaml,
        'source': source,
        'command': 'composer ' + ' '.join(command).replace(str(path), 'PATH').replace(str(options.work), 'runs'),
        'seconds': round(seconds),
        'cpu_seconds': round(usage.ru_utime + usage.ru_stime),
        'iou': iou,
    }


def write(record: dict[str, Any]) -> None:
    (RECORDS / 'real_input.json').write_text(json.dumps(record, indent=1) + '\n')
    runs, before = record['runs'], json.loads((RECORDS / 'real_input_before.json').read_text())
    versions = ', '.join(f'{name} {number}' for name, number in record['versions'].items())
    lines = [
        '# Real photographs: CamVid, from scratch, on a CPU',
        '',
        f'Written by `python benchmarks/real_input.py PATH --epochs {record["epochs"]}` at commit {record["commit"]}.',
        f'{record["hardware"]}; {versions}. n = 1 run each, 101 validation photographs, each scored once.',
        'mIoU in the *mosaic-512sq* protocol at 192×192. ResNet-18, output stride 16, no pretrained weights.',
        'One thread each, two runs at once, on a machine shared with other work: CPU times are the steadier figure.',
        '',
        '| yaml | from | mIoU | wall | CPU | before¹: mIoU | wall | CPU |',
        '|---|---|---|---|---|---|---|---|',
        *(
            f'| {run["yaml"]} | {run["source"]} | {figures(run)} | {figures(old)} |'
            for run, old in zip(runs, before['runs'])
        ),
        '',
        f'¹ At commit {before["commit"]}, {before["epochs"]} epochs, with the same settings in float32: the epochs are',
        'chosen so that both take about the same CPU time.',
        '',
        '![IoU by class](real_input.png)',
        '',
        'Folder and shards deliver the same augmented samples in another order; with n = 1 their difference, and that',
        'between the heads, is not told from noise. The photographs may not be copied, so the picture shows IoU by',
        'class. The commands:',
        '',
        '```',
        *(run['command'] for run in runs),
        '```',
    ]
    (RECORDS / 'real_input.md').write_text('\n'.join(lines) + '\n')

    figure, axis = plt.subplots(figsize=(10, 3.6), layout='constrained')
    names = list(runs[0]['iou'])
    width = 0.8 / len(runs)
    for index, run in enumerate(runs):
        left = [x + width * (index - (len(runs) - 1) / 2) for x in range(len(names))]
        axis.bar(
            left, [100 * (value or 0) for value in run['iou'].values()], width, label=f'{run["yaml"]}, {run["source"]}'
        )
    axis.set_xticks(range(len(names)), names)
    axis.set_ylabel('IoU, %')
    axis.set_ylim(0, 100)
    axis.spines[['top', 'right']].set_visible(False)
    axis.legend(frameon=False, ncols=3, fontsize=8)
    figure.savefig(RECORDS / 'real_input.png', dpi=100)
    plt.close(figure)


def figures(run: dict[str, Any]) -> str:
    return '{mean:.1%} | {seconds} s | {cpu_seconds} s'.format(**run, mean=run['iou']['mean'])


def _cpu_model() -> str:
    lines = Path('/proc/cpuinfo').read_text().splitlines()
    return next((line.partition(': ')[2] for line in lines if line.startswith('model name')), platform.processor())


if __name__ == '__main__':
    main()
