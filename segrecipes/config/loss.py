"""The losses of a config: two of them have a key of their own too; and what is wrong with them."""

import math
from typing import Any

from omegaconf import DictConfig, OmegaConf

from segrecipes.base.errors import UserError, suggestion
from segrecipes.config.schema import Config, ModelConfig
from segrecipes.data.frequency import WEIGHTINGS

# By the name in model.loss the key in model, as MosaicML's example has it
KEYS = {'cross_entropy': 'cross_entropy_weight', 'dice': 'dice_weight'}

# Composer's algorithms after which a pixel has no single label
SOFT = ('labelsmoothing', 'cutmix')


def with_one_weight(config: DictConfig, layer: DictConfig, source: str, sources: dict[str, str]) -> DictConfig:
    """The config with both names of a weight at what ``layer``, merged into it last, calls by either of them.

    Raises:
        UserError: it has both, and they differ.
    """
    model = layer.get('model') or {}
    named = model.get('loss') or {}
    for name, key in KEYS.items():
        new, old = config.model.loss.get(name), config.model[key]
        if name in named and key in model and new != old:
            raise UserError(
                f'{source}: model.loss.{name}={new} and model.{key}={old} are two names of one weight; set one of them'
            )
        if name in named:
            sources[f'model.{key}'] = source
            config = _merged(config, {key: new})
        elif key in model and new is not None:
            sources[f'model.loss.{name}'] = source
            config = _merged(config, {'loss': {name: old}})
    return config


def _merged(config: DictConfig, model: dict[str, Any]) -> DictConfig:
    return OmegaConf.merge(config, {'model': model})  # type: ignore[return-value]


def check_loss(config: Config) -> list[str]:
    """What is wrong with the losses, a line each."""
    model, weights = config.model, config.model.loss_weights
    faults = [
        f'model.loss.{name} is not known.{suggestion(name, ModelConfig().loss_weights)}'
        for name in weights.keys() - ModelConfig().loss_weights
    ]
    faults += [
        f'{f"model.loss.{name}" if name in model.loss else f"model.{KEYS[name]}"}={weight} must be 0 or more'
        for name, weight in weights.items()
        if not 0 <= weight < math.inf
    ]
    if not any(weights.values()):
        faults.append(f'model.loss: the weights of all losses are 0; they are {", ".join(weights)}')
    if not 0 <= model.focal_gamma < math.inf:
        faults.append(f'model.focal_gamma={model.focal_gamma} must be 0 or more')
    faults += _check_class_weights(model.class_weights, model.num_classes)
    if model.ohem and not 0 < model.ohem.thresh <= 1:
        faults.append(f'model.ohem.thresh={model.ohem.thresh} is a probability, above 0 and at most 1')
    if model.ohem and model.ohem.min_kept < 1:
        faults.append(f'model.ohem.min_kept={model.ohem.min_kept} must be 1 or more')
    per_pixel = {'model.class_weights': model.class_weights is not None, 'model.ohem': model.ohem is not None}
    if not weights['cross_entropy'] and not weights['focal']:
        faults += [
            f'{key} is of no effect: it is about cross entropy and focal loss, and the weights of both are 0'
            for key, is_set in per_pixel.items()
            if is_set
        ]
    algorithms = {name.replace('_', '').lower(): name for name, given in config.algorithms.items() if given is not None}
    needs = {'model.loss.lovasz': bool(weights['lovasz']), 'model.ohem': per_pixel['model.ohem']}
    faults += [
        f'{key} needs one label a pixel, and algorithms.{algorithms[name]} makes class probabilities; take one away'
        for key, is_set in needs.items()
        for name in SOFT
        if is_set and name in algorithms
    ]
    if model.ohem and 'mixup' in algorithms:
        faults.append(
            f'model.ohem asks for the probability of the right class, and a pixel of algorithms.{algorithms["mixup"]} '
            'has two; take one away'
        )
    return faults


def _check_class_weights(given: Any, num_classes: int) -> list[str]:
    if given is None or (isinstance(given, str) and given in WEIGHTINGS):
        return []
    legal = f'null, {", ".join(WEIGHTINGS)}, or a list of {num_classes} numbers, 0 or more, one a class'
    if isinstance(given, str):
        return [f'model.class_weights={given} is not known.{suggestion(given, [*WEIGHTINGS, "null"])}']
    is_list = isinstance(given, list) and all(
        isinstance(weight, int | float) and not isinstance(weight, bool) and 0 <= weight < math.inf for weight in given
    )
    if not is_list or not any(given):
        return [f'model.class_weights={given} must be {legal}']
    if len(given) != num_classes:
        return [f'model.class_weights has {len(given)} numbers; it must be {legal}']
    return []
