"""Focal loss, class weights and hard pixels against sums in double precision, and autograd's gradient of those."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.largest_tensor import LargestTensor
from torch import Tensor

from segrecipes.base.errors import UserError
from segrecipes.models.losses import slices
from segrecipes.models.losses.segmentation import MixedTarget, segmentation_loss

CLASSES = 4
WEIGHTS = (0.5, 2.0, 0.0, 1.25)
SIZES = [((3, 4), (12, 16)), ((3, 2), (7, 5)), ((2, 2), (4, 4)), ((5, 6), (5, 6))]
OPTIONS: dict[str, dict[str, Any]] = {
    'focal': {'cross_entropy_weight': 0, 'focal_weight': 1.5},
    'focal of gamma 0.5': {'cross_entropy_weight': 0, 'focal_weight': 1, 'focal_gamma': 0.5},
    'class weights': {'class_weights': WEIGHTS},
    'hard pixels': {'ohem': (0.3, 10)},
    'kept pixels': {'ohem': (0.01, 20)},
    'all of them': {
        'cross_entropy_weight': 0.375, 'focal_weight': 1.5, 'class_weights': WEIGHTS, 'ohem': (0.3, 10)
    },
}  # fmt: skip

options = pytest.mark.parametrize('name', OPTIONS)
of_soft_labels = pytest.mark.parametrize('name', [name for name in OPTIONS if 'ohem' not in OPTIONS[name]])


def case(small: tuple[int, int] = (3, 4), large: tuple[int, int] = (12, 16), batch: int = 3) -> tuple[Tensor, Tensor]:
    """Double precision logits, and labels of which ever more are ignored from image to image."""
    generator = torch.Generator().manual_seed(sum(small + large))
    logits = 2 * torch.randn(batch, CLASSES, *small, generator=generator, dtype=torch.float64)
    labels = torch.randint(CLASSES, (batch, *large), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < torch.linspace(0, 0.7, batch).view(-1, 1, 1)] = -1
    return logits, labels


def obvious(
    logits: Tensor,
    labels: Tensor,
    *,
    cross_entropy_weight: float = 1.0,
    focal_weight: float = 0.0,
    focal_gamma: float = 2.0,
    class_weights: tuple[float, ...] = (1.0,) * CLASSES,
    ohem: tuple[float, int] | None = None,
) -> Tensor:
    """As one would write it, pixel by pixel over the whole batch."""
    probs = F.interpolate(logits, size=labels.shape[-2:], mode='bilinear').softmax(dim=1)
    total, weight = torch.zeros((), dtype=logits.dtype), 0.0
    for image, label in zip(probs.flatten(2), labels.flatten(1).tolist()):
        right = [(image[index, pixel], class_weights[index]) for pixel, index in enumerate(label) if index != -1]
        limit = torch.inf
        if ohem and right:
            ranked = sorted(p.item() for p, _ in right)
            limit = max(ohem[0], ranked[min(ohem[1], len(ranked) - 1)])
        for p, class_weight in right:
            weight += class_weight
            if p < limit:
                cost = cross_entropy_weight + focal_weight * (1 - p) ** focal_gamma
                total = total - class_weight * cost * p.log()
    return total / weight


def value_and_gradient(loss, logits: Tensor, *rest, **options) -> tuple[Tensor, Tensor]:
    logits = logits.clone().requires_grad_()
    value = loss(logits, *rest, **options)
    return value.detach(), torch.autograd.grad(value, logits)[0]


def total(*args, **options) -> Tensor:
    return segmentation_loss(*args, **options)['total']


@pytest.mark.parametrize('elements', [1, 200, 2**20])
@pytest.mark.parametrize('size', SIZES, ids=str)
@options
def test_equals_the_sum_written_out(name, size, elements, monkeypatch) -> None:
    monkeypatch.setitem(slices.SLICE_ELEMENTS, 'cpu', elements)
    logits, labels = case(*size)
    found = value_and_gradient(total, logits, labels, **OPTIONS[name])
    expected = value_and_gradient(obvious, logits, labels, **OPTIONS[name])
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    single = value_and_gradient(total, logits.float(), labels, **OPTIONS[name])
    torch.testing.assert_close(single, (expected[0].float(), expected[1].float()), rtol=1e-5, atol=1e-6)


@options
def test_gradient_by_differences(name) -> None:
    logits, labels = case((2, 3), (4, 6), batch=2)
    assert torch.autograd.gradcheck(lambda x: total(x, labels, **OPTIONS[name]), (logits.requires_grad_(),))


def test_class_weights_are_torchs() -> None:
    logits, labels = case((6, 6), (6, 6))
    found = value_and_gradient(total, logits, labels, class_weights=WEIGHTS)
    weight = torch.tensor(WEIGHTS, dtype=torch.float64)
    expected = value_and_gradient(lambda *both: F.cross_entropy(*both, weight=weight, ignore_index=-1), logits, labels)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(('thresh', 'min_kept'), [(0.7, 5), (0.2, 30), (0.01, 12), (0.3, 10**6)])
def test_hard_pixels_are_mmsegmentations(thresh, min_kept) -> None:
    """Of one image; of more it pools them. Its sampler gives the weights of the pixels, its loss their mean."""
    pytest.importorskip('mmseg')
    from segrecipes.models.mmseg import ensure_ops

    ensure_ops()
    from mmseg.structures.sampler import OHEMPixelSampler

    sampler = OHEMPixelSampler(SimpleNamespace(ignore_index=-1), thresh=thresh, min_kept=min_kept)
    logits, labels = case((8, 8), (8, 8))
    for image in range(3):
        logit, label = logits[image : image + 1], labels[image : image + 1]
        weights = sampler.sample(logit, label.unsqueeze(1))
        assert 0 < weights.sum() < (label != -1).sum()
        expected = (F.cross_entropy(logit, label, ignore_index=-1, reduction='none') * weights).sum()
        torch.testing.assert_close(total(logit, label, ohem=(thresh, min_kept)), expected / (label != -1).sum())


def test_closed_form_focal() -> None:
    """A pixel at (3/4, 1/4), of class 0: (1/4)² · log 4/3; gamma 0 is cross entropy."""
    logits, labels = torch.tensor([1.0986123, 0.0]).view(1, 2, 1, 1), torch.zeros(1, 1, 1).long()
    focal = {'cross_entropy_weight': 0.0, 'focal_weight': 1.0}
    assert total(logits, labels, **focal).item() == pytest.approx(0.2876821 / 16)
    assert total(logits, labels, **focal, focal_gamma=0.0).item() == pytest.approx(0.2876821)


@pytest.mark.parametrize('gamma', [0.0, 0.5, 1.0, 2.0])
def test_a_certain_pixel_has_a_finite_gradient(gamma) -> None:
    logits = torch.tensor([[200.0, 0.0]]).view(1, 2, 1, 1)
    for label, wrong in ((0, 0.0), (1, 1.0)):
        labels = torch.full((1, 1, 1), label)
        value, gradient = value_and_gradient(
            total, logits, labels, cross_entropy_weight=0, focal_weight=1, focal_gamma=gamma
        )
        assert value == 200 * wrong
        assert gradient.flatten().tolist() == [wrong, -wrong]


@of_soft_labels
def test_a_mixed_pair_has_both_losses_by_their_shares(name) -> None:
    """Divided by the weight of the mixture's pixels."""
    logits, labels = case()
    other = labels.roll(1, dims=0)  # of the same images, as MixUp takes them: the divisors agree
    found = value_and_gradient(total, logits, MixedTarget(labels, other, 0.3), **OPTIONS[name])
    expected = value_and_gradient(
        lambda x: 0.7 * obvious(x, labels, **OPTIONS[name]) + 0.3 * obvious(x, other, **OPTIONS[name]), logits
    )
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@of_soft_labels
def test_class_probabilities_of_one_label_are_that_label(name) -> None:
    logits, labels = case((4, 4), (8, 8))
    dense = F.one_hot(labels.clamp(min=0), CLASSES).movedim(-1, 1) * (labels != -1).unsqueeze(1).float()
    found = value_and_gradient(total, logits, dense, **OPTIONS[name])
    torch.testing.assert_close(
        found, value_and_gradient(total, logits, labels, **OPTIONS[name]), rtol=1e-5, atol=1e-6, check_dtype=False
    )


