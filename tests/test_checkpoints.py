"""Weights from every kind of file; files that lie, are damaged, or would run code; the deep-stem backbones."""

import copyreg
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import composer.algorithms
import numpy as np
import pytest
import torch
from composer.core import State
from composer.devices import DeviceCPU
from composer.loggers import Logger
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.torch_version import TorchVersion

import main as main_module
from backbones import BACKBONES, TORCHVISION, build_backbone
from card import ModelCard
from checkpoints import Checkpoint, check_safe, infer_card, load_weights, read_checkpoint
from config import load_config
from errors import MissingPathError, UserError
from layouts import LAYOUTS, palette
from mmcv_ops import ensure_ops
from model import SegmentationNetwork, build_model, build_network

ROOT = Path(__file__).parents[1]
CARD = ModelCard('pspnet', 5, 'resnet18', head_channels=8, class_names=('a', 'b', 'c', 'd', 'e'), dataset='mine')
SMALL = {'backbone.conv1.weight': torch.arange(6.0).view(2, 3), 'classifier.conv_seg.bias': torch.ones(300)}
IMAGES = torch.linspace(-2, 2, 2 * 3 * 33 * 47).sin().view(2, 3, 33, 47)


def network_of(card: ModelCard = CARD, seed: int = 0, **more: Any) -> Any:
    """A network whose every tensor is random, in evaluation."""
    torch.manual_seed(seed)
    return randomised(build_network(**{**card.network_arguments(), **more}))


def randomised(module: nn.Module) -> Any:
    for name, buffer in module.named_buffers():
        if name.endswith(('running_mean', 'running_var')):
            buffer.uniform_(*((-0.2, 0.2) if name.endswith('mean') else (0.7, 1.3)))
        else:
            buffer.fill_(7)
    module.eval()
    return module


def logits(network: nn.Module) -> Tensor:
    with torch.no_grad():
        return network(IMAGES)


def named(weights: dict[str, Tensor], prefix: str = 'module.') -> dict[str, Tensor]:
    return OrderedDict((prefix + name, value) for name, value in weights.items())


