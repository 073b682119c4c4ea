"""From an image to labels of its own pixels, against a slow reference and against mmsegmentation's own inference."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segrecipes.base.errors import UserError
from segrecipes.data.normalize import normalize, to_network
from segrecipes.data.sample import SampleMaker
from segrecipes.datasets.table import get_dataset
from segrecipes.evaluation import protocols
from segrecipes.evaluation import views as views_module
from segrecipes.evaluation.metrics import MIoU, confusion_matrix
from segrecipes.evaluation.protocols import EvalProtocol, SquareProtocol
from segrecipes.evaluation.table import NAMES, PROTOCOLS, get_protocol
from segrecipes.evaluation.views import Network, tiles, windows
from segrecipes.models.mmseg import ensure_ops

ensure_ops()

ROOT = Path(__file__).parents[2]
SIZES = [(48, 64), (97, 131), (1, 50), (50, 1), (1, 1), (200, 90)]
SLIDE_STRIDES = (None, 7, 1)


def random_image(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Noise on top of what changes slowly: (H, W, 3) uint8."""
    rng = np.random.default_rng((seed, *size))
    waves = np.add.outer(np.arange(size[0]), np.arange(size[1]))[..., None] * rng.uniform(0.5, 3, 3)
    return (waves % 200 + rng.integers(0, 56, (*size, 3))).astype(np.uint8)


def shown(protocol: EvalProtocol, image: np.ndarray) -> list[Tensor]:
    """The views as floats of a normalised image's range."""
    return [torch.from_numpy(view).permute(2, 0, 1).float() / 64 - 2 for view in protocol.views(image)]


def random_network(num_classes: int, stride: int, seed: int = 0) -> Network:
    """Logits that depend on place and neighbours and are different in the mirror; sure enough to differ clearly."""
    torch.manual_seed(seed)
    conv = nn.Conv2d(3, num_classes, 3, stride, padding=1).requires_grad_(False)
    conv.weight *= 4
    return conv


# A slow reference: full-size scores of all views at once


