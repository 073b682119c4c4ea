"""Composer's algorithms, callbacks, loggers, schedulers and optimizers by name, with their arguments checked."""

import inspect
import re
from collections import ChainMap
from collections.abc import Iterable, Mapping
from typing import Any

import composer.algorithms
import composer.callbacks
import composer.loggers
import composer.optim
import torch
from composer.core import Algorithm, Callback
from composer.loggers import LoggerDestination

from segrecipes.algorithms.ema import EMA
from segrecipes.algorithms.label_smoothing import LabelSmoothing
from segrecipes.algorithms.mixup import MixUp
from segrecipes.algorithms.progressive_resizing import ProgressiveResizing
from segrecipes.algorithms.sam import ResumableSAM
from segrecipes.algorithms.sgdw import DecoupledSGDW
from segrecipes.base.errors import UserError, suggestion
from segrecipes.training.callbacks.table import CALLBACKS, LOGGERS

# Names that are one word in snake case, as Composer's own modules spell them.
_COMPOUNDS = ('MixUp', 'CutMix', 'CutOut', 'ColOut', 'BlurPool', 'WandB', 'MLFlow', 'MLPerf', 'AdamW', 'SparseAdam')


def _snake(name: str) -> str:
    for compound in _COMPOUNDS:
        name = name.replace(compound, compound.capitalize())
    return re.sub(r'(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])', '_', name).lower()


def _table(module: Any, names: Iterable[str], base: type, suffix: str = '') -> dict[str, type]:
    """The subclasses of ``base`` among a module's names, by their snake-case name without ``suffix``."""
    found = {name: getattr(module, name) for name in names if name.endswith(suffix)}
    return {
        _snake(name.removesuffix(suffix)): cls
        for name, cls in found.items()
        if inspect.isclass(cls) and issubclass(cls, base) and cls is not base
    }


REGISTRY: dict[str, Mapping[str, type]] = {
    'algorithms': _table(composer.algorithms, composer.algorithms.__all__, Algorithm)
    | {
        'ema': EMA,
        'label_smoothing': LabelSmoothing,
        'mixup': MixUp,
        'progressive_resizing': ProgressiveResizing,
        'sam': ResumableSAM,
    },
    'callbacks': ChainMap(CALLBACKS, _table(composer.callbacks, composer.callbacks.__all__, Callback)),
    'loggers': ChainMap(LOGGERS, _table(composer.loggers, composer.loggers.__all__, LoggerDestination, 'Logger')),
    'scheduler': _table(
        composer.optim, set(composer.optim.__all__) - {'ComposerScheduler'}, object, suffix='Scheduler'
    ),
    'optimizer': _table(torch.optim, dir(torch.optim), torch.optim.Optimizer)
    | _table(composer.optim, composer.optim.__all__, torch.optim.Optimizer)
    | {'decoupled_sgdw': DecoupledSGDW},
}

_PLAIN_TYPES = {'int': int, 'float': (int, float), 'bool': bool, 'str': str}


def check(kind: str, specs: Mapping[str, Mapping[str, Any] | None] | None) -> list[str]:
    """Every fault in ``{name: arguments}`` of a kind, as one line each; no fault, no line."""
    faults = []
    for name, arguments in (specs or {}).items():
        if arguments is None:  # `algorithms.sam=null` takes it away
            continue
        if not isinstance(arguments, Mapping):
            faults.append(f'{kind}.{name}={arguments!r} must be a mapping of arguments, {{}} for none')
        elif find(kind, name) is None:
            faults.append(f'{kind}.{name} is not known.{suggestion(name, REGISTRY[kind])}')
        else:
            faults += _check_arguments(f'{kind}.{name}', find(kind, name), arguments)
    return faults


def build(kind: str, specs: Mapping[str, Mapping[str, Any] | None] | None) -> list[Any]:
    """The objects of ``{name: arguments}``, those set to null left out.

    Raises:
        UserError: all faults of :func:`check`, or what a constructor says of its arguments.
    """
    if faults := check(kind, specs):
        raise UserError('\n       '.join(faults))
    return [
        _construct(f'{kind}.{name}', find(kind, name), arguments)
        for name, arguments in (specs or {}).items()
        if arguments is not None
    ]


def check_one(kind: str, spec: Mapping[str, Any] | None) -> list[str]:
    """:func:`check` for ``{name: …, argument: …}``, the form of the optimizer and the scheduler."""
    if spec is None:
        return []
    if 'name' not in spec:
        return [f'{kind}.name is not set.{suggestion("", REGISTRY[kind])}']
    cls = find(kind, str(spec['name']))
    if cls is None:
        return [f'{kind}.name={spec["name"]} is not known.{suggestion(spec["name"], REGISTRY[kind])}']
    return _check_arguments(kind, cls, _arguments(spec), given=('params',))


def build_one(kind: str, spec: Mapping[str, Any] | None, *args: Any) -> Any:
    """The object of ``{name: …, argument: …}``, arguments set to null left out; None for None."""
    if faults := check_one(kind, spec):
        raise UserError('\n       '.join(faults))
    return None if spec is None else _construct(kind, find(kind, spec['name']), _arguments(spec), *args)


def _arguments(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in spec.items() if key != 'name' and value is not None}


def find(kind: str, name: str) -> Any:
    """A row by its name; underscores and case do not matter."""
    squashed = {key.replace('_', ''): cls for key, cls in REGISTRY[kind].items()}
    return squashed.get(name.replace('_', '').lower())


def _check_arguments(where: str, cls: type, arguments: Mapping[str, Any], given: tuple[str, ...] = ()) -> list[str]:
    parameters = dict(inspect.signature(cls).parameters)
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return []
    legal = [name for name in parameters if name not in given]
    faults = []
    for name, value in arguments.items():
        if name not in legal:
            faults.append(f'{where}.{name} is not an argument of {cls.__name__}.{suggestion(name, legal)}')
            continue
        annotation = parameters[name].annotation
        wanted = _PLAIN_TYPES.get(annotation if isinstance(annotation, str) else getattr(annotation, '__name__', ''))
        if wanted and (not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool)):
            faults.append(f'{where}.{name}={value!r} must be of type {getattr(annotation, "__name__", annotation)}')
    for name in legal:
        if parameters[name].default is inspect.Parameter.empty and name not in arguments:
            faults.append(f'{where}.{name} is not set and {cls.__name__} needs it')
    return faults


def _construct(where: str, cls: Any, arguments: Mapping[str, Any], *args: Any) -> Any:
    try:
        return cls(*args, **arguments)
    except ImportError as error:
        raise UserError(f'{where}: {error}') from error
    except (TypeError, ValueError) as error:
        raise UserError(f'{where}={dict(arguments)}: {error}') from error
