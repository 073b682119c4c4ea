"""Files of ``torch.save`` read without running code in them, and a check of those that Composer is to load."""

import ast
import pickle
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import composer.algorithms
import torch
from torch.serialization import safe_globals

from segrecipes.base.errors import MissingPathError, UserError


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

READABLE = HARMLESS | UNREAD
ZIP = b'PK'  # what a file starts with

TRUST = (
    'If you trust where it comes from: trust_checkpoint=true, on command lines --trust-checkpoint, loads it all the '
    'same, and runs whatever code is in it.'
)


def torch_load(path: str | Path, allowed: Mapping[str, Any] = READABLE, trust: bool = False) -> Any:
    """What ``torch.save`` has written, on the CPU. Tensors stay in the file until they are used.

    Raises anything: the errors of ``torch.load``, of a damaged file too.

    Args:
        path: a local file.
        allowed: what may be in it beside weights, by name, and what is made in its place.
        trust: run the code in it.
    """
    with Path(path).open('rb') as file:
        is_zip = file.read(2) == ZIP
    with safe_globals([(stand_in, name) for name, stand_in in allowed.items()]):
        return torch.load(path, map_location='cpu', mmap=is_zip, weights_only=not trust)


def unpickled(path: str | Path, allowed: Mapping[str, Any] = READABLE, trust: bool = False) -> Any:
    """:func:`torch_load`, which runs the code in a file only if ``trust``, and it cannot be read without.

    Raises:
        MissingPathError: there is no such file.
        UserError: it is damaged, is not of ``torch.save``, or needs ``trust``.
    """
    magic = first_bytes(path, 2)
    if magic != ZIP and magic[:1] != b'\x80':  # a pickle, as torch wrote it before 1.6
        raise UserError(f'{path}: not a checkpoint of PyTorch ({"other content" if magic else "the file is empty"})')
    try:
        return torch_load(path, allowed)
    except Exception as error:  # a damaged file raises anything from EOFError to UnpicklingError
        cause, needed = error, _needed(error)
    if trust:
        try:
            return torch_load(path, allowed, trust=True)
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


def first_bytes(path: str | Path, count: int) -> bytes:
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


def check_safe(path: str | Path, trust: bool = False) -> None:
    """Refuse a file in which Composer would run code: it loads checkpoints with pickle, and evaluates strings in them.

    Raises:
        MissingPathError: there is no such file.
        UserError: it is damaged, or needs ``trust``.
    """
    if trust or is_safetensors(path):
        return
    content = unpickled(path, HARMLESS)
    state = content.get('state', {}) if isinstance(content, dict) else content
    if not isinstance(state, dict):
        raise UserError(f'{path}: holds a {type(state).__name__}, not a checkpoint of Composer')
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
