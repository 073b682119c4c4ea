"""Pictures of any number of channels on their way to a network and back: each channel as if it were alone."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from helpers.runs import TINY
from PIL import Image

from segrecipes import Predictor, UserError, predict, train
from segrecipes.checkpoints.export import export
from segrecipes.checkpoints.load_export import load_exported, read_card
from segrecipes.checkpoints.network import load_network
from segrecipes.config.merge import load
from segrecipes.data.augment import TrainTransform, sample_rng, squared
from segrecipes.data.channels import as_rgb, by_channels
from segrecipes.data.normalize import normalize, statistics, to_pixels
from segrecipes.evaluation.protocols import ade20k_ms, ade20k_ss, mosaic_512sq, slide
from segrecipes.models.backbones.channels import take_channels
from segrecipes.models.network import build_network
from segrecipes.models.spec import NetworkSpec

RNG = np.random.default_rng(0)
COUNTS = (1, 2, 4, 5, 9)


def image_of(channels: int, size: tuple[int, int] = (40, 56)) -> np.ndarray:
    return cv2.resize(RNG.integers(0, 256, (9, 9, channels), np.uint8), size[::-1]).reshape(*size, channels)


@pytest.mark.parametrize('channels', COUNTS)
def test_augmentation_treats_channels_alike(channels: int) -> None:
    """Of equal channels come equal ones, and each is what three grey ones become by the same geometry."""
    grey, mask = image_of(1), RNG.integers(0, 3, (40, 56), np.uint8)
    calm: dict[str, Any] = {'brightness': 0.0, 'contrast': 0.0, 'saturation': 0.0, 'hue': 0.0, 'rotation': 20.0}
    options: dict[str, Any] = {'base_size': 16, 'final_size': 24, 'max_resize_scale': 3.0, 'blur_probability': 1.0}
    for uid in 'abcdef':
        found, classes = TrainTransform(**options)(grey.repeat(channels, 2), mask, sample_rng(1, 2, uid))
        assert found.shape == (24, 24, channels) and found.dtype == np.uint8
        assert (found == found[..., :1]).all()
        small = TrainTransform(**options | {'blur_probability': 0.0}, **calm)
        found, classes = small(grey.repeat(channels, 2), mask, sample_rng(1, 2, uid))
        of_rgb, of_rgb_classes = small(grey.repeat(3, 2), mask, sample_rng(1, 2, uid))
        np.testing.assert_array_equal(classes, of_rgb_classes)
        inside = classes != 255
        np.testing.assert_allclose(found[inside][:, 0].astype(int), of_rgb[inside].mean(axis=1), atol=2)


def test_gain_is_brightness_and_contrast() -> None:
    image, transform = image_of(5), TrainTransform(saturation=0.9, hue=0.9)
    changed = set()
    for uid in map(str, range(40)):
        gain, shift = transform.draw_gain(float(image[::8, ::8].mean()), sample_rng(0, 0, uid))
        found = transform.recolor(image, sample_rng(0, 0, uid))
        np.testing.assert_array_equal(found, np.rint(image * gain + shift).clip(0, 255).astype(np.uint8))
        changed.add(round(gain, 3))
    assert len(changed) > 20 and 1.0 in changed  # a quarter draws neither


@pytest.mark.parametrize('channels', COUNTS)
@pytest.mark.parametrize('protocol', [ade20k_ss(24), ade20k_ms(24), slide(24), mosaic_512sq(24)], ids=str)
def test_views_treat_channels_alike(channels: int, protocol: Any) -> None:
    image = image_of(channels)
    for index in range(channels):
        alone = protocol.views(image[..., [index] * 3])
        assert [view.shape[2] for view in protocol.views(image)] == [channels] * len(alone)
        for view, one in zip(protocol.views(image), alone):
            np.testing.assert_array_equal(view[..., index], one[..., 0])


@pytest.mark.parametrize('channels', (*COUNTS, 3))
def test_normalised_and_back(channels: int) -> None:
    pixels = image_of(channels)
    images = torch.from_numpy(pixels).permute(2, 0, 1)
    mean, std = statistics(channels)
    expected = (pixels - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(normalize(images).permute(1, 2, 0), expected, atol=1e-5)
    np.testing.assert_array_equal(to_pixels(normalize(images)), pixels)
    assert mean[0] == pytest.approx(255 * (0.485 if channels == 3 else (0.485 + 0.456 + 0.406) / 3))
    square, _ = squared(pixels, pixels[..., 0])
    np.testing.assert_array_equal(square[0], np.broadcast_to(np.round(mean), (56, channels)))


def test_what_is_looked_at() -> None:
    for channels, shown in ((1, [0, 0, 0]), (2, [0, 0, 0]), (3, [0, 1, 2]), (7, [0, 1, 2])):
        image = image_of(channels)
        np.testing.assert_array_equal(as_rgb(image), image[..., shown])
    parts: list[tuple[int, ...]] = []
    by_channels(lambda part: parts.append(part.shape) or part, image_of(9))
    assert parts == [(40, 56, 4), (40, 56, 4), (40, 56)]


@pytest.mark.parametrize('backbone', ['resnet18', 'resnetv1c18'])
@pytest.mark.parametrize('channels', COUNTS)
def test_trained_weights_are_averaged(backbone: str, channels: int) -> None:
    """A grey picture gives what it gave, however many channels it has."""
    network: Any = build_network(NetworkSpec('deeplabv3plus', 2, backbone, head_channels=8)).eval()
    grey = torch.randn(2, 1, 32, 32)
    expected = network(grey.expand(-1, 3, -1, -1))
    take_channels(network.backbone, channels, is_trained=True)
    torch.testing.assert_close(network(grey.expand(-1, channels, -1, -1)), expected, rtol=1e-3, atol=1e-3)


def test_untrained_weights_are_drawn() -> None:
    network: Any = build_network(NetworkSpec('deeplabv3plus', 2, 'resnet18', head_channels=8, in_channels=6))
    weight = network.backbone.conv1.weight
    assert weight.shape == (64, 6, 7, 7)
    assert not torch.equal(weight[:, 0], weight[:, 1])
    assert float(weight.std()) == pytest.approx((2 / (64 * 49)) ** 0.5, rel=0.05)


@pytest.fixture(scope='module')
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four channels of 16 bits, of which the last alone tells the class."""
    folder = tmp_path_factory.mktemp('channels') / 'fields'
    for split, count in (('train', 8), ('val', 4)):
        for kind in ('images', 'masks'):
            (folder / kind / split).mkdir(parents=True)
        for index in range(count):
            mask = cv2.resize(RNG.integers(0, 2, (4, 4), np.uint8), (48, 48), interpolation=cv2.INTER_NEAREST)
            image = RNG.integers(0, 3000, (48, 48, 4)).astype(np.uint16)
            image[..., 3] = 500 + 2000 * mask.astype(int)
            cv2.imwrite(str(folder / f'images/{split}/{index}.png'), image)
            Image.fromarray(mask).save(folder / f'masks/{split}/{index}.png')
    described = {
        'classes': ['soil', 'crop'], 'labels': 0, 'channels': 4, 'values': [0, 3000],
        'splits': {'train': 'images/train/*', 'val': 'images/val/*'}, 'mask': ['^images/(.+)', r'masks/\1'],
    }  # fmt: skip
    (folder / 'dataset.yaml').write_text(yaml.safe_dump(described))
    return folder


