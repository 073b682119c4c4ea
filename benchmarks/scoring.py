"""What does it cost to score a batch of logits?

    python benchmarks/scoring.py

mIoU and cross entropy from the head's logits, against Composer's: full-size logits, ``composer.metrics.MIoU`` and
``CrossEntropy``.
"""

import argparse
from collections.abc import Sequence
from typing import Any

from bench import Benchmark, device, interleave, peak_extra_bytes, pin, sync

import composer.metrics  # isort: skip
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed._tools.mem_tracker import MemTracker
from torchmetrics import Metric

from segrecipes.evaluation.metrics import CrossEntropy, MIoU, score
from segrecipes.training.tasks.segmentation import SegmentationModel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=10)
    parser.add_argument('--batch-size', type=int, default=4)
    args = parser.parse_args()
    pin(2)
    torch.manual_seed(0)
    logits = 3 * torch.randn(args.batch_size, 150, 128, 128, device=device())
    labels = torch.randint(-1, 150, (args.batch_size, 512, 512), device=device())
    ours = [MIoU(150).to(device()), CrossEntropy().to(device())]
    theirs = [
        composer.metrics.MIoU(150, ignore_index=-1).to(device()),
        composer.metrics.CrossEntropy(ignore_index=-1).to(device()),
    ]

    def score_ours() -> None:
        scored = score([logits], labels, 150)
        for metric in ours:
            metric.update(scored)

    def score_theirs(metrics: Sequence[Metric] = theirs) -> None:
        full = F.interpolate(logits, size=labels.shape[-2:], mode='bilinear')
        for metric in metrics:
            metric.update(full, labels)

    score_ours()
    score_theirs()
    for mine, other in zip(ours, theirs):
        torch.testing.assert_close(mine.compute().float(), other.compute().float(), rtol=1e-5, atol=1e-5)

    bench = Benchmark('scoring', 'Scoring logits')
    table = bench.table(f'{args.batch_size}×150×128² logits, 512² pixels')
    calls = {
        'both and the scores of each image, ours': score_ours,
        "both, Composer's": score_theirs,
        "mIoU alone, Composer's": lambda: score_theirs(theirs[:1]),
    }
    seconds = interleave(calls, args.rounds, warmup=2, sync=sync)
    median = {
        name: table.add(
            name, [1000 * value for value in seconds[name]], **{'peak memory, MB': peak_extra_bytes(call) / 1e6}
        )
        for name, call in calls.items()
    }
    mine, both, _ = median.values()
    memory_of_a_batch(bench)
    bench.target("against Composer's two metrics: times faster", both / mine, at_least=3)
    bench.finish()


class Logits(nn.Module):
    """In place of a network: logits at stride 4, which are made in no time."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(150, 3, 4, 4))

    def logits(self, images: Tensor) -> Tensor:
        return F.conv2d(images, self.weight, stride=4)


def memory_of_a_batch(bench: Benchmark) -> None:
    """What the model allocates to evaluate the yaml's whole batch on one GPU, counted at every operator."""
    network: Any = Logits()
    model = SegmentationModel(network, 150, loss_fn=dict).eval().to(device())
    table = bench.table(
        'An evaluation batch of 512², 150 classes: most bytes at a time, its images among them', unit='GB'
    )
    for count in (8, 32, 128):
        images = torch.zeros(count, 3, 512, 512, device=device())
        labels = torch.zeros(count, 512, 512, dtype=torch.int64, device=device())
        with torch.no_grad(), MemTracker() as tracker:
            tracker.track_external(images, labels)
            model.eval_forward((images, labels))
        most = tracker.get_tracker_snapshot('peak')
        peak = sum(of_device[key] for of_device in most.values() for key in of_device if str(key) == 'Total') / 1e9
        full = {'full-size logits would be, GB': count * 150 * 512**2 * 4 / 1e9}
        table.add(f'{count} images', [peak], **{'images and labels, GB': (images.nbytes + labels.nbytes) / 1e9}, **full)
        if count == 128:
            bench.target('GB to evaluate 128 images, beyond the network', peak, at_most=4)


if __name__ == '__main__':
    main()
