"""Weights in, from any file that holds them, without running code."""

import ast
import json
import pickle
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import composer.algorithms
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.serialization import safe_globals

from backbones import BACKBONES
from card import ModelCard
from errors import MissingPathError, UserError, choice
from layouts import LAYOUTS
from model import SegmentationNetwork, build_network

CHOICES = ('best', 'ema', 'raw')
RENAMED = {'decode_head.': 'classifier.', 'auxiliary_head.': 'auxiliary.'}  # mmsegmentation's names

# What mmsegmentation's decode heads have that tells them apart, the one that has more first.
HEAD_PARTS = {
    'deeplabv3plus': {'aspp_modules', 'c1_bottleneck'},
    'deeplabv3': {'aspp_modules'},
    'upernet': {'psp_modules', 'fpn_convs'},
    'pspnet': {'psp_modules'},
}


class Inert:
    """Stands in for what a file names and nobody needs: takes any arguments and state, and does nothing with them."""

    def __new__(cls, *args: Any) -> 'Inert':
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        pass


class InertNumber(Inert):
    """For ``numpy.dtype``, of numbers only: with objects, numpy could be made to take bytes for addresses."""

    def __new__(cls, code: str, *args: Any) -> Inert:
        if not re.fullmatch(r'[biufc]\d+', code):
            raise pickle.UnpicklingError(f'unrecognized function numpy.dtype({code!r})')
        return super().__new__(cls)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[2:] != (None, None, None, -1, -1, 0):  # no parts, no metadata, no flags
            raise pickle.UnpicklingError(f'unrecognized function numpy.dtype with state {state}')


class InertArray(Inert):
    """For ``numpy.ndarray``, an argument of ``_reconstruct``; called it would take any bytes for its elements."""

    def __new__(cls, *args: Any) -> Inert:
        raise pickle.UnpicklingError('unrecognized function numpy.ndarray called by name')


# What torch does not allow by itself and checkpoints of Composer have. Where Composer loads a file that names no more
# than this, with pickle and so the real ones, they make a value out of values: none of them imports, looks up, opens
# or calls what the file wants.
HARMLESS: dict[str, Any] = {
    # The metadata's torch version, a str, and the timestamps' amounts of time.
    'torch.torch_version.TorchVersion': Inert,
    'datetime.timedelta': Inert,
    # States of optimizers; of a defaultdict's factories only these two are there.
    'collections.defaultdict': defaultdict,
    'builtins.dict': dict,
    'builtins.list': list,
    # Arrays and scalars of numbers, of the random state and of logs, under numpy 2's and numpy 1's names.
    'numpy.dtype': InertNumber,
    'numpy.ndarray': InertArray,
    **{f'numpy.{core}.multiarray.{name}': Inert for core in ('_core', 'core') for name in ('_reconstruct', 'scalar')},
}

# Of mmengine's logs: a class, and the ``getattr`` by which pickle finds its methods. Harmless as stand-ins only.
UNREAD = {'mmengine.logging.history_buffer.HistoryBuffer': Inert, 'builtins.getattr': Inert}

TRUST = (
    'If you trust where it comes from: trust_checkpoint=true, on command lines --trust-checkpoint, loads it all the '
    'same, and runs whatever code is in it.'
)


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
    content = _load(path, HARMLESS | UNREAD, trust)
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


