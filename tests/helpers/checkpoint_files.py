"""Networks, and the files that hold their weights: Composer's, mmsegmentation's and plain ones."""

import json
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.torch_version import TorchVersion

from segrecipes.checkpoints.card import ModelCard
from segrecipes.models.mmseg import ensure_ops
from segrecipes.models.network import build_network
from segrecipes.models.spec import NetworkSpec

SPEC = NetworkSpec('pspnet', 5, 'resnet18', head_channels=8)
CARD = ModelCard(SPEC, class_names=('a', 'b', 'c', 'd', 'e'), dataset='mine')
SMALL = {'backbone.conv1.weight': torch.arange(6.0).view(2, 3), 'classifier.conv_seg.bias': torch.ones(300)}
IMAGES = torch.linspace(-2, 2, 2 * 3 * 33 * 47).sin().view(2, 3, 33, 47)


def network_of(seed: int = 0, auxiliary: bool = False, **changes: Any) -> Any:
    """A network whose every tensor is random, in evaluation; of ``SPEC``, but for the changes."""
    torch.manual_seed(seed)
    return randomised(build_network(replace(SPEC, **changes), auxiliary=auxiliary))


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
    assert first.keys() == second.keys(), first.keys() ^ second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different, different


def saved(content: Any, path: Path, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


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