def assert_equal(first: Any, second: Any) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def saved(content: Any, path: Path, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


# Every kind of file

RNG = {'python': (3, (1, 2, 3), None), 'numpy': np.random.RandomState(0).get_state(), 'torch': torch.get_rng_state()}


def composer_state(weights: dict[str, Tensor], **more: Any) -> dict[str, Any]:
    """What Composer saves around a model's weights."""
    timestamp = {'epoch': 18, 'batch': 450, 'sample': 7200, 'total_wct': timedelta(seconds=89.3)}
    state = {
        'model': named(weights),
        'optimizers': {'SGD': {'state': defaultdict(dict), 'param_groups': [{'lr': np.float64(0.1)}]}},
        'algorithms': [('ChannelsLast', {'repr': '<composer.algorithms.channels_last.ChannelsLast object at 0x7f>'})],
        'callbacks': {'SpeedMonitor': {'total_eval_wct': 1.8}},
        'timestamp': {'Timestamp': timestamp},
        'metadata': {'torch_version': TorchVersion('2.7.0+cpu'), 'device': 'cpu'},
    }
    return {'state': {**state, **more}, 'rng': [RNG]}


def with_module(weights: dict[str, Tensor], path: Path) -> None:
    torch.save(named(weights, 'module.module.'), path)


def with_compiled(weights: dict[str, Tensor], path: Path) -> None:
    torch.save(named(weights, 'module._orig_mod.module.'), path)


def with_safetensors(weights: dict[str, Tensor], path: Path) -> None:
    save_file(weights, path, {'model_card': json.dumps(CARD.to_dict()), 'format': 'pt'})


FILES: dict[str, tuple[str, str, Callable[[dict[str, Tensor], Path], object]]] = {
    'plain': ('state_dict', 'pth', torch.save),
    'legacy': ('state_dict', 'pth', lambda w, p: torch.save(w, p, _use_new_zipfile_serialization=False)),
    'state_dict': ('state_dict', 'pth', lambda w, p: torch.save({'state_dict': w, 'epoch': 3}, p)),
    'model': ('state_dict', 'pt', lambda w, p: torch.save({'model': w, 'optimizer': {}, 'epoch': 3}, p)),
    'module': ('state_dict', 'pt', with_module),
    'compiled': ('state_dict', 'pt', with_compiled),
    'safetensors': ('safetensors', 'safetensors', with_safetensors),
    'composer': ('composer', 'pt', lambda w, p: torch.save(composer_state(w), p)),
    'composer weights only': ('composer', 'pt', lambda w, p: torch.save({'state': {'model': named(w)}}, p)),
}


@pytest.mark.parametrize('name', FILES)
def test_every_kind_gives_the_same_logits(name: str, tmp_path: Path) -> None:
    kind, suffix, write = FILES[name]
    network = network_of()
    path = tmp_path / f'file.{suffix}'
    write(network.state_dict(), path)
    checkpoint = read_checkpoint(path)
    path.write_bytes(b'')  # what was read needs the file no longer
    assert (checkpoint.path, checkpoint.kind, checkpoint.ema) == (str(path), kind, None)
    assert (checkpoint.epoch, checkpoint.batch) == ((18, 450) if name == 'composer' else (0, 0))
    assert checkpoint.card == (CARD if kind == 'safetensors' else None)
    assert_equal(checkpoint.weights, network.state_dict())
    other = network_of(seed=1)
    assert not torch.allclose(logits(other), logits(network), atol=1e-3)
    load_weights(other, checkpoint.weights, checkpoint.path)
    assert torch.equal(logits(other), logits(network))


def test_the_card_of_a_composer_checkpoint(tmp_path: Path) -> None:
    network = network_of()
    callbacks = {'SpeedMonitor': {}, 'Describe': CARD.to_dict()}
    checkpoint = read_checkpoint(saved(composer_state(network.state_dict(), callbacks=callbacks), tmp_path / 'a.pt'))
    assert checkpoint.card is not None and checkpoint.card == CARD
    rebuilt = build_network(**checkpoint.card.network_arguments()).eval()
    load_weights(rebuilt, checkpoint.weights, checkpoint.path)
    assert torch.equal(logits(rebuilt), logits(network))


def damaged_card(kind: str, folder: Path) -> Path:
    weights = network_of().state_dict()
    if kind == 'composer':
        return saved(composer_state(weights, callbacks={'Describe': {'architecture': 'pspnet'}}), folder / 'a.pt')
    cards = {'not JSON': '{', 'not a card': '{"num_classes": 5}', 'a list': '[1]'}
    save_file(weights, folder / 'a.safetensors', {'model_card': cards[kind]})
    return folder / 'a.safetensors'


@pytest.mark.parametrize('kind', ['composer', 'not JSON', 'not a card', 'a list'])
def test_a_damaged_card_is_named(kind: str, tmp_path: Path) -> None:
    path = damaged_card(kind, tmp_path)
    with pytest.raises(UserError, match=f'^{path}: its model card is damaged'):
        read_checkpoint(path)


# Averages

LAYOUTS_OF_EMA = ['tuples', 'dict', 'before 0.13']


def ema_state(layout: str, held: dict[str, Tensor], model: dict[str, Tensor], active: bool, **more: Any) -> Any:
    """EMA's part of a checkpoint whose model has ``model``; ``held`` is the other of raw and averaged weights."""
    if layout == 'before 0.13':
        values = {'training_model': named(held if active else model), 'ema_model': named(model if active else held)}
    else:
        parameters = {name: v for name, v in named(held).items() if v.dtype.is_floating_point and 'running' not in name}
        buffers = {name: value for name, value in named(held).items() if name not in parameters}
        values = {'ema_model': {'named_parameters_dict': parameters, 'named_buffers_dict': buffers}}
    values = {'repr': '<ema.EMA object>', **values, 'ema_weights_active': active, **more}
    return {'EMA': values} if layout == 'dict' else [('ChannelsLast', {'repr': '<c>'}), ('EMA', values)]


@pytest.mark.parametrize('active', [True, False])
@pytest.mark.parametrize('layout', LAYOUTS_OF_EMA)
def test_raw_and_averaged_weights_are_told_apart(layout: str, active: bool, tmp_path: Path) -> None:
    raw, averaged = network_of(seed=1).state_dict(), network_of(seed=2).state_dict()
    held, model = (raw, averaged) if active else (averaged, raw)
    algorithms = ema_state(layout, held, model, active, ema_started=True)
    checkpoint = read_checkpoint(saved(composer_state(model, algorithms=algorithms), tmp_path / 'a.pt'))
    assert_equal(checkpoint.weights, raw)
    assert checkpoint.ema is not None
    assert_equal(checkpoint.ema, averaged)
    for which, expected in {'raw': raw, 'ema': averaged, 'best': averaged}.items():
        assert_equal(checkpoint.choose(which), expected)


@pytest.mark.parametrize('active', [True, False])
def test_an_average_is_completed_by_what_is_not_averaged(active: bool, tmp_path: Path) -> None:
    """EMA holds no frozen parameters, and holds buffers that no state dict has."""
    raw, averaged = network_of(seed=1).state_dict(), network_of(seed=2).state_dict()
    averaged['backbone.conv1.weight'] = raw['backbone.conv1.weight']
    held, model = (raw, averaged) if active else (averaged, raw)
    some = {name: value for name, value in held.items() if name != 'backbone.conv1.weight'}
    some['classifier.not_persistent'] = torch.zeros(3)
    algorithms = ema_state('tuples', some, model, active)
    checkpoint = read_checkpoint(saved(composer_state(model, algorithms=algorithms), tmp_path / 'a.pt'))
    assert_equal(checkpoint.weights, raw)
    assert_equal(checkpoint.ema, averaged)


@pytest.mark.parametrize('values', [{'ema_started': False}, {'ema_model': None}])
def test_an_average_that_has_not_started_is_none(values: dict[str, Any], tmp_path: Path) -> None:
    """Until then EMA holds a copy of the initial weights."""
    weights, initial = network_of(seed=1).state_dict(), network_of(seed=2).state_dict()
    algorithms = ema_state('tuples', initial, weights, active=False, **values)
    checkpoint = read_checkpoint(saved(composer_state(weights, algorithms=algorithms), tmp_path / 'a.pt'))
    assert checkpoint.ema is None
    assert_equal(checkpoint.weights, weights)


def test_what_is_chosen_without_an_average() -> None:
    weights = {'a': torch.zeros(1)}
    checkpoint = Checkpoint('run/latest.pt', 'composer', weights)
    assert checkpoint.choose('best') is weights and checkpoint.choose('raw') is weights
    with pytest.raises(UserError, match=r'^weights=ema is not possible, run/latest.pt has no averaged weights\.'):
        checkpoint.choose('ema')
    with pytest.raises(UserError, match=r"^weights=emma is not known. Did you mean 'ema'\? Legal: best, ema, raw\.$"):
        checkpoint.choose('emma')


def train(data: Path, folder: Path, *more: str) -> None:
    arguments = (
        'model.num_classes=8', 'model.backbone_arch=resnet18', 'model.backbone_weights=null', 'model.head_channels=8',
        'train_dataset.name=synthetic', 'eval_dataset.name=synthetic', f'train_dataset.path={data}',
        f'eval_dataset.path={data}', 'train_dataset.final_size=32', 'train_dataset.base_size=32',
        'eval_dataset.final_size=32', 'train_dataset.batch_size=4', 'eval_dataset.batch_size=5',
        'train_dataset.num_workers=0', 'eval_dataset.num_workers=0', 'optimizer.lr=0.05', 'precision=fp32',
        'callbacks={}', 'loggers={progress_bar: null}', f'save_folder={folder}', 'save_interval=1ba',
        'save_num_checkpoints_to_keep=-1',
        'max_duration=3ba', 'eval_interval=1ba',
    )  # fmt: skip
    main_module.main(*load_config([str(ROOT / 'yamls/pspnet.yaml'), *arguments, *more])).close()


@pytest.fixture(scope='module')
def runs(synthetic_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three batches without and with an average of half life one batch."""
    folder = tmp_path_factory.mktemp('runs')
    train(synthetic_folder, folder / 'plain')
    train(synthetic_folder, folder / 'ema', 'algorithms.ema={half_life: 1ba, update_interval: 1ba}')
    return folder


def test_weights_of_a_run_with_ema_are_those_without(runs: Path) -> None:
    """An average takes no part in training."""
    for batch in (1, 2, 3):
        name = next((runs / 'ema').glob(f'ep*-ba{batch}-rank0.pt')).name
        checkpoint, plain = read_checkpoint(runs / 'ema' / name), read_checkpoint(runs / 'plain' / name)
        assert_equal(checkpoint.weights, plain.weights)
        assert plain.ema is None
        assert (checkpoint.kind, checkpoint.batch) == ('composer', batch)


def test_average_of_a_run_is_the_average_of_its_weights(runs: Path) -> None:
    expected: dict[str, Tensor] = {}
    for batch in (1, 2, 3):
        checkpoint = read_checkpoint(next((runs / 'ema').glob(f'ep*-ba{batch}-rank0.pt')))
        assert checkpoint.ema is not None and checkpoint.ema.keys() == checkpoint.weights.keys()
        for name, value in checkpoint.weights.items():
            old = expected.get(name, value)
            expected[name] = 0.5 * old + 0.5 * value if value.is_floating_point() else value
            torch.testing.assert_close(checkpoint.ema[name], expected[name], rtol=1e-5, atol=1e-6)
    name = 'classifier.conv_seg.weight'
    assert not torch.allclose(checkpoint.ema[name], checkpoint.weights[name], atol=1e-4)


def test_the_best_checkpoint_of_a_run_has_the_same_weights(runs: Path) -> None:
    """Saved by a callback that EMA does not know, hence with the raw weights in the model."""
    best = read_checkpoint(next((runs / 'ema').glob('best-ep*.pt')))
    usual = read_checkpoint(next((runs / 'ema').glob(f'ep*-ba{best.batch}-rank0.pt')))
    assert_equal(best.weights, usual.weights)
    assert_equal(best.ema, usual.ema)


def test_a_run_says_what_it_is(runs: Path) -> None:
    checkpoint = read_checkpoint(runs / 'ema' / 'latest-rank0.pt')
    assert checkpoint.card is not None
    assert checkpoint.card.network_arguments() == {
        'architecture': 'pspnet', 'num_classes': 8, 'backbone_arch': 'resnet18', 'output_stride': None,
        'head_channels': 8, 'auxiliary': checkpoint.card.auxiliary,
    }  # fmt: skip
    network = build_network(**checkpoint.card.network_arguments())
    for which in ('raw', 'ema'):
        load_weights(network, checkpoint.choose(which), checkpoint.path)
        assert_equal(network.state_dict(), checkpoint.choose(which))


def test_a_run_is_safe_to_resume(runs: Path) -> None:
    for path in runs.glob('*/*.pt'):
        check_safe(path)


# mmsegmentation

SHAPES = {'resnetv1c18': (18, (64, 128, 256, 512)), 'resnetv1c50': (50, (256, 512, 1024, 2048))}


def mmseg_config(architecture: str, depth: int, channels: tuple[int, ...], auxiliary: bool) -> dict[str, Any]:
    """An EncoderDecoder as the zoo's configs have it, but for the width of its head."""
    common = {
        'channels': 16,
        'num_classes': 5,
        'norm_cfg': {'type': 'BN'},
        'dropout_ratio': 0.1,
        'align_corners': False,
    }
    last = {'in_channels': channels[3], 'in_index': 3}
    heads = {
        'deeplabv3plus': {
            'type': 'DepthwiseSeparableASPPHead', **last, 'dilations': (1, 12, 24, 36),
            'c1_in_channels': channels[0], 'c1_channels': 48,
        },
        'deeplabv3': {'type': 'ASPPHead', **last, 'dilations': (1, 12, 24, 36)},
        'pspnet': {'type': 'PSPHead', **last, 'pool_scales': (1, 2, 3, 6)},
        'upernet': {
            'type': 'UPerHead', 'in_channels': list(channels), 'in_index': [0, 1, 2, 3], 'pool_scales': (1, 2, 3, 6),
        },
    }  # fmt: skip
    strided = architecture == 'upernet'
    return {
        'type': 'EncoderDecoder',
        'backbone': {
            'type': 'ResNetV1c', 'depth': depth, 'num_stages': 4, 'out_indices': (0, 1, 2, 3),
            'dilations': (1, 1, 1, 1) if strided else (1, 1, 2, 4),
            'strides': (1, 2, 2, 2) if strided else (1, 2, 1, 1),
            'norm_cfg': {'type': 'BN', 'requires_grad': True}, 'norm_eval': False, 'style': 'pytorch',
            'contract_dilation': True,
        },
        'decode_head': {**heads[architecture], **common},
        'auxiliary_head': {
            'type': 'FCNHead', 'in_channels': channels[2], 'in_index': 2, 'num_convs': 1, 'concat_input': False,
            **common, 'channels': 256,
        } if auxiliary else None,
        'train_cfg': {},
        'test_cfg': {'mode': 'whole'},
    }  # fmt: skip


def build_mmseg(config: dict[str, Any]) -> Any:
    ensure_ops()
    from mmseg.registry import MODELS
    from mmseg.utils import register_all_modules

    register_all_modules(init_default_scope=False)
    torch.manual_seed(5)
    return randomised(MODELS.build(config))


META = {
    'mmcv': {'CLASSES': ('a', 'b', 'c', 'd', 'e '), 'PALETTE': [[i, 2 * i, 3 * i] for i in range(5)], 'iter': 160000},
    'mmengine': {
        'dataset_meta': {'classes': ['a', 'b', 'c', 'd', 'e'], 'palette': [[i, 2 * i, 3 * i] for i in range(5)]},
        'cfg': 'dict(reduce_zero_label=True)', 'iter': 160000,
    },
}  # fmt: skip


@pytest.mark.parametrize('auxiliary', [False, True], ids=['alone', 'auxiliary'])
@pytest.mark.parametrize('backbone_arch', SHAPES)
@pytest.mark.parametrize('architecture', ['deeplabv3plus', 'deeplabv3', 'pspnet', 'upernet'])
def test_mmsegmentations_networks(architecture: str, backbone_arch: str, auxiliary: bool, tmp_path: Path) -> None:
    theirs = build_mmseg(mmseg_config(architecture, *SHAPES[backbone_arch], auxiliary))
    meta = META['mmengine' if auxiliary else 'mmcv']
    checkpoint = read_checkpoint(saved({'meta': meta, 'state_dict': theirs.state_dict()}, tmp_path / 'zoo.pth'))
    assert (checkpoint.kind, checkpoint.batch, checkpoint.ema) == ('mmsegmentation', 160000, None)
    assert checkpoint.card == ModelCard(
        architecture, 5, backbone_arch, None, 16, auxiliary, ('a', 'b', 'c', 'd', 'e'),
        tuple((i, 2 * i, 3 * i) for i in range(5)), '', 1 if auxiliary else 0,
    )  # fmt: skip
    assert checkpoint.card is not None
    network = build_network(**checkpoint.card.network_arguments()).eval()
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
        weights = build_network(architecture='upernet', num_classes=5, backbone_arch='resnetv1c101').state_dict()
    card = infer_card(weights, {})
    assert card is not None and (card.backbone_arch, card.head_channels) == ('resnetv1c101', 512)


def test_ade20k_is_recognised_by_its_classes() -> None:
    ensure_ops()
    from mmseg.datasets import ADE20KDataset

    with torch.device('meta'):
        weights = build_network(architecture='pspnet', num_classes=150, backbone_arch='resnetv1c18').state_dict()
    colors = ADE20KDataset.METAINFO['palette']
    card = infer_card(weights, {'CLASSES': ADE20KDataset.METAINFO['classes'], 'PALETTE': colors})
    assert card is not None
    assert (card.dataset, card.label_offset, card.class_names) == ('ade20k', 1, LAYOUTS['ade20k'].classes)
    assert card.palette == tuple(map(tuple, colors))


@pytest.mark.parametrize('meta', [{}, {'PALETTE': 'random'}, {'PALETTE': None, 'CLASSES': None}, {'PALETTE': [[1, 2]]}])
def test_without_class_names_the_card_numbers_them(meta: dict[str, Any], zoo: dict[str, Tensor]) -> None:
    card = infer_card(ours(zoo), meta)
    assert card is not None
    assert (card.class_names[0], card.label_offset, card.dataset) == ('class 0', 0, '')
    assert card.palette == tuple(tuple(color) for color in palette(5).tolist())


def test_an_auxiliary_head_of_another_width_is_left_out(tmp_path: Path) -> None:
    """As the zoo's ResNet-18s have it."""
    config = mmseg_config('pspnet', *SHAPES['resnetv1c18'], auxiliary=True)
    config['auxiliary_head']['channels'] = 64
    theirs = build_mmseg(config)
    checkpoint = read_checkpoint(saved({'meta': {}, 'state_dict': theirs.state_dict()}, tmp_path / 'zoo.pth'))
    assert checkpoint.card is not None and not checkpoint.card.auxiliary
    network = build_network(**checkpoint.card.network_arguments()).eval()
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


# Loading


def test_networks_keep_their_dtype() -> None:
    source, network = network_of(), network_of(seed=1).bfloat16()
    load_weights(network, source.state_dict(), 'file.pt')
    for name, value in network.state_dict().items():
        assert torch.equal(value, source.state_dict()[name].to(value.dtype))
        assert value.dtype == (torch.int64 if name.endswith('tracked') else torch.bfloat16)


def test_counters_may_be_missing() -> None:
    network = network_of()
    weights = {name: value for name, value in network_of(seed=1).state_dict().items() if 'tracked' not in name}
    load_weights(network, weights, 'file.pt')
    assert torch.equal(logits(network), logits(network_of(seed=1)))
    assert network.state_dict()['backbone.bn1.num_batches_tracked'] == 7


@pytest.mark.parametrize('has', [False, True], ids=['network', 'file'])
def test_an_auxiliary_head_may_be_missing_on_one_side(has: bool) -> None:
    network, source = network_of(seed=1, auxiliary=not has), network_of(seed=2, auxiliary=has)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    load_weights(network, source.state_dict(), 'file.pt')
    for name, value in network.state_dict().items():
        assert torch.equal(value, (before if name.startswith('auxiliary.') else source.state_dict())[name])


def test_an_auxiliary_head_on_both_sides_must_fit() -> None:
    network, weights = network_of(auxiliary=True), network_of(seed=1, auxiliary=True).state_dict()
    load_weights(network, weights, 'file.pt')
    assert_equal(network.state_dict(), weights)
    del weights['auxiliary.conv_seg.bias']
    with pytest.raises(
        UserError, match=r'1 tensor is missing \(auxiliary.conv_seg.bias: not there in the file, \(5,\)'
    ):
        load_weights(network, weights, 'file.pt')


def test_what_does_not_fit_is_said_at_once_and_nothing_is_loaded() -> None:
    network = network_of()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    weights = network_of(seed=1, num_classes=7).state_dict()
    for name in [name for name in weights if name.startswith('backbone.layer4.1.')][:4]:
        del weights[name]
    weights['criterion.weight'] = torch.zeros(2, 3)
    with pytest.raises(UserError) as error:
        load_weights(network, weights, 'load_path=file.pt')
    assert str(error.value) == (
        'load_path=file.pt does not fit the network: 4 tensors are missing ('
        'backbone.layer4.1.conv1.weight: not there in the file, (512, 512, 3, 3) in the network, '
        'backbone.layer4.1.bn1.weight: not there in the file, (512,) in the network, '
        'backbone.layer4.1.bn1.bias: not there in the file, (512,) in the network, …); '
        '1 tensor is not known (criterion.weight: (2, 3) in the file, not there in the network); '
        '2 tensors are of another shape ('
        'classifier.conv_seg.weight: (7, 8, 1, 1) in the file, (5, 8, 1, 1) in the network, '
        'classifier.conv_seg.bias: (7,) in the file, (5,) in the network). '
        'Check model.architecture, model.backbone_arch and model.num_classes.'
    )
    assert_equal(network.state_dict(), before)


# Files that are none


@pytest.mark.parametrize('read', [read_checkpoint, check_safe])
def test_a_missing_file_is_named(read: Any, tmp_path: Path) -> None:
    with pytest.raises(MissingPathError, match=f'^{tmp_path}/no.pt: no such file$'):
        read(tmp_path / 'no.pt')


def test_a_missing_safetensors_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingPathError, match=f'^{tmp_path}/no.safetensors: no such file$'):
        read_checkpoint(str(tmp_path / 'no.safetensors'))


@pytest.mark.parametrize('name', ['run', 'run.safetensors'])
def test_a_folder_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=f'^{tmp_path}/{name}: a folder, not a checkpoint file$'):
        read_checkpoint(tmp_path / name)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'', r'not a checkpoint of PyTorch \(the file is empty\)'),
        (b'cos\nsystem\n(S"echo"\ntR.', r'not a checkpoint of PyTorch \(other content\)'),
        (b'epoch: 3\n', r'not a checkpoint of PyTorch \(other content\)'),
        (b'PK\x03\x04 and no more', 'not a readable checkpoint, damaged or cut short'),
        (pickle.dumps({'a': 1}, protocol=2), 'not a readable checkpoint, damaged or cut short'),
        (
            pickle.dumps([1.5], protocol=5),
            'not a readable checkpoint, damaged or cut short|reading it needs Unsupported',
        ),
    ],
    ids=['empty', 'pickle as text', 'text', 'zip', 'pickle', 'new pickle'],
)
@pytest.mark.parametrize('read', [read_checkpoint, check_safe])
def test_other_files_are_refused(read: Any, content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / 'file.pt'
    path.write_bytes(content)
    with pytest.raises(UserError, match=f'^{path}: ({message})'):
        read(path)


def test_a_zip_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / 'file.pt'
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('photo.jpg', b'123')
    for trust in (False, True):
        with pytest.raises(UserError, match=f'^{path}: not a readable checkpoint, damaged or cut short'):
            read_checkpoint(path, trust)


@pytest.mark.parametrize('name', ['composer', 'legacy', 'safetensors'])
@pytest.mark.parametrize('kept', [1, 7, 100, 0.1, 0.5, 0.99, -1])
def test_a_file_cut_short_is_named(name: str, kept: float, tmp_path: Path) -> None:
    _, suffix, write = FILES[name]
    path = tmp_path / f'file.{suffix}'
    write(SMALL, path)
    content = path.read_bytes()
    path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    for trust in (False, True):
        with pytest.raises(UserError, match=rf'^{path}: not a (readable )?(checkpoint|safetensors file)'):
            read_checkpoint(path, trust)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ([1, 2], 'holds a list, not a checkpoint or a state dict'),
        (torch.zeros(3), 'holds a Tensor, not a checkpoint or a state dict'),
        ({}, 'holds an empty dict where the weights should be'),
        ({'state': {'model': {}}}, 'holds an empty dict where the weights should be'),
        ({'state': {'model': None}}, 'holds a NoneType where the weights should be'),
        ({'epoch': 3}, "not a state dict, 'epoch' in it is a int and not a tensor"),
        ({'state_dict': {'a': [1]}}, "not a state dict, 'a' in it is a list and not a tensor"),
        ({3: torch.zeros(1)}, 'not a state dict, 3 in it is a Tensor and not a tensor'),
        (
            {'state': {'model': {'a': torch.zeros(1)}, 'algorithms': [1]}},
            r'not in the form of a checkpoint \(TypeError',
        ),
        (
            {'state': {'model': {'a': torch.zeros(1)}, 'algorithms': [('EMA', {'ema_model': {'x': 1}})]}},
            r'not in the form of a checkpoint \(KeyError',
        ),
        ({'decode_head.a': torch.zeros(1), 'meta': 3}, 'not a state dict'),
        ({'state_dict': {'decode_head.a': torch.zeros(1)}, 'meta': 3}, r'not in the form of a checkpoint \(\w+Error'),
    ],
)
def test_other_contents_are_refused(content: Any, message: str, tmp_path: Path) -> None:
    path = saved(content, tmp_path / 'file.pt')
    with pytest.raises(UserError, match=f'^{path}: {message}'):
        read_checkpoint(path)