def check_safe(path: str | Path, trust: bool = False) -> None:
    """Refuse a file in which Composer would run code: it loads checkpoints with pickle, and evaluates strings in them.

    Raises:
        MissingPathError: there is no such file.
        UserError: it is damaged, or needs ``trust``.
    """
    if trust or is_safetensors(path):
        return
    content = _load(path, HARMLESS)
    state = content.get('state', {}) if isinstance(content, dict) else content
    if not isinstance(state, dict):
        raise UserError(f'{path}: holds {_a(state)}, not a checkpoint of Composer')
    # composer.core.State evaluates the ``repr`` of those of Composer's own algorithms that change the network.
    algorithms = state.get('algorithms')
    for entry in algorithms if isinstance(algorithms, list) else ():
        name, values = entry if isinstance(entry, (tuple, list)) and len(entry) == 2 else (None, None)
        if not isinstance(name, str) or not isinstance(values, dict):
            raise UserError(f'{path}: its algorithms are not in the form of a Composer checkpoint')
        required_on_load = getattr(getattr(composer.algorithms, name, None), 'required_on_load', None)
        if required_on_load and required_on_load() and not _is_plain_call(name, values.get('repr')):
            raise UserError(
                f'{path}: to rebuild the algorithm {name} Composer would run {str(values.get("repr"))[:100]!r}, which '
                f'is more than a name and plain values. {TRUST}'
            )


def is_safetensors(path: str | Path) -> bool:
    return Path(path).suffix.lower() == '.safetensors'


# Files


def _load(path: str | Path, allowed: Mapping[str, Any], trust: bool = False) -> Any:
    """What ``torch.save`` has written. Tensors stay in the file until they are used."""
    magic = _first_bytes(path, 2)
    if magic != b'PK' and magic[:1] != b'\x80':  # a zip, or a pickle as torch wrote it before 1.6
        raise UserError(f'{path}: not a checkpoint of PyTorch ({"other content" if magic else "the file is empty"})')
    options: dict[str, Any] = {'map_location': 'cpu', 'mmap': magic == b'PK'}
    with safe_globals([(stand_in, name) for name, stand_in in allowed.items()]):
        try:
            return torch.load(path, weights_only=True, **options)
        except Exception as error:  # a damaged file raises anything from EOFError to UnpicklingError
            cause, needed = error, _needed(error)
    if trust:
        try:
            return torch.load(path, weights_only=False, **options)
        except Exception as error:
            cause, needed = error, ''
    if needed:
        raise UserError(f'{path}: reading it needs {needed}, which can run code. {TRUST}') from cause
    line = str(cause).strip().partition('\n')[0][:200]
    raise UserError(f'{path}: not a readable checkpoint, damaged or cut short ({type(cause).__name__}: {line})')


def _needed(error: Exception) -> str:
    """The first thing a file asks for beyond weights, in torch's words; empty where it is not that."""
    pattern = r"GLOBAL (\w[\w.]*)|but got <class '([\w.]+)'>|(unrecognized function .+)|(Unsupported operand \d+)"
    found = re.search(pattern, str(error)) if isinstance(error, pickle.UnpicklingError) else None
    return next(filter(None, found.groups())) if found else ''


def _first_bytes(path: str | Path, count: int) -> bytes:
    path = Path(path)
    if not path.exists():
        raise MissingPathError(f'{path}: no such file')
    if path.is_dir():
        raise UserError(f'{path}: a folder, not a checkpoint file')
    try:
        with path.open('rb') as file:
            return file.read(count)
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror})') from error


# Kinds of checkpoints


def _read_safetensors(path: str) -> Checkpoint:
    _first_bytes(path, 0)
    try:
        with safe_open(path, 'pt') as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f'{path}: not a readable safetensors file, damaged or cut short ({error})') from error
    try:
        card = json.loads(metadata.get('model_card', 'null'))
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


# Strings that Composer evaluates


def _is_plain_call(name: str, text: Any) -> bool:
    """Whether ``algorithms.{text}``, as Composer evaluates it, is ``algorithms.Name(argument=literal, …)``."""
    try:
        call = ast.parse(f'algorithms.{text}', mode='eval').body
        if not isinstance(text, str) or not isinstance(call, ast.Call) or call.args:
            return False
        for keyword in call.keywords:
            ast.literal_eval(keyword.value)
    except (MemoryError, RecursionError, SyntaxError, TypeError, ValueError):
        return False
    return all(keyword.arg for keyword in call.keywords) and ast.unparse(call.func) == f'algorithms.{name}'
