"""Lovász-softmax against the paper's definition, set by set, and its gradient against autograd's of that."""

import pytest
import torch
import torch.nn.functional as F
from helpers.largest_tensor import LargestTensor
from torch import Tensor

from segrecipes.base.errors import UserError
from segrecipes.models.losses import slices
from segrecipes.models.losses.segmentation import MixedTarget, segmentation_loss

# Logits' size, then pixels': whole and broken strides, one pixel, no interpolation
SIZES = [((3, 4), (12, 16)), ((3, 2), (7, 5)), ((1, 1), (4, 4)), ((5, 6), (5, 6)), ((1, 1), (1, 1))]


def lovasz(logits: Tensor, target: Tensor | MixedTarget, **options) -> Tensor:
    return segmentation_loss(logits, target, cross_entropy_weight=0, lovasz_weight=1, **options)['total']


def obvious(logits: Tensor, labels: Tensor) -> Tensor:
    """Eq. 9 and 11 of the paper: errors, largest first, times what each adds to 1 - |right| / |class and wrong|."""
    logits = F.interpolate(logits, size=labels.shape[-2:], mode='bilinear')
    images = []
    for probs, label in zip(logits.softmax(dim=1).flatten(2), labels.flatten(1)):
        probs, label = probs[:, label != -1], label[label != -1]
        losses = []
        for index in label.unique().tolist():
            of_class = {*torch.nonzero(label == index).flatten().tolist()}
            errors = torch.where(label == index, 1 - probs[index], probs[index])
            wrong, before, loss = set(), 0.0, torch.zeros((), dtype=logits.dtype)
            for pixel in errors.argsort(descending=True).tolist():
                wrong.add(pixel)
                after = 1 - len(of_class - wrong) / len(of_class | wrong)
                loss, before = loss + errors[pixel] * (after - before), after
            losses.append(loss)
        images.append(sum(losses) / len(losses) if losses else torch.zeros((), dtype=logits.dtype))
    return torch.stack(images).mean()


def case(small: tuple[int, int], large: tuple[int, int], classes: int = 4, batch: int = 3) -> tuple[Tensor, Tensor]:
    """Double precision logits, labels of which some are ignored and the last class never occurs."""
    generator = torch.Generator().manual_seed(sum(small + large))
    labels = torch.randint(-1, classes - 1, (batch, *large), generator=generator)
    return 2 * torch.randn(batch, classes, *small, generator=generator, dtype=torch.float64), labels


def value_and_gradient(loss, logits: Tensor, *rest) -> tuple[Tensor, Tensor]:
    logits = logits.clone().requires_grad_()
    value = loss(logits, *rest)
    return value.detach(), torch.autograd.grad(value, logits)[0]


@pytest.mark.parametrize('elements', [1, 200, 2**20])
@pytest.mark.parametrize('size', SIZES, ids=str)
def test_equals_the_definition(size, elements, monkeypatch) -> None:
    monkeypatch.setitem(slices.SLICE_ELEMENTS, 'cpu', elements)
    logits, labels = case(*size)
    labels[0, 0, 0] = 0
    torch.testing.assert_close(
        value_and_gradient(lovasz, logits, labels), value_and_gradient(obvious, logits, labels), rtol=1e-10, atol=1e-12
    )
    single = value_and_gradient(lovasz, logits.float(), labels)
    torch.testing.assert_close(single[0], obvious(logits, labels).float(), rtol=1e-5, atol=1e-6)


def test_gradient_by_differences() -> None:
    logits, labels = case((2, 3), (4, 6), batch=2)
    assert torch.autograd.gradcheck(lovasz, (logits.requires_grad_(), labels))


