"""Weights in, from any file that holds them, without running code."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from backbones import BACKBONES
from card import ModelCard
from errors import UserError, choice
from layouts import LAYOUTS
from model import SegmentationNetwork, build_network
from unpickling import first_bytes, is_safetensors, unpickled

CARD = 'model_card'  # its name in the metadata of a file
CHOICES = ('best', 'ema', 'raw')
RENAMED = {'decode_head.': 'classifier.', 'auxiliary_head.': 'auxiliary.'}  # mmsegmentation's names

# What mmsegmentation's decode heads have that tells them apart, the one that has more first.
HEAD_PARTS = {
    'deeplabv3plus': {'aspp_modules', 'c1_bottleneck'},
    'deeplabv3': {'aspp_modules'},
    'upernet': {'psp_modules', 'fpn_convs'},
    'pspnet': {'psp_modules'},
}


@dataclass
class Checkpoint:
    """What a file holds. ``weights`` and ``ema`` are on the CPU, under the names of a SegmentationNetwork.

    ``kind`` is ``composer``, ``state_dict``, ``mmsegmentation`` or ``safetensors``. ``weights`` are those that training
    goes on with, ``ema`` is their average, parameters and buffers, and None where there is none. ``card`` is None where
    the file does not say what network it is of. ``epoch`` and ``batch`` are how far it was trained, 0 where unknown.
    """

    path: str
    kind: str
    weights: dict[str, Tensor]
    ema: dict[str, Tensor] | None = None
    card: ModelCard | None = None
    epoch: int = 0
    batch: int = 0

    def choose(self, which: str) -> dict[str, Tensor]:
        """The weights to use: ``ema``, ``raw``, or ``best``, which is ``ema`` where there is one."""
        if which not in CHOICES:
            raise choice('weights', which, CHOICES)
        if which == 'ema' and self.ema is None:
            raise UserError(f'weights=ema is not possible, {self.path} has no averaged weights. Legal here: best, raw.')
        return self.weights if which == 'raw' or self.ema is None else self.ema


def read_checkpoint(path: str | Path, trust: bool = False) -> Checkpoint:
    """Read a Composer or mmsegmentation checkpoint, a state dict or a safetensors file.

    Args:
        path: a local file.
        trust: run the code in a file that cannot be read without.

    Raises:
        MissingPathError: there is no such file.
        UserError: it is damaged, is no checkpoint, or needs ``trust``.
    """
    if is_safetensors(path):
        return _read_safetensors(str(path))
    content = unpickled(path, trust=trust)
    if not isinstance(content, Mapping):
        raise UserError(f'{path}: holds {_a(content)}, not a checkpoint or a state dict')
    state = content.get('state')
    try:
        if isinstance(state, Mapping) and 'model' in state:
            return _read_composer(str(path), state)
        return _read_state_dict(str(path), content)
    except UserError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f'{path}: not in the form of a checkpoint ({type(error).__name__}: {error})') from error


def load_weights(network: SegmentationNetwork, weights: Mapping[str, Tensor], where: str) -> None:
    """Copy weights into a network, which keeps its dtype and device: all of them or, if one does not fit, none.

    An auxiliary head may be missing on either side. ``where`` names the file in the message.

    Raises:
        UserError: a tensor is missing, not known, or of another shape.
    """
    own = network.state_dict()
    if faults := list(_faults(own, weights)):
        raise UserError(
            f'{where} does not fit the network: {"; ".join(faults)}. '
            'Check model.architecture, model.backbone_arch and model.num_classes.'
        )
    with torch.no_grad():
        for name in own.keys() & weights.keys():
            own[name].copy_(weights[name])


# Kinds of checkpoints


def _read_safetensors(path: str) -> Checkpoint:
    first_bytes(path, 0)
    try:
        with safe_open(path, 'pt') as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f'{path}: not a readable safetensors file, damaged or cut short ({error})') from error
    try:
        card = json.loads(metadata.get(CARD, 'null'))
    except ValueError as error:
        raise UserError(f'{path}: its model card is damaged: {error}') from error
    card = None if card is None else ModelCard.from_dict(card, path)
    return Checkpoint(path, 'safetensors', _own_names(path, weights), card=card)


def _read_composer(path: str, state: Mapping[str, Any]) -> Checkpoint:
    model = _own_names(path, state['model'])
    raw, ema = model, None
    values = dict(state.get('algorithms') or ()).get('EMA') or {}
    # EMA swaps the average into the model while Composer evaluates and saves, and holds the model's own weights
    # meanwhile. Until it starts it holds the initial weights.
    if values.get('ema_model') and values.get('ema_started', True):
        active = bool(values.get('ema_weights_active'))
        if 'training_model' in values:  # before Composer 0.13 it held both
            held = values['training_model' if active else 'ema_model']
        else:
            held = {**values['ema_model']['named_parameters_dict'], **values['ema_model']['named_buffers_dict']}
        held = _completed(path, held, model)
        raw, ema = (held, model) if active else (model, held)
    card = dict(state.get('callbacks') or {}).get('Describe')
    timestamp = dict(state.get('timestamp') or {})
    timestamp = timestamp.get('Timestamp', timestamp)
    epoch, batch = (int(timestamp.get(unit, 0)) for unit in ('epoch', 'batch'))
    return Checkpoint(path, 'composer', raw, ema, ModelCard.from_dict(card, path) if card else None, epoch, batch)


def _read_state_dict(path: str, content: Mapping[str, Any]) -> Checkpoint:
    """A state dict, alone or inside ``state_dict`` or ``model``; mmsegmentation's with what stands beside it."""
    inside = next((content[key] for key in ('state_dict', 'model') if isinstance(content.get(key), Mapping)), content)
    weights, ema = _own_names(path, inside), None
    if not any('decode_head.' in name for name in inside):
        return Checkpoint(path, 'state_dict', weights)
    if 'ema_state_dict' in content:  # mmengine saves the average as the state dict, and the model's own weights here
        held = {name: value for name, value in content['ema_state_dict'].items() if name.startswith('module.')}
        weights, ema = _completed(path, held, weights), weights
    meta = content.get('meta') or {}
    return Checkpoint(path, 'mmsegmentation', weights, ema, infer_card(weights, meta), batch=int(meta.get('iter', 0)))


