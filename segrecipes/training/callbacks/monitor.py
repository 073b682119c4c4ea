"""Callbacks that watch a metric, such as Composer's EarlyStopper, find it by the name that a person gives it."""

from collections.abc import Mapping, Sequence
from typing import Any

from segrecipes.base.errors import UserError, suggestion


def with_metrics(callbacks: Mapping[str, Any], metrics: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """``{name: arguments}`` with each ``monitor`` under its full name: ``mIoU`` is ``mIoU[ade20k-ss]``.

    Args:
        metrics: their names, by the label of the loader that they are of.

    Raises:
        UserError: no such metric or label; Composer would say so after the first epoch, or never.
    """
    return {
        name: given if given is None or 'monitor' not in given else given | {'monitor': full_name(name, given, metrics)}
        for name, given in callbacks.items()
    }


def full_name(callback: str, given: Mapping[str, Any], metrics: Mapping[str, Sequence[str]]) -> str:
    label, monitor = str(given.get('dataloader_label')), str(given['monitor'])
    if label not in metrics:
        raise UserError(f'callbacks.{callback}.dataloader_label={label} is not known.{suggestion(label, metrics)}')
    for name in metrics[label]:
        if monitor.lower() in (name.lower(), name.partition('[')[0].lower()):
            return name
    hint = suggestion(monitor, metrics[label]) if metrics[label] else ' There is none: set train_metrics=true.'
    raise UserError(f'callbacks.{callback}.monitor={monitor} is no metric of dataloader_label={label}.{hint}')
