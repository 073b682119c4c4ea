"""The optimizer of a run, and the groups of parameters with a learning rate and a weight decay of their own."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from segrecipes.base.errors import UserError
from segrecipes.config.schema import GROUPING
from segrecipes.models.parts import check_parts, is_in, own_name
from segrecipes.training import registry


def check_optimizer(spec: Mapping[str, Any]) -> list[str]:
    """Every fault in ``{name: …, argument: …, lr_factors: …, decay_norms_and_biases: …}``, as one line each."""
    faults = registry.check_one('optimizer', _arguments(spec))
    factors, decay = spec.get('lr_factors'), spec.get('decay_norms_and_biases')
    if not isinstance(factors, Mapping | None):
        faults.append(f'optimizer.lr_factors={factors!r} must be a mapping of parts, such as {{backbone: 0.1}}')
        factors = None
    for part, factor in _flat(factors or {}).items():
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor < float('inf'):
            faults.append(
                f'optimizer.lr_factors.{part}={factor!r} must be a positive number; model.freeze=[{part}] does not '
                'train a part at all'
            )
    if not isinstance(decay, bool | None):
        faults.append(f'optimizer.decay_norms_and_biases={decay!r} must be true or false')
    return faults


def build_optimizer(spec: Mapping[str, Any], network: nn.Module) -> Optimizer:
    """The optimizer of what is to be trained of a network.

    The learning rate of a parameter is ``lr`` times the factor of the longest part of ``lr_factors`` that it lies in;
    a schedule scales all of them alike. Without ``decay_norms_and_biases`` nothing of one dimension is decayed.

    Raises:
        UserError: what :func:`check_optimizer` says, a part that the network does not have, nothing to train.
    """
    if faults := check_optimizer(spec):
        raise UserError('\n       '.join(faults))
    factors = _flat(spec.get('lr_factors') or {})
    check_parts(network, factors, 'optimizer.lr_factors')
    decays = spec.get('decay_norms_and_biases') is not False
    trained = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    if not trained:
        raise UserError('model.freeze leaves no parameter to train')
    if not factors and decays:
        return registry.build_one('optimizer', _arguments(spec), trained.values())
    grouped: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in trained.items():
        part = max((part for part in factors if is_in(name, part)), key=lambda part: len(own_name(part)), default=None)
        key = 1.0 if part is None else factors[part], decays or parameter.ndim > 1
        grouped.setdefault(key, []).append(parameter)
    takes = inspect.signature(registry.find('optimizer', spec['name'])).parameters
    groups = [
        {'params': parameters}
        | ({'lr': factor * _learning_rate(spec, takes)} if factor != 1 else {})
        | ({} if decayed or 'weight_decay' not in takes else {'weight_decay': 0.0})
        for (factor, decayed), parameters in grouped.items()
    ]
    return registry.build_one('optimizer', _arguments(spec), groups)


def _arguments(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in spec.items() if key not in GROUPING}


def _flat(factors: Mapping[str, Any]) -> dict[str, Any]:
    """``lr_factors.backbone.layer1=0.1`` on a command line is a mapping in a mapping."""
    flat = {}
    for part, factor in factors.items():
        inner = _flat(factor) if isinstance(factor, Mapping) else {'': factor}
        flat |= {f'{part}.{name}'.rstrip('.'): value for name, value in inner.items()}
    return flat


def _learning_rate(spec: Mapping[str, Any], takes: Mapping[str, inspect.Parameter]) -> float:
    """The one that is set, or the optimizer's own."""
    lr = spec.get('lr')
    lr = takes['lr'].default if lr is None and 'lr' in takes else lr
    if not isinstance(lr, int | float):
        raise UserError('optimizer.lr_factors needs optimizer.lr')
    return lr
