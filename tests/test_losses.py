import pytest
import torch
import torch.nn.functional as F
from composer.loss import DiceLoss, soft_cross_entropy
from torch import Tensor

from losses import cross_entropy, dice_loss, segmentation_loss

SHAPES = [(1, 2, 1, 1), (2, 3, 5, 7), (3, 11, 8, 8), (2, 150, 6, 4)]
LOSSES = {'cross_entropy': cross_entropy, 'dice': dice_loss}

shapes = pytest.mark.parametrize('shape', SHAPES, ids=lambda shape: 'x'.join(map(str, shape)))
losses = pytest.mark.parametrize('name', LOSSES)
kinds = pytest.mark.parametrize('kind', ['hard', 'soft'])


def random_case(shape: tuple[int, ...], kind: str = 'hard', ignored: float = 0.3) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, a target with about that share of its pixels ignored, and which ones are: (B, H, W) bool."""
    batch, classes, height, width = shape
    generator = torch.Generator().manual_seed(sum(shape))
    logits = 3 * torch.randn(shape, generator=generator)
    label = torch.randint(classes, (batch, height, width), generator=generator)
    out = torch.rand(batch, height, width, generator=generator) < ignored
    out[0, 0, 0] = False
    label[out] = -1
    if kind == 'hard':
        return logits, label, out
    one_hot = F.one_hot(label.clamp(min=0), classes).movedim(-1, 1) * ~out.unsqueeze(1)
    other = F.one_hot(label.roll(1, dims=2).clamp(min=0), classes).movedim(-1, 1) * ~out.unsqueeze(1)
    return logits, 0.7 * one_hot.float() + 0.3 * other.float(), out


def value_and_gradient(loss, logits: Tensor, *rest) -> tuple[Tensor, Tensor]:
    logits = logits.clone().requires_grad_()
    value = loss(logits, *rest)
    return value.detach(), torch.autograd.grad(value, logits)[0]


def reference(name: str, target: Tensor):
    if name == 'dice':
        return DiceLoss(softmax=True, batch=True, ignore_absent_classes=True)
    if target.is_floating_point():
        return soft_cross_entropy
    return lambda logits, target: soft_cross_entropy(logits, target, ignore_index=-1)


def obvious(name: str, logits: Tensor, target: Tensor) -> float:
    """Pixel by pixel and class by class in Python floats, for hard labels."""
    classes = logits.shape[1]
    probs = logits.double().softmax(dim=1).movedim(1, -1).reshape(-1, classes).tolist()
    pixels = [(p, t) for p, t in zip(probs, target.flatten().tolist()) if t != -1]
    if name == 'cross_entropy':
        return sum(-torch.tensor(p[t], dtype=torch.float64).log().item() for p, t in pixels) / len(pixels)
    dice = []
    for c in range(classes):
        if count := sum(t == c for _, t in pixels):
            hit, total = sum(p[c] for p, t in pixels if t == c), sum(p[c] for p, _ in pixels)
            dice.append(1 - (2 * hit + 1e-5) / (count + total + 1e-5))
    return sum(dice) / len(dice)


@pytest.mark.filterwarnings('ignore:Some targets have less than 1 total probability')
@pytest.mark.parametrize('ignored', [0.0, 0.3, 0.95])
@losses
@kinds
@shapes
def test_equals_composers_value_and_gradient(shape, kind, name, ignored) -> None:
    logits, target, _ = random_case(shape, kind, ignored)
    value, gradient = value_and_gradient(LOSSES[name], logits, target)
    expected_value, expected_gradient = value_and_gradient(reference(name, target), logits, target)
    assert value.shape == ()
    torch.testing.assert_close(value, expected_value, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-6)


@losses
@shapes
def test_equals_the_sum_written_out(shape, name) -> None:
    logits, target, _ = random_case(shape)
    assert LOSSES[name](logits, target).item() == pytest.approx(obvious(name, logits, target), abs=1e-5)


@losses
@pytest.mark.parametrize('classes', [2, 5])
def test_soft_one_hot_equals_hard(name, classes) -> None:
    logits, label, out = random_case((2, classes, 4, 6))
    one_hot = F.one_hot(label.clamp(min=0), classes).movedim(-1, 1).float() * ~out.unsqueeze(1)
    hard = value_and_gradient(LOSSES[name], logits, label)
    soft = value_and_gradient(LOSSES[name], logits, one_hot)
    torch.testing.assert_close(soft, hard, rtol=1e-5, atol=1e-6)


@losses
@kinds
def test_ignored_pixels_contribute_nothing(kind, name) -> None:
    logits, target, out = random_case((2, 5, 6, 4), kind, ignored=0.5)
    assert out.any() and not out.all()
    everywhere = out.unsqueeze(1).expand_as(logits)
    changed = torch.where(everywhere, torch.randn(logits.shape, generator=torch.Generator().manual_seed(1)) * 9, logits)
    value, gradient = value_and_gradient(LOSSES[name], logits, target)
    other_value, other_gradient = value_and_gradient(LOSSES[name], changed, target)
    assert value == other_value
    assert torch.equal(gradient, other_gradient)
    assert (gradient[everywhere] == 0).all()
    assert (gradient[~everywhere] != 0).all()


@losses
@kinds
def test_without_a_labelled_pixel_loss_and_gradient_are_zero(kind, name) -> None:
    logits = torch.randn(2, 4, 3, 3)
    target = torch.full((2, 3, 3), -1) if kind == 'hard' else torch.zeros(2, 4, 3, 3)
    value, gradient = value_and_gradient(LOSSES[name], logits, target)
    assert value == 0
    assert torch.equal(gradient, torch.zeros_like(logits))


def test_closed_form_cross_entropy() -> None:
    """Uniform logits cost log C a pixel; softmax of (log 3, 0) is (3/4, 1/4)."""
    assert cross_entropy(torch.zeros(2, 7, 3, 3), torch.zeros(2, 3, 3).long()).item() == pytest.approx(1.9459101)
    logits = torch.tensor([1.0986123, 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 3)
    target = torch.tensor([[[0, 1, -1]]])
    assert cross_entropy(logits, target).item() == pytest.approx((0.2876821 + 1.3862944) / 2)
    soft = torch.tensor([[0.75, 0.25]]).view(1, 2, 1, 1).expand(1, 2, 1, 3)
    assert cross_entropy(logits, soft).item() == pytest.approx(0.75 * 0.2876821 + 0.25 * 1.3862944)


def test_closed_form_dice() -> None:
    """Three pixels at (3/4, 1/4), labelled 0, 1 and ignored: class 0 has 2·¾ / (1 + 1½), class 1 2·¼ / (1 + ½)."""
    logits = torch.tensor([1.0986123, 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 3)
    target = torch.tensor([[[0, 1, -1]]])
    assert dice_loss(logits, target).item() == pytest.approx(((1 - 0.6) + (1 - 1 / 3)) / 2, abs=1e-5)
    only_first = torch.tensor([[[0, 0, -1]]])  # class 1 is absent and not averaged: 1 - 2·1½ / (2 + 1½)
    assert dice_loss(logits, only_first).item() == pytest.approx(1 / 7, abs=1e-5)


def test_dice_is_of_the_whole_batch() -> None:
    """Image 0 has one pixel of class 0 found, image 1 three of them missed: pooled 2·1 / (4 + 1), not a mean of two."""
    logits = torch.full((2, 2, 1, 3), -50.0)
    logits[0, 0, 0, 0] = logits[1, 1] = 50.0
    target = torch.tensor([[[0, -1, -1]], [[0, 0, 0]]])
    assert dice_loss(logits, target).item() == pytest.approx(1 - 2 / 5, abs=1e-4)


@losses
def test_perfect_and_opposite_predictions(name) -> None:
    target = torch.tensor([[[0, 1], [1, -1]]])
    perfect = 60.0 * F.one_hot(target.clamp(min=0), 2).movedim(-1, 1).float()
    assert LOSSES[name](perfect, target).item() == pytest.approx(0, abs=1e-6)
    assert LOSSES[name](-perfect, target).item() == pytest.approx({'cross_entropy': 60, 'dice': 1}[name], abs=1e-4)


@pytest.mark.parametrize(
    ('name', 'ignore_index'),
    [
        *((name, index) for name in LOSSES for index in (0, 2, -100)),
        ('cross_entropy', 255),
        ('dice', 255),
    ],
)
def test_another_ignore_index(name, ignore_index) -> None:
    logits, label, out = random_case((2, 4, 5, 5))
    if ignore_index >= 0:
        out = out | (label == ignore_index)
    value, gradient = value_and_gradient(LOSSES[name], logits, label.masked_fill(out, ignore_index), ignore_index)
    expected_value, expected_gradient = value_and_gradient(LOSSES[name], logits, label.masked_fill(out, -1))
    torch.testing.assert_close(value, expected_value)
    torch.testing.assert_close(gradient, expected_gradient)


@kinds
@pytest.mark.parametrize(
    ('ce', 'dice', 'keys'),
    [
        (0.375, 1.125, {'total', 'cross_entropy', 'dice'}),
        (2.0, 0.0, {'total', 'cross_entropy'}),
        (0.0, 3.0, {'total', 'dice'}),
    ],
)
def test_segmentation_loss_weighs_its_parts(kind, ce, dice, keys) -> None:
    logits, target, _ = random_case((2, 5, 6, 4), kind)
    loss = segmentation_loss(logits, target, cross_entropy_weight=ce, dice_weight=dice)
    assert set(loss) == keys
    expected = {name: function(logits, target) for name, function in LOSSES.items()}
    for name in keys - {'total'}:
        assert torch.equal(loss[name], expected[name])  # the part itself is unweighted
    torch.testing.assert_close(loss['total'], ce * expected['cross_entropy'] + dice * expected['dice'])
    assert loss['total'].dtype == torch.float32


def test_segmentation_loss_defaults_to_cross_entropy_and_passes_ignore_index_on() -> None:
    logits, target, _ = random_case((2, 5, 6, 4))
    assert torch.equal(segmentation_loss(logits, target)['total'], cross_entropy(logits, target))
    loss = segmentation_loss(logits, target.masked_fill(target == -1, 0), dice_weight=1, ignore_index=0)
    expected = target.masked_fill(target == 0, -1)
    torch.testing.assert_close(loss['cross_entropy'], cross_entropy(logits, expected))
    torch.testing.assert_close(loss['dice'], dice_loss(logits, expected))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@kinds
def test_half_precision_logits_are_summed_in_float32(kind, dtype) -> None:
    """Half precision ends at 65504, and 90,000 pixels at log 3 are more than that."""
    logits = torch.zeros(1, 3, 300, 300, dtype=dtype)
    target = torch.zeros(1, 300, 300).long()
    if kind == 'soft':
        target = F.one_hot(target, 3).movedim(-1, 1).to(dtype)
    loss = segmentation_loss(logits, target, dice_weight=1)
    assert {value.dtype for value in loss.values()} == {torch.float32}
    assert loss['cross_entropy'].item() == pytest.approx(1.0986123, rel=1e-5)
    assert loss['dice'].item() == pytest.approx(1 - (2 / 3) / (1 + 1 / 3), rel=1e-3)


@pytest.mark.parametrize('size', [300, 1024])
def test_dice_of_many_pixels(size) -> None:
    logits = torch.zeros(1, 3, size, size)
    dice = dice_loss(logits, torch.zeros(1, size, size).long())
    assert dice.item() == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize('dtype', [torch.uint8, torch.int32])
def test_labels_of_any_integer_type(dtype) -> None:
    logits, target, _ = random_case((2, 5, 6, 4), ignored=0)
    expected = segmentation_loss(logits, target, dice_weight=1)['total']
    assert torch.equal(segmentation_loss(logits, target.to(dtype), dice_weight=1)['total'], expected)
