"""What do cross entropy and Dice cost, forward and backward, in time and memory?

    python benchmarks/loss.py

Logits of a quarter of the size of the images, as DeepLabV3+ has them, against interpolating them and Composer's
``soft_cross_entropy`` and ``DiceLoss``, which MosaicML's recipe uses; both with hard labels and with MixUp's.
"""

import argparse
import warnings
from collections.abc import Callable

from bench import Benchmark, device, interleave, peak_extra_bytes, pin, sync

import torch  # isort: skip
import torch.nn.functional as F
from composer.loss import DiceLoss, soft_cross_entropy
from composer.loss.utils import ensure_targets_one_hot
from torch import Tensor

from losses import MixedTarget, segmentation_loss

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--batch-size', type=int, default=4)
    parser.add_argument('--classes', type=int, default=150)
    parser.add_argument('--size', type=int, default=512)
    args = parser.parse_args()
    warnings.filterwarnings('ignore')
    pin(2)
    torch.manual_seed(0)
    batch, classes, size = args.batch_size, args.classes, args.size
    logits = 3 * torch.randn(batch, classes, size // 4, size // 4, device=device())
    labels = torch.randint(-1, classes, (batch, size, size), device=device())

    bench = Benchmark('loss', 'CE + Dice, forward and backward')
    shape = f'{batch}×{classes}×{size}×{size}'
    time_wanted, memory_wanted = {'hard': 2, 'mixed': 3}, {'hard': 1 / 3, 'mixed': 1 / 5}
    for kind, target in {'hard': labels, 'mixed': MixedTarget(labels, labels.flip(0), MIXING)}.items():
        value, gradient = step(ours, logits, target)
        expected, expected_gradient = step(composers, logits, target)
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)
        difference = (gradient - expected_gradient).abs().max() / expected_gradient.abs().max()
        assert difference < 1e-5, f'gradients differ by {difference} of the largest'
        del gradient, expected_gradient

        table = bench.table(f'{shape}, {kind} targets')
        calls = {
            'ours': lambda target=target: step(ours, logits, target),
            "Composer's, dense": lambda target=target: step(composers, logits, target),
        }
        seconds = interleave(calls, args.rounds, warmup=0, sync=sync)
        median, memory = {}, {}
        for name, call in calls.items():
            memory[name] = peak_extra_bytes(call) / 2**20
            extra = {'peak extra memory, MiB': memory[name]}
            median[name] = table.add(name, [1000 * value for value in seconds[name]], **extra)
        mine, theirs = calls
        bench.target(f'{kind}: times faster', median[theirs] / median[mine], at_least=time_wanted[kind])
        bench.target(
            f'{kind}: share of the memory', memory[mine] / memory[theirs], at_most=round(memory_wanted[kind], 3)
        )
    bench.note('Values and gradients agree to 1e-5. Memory is what is held at the peak beyond the logits themselves.')
    bench.finish()


if __name__ == '__main__':
    main()