# Files that would run code


class Call:
    """Calls what it is given when it is unpickled; with ``state``, sets that on what came out."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None):
        self.reduced = (function, arguments, *([] if state is None else [state]))

    def __reduce__(self) -> Any:
        return self.reduced

    def __call__(self) -> None:
        """Pickle wants a callable where one call's result is called in turn."""


class New(Call):
    """Makes an object of a class without calling the class, as pickle does with most objects."""

    def __init__(self, cls: type, *arguments: Any):
        super().__init__(copyreg.__newobj__, cls, *arguments)  # type: ignore[attr-defined]

    @property
    def __class__(self) -> Any:  # which pickle compares
        return self.reduced[1][0]


def spill(path: str) -> str:
    Path(path).write_text('run')
    return path


def attacks(mark: Path) -> dict[str, tuple[Any, str]]:
    """An object to pickle, and what the message names."""
    code = f'open({str(mark)!r}, "w").close()'
    return {
        'exec': (Call(exec, code), 'exec'),
        'eval': (Call(eval, code), 'eval'),
        'os.system': (Call(os.system, f'touch {mark}'), 'posix.system'),
        'a function of a module': (Call(spill, str(mark)), f'{__name__}.spill'),
    }


ATTACKS = list(attacks(Path()))


def content_with(attack: Any, place: str) -> dict[str, Any]:
    return {
        'beside the weights': {'state_dict': SMALL, 'epoch': attack},
        'among the weights': {'state_dict': {**SMALL, 'backbone.x': attack}},
        'in the random state': {**composer_state(SMALL), 'rng': attack},
        'in an algorithm': composer_state(SMALL, algorithms=[('EMA', {'repr': attack})]),
    }[place]


@pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'legacy'])
@pytest.mark.parametrize('place', ['beside the weights', 'among the weights', 'in the random state', 'in an algorithm'])
@pytest.mark.parametrize('attack', ATTACKS)
def test_no_code_in_a_file_is_run(attack: str, place: str, zipped: bool, tmp_path: Path) -> None:
    mark = tmp_path / 'mark'
    value, name = attacks(mark)[attack]
    path = saved(content_with(value, place), tmp_path / 'file.pt', _use_new_zipfile_serialization=zipped)
    assert not mark.exists()
    for read in (read_checkpoint, check_safe):
        with pytest.raises(UserError) as error:
            read(path)
        assert str(error.value) == (
            f'{path}: reading it needs {name}, which can run code. If you trust where it comes from: '
            'trust_checkpoint=true loads it all the same, and runs whatever code is in it.'
        )
    assert not mark.exists()
    check_safe(path, trust=True)
    assert not mark.exists()  # that alone reads nothing
    if place == 'among the weights':
        with pytest.raises(UserError, match=r"not a state dict, 'backbone.x' in it is a (NoneType|int|str)"):
            read_checkpoint(path, trust=True)
    else:
        assert_equal(read_checkpoint(path, trust=True).weights, SMALL)
    assert mark.exists()


@pytest.mark.parametrize('read', [read_checkpoint, check_safe])
def test_getattr_leads_nowhere(read: Any, tmp_path: Path) -> None:
    """``print``, by way of a class that is allowed."""
    from mmengine.logging import HistoryBuffer

    looked_up = Call(getattr, Call(getattr, HistoryBuffer, '__init__'), '__globals__')
    attack = Call(Call(getattr, looked_up, 'get'), 'x')
    path = saved({'state_dict': SMALL, 'x': attack}, tmp_path / 'file.pt')
    with pytest.raises(UserError, match=r'reading it needs .*trust_checkpoint=true'):
        read(path)
    assert read_checkpoint(saved({'state_dict': SMALL, 'x': looked_up}, path)).kind == 'state_dict'