def settings(dataset: Path, **more: Any) -> dict[str, Any]:
    given = [argument.partition('=') for argument in TINY if '.name=' not in argument and '{' not in argument]
    values: dict[str, Any] = {key: yaml.safe_load(value) for key, _, value in given}
    return {**values, 'callbacks': {}, 'loggers': {'progress_bar': None}, 'dataset': dataset, **more}


def test_the_network_follows_the_dataset(dataset: Path) -> None:
    config, sources = load('deeplabv3', settings(dataset))
    assert config.model.in_channels == 4 and sources['model.in_channels'] == 'train_dataset.name'
    with pytest.raises(UserError, match=r'^model\.in_channels=3, but images of .*dataset\.yaml have 4\. Leave it out'):
        load('deeplabv3', settings(dataset, **{'model.in_channels': 3}))
    with pytest.raises(UserError, match=r'has 2 classes and synthetic has 8|has 2 classes and .*synthetic'):
        load('deeplabv3', settings(dataset, **{'eval_dataset.name': 'synthetic', 'eval_dataset.path': '.'}))


@pytest.mark.slow
def test_from_files_to_labels(dataset: Path, tmp_path: Path) -> None:
    """It learns what the fourth channel alone tells, and a checkpoint and an export take what it was trained on."""
    run = train(
        'deeplabv3', settings(dataset, **{'optimizer.lr': 0.05, 'model.output_stride': 8}),
        max_duration='12ep', eval_interval='12ep', eval_protocol='fit-ss', save_folder=tmp_path / 'run',
    )  # fmt: skip
    assert run.scores is not None and run.checkpoint is not None
    card, network = load_network(run.checkpoint)
    assert (card.network.in_channels, card.values, len(card.mean)) == (4, (0, 3000), 4)
    found = predict(run.checkpoint, dataset / 'images/val', out=tmp_path / 'out')
    truth = {name: np.array(Image.open(dataset / f'masks/val/{name}.png')) for name in found}
    hits = [(labels == truth[name]).mean() for name, labels in found.items()]
    assert 100 * float(np.mean(hits)) == pytest.approx(run.scores.pixel_accuracy, abs=0.5)
    assert len(json.loads((tmp_path / 'out/shares.json').read_text())['images']) == 4
    stored: Any = cv2.imread(str(dataset / 'images/val/0.png'), cv2.IMREAD_UNCHANGED)
    array = np.rint(stored[..., [2, 1, 0, 3]] / 3000 * 255).astype(np.uint8)
    np.testing.assert_allclose(Predictor(run.checkpoint)(array), found['0'], atol=0)
    for to, name in (('onnx', 'a.onnx'), ('torch.export', 'a.pt2')):
        export(network, card, tmp_path / name, to)
        assert read_card(tmp_path / name) == card
        images = torch.randn(1, 4, 40, 50)
        torch.testing.assert_close(load_exported(tmp_path / name)(images), network(images), rtol=1e-3, atol=1e-3)
