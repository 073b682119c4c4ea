"""What does it cost to score a batch of logits?

    python benchmarks/scoring.py

mIoU and cross entropy of full-size logits, against ``composer.metrics.MIoU`` and ``CrossEntropy``.
"""

import argparse

from bench import Benchmark, device, interleave, pin, sync

import composer.metrics  # isort: skip
import torch
import torch.nn.functional as F

from metrics import CrossEntropy, MIoU


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--batch-size', type=int, default=4)
    args = parser.parse_args()
    pin(2)
    torch.manual_seed(0)
    small = 3 * torch.randn(args.batch_size, 150, 128, 128, device=device())
    logits = F.interpolate(small, size=(512, 512), mode='bilinear')
    labels = torch.randint(-1, 150, (args.batch_size, 512, 512), device=device())

    ours = [MIoU(150).to(device()), CrossEntropy().to(device())]
    theirs = [
        composer.metrics.MIoU(150, ignore_index=-1).to(device()),
        composer.metrics.CrossEntropy(ignore_index=-1).to(device()),
    ]
    for mine, other in zip(ours, theirs):
        mine.update(logits, labels)
        other.update(logits, labels)
        torch.testing.assert_close(mine.compute().float(), other.compute().float(), rtol=1e-5, atol=1e-5)

    bench = Benchmark('scoring', 'Scoring logits')
    table = bench.table(f'{args.batch_size}×150×512×512 logits')
    names = {'mIoU': slice(0, 1), 'cross entropy': slice(1, 2), 'both': slice(0, 2)}
    calls = {
        f'{name}, {side}': lambda metrics=metrics[which]: [metric.update(logits, labels) for metric in metrics]
        for name, which in names.items()
        for side, metrics in (('ours', ours), ("Composer's", theirs))
    }
    seconds = interleave(calls, args.rounds, warmup=1, sync=sync)
    median = {name: table.add(name, [1000 * value for value in seconds[name]]) for name in calls}
    both = median["both, Composer's"]
    bench.target(
        "argmax and confusion against Composer's two metrics: times faster", both / median['mIoU, ours'], at_least=3
    )
    bench.note(f'With cross entropy on both sides: {both / median["both, ours"]:.1f} times faster.')
    bench.finish()


if __name__ == '__main__':
    main()