FOREIGN = {
    'objects': Call(np.ndarray, (1,), np.dtype('O'), bytearray(8)),
    'objects by name': Call(np.ndarray, (1,), 'O', bytearray(8)),
    'objects by new': New(np.ndarray, (1,), 'O', bytearray(8)),
    'numbers': Call(np.ndarray, (1,), 'u8', bytearray(8)),
    'dtype of objects': Call(np.dtype, 'O'),
    'dtype of objects by new': New(np.dtype, 'O'),
    'dtype of structures': Call(np.dtype, [('repr', 'U9')]),
    'flags of a dtype': Call(np.dtype, 'f8', False, True, state=(3, '<', None, None, None, -1, -1, 63)),
}


@pytest.mark.parametrize('read', [read_checkpoint, check_safe])
@pytest.mark.parametrize('name', FOREIGN)
def test_numpy_makes_arrays_of_numbers_only(name: str, read: Any, tmp_path: Path) -> None:
    """With a buffer of its own, an array of objects takes a file's bytes for addresses."""
    path = saved({**composer_state(SMALL), 'rng': FOREIGN[name]}, tmp_path / 'file.pt')
    with pytest.raises(UserError, match=f'^{path}: (reading it needs|not a readable checkpoint)'):
        read(path)


@pytest.mark.parametrize('package', ['numpy.core', 'numpy._core'])
def test_arrays_of_every_numpy_are_read(package: str, tmp_path: Path) -> None:
    """numpy 1 pickled under the name numpy.core, which numpy 2 has no more. Both are as long in a text file."""
    path = saved(composer_state(SMALL), tmp_path / 'a.pt', _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    assert content.count(b'numpy._core.multiarray') > 0
    path.write_bytes(content.replace(b'cnumpy._core.multiarray\n', f'c{package}.multiarray\n'.encode()))
    assert_equal(read_checkpoint(path).weights, SMALL)
    check_safe(path)


def test_a_whole_module_needs_trust(tmp_path: Path) -> None:
    path = saved(nn.Linear(2, 3), tmp_path / 'file.pt')
    with pytest.raises(
        UserError, match=f'^{path}: reading it needs torch.nn.modules.linear.Linear, which can run code'
    ):
        read_checkpoint(path)
    with pytest.raises(UserError, match=f'^{path}: holds a Linear, not a checkpoint or a state dict'):
        read_checkpoint(path, trust=True)


def test_a_newer_pickle_needs_trust(tmp_path: Path) -> None:
    path = saved(SMALL, tmp_path / 'file.pt', pickle_protocol=4)
    with pytest.raises(UserError, match=rf'^{path}: reading it needs Unsupported operand \d+, .*trust_checkpoint=true'):
        read_checkpoint(path)
    assert_equal(read_checkpoint(path, trust=True).weights, SMALL)


def test_trust_does_not_read_a_class_that_is_gone(tmp_path: Path) -> None:
    path = saved({'a': Call(spill, 'b')}, tmp_path / 'file.pt', _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b'spill\n', b'spilt\n'))
    with pytest.raises(UserError, match=f'^{path}: not a readable checkpoint, .*AttributeError: .*spilt'):
        read_checkpoint(path, trust=True)