@options
@pytest.mark.parametrize('microbatches', [2, 4])
def test_microbatches_add_up(name, microbatches) -> None:
    """As Composer adds them, each given the weight of a mean image of the whole batch."""
    logits, labels = case(batch=4)
    class_weights = torch.tensor(OPTIONS[name].get('class_weights', (1.0,) * CLASSES), dtype=torch.float64)
    pixels = class_weights[labels[labels != -1]].sum() / 4
    whole = value_and_gradient(total, logits, labels, **OPTIONS[name])
    parts = [
        value_and_gradient(total, *both, pixels_per_image=pixels, **OPTIONS[name])
        for both in zip(logits.chunk(microbatches), labels.chunk(microbatches))
    ]
    torch.testing.assert_close(torch.stack([value for value, _ in parts]).mean(), whole[0])
    torch.testing.assert_close(torch.cat([gradient for _, gradient in parts]) / microbatches, whole[1])


@options
def test_without_a_labelled_pixel_loss_and_gradient_are_zero(name) -> None:
    logits, labels = case()
    value, gradient = value_and_gradient(total, logits, labels.fill_(-1), **OPTIONS[name])
    assert value == 0 and (gradient == 0).all()


@options
def test_ignored_pixels_contribute_nothing(name) -> None:
    logits, labels = case((4, 4), (4, 4))
    changed = torch.where((labels == -1).unsqueeze(1), 9 - logits, logits)
    found = value_and_gradient(total, changed, labels, **OPTIONS[name])
    torch.testing.assert_close(found, value_and_gradient(total, logits, labels, **OPTIONS[name]))
    assert (found[1].movedim(1, -1)[labels == -1] == 0).all()