def test_closed_form() -> None:
    """Two pixels at (3/4, 1/4), of classes 0 and 1, and one ignored.

    Class 0 has the errors 1/4 (its own) and 3/4: 3/4 · (1 - 1/2) + 1/4 · (1 - 1/2) of them, as 1 / 2 is left of the
    union after the first; class 1 has 3/4 (its own) and 1/4: 3/4 · 1 + 1/4 · 0.
    """
    logits = torch.tensor([1.0986123, 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 3)
    value = lovasz(logits, torch.tensor([[[0, 1, -1]]]))
    assert value.item() == pytest.approx((0.75 * 0.5 + 0.25 * 0.5 + 0.75) / 2)


def test_of_certain_predictions_it_is_the_jaccard_loss() -> None:
    """0 is right in 2 of a union of 3, 1 in 1 of a union of 2."""
    predicted, labels = torch.tensor([[[0, 0, 0, 1]]]), torch.tensor([[[0, 0, 1, 1]]])
    logits = 80.0 * F.one_hot(predicted, 2).movedim(-1, 1).float()
    assert lovasz(logits, labels).item() == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert lovasz(80.0 * F.one_hot(labels, 2).movedim(-1, 1).float(), labels).item() == pytest.approx(0, abs=1e-30)


def test_an_image_without_a_labelled_pixel_is_zero() -> None:
    logits, labels = case((2, 2), (4, 4), batch=2)
    alone = value_and_gradient(lovasz, logits[:1], labels[:1])
    labels[1] = -1
    value, gradient = value_and_gradient(lovasz, logits, labels)
    torch.testing.assert_close(value, alone[0] / 2)
    torch.testing.assert_close(gradient[:1], alone[1] / 2)
    assert (gradient[1] == 0).all()


def test_a_mixed_pair_has_both_losses_by_their_shares() -> None:
    logits, labels = case((3, 2), (6, 4))
    other = labels.roll(1, dims=0)
    found = value_and_gradient(lovasz, logits, MixedTarget(labels, other, 0.3))
    expected = value_and_gradient(lambda x: 0.7 * obvious(x, labels) + 0.3 * obvious(x, other), logits)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize('microbatches', [2, 4])
def test_microbatches_add_up(microbatches) -> None:
    logits, labels = case((3, 2), (6, 4), batch=4)
    whole = value_and_gradient(lovasz, logits, labels)
    parts = [value_and_gradient(lovasz, *both) for both in zip(logits.chunk(microbatches), labels.chunk(microbatches))]
    torch.testing.assert_close(torch.stack([value for value, _ in parts]).mean(), whole[0])
    torch.testing.assert_close(torch.cat([gradient for _, gradient in parts]) / microbatches, whole[1])


def test_another_ignore_index() -> None:
    logits, labels = case((3, 2), (6, 4))
    found = value_and_gradient(
        lambda *both: lovasz(*both, ignore_index=255), logits, labels.masked_fill(labels < 0, 255)
    )
    torch.testing.assert_close(found, value_and_gradient(lovasz, logits, labels))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype) -> None:
    logits, labels = case((3, 2), (6, 4))
    logits = logits.to(dtype)
    value, gradient = value_and_gradient(lovasz, logits, labels)
    expected = value_and_gradient(lovasz, logits.float(), labels)
    assert value.dtype == torch.float32 and torch.equal(value, expected[0])
    assert gradient.dtype == dtype and torch.equal(gradient, expected[1].to(dtype))


def test_no_full_size_logits_are_made(monkeypatch) -> None:
    monkeypatch.setitem(slices.SLICE_ELEMENTS, 'cpu', 20 * 64 * 8)
    logits, labels = torch.randn(4, 20, 16, 16, requires_grad=True), torch.randint(20, (4, 64, 64))
    with LargestTensor() as largest:
        lovasz(logits, labels).backward()
    assert 0 < largest.numel <= 2 * max(labels.numel(), logits.numel())


def test_class_probabilities_are_refused() -> None:
    target = torch.full((2, 4, 3, 3), 0.25)
    with pytest.raises(UserError, match='Lovász-softmax needs one label a pixel'):
        lovasz(torch.zeros(2, 4, 3, 3), target)