# Strings that Composer evaluates


def evil(mark: Path) -> dict[str, str]:
    write = f'open({str(mark)!r}, "w").close()'
    return {
        'a value': f'BlurPool(min_channels={write})',
        'after': f'BlurPool() and {write}',
        'a list': f'BlurPool(replace_convs=[{write}])',
        'positional': f'BlurPool({write})',
        'keywords': f'BlurPool(**dict(a={write}))',
        'an attribute': f'BlurPool.__init__.__globals__["__builtins__"]["exec"]({write!r})',
        'another name': f'EMA and {write}',
        'a comprehension': f'BlurPool(blur_first=[{write} for _ in "a"])',
        'a string': f'BlurPool(blur_first=f"{{{write[:-1].replace(chr(34), chr(39) * 3)}) }}")',
        'lines': f'BlurPool(\nmin_channels={write}\n)',
    }


def composer_applies(algorithms: list[Any]) -> None:
    """What the Trainer does with a checkpoint's algorithms."""
    model = build_model(architecture='pspnet', num_classes=5, backbone_arch='resnet18', head_channels=8)
    state = State(model=model, rank_zero_seed=0, run_name='test', device=DeviceCPU())
    with suppress(ValueError):  # of what it evaluates to
        state._apply_required_algorithms({'algorithms': algorithms}, Logger(state))


