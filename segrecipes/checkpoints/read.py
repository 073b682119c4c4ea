"""Weights in, from any file that holds them, without running code."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from segrecipes.base.errors import UserError, unknown_name
from segrecipes.base.pickles import first_bytes, is_safetensors, unpickled
from segrecipes.checkpoints.card import CARD, ModelCard
from segrecipes.checkpoints.zoo import infer_card
from segrecipes.models.parts import own_name

CHOICES = ('best', 'ema', 'raw')


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
            raise unknown_name('weights', which, CHOICES)
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
    return own_name(re.sub(r'^(module\.)+', '', name.replace('_orig_mod.', '')))


def _completed(path: str, held: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What an average holds, and the model's weights where it holds none (frozen parameters)."""
    return {**model, **{name: value for name, value in _own_names(path, held).items() if name in model}}


def _a(value: Any) -> str:
    empty = 'an empty' if isinstance(value, Mapping) and not value else 'a'
    return f'{empty} {type(value).__name__}'
