"""Code written against MosaicML's DeepLabV3+ example keeps working."""

import inspect
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from composer.core import DataSpec
from composer.models import ComposerClassifier
from PIL import Image

from data import build_ade20k_dataspec, check_dataloader
from model import build_composer_deeplabv3, published_init

SIZE = 32


@pytest.fixture(scope='module')
def ade20k(tmp_path_factory) -> Path:
    """Four random images in each split, in ADE20K's layout."""
    root = tmp_path_factory.mktemp('ade20k')
    rng = np.random.default_rng(0)
    for split, folder in (('train', 'training'), ('val', 'validation')):
        for kind in ('images', 'annotations'):
            (root / kind / folder).mkdir(parents=True)
        for index in range(1, 5):
            image = rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
            mask = rng.integers(0, 149, (SIZE, SIZE), dtype=np.uint8)
            Image.fromarray(image).save(root / 'images' / folder / f'ADE_{split}_{index:08d}.jpg')
            Image.fromarray(mask).save(root / 'annotations' / folder / f'ADE_{split}_{index:08d}.png')
    return root


def defaults(function) -> dict[str, object]:
    return {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}


def test_the_models_signature() -> None:
    assert list(defaults(build_composer_deeplabv3).items()) == [
        ('num_classes', inspect.Parameter.empty),
        ('backbone_arch', 'resnet101'),
        ('backbone_weights', None),
        ('sync_bn', True),
        ('use_plus', True),
        ('ignore_index', -1),
        ('cross_entropy_weight', 1.0),
        ('dice_weight', 0.0),
        ('init_fn', None),
    ]


def test_the_datasets_signature() -> None:
    expected = {
        'path': inspect.Parameter.empty,
        'is_streaming': True,
        'local': '/tmp/mds-cache/mds-ade20k/',
        'batch_size': inspect.Parameter.empty,
        'split': 'train',
        'drop_last': True,
        'shuffle': True,
        'base_size': 512,
        'min_resize_scale': 0.5,
        'max_resize_scale': 2.0,
        'final_size': 512,
        'ignore_background': True,
    }
    found = defaults(build_ade20k_dataspec)
    assert {name: found[name] for name in expected} == expected
    assert list(found)[:3] == ['path', 'is_streaming', 'local']


@pytest.mark.parametrize('num_classes', [10, 150])
def test_model(num_classes) -> None:
    model: Any = build_composer_deeplabv3(num_classes)
    assert issubclass(type(model), ComposerClassifier)
    assert model.num_classes == num_classes
    assert [len(stage) for stage in model.module.backbone.stages] == [3, 4, 23, 3]  # ResNet-101
    x, y = torch.rand(2, 3, 64, 64), torch.randint(num_classes, (2, 64, 64))
    output = model((x, y))
    assert output.shape == (2, num_classes, 64, 64)
    assert output.dtype == torch.float32
    loss = model.loss(output, (x, y))
    expected = torch.nn.functional.cross_entropy(output, y)
    torch.testing.assert_close(loss['total'], expected)


@pytest.mark.parametrize(('use_plus', 'head'), [(True, 'DepthwiseSeparableASPPHead'), (False, 'ASPPHead')])
def test_model_options(use_plus, head) -> None:
    model: Any = build_composer_deeplabv3(
        num_classes=10,
        backbone_arch='resnet50',
        backbone_weights=None,
        sync_bn=False,
        use_plus=use_plus,
        ignore_index=-1,
        cross_entropy_weight=0.375,
        dice_weight=1.125,
        init_fn=published_init,
    )
    assert type(model.module.classifier).__name__ == head
    assert model.module.classifier.channels == 512
    x, y = torch.rand(2, 3, 32, 32), torch.randint(-1, 10, (2, 32, 32))
    loss = model.loss(model((x, y)), (x, y))
    torch.testing.assert_close(loss['total'], 0.375 * loss['cross_entropy'] + 1.125 * loss['dice'])


@pytest.mark.parametrize('split', ['train', 'val'])
def test_dataspec(ade20k, split) -> None:
    spec = build_ade20k_dataspec(
        str(ade20k),
        is_streaming=False,
        batch_size=2,
        split=split,
        shuffle=False,
        base_size=SIZE,
        final_size=SIZE,
    )
    assert isinstance(spec, DataSpec)
    batches = list(spec.dataloader)
    assert [(image.shape, mask.shape) for image, mask in batches] == [((2, 3, SIZE, SIZE), (2, SIZE, SIZE))] * 2
    images, labels = spec.microbatch_transforms(batches[0])
    assert images.shape == (2, 3, SIZE, SIZE) and images.dtype == torch.float32
    assert labels.shape == (2, SIZE, SIZE) and labels.dtype == torch.int64
    assert labels.min() >= -1 and labels.max() <= 147
    assert -3 < images.mean() < 3
    if split == 'train':
        return
    masks = [np.asarray(Image.open(path)) for path in sorted((ade20k / 'annotations/validation').iterdir())]
    classes = np.stack(masks) - np.uint8(1)  # in order, their label 0 as 255
    np.testing.assert_array_equal(torch.cat([mask for _, mask in batches]).numpy(), classes)
    np.testing.assert_array_equal(labels.numpy(), np.stack(masks[:2]).astype(int) - 1)


@pytest.mark.parametrize(('drop_last', 'sizes'), [(True, [3]), (False, [3, 1])])
def test_drop_last(ade20k, drop_last, sizes) -> None:
    spec = build_ade20k_dataspec(
        str(ade20k), is_streaming=False, batch_size=3, split='val', drop_last=drop_last, final_size=SIZE
    )
    assert [len(image) for image, _ in spec.dataloader] == sizes


def test_background_can_be_a_class(ade20k) -> None:
    spec = build_ade20k_dataspec(
        str(ade20k),
        is_streaming=False,
        batch_size=4,
        split='val',
        shuffle=False,
        final_size=SIZE,
        ignore_background=False,
        num_workers=0,
        pin_memory=False,
    )
    (batch,) = spec.dataloader
    _, labels = spec.microbatch_transforms(batch)
    assert torch.equal(labels, batch[1].long())
    assert labels.min() == 0


def test_check_dataloader(ade20k, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, 'argv', ['data.py', str(ade20k)])
    check_dataloader()
    printed = capsys.readouterr().out
    for split in ('train', 'val'):
        assert f'{split}: 4 images with masks\nsizes: 32…32 wide, 32…32 high\n' in printed
    assert printed.count('labels: 0…148\n') == 2


def test_check_dataloader_of_a_missing_folder(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, 'argv', ['data.py', str(tmp_path / 'nowhere')])
    with pytest.raises(SystemExit) as stop:
        check_dataloader()
    assert stop.value.code == 1
    assert capsys.readouterr().err == f'error: dataset folder does not exist: {tmp_path / "nowhere"}\n'
