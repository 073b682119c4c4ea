"""How far apart are the evaluation protocols, for the same checkpoint?

    python benchmarks/protocol_gap.py demo/run runs/camvid

Evaluates the best checkpoint of each run under each protocol, averaged weights and raw ones. Writes
benchmarks/records/protocol_gap.json and the table in the README beside it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

from bench import RECORDS, ROOT, commit, hardware, versions
from tabulate import tabulate

from segrecipes.config.merge import read_yaml
from segrecipes.evaluation.table import PROTOCOLS

RECORD = RECORDS / 'protocol_gap.json'
BEGIN, END = '<!-- python benchmarks/protocol_gap.py -->', '<!-- end -->'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('runs', nargs='+', type=Path, help='folders of runs, with config.yaml and best-rank0.pt')
    args = parser.parse_args()
    record = {
        'date': date.today().isoformat(),
        'commit': commit(),
        'hardware': hardware(),
        'versions': versions(),
        'runs': [evaluate(run) for run in args.runs],
    }
    RECORD.write_text(json.dumps(record, indent=1) + '\n')
    readme = RECORDS / 'README.md'
    before, rest = readme.read_text().split(BEGIN)
    readme.write_text(f'{before}{BEGIN}\n{table(record)}\n{END}{rest.partition(END)[2]}')


def evaluate(run: Path) -> dict[str, Any]:
    """What ``segrecipes evaluate`` says of a run, without the confusion matrices."""
    config = run / 'config.yaml'
    with tempfile.TemporaryDirectory() as out:
        arguments = [config, f'load_path={run / "best-rank0.pt"}', '--protocol', 'all', '--out', str(out)]
        subprocess.run([sys.executable, '-m', 'segrecipes', 'evaluate', *arguments], cwd=ROOT, check=True)
        files = [Path(out) / name / weights / 'scores.json' for name in PROTOCOLS for weights in ('ema', 'raw')]
        found = [json.loads(file.read_text()) for file in files if file.exists()]
    settings: Any = read_yaml(config)
    return {
        'dataset': settings.eval_dataset.name,
        'network': f'{settings.model.architecture}, {settings.model.backbone_arch}',
        'size': settings.eval_dataset.final_size,
        'images': found[0]['images'],
        'epoch': found[0]['epoch'],
        'scores': [
            {key: scores[key] for key in ('protocol', 'weights', 'mean_iou', 'pixel_accuracy', 'mean_accuracy')}
            for scores in found
        ],
    }


def table(record: dict[str, Any]) -> str:
    """mIoU and pixel accuracy in percent, a row for each run's averaged and raw weights."""
    rows = []
    for run in record['runs']:
        name = f'{run["dataset"]}, {run["network"]}, at {run["size"]}, {run["images"]} images'
        for weights in dict.fromkeys(scores['weights'] for scores in run['scores']):
            scores = {s['protocol'].partition('@')[0]: s for s in run['scores'] if s['weights'] == weights}
            figures = [f'{scores[key]["mean_iou"]:.2f} / {scores[key]["pixel_accuracy"]:.2f}' for key in PROTOCOLS]
            rows.append((name, weights, *figures))
    header = ('mIoU / pixel accuracy', 'weights', *PROTOCOLS)
    return tabulate(rows, header, tablefmt='github', disable_numparse=True)


if __name__ == '__main__':
    main()