def infer_card(weights: Mapping[str, Tensor], meta: Mapping[str, Any]) -> ModelCard | None:
    """The network that these weights of mmsegmentation's fit, with its deep-stem ResNets; None where there is none."""
    parts = {name.split('.')[1] for name in weights if name.startswith('classifier.')}
    architecture = next((name for name, needed in HEAD_PARTS.items() if needed <= parts), None)
    logits = weights.get('classifier.conv_seg.weight')  # num_classes, head_channels, 1, 1
    if architecture is None or logits is None or logits.ndim != 4:
        return None
    # mmengine has them in ``dataset_meta`` and small letters, mmcv before it had CLASSES and PALETTE.
    known = {str(key).lower(): value for key, value in {**meta, **(meta.get('dataset_meta') or {})}.items()}
    classes = tuple(str(name).strip() for name in known.get('classes') or ())
    dataset = next((name for name, layout in LAYOUTS.items() if layout.classes == classes), '')
    config = str(known.get('config', known.get('cfg')))
    has_auxiliary = any(name.startswith('auxiliary.') for name in weights)
    backbones = [name for name in BACKBONES if name.startswith('resnetv1c')]
    for backbone_arch, auxiliary in product(backbones, (True, False) if has_auxiliary else (False,)):
        card = ModelCard(
            architecture=architecture,
            num_classes=logits.shape[0],
            backbone_arch=backbone_arch,
            head_channels=logits.shape[1],
            auxiliary=auxiliary,
            class_names=classes,
            palette=_colors(known.get('palette')),
            dataset=dataset,
            label_offset=LAYOUTS[dataset].label_offset if dataset else int('reduce_zero_label=True' in config),
        )
        with torch.device('meta'):
            network = build_network(**card.network_arguments())
        if not list(_faults(network.state_dict(), weights)):
            return card
    return None


def _colors(palette: Any) -> tuple[Any, ...]:
    try:
        return tuple((int(red), int(green), int(blue)) for red, green, blue in palette)
    except (TypeError, ValueError):  # there is none, or it is 'random'
        return ()


# Names and shapes


def _own_names(path: str, weights: Any) -> dict[str, Tensor]:
    """Copies, which need the file no longer, under a SegmentationNetwork's names."""
    if not isinstance(weights, Mapping) or not weights:
        raise UserError(f'{path}: holds {_a(weights)} where the weights should be')
    for name, value in weights.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise UserError(f'{path}: not a state dict, {name!r} in it is {_a(value)} and not a tensor')
    return {_own_name(name): value.detach().clone() for name, value in weights.items()}


def _own_name(name: str) -> str:
    """Without what DDP, ComposerClassifier (``module.``) and torch.compile (``_orig_mod.``) put around a network."""
    name = re.sub(r'^(module\.)+', '', name.replace('_orig_mod.', ''))
    for theirs, ours in RENAMED.items():
        name = ours + name.removeprefix(theirs) if name.startswith(theirs) else name
    return name


def _completed(path: str, held: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What an average holds, and the model's weights where it holds none (frozen parameters)."""
    return {**model, **{name: value for name, value in _own_names(path, held).items() if name in model}}


def _a(value: Any) -> str:
    empty = 'an empty' if isinstance(value, Mapping) and not value else 'a'
    return f'{empty} {type(value).__name__}'


def _faults(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> Iterator[str]:
    """What does not fit: how many tensors, and the first three. An auxiliary head that only one has is no fault."""
    auxiliary = [{name for name in tensors if name.startswith('auxiliary.')} for tensors in (own, weights)]
    left_out = set() if all(auxiliary) else set.union(*auxiliary)

    def describe(name: str) -> str:
        shapes = [str(tuple(one[name].shape)) if name in one else 'not there' for one in (weights, own)]
        return f'{name}: {shapes[0]} in the file, {shapes[1]} in the network'

    for fault, names in {
        'missing': [name for name in own if name not in weights and not name.endswith('num_batches_tracked')],
        'not known': [name for name in weights if name not in own],
        'of another shape': [name for name in own if name in weights and own[name].shape != weights[name].shape],
    }.items():
        if names := [name for name in names if name not in left_out]:
            count = '1 tensor is' if len(names) == 1 else f'{len(names)} tensors are'
            yield f'{count} {fault} ({", ".join(map(describe, names[:3]))}{", …" if len(names) > 3 else ""})'
