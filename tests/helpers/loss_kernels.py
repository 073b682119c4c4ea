"""Fused against sliced loss: cases, and the errors of each. Without a GPU:

TRITON_INTERPRET=1 PYTHONPATH=. python tests/helpers/loss_kernels.py
"""

import json
import sys
from typing import Any, NamedTuple

import torch
from torch import Tensor

from segrecipes.models.losses.sliced import SlicedLoss


class Case(NamedTuple):
    """Sizes are (height, width): of the logits and of the labels. Small, as the interpreter takes 40 ms a pixel."""

    small: tuple[int, int] = (2, 2)
    large: tuple[int, int] = (3, 4)
    batch: int = 1
    classes: int = 5
    shares: tuple[float, ...] = (1.0,)
    ignored: float = 0.2
    ignore_index: int = -1
    weights: tuple[float, float] = (0.375, 1.125)
    dice_per: str = 'batch'
    pixels_per_image: float | None = None
    dtype: torch.dtype = torch.float32
    memory: str = 'contiguous'
    labels: torch.dtype = torch.int64


CASES = {
    'stride 1': Case((3, 4), (3, 4), batch=2),
    'stride 4': Case((2, 2), (8, 8)),
    'stride 8': Case((1, 1), (8, 8)),
    'strides 16 and 1': Case((2, 1), (32, 1)),
    'strides 1 and 32': Case((1, 2), (1, 64)),
    'odd sizes': Case((3, 2), (7, 5)),
    'smaller than the logits': Case((5, 4), (3, 3)),
    'one logit': Case((1, 1), (3, 4)),
    'all ignored': Case(ignored=1.0),
    'two classes': Case(classes=2),
    '33 classes': Case(classes=33, large=(3, 3)),
    '300 classes': Case(classes=300, large=(3, 3)),
    'MixUp': Case(shares=(0.7, 0.3), batch=2),
    'MixUp without the other': Case(shares=(1.0, 0.0)),
    'Dice per image': Case(batch=2, dice_per='image'),
    'cross entropy alone': Case(weights=(1.0, 0.0), shares=(0.7, 0.3)),
    'Dice alone': Case(weights=(0.0, 1.0)),
    'pixels per image': Case(pixels_per_image=13.5),
    'uint8 labels': Case(labels=torch.uint8, ignore_index=255),
    'channels last': Case(memory='channels last', batch=2),
    'every other logit': Case(memory='strided', batch=2),
    'bfloat16': Case(dtype=torch.bfloat16, memory='channels last'),
    'float16': Case(dtype=torch.float16, weights=(1.0, 0.0)),
    'ADE20K': Case(classes=150, shares=(0.6, 0.4), dtype=torch.bfloat16, memory='channels last', batch=2),
}


def tensors(case: Case, device: str) -> tuple[Tensor, Tensor]:
    """(B, C, h, w) logits and (K, B, H, W) labels, none of the last class."""
    generator = torch.Generator().manual_seed(0)
    (height, width), classes = case.small, case.classes
    logits = 3 * torch.randn(case.batch, classes, height, 2 * width, generator=generator)
    logits = logits[..., ::2] if case.memory == 'strided' else logits[..., :width].contiguous()
    if case.memory == 'channels last':
        logits = logits.contiguous(memory_format=torch.channels_last)
    size = len(case.shares), case.batch, *case.large
    labels = torch.randint(classes - 1, size, generator=generator)
    labels[torch.rand(size, generator=generator) < case.ignored] = case.ignore_index
    return logits.to(device, case.dtype), labels.to(device, case.labels)


def evaluate(loss: Any, case: Case, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(total, cross entropy, Dice), and twice the gradient of the total."""
    per_image = None if case.pixels_per_image is None else torch.tensor(case.pixels_per_image, device=logits.device)
    leaf = logits.detach().requires_grad_()
    values = loss.apply(leaf, labels, case.shares, case.ignore_index, (*case.weights, case.dice_per, per_image))
    (gradient,) = torch.autograd.grad(2 * values[0], leaf)
    assert gradient.dtype == leaf.dtype and gradient.shape == leaf.shape
    return torch.stack(values).detach(), gradient


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """The largest difference by the largest of the values expected."""
    difference = (actual.double() - expected.double()).abs().max()
    return (difference / expected.double().abs().max().clamp(min=1e-30)).item()


def fused(case: Case, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    from segrecipes.models.losses.fused import FusedLoss

    return evaluate(FusedLoss, case, logits, labels)


def errors(case: Case, device: str) -> tuple[float, float]:
    """Of values and gradient against the sliced loss of the same logits in float32."""
    logits, labels = tensors(case, device)
    used = [i for i, weight in enumerate((1.0, *case.weights)) if weight]  # Dice without a weight is 0 or 1
    values, gradient = fused(case, logits, labels)
    expected, expected_gradient = evaluate(SlicedLoss, case, logits.float(), labels)
    return relative_error(values[used], expected[used]), relative_error(gradient, expected_gradient)


def main() -> None:
    results = {}
    for name, case in CASES.items():
        results[name] = errors(case, 'cpu')
        print(f'{name:25} {results[name][0]:.1e} {results[name][1]:.1e}', file=sys.stderr, flush=True)
    logits, labels = tensors(Case(), 'cpu')
    labels[0, 0, 0, 0] = Case().classes
    print(json.dumps({'errors': results, 'of no class': [value.tolist() for value in fused(Case(), logits, labels)]}))


if __name__ == '__main__':
    main()
