"""mmsegmentation's checkpoints compute here what they compute there."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.checkpoint_files import IMAGES, SHAPES, assert_equal, build_mmseg, logits, mmseg_config, named, saved
from torch import Tensor, nn

from segrecipes.base.errors import UserError
from segrecipes.base.palette import voc_colors
from segrecipes.base.pickles import check_safe
from segrecipes.checkpoints.card import ModelCard
from segrecipes.checkpoints.fit import load_weights
from segrecipes.checkpoints.read import read_checkpoint
from segrecipes.checkpoints.zoo import infer_card
from segrecipes.datasets.table import DATASETS
from segrecipes.models.architectures import ARCHITECTURES
from segrecipes.models.mmseg import ensure_ops
from segrecipes.models.network import build_network
from segrecipes.models.spec import NetworkSpec

ZOO = [name for name, row in ARCHITECTURES.items() if row.parts]
META = {
    'mmcv': {'CLASSES': ('a', 'b', 'c', 'd', 'e '), 'PALETTE': [[i, 2 * i, 3 * i] for i in range(5)], 'iter': 160000},
    'mmengine': {
        'dataset_meta': {'classes': ['a', 'b', 'c', 'd', 'e'], 'palette': [[i, 2 * i, 3 * i] for i in range(5)]},
        'cfg': 'dict(reduce_zero_label=True)', 'iter': 160000,
    },
}  # fmt: skip


@pytest.mark.parametrize('auxiliary', [False, True], ids=['alone', 'auxiliary'])
@pytest.mark.parametrize('backbone_arch', SHAPES)
@pytest.mark.parametrize('architecture', ZOO)
def test_mmsegmentations_networks(architecture: str, backbone_arch: str, auxiliary: bool, tmp_path: Path) -> None:
    theirs = build_mmseg(mmseg_config(architecture, *SHAPES[backbone_arch], auxiliary))
    meta = META['mmengine' if auxiliary else 'mmcv']
    checkpoint = read_checkpoint(saved({'meta': meta, 'state_dict': theirs.state_dict()}, tmp_path / 'zoo.pth'))
    assert (checkpoint.kind, checkpoint.batch, checkpoint.ema) == ('mmsegmentation', 160000, None)
    assert checkpoint.card == ModelCard(
        NetworkSpec(architecture, 5, backbone_arch, None, 16), auxiliary, ('a', 'b', 'c', 'd', 'e'),
        tuple((i, 2 * i, 3 * i) for i in range(5)), '', 1 if auxiliary else 0,
    )  # fmt: skip
    assert checkpoint.card is not None
    network = build_network(checkpoint.card.network, auxiliary=checkpoint.card.auxiliary).eval()
    load_weights(network, checkpoint.weights, checkpoint.path)
    with torch.no_grad():
        expected = theirs.encode_decode(IMAGES, [{'img_shape': IMAGES.shape[-2:]}])
        assert expected.shape == (2, 5, 33, 47) and expected.std() > 1e-3
        torch.testing.assert_close(logits(network), expected, rtol=0, atol=1e-5)
        if auxiliary:
            expected = theirs.auxiliary_head(theirs.extract_feat(IMAGES))
            torch.testing.assert_close(network.heads(IMAGES)[1], expected, rtol=0, atol=1e-5)


@pytest.fixture(scope='module')
def zoo() -> dict[str, Tensor]:
    """The weights of a PSPNet with an auxiliary head, of a ResNetV1c-18."""
    return build_mmseg(mmseg_config('pspnet', *SHAPES['resnetv1c18'], auxiliary=True)).state_dict()


def ours(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    names = {'decode_head': 'classifier', 'auxiliary_head': 'auxiliary', 'backbone': 'backbone'}
    return {name.replace(name.split('.')[0], names[name.split('.')[0]], 1): value for name, value in weights.items()}


def test_a_resnet_101_is_recognised() -> None:
    with torch.device('meta'):
        weights = build_network(NetworkSpec('upernet', 5, 'resnetv1c101')).state_dict()
    card = infer_card(weights, {})
    assert card is not None and (card.network.backbone_arch, card.network.head_channels) == ('resnetv1c101', 512)


def test_ade20k_is_recognised_by_its_classes() -> None:
    ensure_ops()
    from mmseg.datasets import ADE20KDataset

    with torch.device('meta'):
        weights = build_network(NetworkSpec('pspnet', 150, 'resnetv1c18')).state_dict()
    colors = ADE20KDataset.METAINFO['palette']
    card = infer_card(weights, {'CLASSES': ADE20KDataset.METAINFO['classes'], 'PALETTE': colors})
    assert card is not None
    assert (card.dataset, card.label_offset, card.class_names) == ('ade20k', 1, DATASETS['ade20k'].classes)
    assert card.palette == tuple(map(tuple, colors))


@pytest.mark.parametrize('meta', [{}, {'PALETTE': 'random'}, {'PALETTE': None, 'CLASSES': None}, {'PALETTE': [[1, 2]]}])
def test_without_class_names_the_card_numbers_them(meta: dict[str, Any], zoo: dict[str, Tensor]) -> None:
    card = infer_card(ours(zoo), meta)
    assert card is not None
    assert (card.class_names[0], card.label_offset, card.dataset) == ('class 0', 0, '')
    assert card.palette == voc_colors(5)


def test_an_auxiliary_head_of_another_width_is_left_out(tmp_path: Path) -> None:
    """As the zoo's ResNet-18s have it."""
    config = mmseg_config('pspnet', *SHAPES['resnetv1c18'], auxiliary=True)
    config['auxiliary_head']['channels'] = 64
    theirs = build_mmseg(config)
    checkpoint = read_checkpoint(saved({'meta': {}, 'state_dict': theirs.state_dict()}, tmp_path / 'zoo.pth'))
    assert checkpoint.card is not None and not checkpoint.card.auxiliary
    network = build_network(checkpoint.card.network, auxiliary=checkpoint.card.auxiliary).eval()
    load_weights(network, checkpoint.weights, checkpoint.path)
    expected = theirs.encode_decode(IMAGES, [{'img_shape': IMAGES.shape[-2:]}]).detach()
    torch.testing.assert_close(logits(network), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    'change',
    [
        lambda w: {name: value for name, value in w.items() if 'stem' not in name},
        lambda w: {name: value for name, value in w.items() if 'psp_modules' not in name},
        lambda w: {name: value for name, value in w.items() if 'conv_seg' not in name},
        lambda w: {name: value for name, value in w.items() if 'layer4.1' not in name},
        lambda w: {**w, 'backbone.layer5.weight': torch.zeros(1)},
        lambda w: {**w, 'decode_head.conv_seg.weight': torch.zeros(5)},
        lambda w: {**w, 'decode_head.bottleneck.conv.weight': torch.zeros(16, 100, 3, 3)},
    ],
    ids=['no deep stem', 'no head', 'no logits', 'other depth', 'more', 'no convolution', 'other shape'],
)
def test_a_network_that_is_none_of_ours_has_no_card(change: Any, zoo: dict[str, Tensor], tmp_path: Path) -> None:
    checkpoint = read_checkpoint(saved({'meta': {}, 'state_dict': change(zoo)}, tmp_path / 'zoo.pth'))
    assert (checkpoint.kind, checkpoint.card) == ('mmsegmentation', None)


def test_a_checkpoint_of_mmengines_runner(zoo: dict[str, Tensor], tmp_path: Path) -> None:
    """Its logs hold objects that are not needed; its average is swapped with the weights."""
    from mmengine.logging import HistoryBuffer
    from mmengine.model import ExponentialMovingAverage

    module = nn.Linear(2, 2)
    assert set(ExponentialMovingAverage(module).state_dict()) == {'steps', 'module.weight', 'module.bias'}
    averaged = {name: value + 1 for name, value in zoo.items()}
    content = {
        'meta': {'iter': 3},
        'state_dict': averaged,
        'ema_state_dict': {'steps': torch.tensor(3), **named(zoo)},
        'message_hub': {'log_scalars': {'loss': HistoryBuffer([1.0, 2.0], [1, 1])}},
    }
    path = saved(content, tmp_path / 'iter_3.pth')
    checkpoint = read_checkpoint(path)
    assert_equal(checkpoint.weights, ours(zoo))
    assert_equal(checkpoint.ema, ours(averaged))
    with pytest.raises(UserError, match=r'reading it needs (getattr|mmengine.logging.history_buffer.HistoryBuffer), '):
        check_safe(path)  # what pickle would do with getattr is not known