def test_parts_are_named_and_weighed() -> None:
    logits, labels = case()
    given: dict[str, Any] = {
        'cross_entropy_weight': 0.5, 'dice_weight': 0.25, 'focal_weight': 2.0, 'lovasz_weight': 3.0,
    }  # fmt: skip
    cases: tuple[dict[str, Any], ...] = ({}, {'class_weights': WEIGHTS})
    for more in cases:
        parts = segmentation_loss(logits, labels, **given, **more)
        assert parts.keys() == {'total', 'cross_entropy', 'dice', 'focal', 'lovasz'}
        none = dict.fromkeys(given, 0.0)
        alone = {
            name: total(logits, labels, **none | {f'{name}_weight': 1.0}, **more) for name in parts.keys() - {'total'}
        }
        for name, loss in alone.items():
            torch.testing.assert_close(parts[name], loss.detach(), check_dtype=False)
            assert not parts[name].requires_grad
        expected = sum(given[f'{name}_weight'] * loss for name, loss in alone.items())
        torch.testing.assert_close(parts['total'], expected, check_dtype=False)


def test_hard_pixels_of_mixed_targets_are_refused() -> None:
    logits, labels = case()
    with pytest.raises(UserError, match='OHEM asks for the probability of the right class'):
        total(logits, MixedTarget(labels, labels, 0.3), ohem=(0.7, 10))
    with pytest.raises(UserError, match='OHEM needs one label a pixel'):
        total(torch.zeros(2, 4, 3, 3), torch.full((2, 4, 3, 3), 0.25), ohem=(0.7, 10))


@pytest.mark.parametrize('name', ['focal', 'all of them'])
def test_no_full_size_logits_are_made(name, monkeypatch) -> None:
    monkeypatch.setitem(slices.SLICE_ELEMENTS, 'cpu', 20 * 64 * 8)
    logits, labels = torch.randn(4, 20, 16, 16, requires_grad=True), torch.randint(20, (4, 64, 64))
    given = OPTIONS[name] | ({'class_weights': (1.5,) * 20} if 'class_weights' in OPTIONS[name] else {})
    with LargestTensor() as largest:
        total(logits, labels, **given).backward()
    assert 0 < largest.numel <= 2 * max(labels.numel(), logits.numel())