def reference(protocol: EvalProtocol, network: Network, views: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """(C, H, W): the logits of the image's pixels, of several views the mean of their probabilities."""
    crop = None if protocol.stride is None else (protocol.size, protocol.stride)
    found = []
    for view in views:
        for mirrored in (False, True) if protocol.flip else (False,):
            image = view[None].flip(3) if mirrored else view[None]
            logits = whole(network, image) if crop is None else in_windows(network, image, *crop)
            logits = logits.flip(3) if mirrored else logits
            found.append(F.interpolate(logits, size=size, mode='bilinear', align_corners=False)[0])
    return found[0] if len(found) == 1 else torch.stack([logits.softmax(dim=0) for logits in found]).mean(dim=0)


def whole(network: Network, image: Tensor) -> Tensor:
    return F.interpolate(network(image), size=image.shape[2:], mode='bilinear', align_corners=False)


def in_windows(network: Network, image: Tensor, size: int, stride: int) -> Tensor:
    """Windows start at the multiples of the stride, until one reaches the end; that one is moved back to end there."""
    height, width = image.shape[2:]
    starts: list[list[int]] = []
    for length in (height, width):
        found = [0]
        while found[-1] + size < length:
            found.append(found[-1] + stride)
        starts.append([max(0, min(start, length - size)) for start in found])
    total, count = 0, torch.zeros(height, width)
    for top, left in product(*starts):
        bottom, right = min(top + size, height), min(left + size, width)
        logits = whole(network, image[:, :, top:bottom, left:right])
        total = total + F.pad(logits, (left, width - right, top, height - bottom))
        count[top:bottom, left:right] += 1
    assert count.min() >= 1
    return total / count


def assert_same_labels(labels: Tensor, scores: Tensor) -> None:
    """Labels are the argmax of (C, H, W) scores, but where the two best are closer than 1e-5: a few pixels."""
    best, second = scores.topk(2, dim=0).values
    close = best - second < 1e-5
    assert labels.shape == scores.shape[1:]
    assert ((labels.long() == scores.argmax(dim=0)) | close).all()
    assert close.sum() <= 1 + 0.002 * close.numel()


CASES = [
    (name, size, stride)
    for name, size in product(PROTOCOLS, (32, 64))
    for stride in (SLIDE_STRIDES if name == 'slide' else (None,))
]


@pytest.mark.parametrize('num_classes', [2, 5, 150])
@pytest.mark.parametrize(('name', 'size', 'stride'), CASES)
def test_labels_equal_the_reference(name: str, size: int, stride: int | None, num_classes: int) -> None:
    protocol = get_protocol(name, size, stride)
    for image_size in SIZES:
        if stride is not None and max(image_size) * num_classes > {1: 64 * 5, 7: 131 * 150}[stride]:
            continue  # thousands of windows
        views = shown(protocol, random_image(image_size))
        for network_stride in (1, 4, 8):
            network = random_network(num_classes, network_stride, seed=network_stride)
            labels = protocol.labels(network, views, image_size)
            assert labels.dtype == torch.uint8
            assert_same_labels(labels, reference(protocol, network, views, image_size))


@pytest.mark.parametrize('num_classes', [2, 150])
@pytest.mark.parametrize('name', PROTOCOLS)
def test_labels_do_not_depend_on_the_tiles(name: str, num_classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    protocol = get_protocol(name, 32)
    for image_size in [(48, 64), (37, 53), (1, 50), (50, 1), (1, 1)]:
        views = shown(protocol, random_image(image_size))
        network = random_network(num_classes, 4)
        found = []
        for tile in ((1000, 1000), (3, 5), (1, 64)):
            monkeypatch.setitem(views_module.TILE, 'cpu', tile)
            found.append(protocol.labels(network, views, image_size))
            assert_same_labels(found[-1], reference(protocol, network, views, image_size))
        # Sums over fewer or more zeros may round differently, and only where two classes are as good as equal
        assert all((labels != found[0]).sum() <= 0.002 * labels.numel() for labels in found)


COMBINED = [
    EvalProtocol('windows of the resized image', 40, stride=27),
    EvalProtocol('of several scales, mirrored', 24, ratios=(1.0, 1.7), flip=True, stride=24),
    SquareProtocol('of the square', 50, flip=True, stride=17),
]


@pytest.mark.parametrize('protocol', COMBINED, ids=lambda protocol: protocol.name)
def test_combinations_that_are_in_no_row(protocol: EvalProtocol) -> None:
    for image_size, network_stride in product([(48, 64), (97, 131), (1, 50)], (1, 4)):
        views = shown(protocol, random_image(image_size))
        network = random_network(5, network_stride)
        labels = protocol.labels(network, views, image_size)
        assert_same_labels(labels, reference(protocol, network, views, image_size))


@pytest.mark.parametrize('name', [name for name in PROTOCOLS if name != 'mosaic-512sq'])
def test_the_loss_is_the_mean_cross_entropy_of_labelled_pixels(name: str) -> None:
    """Of several views, of the mean of their probabilities; of images of several sizes, over all of their pixels."""
    protocol, sizes, network = get_protocol(name, 32), [(48, 64), (37, 53), (1, 50)], random_network(5, 4)
    views = [shown(protocol, random_image(size)) for size in sizes]
    generator = torch.Generator().manual_seed(0)
    labels = [torch.randint(-1, 5, size, generator=generator) for size in sizes]
    metric = protocol.metrics(5)[f'CrossEntropy[{protocol}]']
    with torch.no_grad():
        scored = protocol.score(network, views, labels, 5)
    metric.update(scored)
    total, pixels = 0.0, 0
    for of_image, truth, size in zip(views, labels, sizes):
        found = reference(protocol, network, of_image, size).double()
        logs = found.log_softmax(dim=0) if len(of_image) == 1 else found.log()
        total += sum(float(-logs[c, y, x]) for y, row in enumerate(truth.tolist()) for x, c in enumerate(row) if c >= 0)
        pixels += int((truth >= 0).sum())
    assert metric.compute().item() == pytest.approx(total / pixels, rel=1e-4)


def test_the_loss_stays_finite_where_a_class_is_ruled_out() -> None:
    """Its probability in float32 is 0 in each of several views."""
    protocol = get_protocol('ade20k-ms', 32)
    sure = torch.tensor([500.0, -500.0]).view(1, 2, 1, 1)
    views = shown(protocol, random_image((20, 30)))
    scored = protocol.score(lambda image: sure.expand(1, 2, 4, 4), [views], [torch.ones(20, 30, dtype=torch.int64)], 2)
    assert scored.negative_log_likelihood is not None
    assert scored.negative_log_likelihood.item() / 600 == pytest.approx(87.3, abs=0.1)


def test_more_than_256_classes() -> None:
    protocol = get_protocol('ade20k-ss', 32)
    views = shown(protocol, random_image((20, 30)))
    network = random_network(300, 4)
    labels = protocol.labels(network, views, (20, 30))
    assert labels.dtype == torch.int16
    assert labels.max() > 255
    assert_same_labels(labels, reference(protocol, network, views, (20, 30)))


def test_256_classes_fit_a_byte() -> None:
    protocol = get_protocol('ade20k-ss', 32)
    views = shown(protocol, random_image((20, 30)))
    network = random_network(256, 1)
    labels = protocol.labels(network, views, (20, 30))
    assert labels.dtype == torch.uint8
    assert_same_labels(labels, reference(protocol, network, views, (20, 30)))


def test_of_equal_scores_the_first_class_wins() -> None:
    def network(image: Tensor) -> Tensor:
        return torch.tensor([1.0, 3.0, 3.0, 2.0]).view(1, 4, 1, 1).expand(1, 4, 2, 2)

    for name in PROTOCOLS:
        protocol = get_protocol(name, 32)
        assert (protocol.labels(network, shown(protocol, random_image((48, 64))), (48, 64)) == 1).all()


@pytest.mark.parametrize('name', PROTOCOLS)
def test_a_lost_network_still_has_labels(name: str) -> None:
    protocol = get_protocol(name, 32)
    views = shown(protocol, random_image((20, 30)))
    labels = protocol.labels(lambda image: torch.full((1, 3, 2, 2), torch.nan), views, (20, 30))
    assert (labels < 3).all()


def test_only_the_network_runs_in_reduced_precision() -> None:
    """All windows in the same one; the scores are float32 and the tiles do not change what is shown."""
    network = random_network(5, 4)
    seen: list[torch.dtype] = []

    def recorded(image: Tensor) -> Tensor:
        seen.append((logits := network(image)).dtype)
        return logits

    for name in PROTOCOLS:
        protocol = get_protocol(name, 32)
        views = shown(protocol, random_image((97, 131)))
        with torch.autocast('cpu', dtype=torch.bfloat16):
            labels = protocol.labels(recorded, views, (97, 131))
            scores = reference(protocol, lambda image: network(image).float(), views, (97, 131))
        assert set(seen) == {torch.bfloat16}, name
        assert_same_labels(labels, scores)
        seen.clear()


def test_each_window_is_shown_once_from_top_to_bottom() -> None:
    protocol = get_protocol('slide', 32, 20)
    image = torch.zeros(3, 97, 53)
    image[0], image[1] = torch.arange(97.0)[:, None], torch.arange(53.0)
    seen: list[tuple[int, int, int, int]] = []

    def network(window: Tensor) -> Tensor:
        rows, columns = window[0, 0, :, 0], window[0, 1, 0]
        seen.append((int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1))
        return window[:, :2, ::4, ::4]

    protocol.labels(network, [image], (97, 53))
    rows = [(0, 32), (20, 52), (40, 72), (60, 92), (65, 97)]
    columns = [(0, 32), (20, 52), (21, 53)]
    assert seen == [(*row, *column) for row in rows for column in columns]


def test_windows() -> None:
    assert windows(100, None) == [(0, 100)]
    assert windows(5, (32, 20)) == [(0, 5)]
    assert windows(32, (32, 20)) == [(0, 32)]
    assert windows(33, (32, 20)) == [(0, 32), (1, 33)]
    assert windows(52, (32, 20)) == [(0, 32), (20, 52)]
    assert windows(53, (32, 20)) == [(0, 32), (20, 52), (21, 53)]
    assert windows(64, (32, 32)) == [(0, 32), (32, 64)]


@pytest.mark.parametrize('size', [(1, 1), (7, 50), (200, 90)])
@pytest.mark.parametrize('num_classes', [2, 150, 2000])
def test_tiles_cover_each_pixel_once(size: tuple[int, int], num_classes: int) -> None:
    covered = np.zeros(size, int)
    top = 0
    for rows, columns in tiles(size, num_classes, torch.device('cpu')):
        covered[rows, columns] += 1
        assert rows.start >= top
        top = rows.start
    assert (covered == 1).all()


# mmsegmentation itself


@pytest.fixture(scope='module')
def segmentor() -> Any:
    """An EncoderDecoder with a ResNet-18; two forward passes in training mode give its batch norm statistics."""
    from mmseg.registry import MODELS
    from mmseg.utils import register_all_modules

    register_all_modules(init_default_scope=True)
    torch.manual_seed(0)
    norm = {'type': 'BN', 'requires_grad': True}
    model = MODELS.build({
        'type': 'EncoderDecoder',
        'backbone': {
            'type': 'ResNetV1c', 'depth': 18, 'base_channels': 8, 'stem_channels': 8, 'norm_cfg': norm,
            'out_indices': (0, 1, 2, 3), 'strides': (1, 2, 1, 1), 'dilations': (1, 1, 2, 4),
        },
        'decode_head': {
            'type': 'FCNHead', 'in_channels': 64, 'in_index': 3, 'channels': 8, 'num_convs': 1, 'concat_input': False,
            'num_classes': 7, 'norm_cfg': norm, 'align_corners': False,
        },
        'test_cfg': {'mode': 'whole'},
    })  # fmt: skip
    model.init_weights()
    for parameter in model.decode_head.conv_seg.parameters():
        nn.init.normal_(parameter)
    with torch.no_grad():
        for seed in range(2):
            batch = [shown(get_protocol('slide'), random_image((64, 64), seed + index))[0] for index in (0, 2)]
            model.train()._forward(torch.stack(batch))
    return model.eval().requires_grad_(False)


def predicted_by(segmentor: Any, view: Tensor, size: tuple[int, int], test_cfg: dict[str, Any], flip: bool) -> Any:
    """Its whole path from the network's input to a sample with labels and logits of the image's own size."""
    from mmengine import ConfigDict
    from mmseg.structures import SegDataSample

    segmentor.test_cfg = ConfigDict(test_cfg)
    meta = {'ori_shape': size, 'img_shape': tuple(view.shape[1:]), 'img_path': 'image.jpg'}
    if flip:
        meta |= {'flip': True, 'flip_direction': 'horizontal'}
    return segmentor.predict(view[None].flip(3) if flip else view[None], [SegDataSample(metainfo=meta)])[0]


@pytest.mark.parametrize('image_size', [(48, 64), (97, 131), (40, 90), (200, 90)])
@pytest.mark.parametrize(
    ('name', 'size', 'stride', 'test_cfg'),
    [
        ('mosaic-512sq', 64, None, {'mode': 'whole'}),
        ('ade20k-ss', 32, None, {'mode': 'whole'}),
        ('ade20k-ss', 64, None, {'mode': 'whole'}),
        ('slide', 64, None, {'mode': 'slide', 'crop_size': (64, 64), 'stride': (43, 43)}),
        ('slide', 33, 20, {'mode': 'slide', 'crop_size': (33, 33), 'stride': (20, 20)}),
        ('slide', 32, 32, {'mode': 'slide', 'crop_size': (32, 32), 'stride': (32, 32)}),
    ],
)
def test_labels_equal_mmsegmentations(
    name: str, size: int, stride: int | None, test_cfg: dict[str, Any], image_size: tuple[int, int], segmentor: Any
) -> None:
    protocol = get_protocol(name, size, stride)
    (view,) = shown(protocol, random_image(image_size))
    theirs = predicted_by(segmentor, view, image_size, test_cfg, flip=False)
    labels = protocol.labels(segmentor._forward, [view], image_size)
    assert len(labels.unique()) > 2
    scores = theirs.seg_logits.data
    assert torch.equal(theirs.pred_sem_seg.data[0], scores.argmax(dim=0))
    assert_same_labels(labels, scores)


@pytest.mark.parametrize('image_size', [(48, 64), (97, 131)])
def test_merged_as_mmsegmentation_merges(image_size: tuple[int, int], segmentor: Any) -> None:
    from mmseg.models import SegTTAModel

    protocol = get_protocol('ade20k-ms', 32)
    views = shown(protocol, random_image(image_size))
    augmented = [
        predicted_by(segmentor, view, image_size, {'mode': 'whole'}, flip)
        for view, flip in product(views, (False, True))
    ]
    assert len(augmented) == 12
    scores = torch.stack([sample.seg_logits.data.softmax(dim=0) for sample in augmented]).mean(dim=0)
    merged: Any = SegTTAModel(module=segmentor).merge_preds([augmented])[0]  # type: ignore[abstract]
    labels = protocol.labels(segmentor._forward, views, image_size)
    assert_same_labels(labels, scores)
    assert_same_labels(merged.pred_sem_seg.data.view(image_size), scores)
    assert not torch.equal(labels.long(), augmented[4].pred_sem_seg.data[0])  # the image alone is another answer
    assert len(labels.unique()) > 2


# What the network is shown

# mmsegmentation's configs: the scale of single-scale testing, and with img_ratios those of MultiScaleFlipAug
SCALES = [(1024, 256), (1536, 384), (2048, 512), (2560, 640), (3072, 768), (3584, 896)]
IMAGE_SIZES = [
    (480, 640), (512, 683), (683, 512), (256, 256), (512, 512), (513, 2052), (100, 401), (401, 100), (375, 500),
    (1, 50), (50, 1), (1, 1), (3, 4), (2000, 3000), (6000, 4000), (777, 1), (1023, 769), (512, 2048), (511, 2049),
]  # fmt: skip


@pytest.mark.parametrize(('name', 'scales'), [('ade20k-ss', [(2048, 512)]), ('ade20k-ms', SCALES)])
def test_view_sizes_are_mmcvs(name: str, scales: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[int, int]] = []
    monkeypatch.setattr(protocols.cv2, 'resize', lambda image, size, interpolation: made.append(size))
    protocol = get_protocol(name)
    rng = np.random.default_rng(0)
    random_sizes = rng.integers(10, 3000, (300, 2)).tolist()
    for height, width in [*IMAGE_SIZES, *random_sizes]:
        wanted = [mmcv.rescale_size((width, height), scale) for scale in scales]
        made.clear()
        views = protocol.views(np.broadcast_to(np.uint8(0), (height, width, 3)))
        sizes = [made.pop(0) if view is None else view.shape[1::-1] for view in views]
        assert sizes == wanted, (height, width)


@pytest.mark.parametrize('name', ['ade20k-ss', 'ade20k-ms'])
def test_views_are_mmcvs_pixel_for_pixel(name: str) -> None:
    protocol = get_protocol(name, 64)
    for height, width in [(48, 64), (97, 131), (1, 50), (50, 1), (1, 1), (200, 90), (64, 100), (300, 70)]:
        image = random_image((height, width))
        views = protocol.views(image)
        assert len(views) == len(protocol.ratios)
        for ratio, view in zip(protocol.ratios, views):
            scale = (int(256 * ratio), int(64 * ratio))
            wanted: Any = mmcv.imrescale(image, scale, interpolation='bilinear', backend='cv2')
            np.testing.assert_array_equal(view, wanted)
            size = mmcv.rescale_size((width, height), scale)
            wanted = mmcv.imresize(image, size, interpolation='bilinear', backend='cv2')
            np.testing.assert_array_equal(view, wanted)


def test_a_side_is_never_lost() -> None:
    """Where mmcv would ask for a picture without pixels."""
    assert mmcv.rescale_size((5000, 1), (2048, 512)) == (2048, 0)
    (view,) = get_protocol('ade20k-ss').views(random_image((1, 5000)))
    assert view.shape == (1, 2048, 3)


def test_the_square_is_antialiased_and_its_truth_squashed_too() -> None:
    protocol = get_protocol('mosaic-512sq', 32)
    image, mask = random_image((97, 131)), random_image((97, 131), seed=1)[..., 0]
    (view,) = protocol.views(image)
    assert (view.shape, view.dtype) == ((32, 32, 3), np.uint8)
    floats = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    wanted = F.interpolate(floats, size=(32, 32), mode='bilinear', antialias=True)[0].permute(1, 2, 0).numpy()
    assert np.abs(view - wanted).max() <= 1.5
    rows, columns = ((np.arange(32) + 0.5) * 97 / 32).astype(int), ((np.arange(32) + 0.5) * 131 / 32).astype(int)
    shown_image, target = protocol(image, mask, np.random.default_rng(0))
    np.testing.assert_array_equal(shown_image, view)
    np.testing.assert_array_equal(target, mask[rows][:, columns])


@pytest.mark.parametrize('name', ['ade20k-ss', 'ade20k-ms', 'slide'])
def test_the_truth_is_scored_untouched(name: str) -> None:
    protocol, image = get_protocol(name, 32), random_image((97, 131))
    mask = image[..., 0]
    views, target = protocol(image, mask, np.random.default_rng(0))
    assert target is mask
    for view, expected in zip(views, protocol.views(image), strict=True):
        np.testing.assert_array_equal(view, expected)


def test_windows_are_of_the_image_in_its_own_resolution() -> None:
    image = random_image((97, 131))
    (view,) = get_protocol('slide', 32).views(image)
    np.testing.assert_array_equal(view, image)


# From images to figures, as a loader and an evaluation go through it


@pytest.mark.parametrize('name', PROTOCOLS)
def test_each_row_from_images_to_figures(name: str) -> None:
    protocol = get_protocol(name, 32)
    maker = SampleMaker(protocol, seed=0, label_map=get_dataset('ade20k').label_map(5))
    images = [random_image(size) for size in ((48, 64), (97, 31), (40, 40))]
    masks = [random_image(image.shape[:2], seed=1)[..., 0] % 6 for image in images]  # 0 is not scored
    samples = [maker(image, mask, f'{number}', 0) for number, (image, mask) in enumerate(zip(images, masks))]
    network, metrics = random_network(5, 4), protocol.metrics(5)
    at_once = protocol.batch_size(2)
    predictions, confusion = [], torch.zeros(5, 5, dtype=torch.int64)
    for first in range(0, 3, at_once):
        batch = protocol.collate(samples[first : first + at_once])
        shown_images, labels, _, uids = to_network(batch)
        assert uids == [str(number) for number in range(first, min(3, first + at_once))]
        scored = protocol.score(network, shown_images, labels, 5)
        predictions += scored.predictions
        confusion += scored.confusion
        metrics.update(scored)
        assert scored.image_scores.shape == (len(uids), 2)

    expected = torch.zeros(5, 5, dtype=torch.int64)
    for image, mask, found in zip(images, masks, predictions, strict=True):
        _, target = protocol(image, mask, np.random.default_rng(0))
        views = [normalize(torch.from_numpy(view).permute(2, 0, 1)) for view in protocol.views(image)]
        assert_same_labels(found, reference(protocol, network, views, target.shape))
        truth = torch.from_numpy(target).long() - 1
        expected += confusion_matrix(found, truth, 5)
        assert len(found.unique()) > 2
    assert torch.equal(confusion, expected)
    assert 0 < confusion.sum() < sum(found.numel() for found in predictions)
    (miou,) = (metric for metric in metrics.values() if isinstance(metric, MIoU))
    assert int(miou.images) == 3 and torch.equal(miou.confusion, expected)
    assert all(value.isfinite() for value in metrics.compute().values())


def test_squares_are_shown_in_batches_and_other_images_one_at_a_time() -> None:
    assert {name: get_protocol(name).batch_size(16) for name in PROTOCOLS} == {
        name: 16 if name == 'mosaic-512sq' else 1 for name in PROTOCOLS
    }


def test_a_large_batch_of_squares_is_shown_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    protocol, network, seen = get_protocol('mosaic-512sq', 32), random_network(5, 4), []
    images, labels = torch.randn(5, 3, 32, 32), torch.randint(-1, 5, (5, 32, 32))

    def recorded(some: Tensor) -> Tensor:
        seen.append(len(some))
        return network(some)

    whole_batch = protocol.score(recorded, images, labels, 5)
    monkeypatch.setattr(protocols, 'EVALUATED_AT_ONCE', 2 * 32 * 32)
    parts = protocol.score(recorded, images, labels, 5)
    monkeypatch.setattr(protocols, 'EVALUATED_AT_ONCE', 1)
    single = protocol.score(recorded, images, labels, 5)
    assert seen == [5, 2, 2, 1, 1, 1, 1, 1, 1]
    for other in (parts, single):
        assert torch.equal(other.confusion, whole_batch.confusion)
        torch.testing.assert_close(other.negative_log_likelihood, whole_batch.negative_log_likelihood)


# The table


def test_rows() -> None:
    ratios = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
    assert {name: get_protocol(name) for name in PROTOCOLS} == {
        'mosaic-512sq': SquareProtocol('mosaic-512sq', 512),
        'ade20k-ss': EvalProtocol('ade20k-ss', 512, True),
        'ade20k-ms': EvalProtocol('ade20k-ms', 512, True, ratios, flip=True),
        'slide': EvalProtocol('slide', 512, False, stride=341),
    }
    assert get_protocol('slide', 769).stride == 513  # as in mmsegmentation's configs for Cityscapes
    assert get_protocol('slide', 32, 10).stride == 10
    assert get_protocol('ade20k-ss', 32, 10).stride is None


@pytest.mark.parametrize(('name', 'same'), [('fit-ss', 'ade20k-ss'), ('fit-ms', 'ade20k-ms')])
def test_names_that_speak_of_no_dataset(name: str, same: str) -> None:
    """The same protocol, recorded under the name that was asked for."""
    assert replace(get_protocol(name, 480), name=same) == get_protocol(same, 480)
    assert str(get_protocol(name, 480)) == f'{name}@480'
    assert [*NAMES] == [*PROTOCOLS, 'fit-ss', 'fit-ms']


@pytest.mark.parametrize('name', PROTOCOLS)
def test_another_size_than_the_literatures_is_named(name: str) -> None:
    assert str(get_protocol(name)) == name
    assert str(get_protocol(name, 512)) == name
    assert str(get_protocol(name, 480)) == f'{name}@480'


def test_an_unknown_protocol() -> None:
    with pytest.raises(UserError) as error:
        get_protocol('ade20k-sss')
    assert str(error.value) == (
        "eval_protocol=ade20k-sss is not known. Did you mean 'ade20k-ss'? "
        'Legal: ade20k-ms, ade20k-ss, fit-ms, fit-ss, mosaic-512sq, slide.'
    )
    with pytest.raises(UserError, match=r'^eval_protocol=x is not known\. Legal: ade20k-ms, '):
        get_protocol('x')


# Memory

LARGE_IMAGE = """
import json, re, sys, time
from pathlib import Path
import torch
from segrecipes.evaluation.metrics import MIoU, score_predictions
from segrecipes.evaluation.table import get_protocol
from segrecipes.models.network import build_network
from segrecipes.models.spec import NetworkSpec

torch.manual_seed(0)
spec = NetworkSpec('deeplabv3plus', 150, 'resnet18', head_channels=64)
model = build_network(spec).eval().requires_grad_(False)
network = torch.nn.Conv2d(3, 150, 4, 4).requires_grad_(False) if sys.argv[2] == 'conv' else model.logits
height, width = 4000, 6000
protocol = get_protocol(sys.argv[1])
truth = torch.randint(-1, 150, (1, height, width), dtype=torch.int16)
view = torch.randn(3, 512, 768) if protocol.fits else torch.randn(3, height, width)
start = time.monotonic()
labels = protocol.labels(network, [view], (height, width))
metric = MIoU(150)
metric.update(score_predictions([labels], truth, 150))
print(json.dumps({
    'seconds': time.monotonic() - start,
    # Of this process alone: ru_maxrss starts at that of the one it was forked from
    'peak': 1024 * int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]),
    'counted': int(metric.confusion.sum()), 'labelled': int((truth >= 0).sum()),
    'classes': len(labels.unique()), 'shape': list(labels.shape),
}))
"""


@pytest.mark.slow
@pytest.mark.parametrize(('name', 'network'), [('ade20k-ss', 'deeplabv3plus'), ('slide', 'conv')])
def test_a_huge_image_is_evaluated_in_bounded_memory(name: str, network: str) -> None:
    """Its full-size logits of 150 classes would be 14.4 GB; the limit is 3 GB for the whole process."""
    done = subprocess.run(
        [sys.executable, '-c', LARGE_IMAGE, name, network], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found['shape'] == [4000, 6000]
    assert found['counted'] == found['labelled'] > 20e6
    assert found['classes'] > 10
    assert found['peak'] < 3e9
