import pytest
import torch
import torch.nn.functional as F
from composer.loss import DiceLoss, soft_cross_entropy
from helpers.largest_tensor import LargestTensor
from torch import Tensor

from segrecipes.models.losses import slices as losses_module
from segrecipes.models.losses.segmentation import MixedTarget, segmentation_loss
from segrecipes.models.losses.slices import Slice, cut

SHAPES = [(1, 2, 1, 1), (2, 3, 5, 7), (3, 11, 8, 8), (2, 150, 6, 4)]


def cross_entropy(logits: Tensor, target, ignore_index: int = -1, **options) -> Tensor:
    return segmentation_loss(logits, target, ignore_index=ignore_index, **options)['total']


def dice_loss(logits: Tensor, target, ignore_index: int = -1, **options) -> Tensor:
    weights = {'cross_entropy_weight': 0.0, 'dice_weight': 1.0}
    return segmentation_loss(logits, target, ignore_index=ignore_index, **weights, **options)['total']


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
        torch.testing.assert_close(loss[name], expected[name])  # the part itself is unweighted
        assert not loss[name].requires_grad
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


def resized(loss):
    """The loss of logits interpolated first, as one would write it."""
    return lambda logits, target, **options: loss(
        F.interpolate(logits, size=target.shape[-2:], mode='bilinear', align_corners=False), target, **options
    )


def dense(labels: Tensor, classes: int) -> Tensor:
    return F.one_hot(labels.clamp(min=0), classes).movedim(-1, 1) * (labels != -1).unsqueeze(1).float()


# Logits' size, then pixels': whole and broken strides, one row, one pixel, and no interpolation at all.
SIZES = [
    ((6, 5), (24, 20)),
    ((6, 5), (23, 21)),
    ((7, 4), (14, 13)),
    ((1, 1), (8, 8)),
    ((5, 6), (5, 6)),
    ((1, 9), (4, 9)),
]


@pytest.mark.parametrize('elements', [1, 200, 1000, 2**20])
@pytest.mark.parametrize('size', SIZES, ids=str)
@pytest.mark.parametrize('mixing', [None, 0.0, 0.3, 0.5])
@losses
def test_small_logits_in_slices_equal_interpolating_first(name, mixing, size, elements, monkeypatch) -> None:
    monkeypatch.setitem(losses_module.SLICE_ELEMENTS, 'cpu', elements)
    (rows, columns), (height, width) = size
    _, labels, _ = random_case((3, 4, height, width))
    logits = 3 * torch.randn(3, 4, rows, columns, generator=torch.Generator().manual_seed(0))
    other = labels[[2, 0, 1]]
    target = labels if mixing is None else MixedTarget(labels, other, mixing)
    mixed = dense(labels, 4) if mixing is None else (1 - mixing) * dense(labels, 4) + mixing * dense(other, 4)
    for options in ({}, {'pixels_per_image': torch.tensor(7.0)}, {'dice_per': 'image'}):
        value, gradient = value_and_gradient(lambda *args: LOSSES[name](*args, **options), logits, target)  # noqa: B023
        expected = value_and_gradient(lambda *args: resized(LOSSES[name])(*args, **options), logits, mixed)  # noqa: B023
        torch.testing.assert_close(value, expected[0], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(gradient, expected[1], rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings('ignore:Some targets have less than 1 total probability')
@losses
def test_a_mixed_pair_equals_composer_on_dense_targets(name) -> None:
    logits, labels, _ = random_case((3, 11, 8, 8))
    mixed = 0.7 * dense(labels, 11) + 0.3 * dense(labels[[2, 0, 1]], 11)
    pair = value_and_gradient(LOSSES[name], logits, MixedTarget(labels, labels[[2, 0, 1]], 0.3))
    torch.testing.assert_close(pair, value_and_gradient(reference(name, mixed), logits, mixed), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(('elements', 'slices'), [(10**9, 1), (4 * 24 * 20 * 2, 2), (4 * 24 * 20, 3), (4 * 4 * 20, 18)])
def test_slices_cover_every_image_and_row_once(elements, slices) -> None:
    parts = [*cut((3, 4, 6, 5), (24, 20), elements)]
    assert len(parts) == slices
    seen = torch.zeros(3, 24, 20)
    for part in parts:
        seen[part.images, part.start * 4 : part.start * 4 + part.size[0]] += 1
    assert (seen == 1).all()


def test_a_broken_stride_keeps_images_whole() -> None:
    assert [*cut((2, 4, 6, 5), (23, 20), 1)] == [Slice(slice(i, i + 1), 0, 6, 0, 0, (23, 20), 3) for i in range(2)]


@pytest.mark.parametrize('mixed', [False, True])
def test_neither_full_logits_nor_a_one_hot_target_are_made(mixed, monkeypatch) -> None:
    monkeypatch.setitem(losses_module.SLICE_ELEMENTS, 'cpu', 20 * 64 * 8)
    logits = torch.randn(4, 20, 16, 16, requires_grad=True)
    labels = torch.randint(20, (4, 64, 64))
    with LargestTensor() as largest:
        target = MixedTarget(labels, labels.flip(0), 0.3) if mixed else labels
        segmentation_loss(logits, target, dice_weight=1)['total'].backward()
    assert 0 < largest.numel <= 2 * max(labels.numel(), logits.numel())  # full size: 20 labels.numel()


def test_dice_per_image_is_the_mean_of_the_images_dice() -> None:
    logits, target, _ = random_case((3, 5, 6, 4))
    expected = sum(dice_loss(logits[i : i + 1], target[i : i + 1]) for i in range(3)) / 3
    torch.testing.assert_close(dice_loss(logits, target, dice_per='image'), expected)
    assert abs(dice_loss(logits, target) - expected) > 1e-3


@pytest.mark.parametrize('microbatches', [2, 4, 8])
def test_gradients_of_microbatches_add_up_to_the_batchs(microbatches) -> None:
    """As Composer adds them: each loss weighs as many images as it has. Ignored pixels are spread unevenly."""
    logits, target, _ = random_case((8, 5, 12, 10), ignored=0)
    for image in range(8):
        target[image, : image + 3] = -1
    options = {'dice_weight': 1.0, 'dice_per': 'image', 'pixels_per_image': (target != -1).sum() / 8}
    whole = value_and_gradient(lambda *args: segmentation_loss(*args, **options)['total'], logits, target)
    parts = torch.zeros_like(logits)
    for index in torch.arange(8).chunk(microbatches):
        loss = value_and_gradient(
            lambda *args: segmentation_loss(*args, **options)['total'], logits[index], target[index]
        )
        parts[index] = loss[1] * len(index) / 8
    assert (parts - whole[1]).norm() <= 1e-6 * whole[1].norm()
    torch.testing.assert_close(whole[0], segmentation_loss(logits, target, dice_weight=1, dice_per='image')['total'])


def test_autocast_does_not_reach_the_sums() -> None:
    logits, target, _ = random_case((2, 5, 6, 4))
    expected = segmentation_loss(logits, target, dice_weight=1)['total']
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert torch.equal(segmentation_loss(logits, target, dice_weight=1)['total'], expected)
