from typing import Any

import pytest
import torch
from composer.metrics import CrossEntropy as ComposersCrossEntropy
from composer.metrics import MIoU as ComposersMIoU
from torch import Tensor

from segrecipes.evaluation.metrics import (
    CrossEntropy,
    MIoU,
    Scored,
    argmax,
    image_scores,
    iou_from_confusion,
    score,
    score_predictions,
)
from segrecipes.models.losses import slices as losses


def batches(count: int = 3, classes: int = 5) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(classes)
    return [
        (
            torch.randn(2, classes, 9, 7, generator=generator),
            torch.randint(-1, classes, (2, 9, 7), generator=generator),
        )
        for _ in range(count)
    ]


def scored(logits: Tensor, labels: Tensor, ignore_index: int = -1) -> Scored:
    return score([logits], labels, logits.shape[1], ignore_index)


@pytest.mark.parametrize('elements', [1, 100, 2**20])
@pytest.mark.parametrize('classes', [2, 5, 150])
def test_miou_equals_composers(classes, elements, monkeypatch) -> None:
    monkeypatch.setitem(losses.SLICE_ELEMENTS, 'cpu', elements)
    ours = MIoU(classes)
    theirs: Any = ComposersMIoU(classes, ignore_index=-1)
    for logits, labels in batches(classes=classes):
        ours.update(scored(logits, labels))
        theirs.update(logits, labels)
    assert ours.compute().item() == pytest.approx(theirs.compute().item(), rel=1e-6)
    iou = iou_from_confusion(ours.confusion)
    expected = theirs.total_intersect / theirs.total_union
    torch.testing.assert_close(iou, expected, rtol=1e-6, atol=0, check_dtype=False, equal_nan=True)


@pytest.mark.parametrize('ignore_index', [-1, 255, 0])
def test_confusion_counts_each_labelled_pixel_once(ignore_index) -> None:
    metric = MIoU(3)
    predictions = torch.tensor([[[0, 1, 2, 2, 1, 1]]])
    labels = torch.tensor([[[0, 1, 1, 2, ignore_index, 0]]])
    logits = torch.nn.functional.one_hot(predictions, 3).movedim(-1, 1).float()
    metric.update(scored(logits, labels, ignore_index))
    expected = torch.zeros(3, 3, dtype=torch.int64)
    for label, prediction in zip(labels.flatten().tolist(), predictions.flatten().tolist()):
        if label != ignore_index:
            expected[label, prediction] += 1
    assert torch.equal(metric.confusion, expected)


def test_miou_leaves_out_classes_that_never_occur() -> None:
    metric = MIoU(4)
    metric.update(scored(torch.eye(4)[[0, 0, 1]].T.view(1, 4, 1, 3), torch.tensor([[[0, 1, 1]]])))
    assert metric.compute().item() == pytest.approx(100 * (1 / 2 + 1 / 2) / 2)
    assert iou_from_confusion(metric.confusion).isnan().tolist() == [False, False, True, True]


def test_cross_entropy_is_the_mean_over_all_labelled_pixels() -> None:
    metric = CrossEntropy()
    for logits, labels in batches():
        metric.update(scored(logits, labels))
    logits, labels = (torch.cat(parts) for parts in zip(*batches()))
    expected = torch.nn.functional.cross_entropy(logits, labels, ignore_index=-1)
    torch.testing.assert_close(metric.compute(), expected)


def test_cross_entropy_of_one_batch_equals_composers() -> None:
    ours, theirs = CrossEntropy(), ComposersCrossEntropy(ignore_index=-1)
    ours.update(scored(*batches()[0]))
    theirs.update(*batches()[0])
    torch.testing.assert_close(ours.compute(), theirs.compute())


def test_reset_starts_anew() -> None:
    for metric in (MIoU(5), CrossEntropy()):
        first, second, _ = (scored(*batch) for batch in batches())
        metric.update(first)
        metric.reset()
        metric.update(second)
        value = metric.compute()
        metric.reset()
        metric.update(second)
        assert torch.equal(metric.compute(), value)


@pytest.mark.parametrize('size', [(36, 28), (9, 7), (37, 31)])
@pytest.mark.parametrize('elements', [1, 3000, 2**20])
def test_logits_of_any_stride_are_scored_as_in_full_size(elements, size, monkeypatch) -> None:
    """In groups of images and slices of them; also where pixels are no whole number a logit."""
    monkeypatch.setitem(losses.SLICE_ELEMENTS, 'cpu', elements)
    logits = torch.randn(5, 6, 9, 7)
    labels = torch.randint(-1, 6, (5, *size))
    full = torch.nn.functional.interpolate(logits, size=size, mode='bilinear')
    found = score(logits.split([2, 1, 2]), labels, 6)
    assert isinstance(found.predictions, Tensor) and found.predictions.dtype == torch.uint8
    assert (found.predictions != full.argmax(dim=1)).float().mean() < 1e-3  # where two classes are as good as equal
    expected = torch.nn.functional.cross_entropy(full.double(), labels, ignore_index=-1, reduction='sum')
    torch.testing.assert_close(found.negative_log_likelihood, expected, rtol=1e-6, atol=0)
    again = score_predictions(list(found.predictions), list(labels), 6)
    assert torch.equal(found.confusion, again.confusion)
    assert torch.equal(found.image_scores, again.image_scores)


def test_logits_in_half_precision_are_interpolated_in_full() -> None:
    logits, labels = torch.randn(1, 3, 4, 4).bfloat16(), torch.randint(3, (1, 16, 16))
    half, full = scored(logits, labels), scored(logits.float(), labels)
    assert torch.equal(half.predictions[0], full.predictions[0])
    assert half.negative_log_likelihood == full.negative_log_likelihood


def test_scores_of_an_image() -> None:
    """Class 0 is 2 of 3 right and once too many: 2/4; class 1 is 1 of 2: 1/3; class 2 never occurs."""
    confusion = torch.tensor([[2, 1, 0], [1, 1, 0], [0, 0, 0]])
    assert image_scores(confusion).tolist() == pytest.approx([100 * (1 / 2 + 1 / 3) / 2, 60])
    assert image_scores(torch.zeros(3, 3, dtype=torch.int64)).isnan().all()


def test_more_classes_than_a_byte_holds() -> None:
    logits = torch.zeros(1, 300, 1, 1)
    logits[0, 299] = 1
    assert scored(logits, torch.tensor([[[299]]])).predictions[0].tolist() == [[299]]


def test_argmax_takes_the_first_of_equals_as_torch_does() -> None:
    logits = torch.randint(3, (2, 6, 5, 4)).float()
    assert torch.equal(argmax(logits), logits.argmax(dim=1))


def test_argmax_takes_the_first_nan_as_torch_does() -> None:
    logits = torch.randint(3, (2, 6, 5, 40)).float()
    logits[torch.rand(logits.shape) < 0.1] = torch.nan
    found = argmax(logits)
    first = torch.where(logits.isnan().any(dim=1), logits.isnan().int().argmax(dim=1), logits.argmax(dim=1))
    assert torch.equal(found, first) and torch.equal(found, logits.argmax(dim=1))


@pytest.mark.parametrize('bad', [float('nan'), float('inf'), -float('inf')])
def test_a_lost_network_is_scored_within_the_matrix(bad) -> None:
    metric = MIoU(3)
    metric.update(scored(torch.full((1, 3, 2, 2), bad), torch.tensor([[[0, 1], [2, -1]]])))
    assert metric.confusion.sum() == 3
    assert metric.confusion.sum(dim=1).tolist() == [1, 1, 1]
