"""What does each algorithm of the recipes cost a training step?

    python benchmarks/algorithms.py

The same step with and without it, and with Composer's own form of it where this package has another.
"""

import argparse
from typing import Any

from bench import Benchmark, device, pin

import composer.algorithms  # isort: skip
from composer.core import Algorithm
from steps import Setting, ours, rounds_of

from segrecipes.algorithms.ema import EMA
from segrecipes.algorithms.mixup import MixUp
from segrecipes.algorithms.sam import ResumableSAM

ALGORITHMS: dict[str, list[Algorithm]] = {
    'none': [],
    'channels last': [composer.algorithms.ChannelsLast()],
    'EMA every step': [EMA(half_life='1000ba', update_interval='1ba')],
    "EMA every step, Composer's": [composer.algorithms.EMA(half_life='1000ba', update_interval='1ba')],
    'EMA every 10 steps': [EMA(half_life='1000ba', update_interval='10ba')],
    'MixUp': [MixUp(alpha=0.2)],
    "MixUp, Composer's": [composer.algorithms.MixUp(alpha=0.2)],
    'SAM, interval 1': [ResumableSAM(rho=0.3, interval=1)],
    "SAM, interval 1, Composer's": [composer.algorithms.SAM(rho=0.3, interval=1)],
    'SAM, interval 2': [ResumableSAM(rho=0.3, interval=2)],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=2)
    args = parser.parse_args()
    if device() == 'cuda':
        setting, precision = Setting('resnet101', batch_size=16, size=512), 'amp_bf16'
    else:
        pin(2)
        setting, precision = Setting('resnet18', batch_size=4, size=128, head_channels=64, output_stride=16), 'fp32'
    steps = 11  # the first is not timed; 10 are a whole number of each interval

    bench = Benchmark('algorithms', 'What the algorithms of the recipes cost a step')
    title = f'{setting.backbone_arch}, {precision}, {setting.batch_size} images of {setting.size}²'
    table = bench.table(f'{title}: mean of {steps - 1} steps')
    runs: dict[str, Any] = {
        name: ours(setting, steps, precision, algorithms) for name, algorithms in ALGORITHMS.items()
    }
    per_round = steps - 1
    means = {
        name: [sum(values[i : i + per_round]) / per_round for i in range(0, len(values), per_round)]
        for name, values in rounds_of(runs, args.rounds).items()
    }
    plain = sorted(means['none'])[len(means['none']) // 2]
    for name, values in means.items():
        table.add(name, values, **{'× the step without': sorted(values)[len(values) // 2] / plain})
    bench.finish()


if __name__ == '__main__':
    main()
