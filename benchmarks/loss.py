"""What do cross entropy and Dice cost, forward and backward, in time and memory?

    python benchmarks/loss.py

Logits of a quarter of the size of the images, as DeepLabV3+ has them, against interpolating them and Composer's
``soft_cross_entropy`` and ``DiceLoss``, which MosaicML's recipe uses; both with hard labels and with MixUp's.
"""

import argparse
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bench import Benchmark, device, interleave, peak_extra_bytes, pin, sync

import torch  # isort: skip
import torch.nn.functional as F
from composer.loss import DiceLoss, soft_cross_entropy
from composer.loss.utils import ensure_targets_one_hot
from torch import Tensor

from segrecipes.models.losses.segmentation import MixedTarget, segmentation_loss

CROSS_ENTROPY, DICE = 0.375, 1.125  # the published recipe's weights
MIXING = 0.3
composer_dice = DiceLoss(softmax=True, batch=True, ignore_absent_classes=True)


def ours(logits: Tensor, target: Tensor | MixedTarget) -> Tensor:
    return segmentation_loss(logits, target, cross_entropy_weight=CROSS_ENTROPY, dice_weight=DICE)['total']


def composers(logits: Tensor, target: Tensor | MixedTarget) -> Tensor:
    size = (target if isinstance(target, Tensor) else target.labels).shape[-2:]
    logits = F.interpolate(logits, size=size, mode='bilinear', align_corners=False)
    if isinstance(target, MixedTarget):  # as Composer's MixUp makes it
        labels, other = (ensure_targets_one_hot(logits, label) for label in (target.labels, target.other))
        dense = (1 - MIXING) * labels + MIXING * other
        return CROSS_ENTROPY * soft_cross_entropy(logits, dense) + DICE * composer_dice(logits, dense)
    return CROSS_ENTROPY * soft_cross_entropy(logits, target, ignore_index=-1) + DICE * composer_dice(logits, target)


def step(loss: Callable[..., Tensor], logits: Tensor, target: Tensor | MixedTarget) -> tuple[Tensor, Tensor]:
    """Loss, and gradient by the logits."""
    leaf = logits.detach().requires_grad_()
    value = loss(leaf, target)
    value.backward()
    assert leaf.grad is not None
    return value.detach(), leaf.grad


@contextmanager
def busy_neighbour() -> Iterator[None]:
    """Another process that keeps every core of this one busy, as on a shared machine."""
    spin = 'while True: pass'
    others = [subprocess.Popen([sys.executable, '-c', spin]) for _ in os.sched_getaffinity(0)]  # on the same cores
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=10)
    parser.add_argument('--batch-size', type=int, default=4)
    parser.add_argument('--classes', type=int, default=150)
    parser.add_argument('--size', type=int, default=512)
    args = parser.parse_args()
    warnings.filterwarnings('ignore')
    pin(2)
    bench = Benchmark('loss', 'CE + Dice, forward and backward')
    compare(bench, args, 4, 'hard', speed=2, memory=1 / 3)
    compare(bench, args, 4, 'mixed', speed=3, memory=1 / 5)
    compare(bench, args, 8, 'hard', speed=1.5, memory=1 / 3)
    if device() == 'cpu':
        with busy_neighbour():
            compare(bench, args, 4, 'hard', speed=1, note=', every core shared with a busy process')
    bench.note('Values and gradients agree to 1e-5. Memory is what is held at the peak beyond the logits themselves.')
    bench.finish()


def compare(
    bench: Benchmark,
    args: argparse.Namespace,
    stride: int,
    kind: str,
    *,
    speed: float,
    memory: float = 0,
    note: str = '',
) -> None:
    """A table of ours and Composer's on logits of this stride; wanted are the speed-up and the share of the memory."""
    torch.manual_seed(0)
    batch, classes, size = args.batch_size, args.classes, args.size
    logits = 3 * torch.randn(batch, classes, size // stride, size // stride, device=device())
    labels = torch.randint(-1, classes, (batch, size, size), device=device())
    target = labels if kind == 'hard' else MixedTarget(labels, labels.flip(0), MIXING)
    value, gradient = step(ours, logits, target)
    expected, expected_gradient = step(composers, logits, target)
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)
    difference = (gradient - expected_gradient).abs().max() / expected_gradient.abs().max()
    assert difference < 1e-5, f'gradients differ by {difference} of the largest'
    del gradient, expected_gradient

    title = f'{kind} targets, logits at stride {stride}{note}'
    table = bench.table(f'{batch}×{classes}×{size}², {title}')
    calls = {'ours': lambda: step(ours, logits, target), "Composer's, dense": lambda: step(composers, logits, target)}
    seconds = interleave(calls, args.rounds, warmup=2, sync=sync)
    held = {name: peak_extra_bytes(call) / 2**20 for name, call in calls.items()}
    median = {
        name: table.add(name, [1000 * value for value in seconds[name]], **{'peak extra memory, MiB': held[name]})
        for name in calls
    }
    mine, theirs = calls
    bench.target(f'{title}: times faster', median[theirs] / median[mine], at_least=speed)
    if memory:
        bench.target(f'{title}: share of the memory', held[mine] / held[theirs], at_most=round(memory, 3))


if __name__ == '__main__':
    main()