@pytest.mark.filterwarnings('ignore::UserWarning', 'ignore::SyntaxWarning')
@pytest.mark.parametrize('entry', [tuple, list])
@pytest.mark.parametrize('attack', list(evil(Path())))
def test_no_code_in_the_repr_of_an_algorithm_is_run(attack: str, entry: type, tmp_path: Path) -> None:
    mark = tmp_path / 'mark'
    algorithms = [entry(['BlurPool', {'repr': evil(mark)[attack]}])]
    path = saved(composer_state(SMALL, algorithms=algorithms), tmp_path / 'file.pt')
    with pytest.raises(UserError, match=f'^{path}: to rebuild the algorithm BlurPool Composer would run .*trust_check'):
        check_safe(path)
    check_safe(path, trust=True)
    assert read_checkpoint(path).kind == 'composer'  # which evaluates nothing
    assert not mark.exists()
    composer_applies(algorithms)
    assert mark.exists()  # so it is what had to be refused


REQUIRED = [
    name
    for name, algorithm in vars(composer.algorithms).items()
    if getattr(algorithm, 'required_on_load', bool)() and isinstance(algorithm, type)
]


def test_the_algorithms_that_composer_rebuilds() -> None:
    assert 'BlurPool' in REQUIRED and 'EMA' not in REQUIRED and 'SAM' not in REQUIRED


@pytest.mark.parametrize('name', REQUIRED)
def test_no_algorithm_that_composer_rebuilds_is_overlooked(name: str, tmp_path: Path) -> None:
    content = composer_state(SMALL, algorithms=[(name, {'repr': f'{name}(a=exec("1"))'})])
    with pytest.raises(UserError, match=f'to rebuild the algorithm {name} Composer would run'):
        check_safe(saved(content, tmp_path / 'file.pt'))


