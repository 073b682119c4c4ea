"""What is said of batches that do not fit the dataset or the machine."""

from unittest import mock

import pytest
from helpers.runs import ROOT

from segrecipes.config.merge import load_config
from segrecipes.training.advice import advice, fitting_batch


def said(images: int, *settings: str, device: str = 'gpu', ranks: int = 1) -> list[str]:
    cfg, _ = load_config([str(ROOT / 'yamls/deeplabv3.yaml'), *settings])
    with mock.patch('composer.utils.dist.get_world_size', lambda: ranks):
        return advice(cfg, images, device)


def test_few_images() -> None:
    assert said(300) == [
        '300 training images give 2 batches an epoch; train_dataset.batch_size=16 gives 18, with optimizer.lr=0.01 in '
        'proportion.'
    ]
    assert said(130)[0].startswith('130 training images give 1 batch an epoch; train_dataset.batch_size=8 gives 16')
    assert said(300, 'optimizer={name: adam}')[0].endswith('train_dataset.batch_size=16 gives 18.')
    assert said(300, 'train_dataset.batch_size=16') == said(20206) == said(1280) == []
    assert '3 batches' in said(300, 'train_dataset.drop_last=false')[0]


def test_the_size_is_one_of_the_ranks() -> None:
    assert said(300, ranks=8)[0].partition('; ')[2].startswith('train_dataset.batch_size=32 gives 9')
    assert said(24, 'train_dataset.batch_size=4') == []
    for images in range(1, 3000, 7):
        for ranks in (1, 2, 3, 8):
            size = fitting_batch(images, ranks)
            assert size % ranks == 0
            assert size == 4 * ranks or images // size >= 16


@pytest.mark.parametrize(
    ('settings', 'smaller'),
    [
        ([], 'train_dataset.batch_size=8 train_dataset.final_size=192 model.backbone_arch=resnet18'),
        (['train_dataset.batch_size=8'], 'train_dataset.final_size=192 model.backbone_arch=resnet18'),
        (['model.backbone_arch=resnet18'], 'train_dataset.batch_size=8 train_dataset.final_size=192'),
    ],
)
def test_a_cpu(settings: list[str], smaller: str) -> None:
    [line] = said(20206, *settings, device='cpu')
    assert line.endswith(f'of its size would be {smaller}.')
    assert said(20206, *smaller.split(), *settings, 'train_dataset.batch_size=8', device='cpu') == []