@pytest.mark.parametrize(
    ('name', 'text'),
    [
        ('BlurPool', repr(composer.algorithms.BlurPool())),
        ('SqueezeExcite', repr(composer.algorithms.SqueezeExcite())),
        ('GhostBatchNorm', repr(composer.algorithms.GhostBatchNorm())),
        ('BlurPool', 'BlurPool()'),
        ('SqueezeExcite', 'SqueezeExcite(latent_channels=-1.5,min_channels=(1, "a", None))'),
        ('EMA', '<composer.algorithms.ema.ema.EMA object at 0x7f>'),
        ('SAM', 'exec("not evaluated")'),
        ('NoSuchAlgorithm', 'exec("not evaluated")'),
        ('warnings', 'exec("not evaluated")'),
    ],
)
def test_harmless_reprs_are_let_through(name: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / 'file.pt'
    check_safe(saved(composer_state(SMALL, algorithms=[(name, {'repr': text})]), path))


@pytest.mark.parametrize('text', ['GhostBatchNorm()', '<BlurPool object>', '', 3, None, 'BlurPool' + '(' * 1000])
def test_other_reprs_are_refused(text: Any, tmp_path: Path) -> None:
    algorithms = [('EMA', {}), ('BlurPool', {'repr': text})]
    path = saved(composer_state(SMALL, algorithms=algorithms), tmp_path / 'file.pt')
    with pytest.raises(UserError, match=f'^{path}: to rebuild the algorithm BlurPool Composer would run'):
        check_safe(path)


@pytest.mark.parametrize('entry', [3, 'ab', ('EMA',), ('EMA', 'x'), (3, {}), {'BlurPool': 1, 'b': 2}])
def test_other_algorithms_are_refused(entry: Any, tmp_path: Path) -> None:
    path = saved(composer_state(SMALL, algorithms=[entry]), tmp_path / 'file.pt')
    with pytest.raises(UserError, match=f'^{path}: its algorithms are not in the form of a Composer checkpoint$'):
        check_safe(path)


@pytest.mark.parametrize(('content', 'kind'), [([1], 'list'), ({'state': [1]}, 'list'), ({'state': None}, 'NoneType')])
def test_other_states_are_refused(content: Any, kind: str, tmp_path: Path) -> None:
    path = saved(content, tmp_path / 'file.pt')
    with pytest.raises(UserError, match=f'^{path}: holds a {kind}, not a checkpoint of Composer$'):
        check_safe(path)


@pytest.mark.parametrize('algorithms', [{'BlurPool': {'repr': 'exec("1")'}}, None])
def test_algorithms_of_old_checkpoints_are_not_evaluated(algorithms: Any, tmp_path: Path) -> None:
    check_safe(saved(composer_state(SMALL, algorithms=algorithms), tmp_path / 'file.pt'))


@pytest.mark.parametrize('name', ['plain', 'safetensors', 'composer'])
def test_files_without_code_are_safe(name: str, tmp_path: Path) -> None:
    _, suffix, write = FILES[name]
    write(SMALL, tmp_path / f'file.{suffix}')
    check_safe(tmp_path / f'file.{suffix}')


# Deep-stem backbones

DEEP = ['resnetv1c18', 'resnetv1c50', 'resnetv1c101']
STRIDES = {8: (4, 8, 8, 8), 16: (4, 8, 16, 16), 32: (4, 8, 16, 32)}
ARGUMENTS = {8: ((1, 2, 1, 1), (1, 1, 2, 4)), 16: ((1, 2, 2, 1), (1, 1, 1, 2)), 32: ((1, 2, 2, 2), (1, 1, 1, 1))}


def test_they_are_rows_of_the_table() -> None:
    assert [name for name in BACKBONES if name not in TORCHVISION] == DEEP


@pytest.mark.parametrize('output_stride', STRIDES)
@pytest.mark.parametrize('backbone_arch', ['resnetv1c18', 'resnetv1c50'])
def test_features_equal_mmsegmentations(backbone_arch: str, output_stride: int) -> None:
    strides, dilations = ARGUMENTS[output_stride]
    depth, channels = SHAPES[backbone_arch]
    theirs = build_mmseg({
        'type': 'ResNetV1c', 'depth': depth, 'strides': strides, 'dilations': dilations, 'contract_dilation': True,
        'norm_eval': False, 'style': 'pytorch', 'norm_cfg': {'type': 'BN', 'requires_grad': True},
        'out_indices': (0, 1, 2, 3),
    })  # fmt: skip
    backbone = build_backbone(backbone_arch, None, output_stride).eval()
    assert backbone.channels == list(channels)
    backbone.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        features = backbone(IMAGES)
        assert isinstance(features, tuple)
        for feature, expected, count, stride in zip(
            features, theirs(IMAGES), channels, STRIDES[output_stride], strict=True
        ):
            assert feature.shape == (2, count, -(-33 // stride), -(-47 // stride))
            assert torch.equal(feature, expected)


@pytest.mark.parametrize('backbone_arch', DEEP)
def test_they_train_within_a_network(backbone_arch: str) -> None:
    with torch.device('meta'):
        network = build_network(
            architecture='deeplabv3plus', num_classes=5, backbone_arch=backbone_arch, head_channels=8
        )
    assert isinstance(network, SegmentationNetwork)
    names = network.state_dict().keys()
    assert {'backbone.stem.0.weight', 'backbone.stem.7.running_var', 'backbone.layer1.0.conv1.weight'} <= names
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(m.training for m in network.train().modules() if isinstance(m, nn.BatchNorm2d))
    blocks = [
        sum(f'backbone.layer{stage}.{block}.conv1.weight' in names for block in range(30)) for stage in range(1, 5)
    ]
    assert blocks == {'18': [2, 2, 2, 2], '50': [3, 4, 6, 3], '101': [3, 4, 23, 3]}[backbone_arch[9:]]


def test_they_learn() -> None:
    model = build_model(architecture='pspnet', num_classes=5, backbone_arch='resnetv1c18', head_channels=8)
    labels = torch.arange(2 * 33 * 47).view(2, 33, 47) % 5
    model.loss(model((IMAGES, labels)), (IMAGES, labels))['total'].backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    assert model.module.get_parameter('backbone.stem.0.weight').grad.any()  # type: ignore[union-attr]


def test_mmsegmentation_is_imported_where_it_is_needed_and_without_a_word() -> None:
    program = (
        'import sys, backbones; assert not {"mmseg", "mmengine", "mmcv"} & set(sys.modules);'
        'backbones.build_backbone("resnetv1c18", None, 8); assert "mmseg" in sys.modules;'
        'from mmengine import DefaultScope; assert DefaultScope.get_current_instance() is None'
    )
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', program], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, '', '')


@pytest.fixture(scope='module')
def deep_weights() -> dict[str, Tensor]:
    torch.manual_seed(3)
    return randomised(build_backbone('resnetv1c18', None, 32)).state_dict()


@pytest.mark.parametrize('inside', [False, True])
def test_a_file_of_their_weights_is_loaded(inside: bool, deep_weights: dict[str, Tensor], tmp_path: Path) -> None:
    content = {**deep_weights, 'fc.weight': torch.zeros(1000, 512), 'fc.bias': torch.zeros(1000)}
    path = saved({'state_dict': content} if inside else content, tmp_path / 'resnet18_v1c.pth')
    assert_equal(build_backbone('resnetv1c18', str(path), 8).state_dict(), deep_weights)


@pytest.mark.parametrize('backbone_weights', ['IMAGENET1K_V1', 'DEFAULT'])
def test_torchvision_has_no_weights_for_them(backbone_weights: str) -> None:
    with pytest.raises(UserError) as error:
        build_backbone('resnetv1c50', backbone_weights, 8)
    assert str(error.value) == (
        f'model.backbone_weights={backbone_weights} is not known. Legal: /path/to/file.pth, null.'
    )


def test_a_file_of_another_backbone_is_refused(deep_weights: dict[str, Tensor], tmp_path: Path) -> None:
    path = saved(deep_weights, tmp_path / 'resnet18_v1c.pth')
    with pytest.raises(
        UserError, match=f'^model.backbone_weights={path} does not fit model.backbone_arch=resnetv1c50: '
    ):
        build_backbone('resnetv1c50', str(path), 8)
    with pytest.raises(UserError, match=r'5 parameters are missing \(conv1.weight, .*, 18 are not known'):
        build_backbone('resnet18', str(path), 8)


def test_a_wrong_output_stride_is_refused() -> None:
    with pytest.raises(UserError, match=r'^model.output_stride=4 is not possible. Legal: 8, 16, 32\.$'):
        build_backbone('resnetv1c18', None, 4)
