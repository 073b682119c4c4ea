"""What is set over a yaml: ``key=value`` on a command line, a mapping in Python."""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from segrecipes.base.errors import UserError
from segrecipes.config.layers import one_line

# Where a value is from, as a saved config says it
COMMAND_LINE = 'command line'
ARGUMENTS = 'arguments'

# {'optimizer.lr': 0.1}, {'optimizer': {'lr': 0.1}} and ['optimizer.lr=0.1'] say the same
Settings = Mapping[str, Any] | Sequence[str]


def as_layer(settings: Settings) -> DictConfig:
    """Nested keys; UserError for what is no setting."""
    if isinstance(settings, Mapping):
        layer = OmegaConf.create({})
        for key, value in settings.items():
            try:
                OmegaConf.update(layer, str(key), plain(value), merge=True, force_add=True)
            except OmegaConfBaseException as error:
                raise UserError(f'{key}={value!r} is no value of a config ({one_line(error)})') from error
        return layer
    if isinstance(settings, str):
        raise UserError(f'settings={settings!r} must be a mapping, or a list of key=value')
    for argument in settings:
        if '=' not in argument:
            raise UserError(f"'{argument}' is not of the form key=value, such as max_duration=10ep")
    try:
        return OmegaConf.from_dotlist(list(settings))
    except Exception as error:  # yaml's own errors on a value that is not yaml
        raise UserError(f'{COMMAND_LINE}: {one_line(error)}') from error


def plain(value: Any) -> Any:
    """As a yaml has it: paths as text, numpy's numbers as Python's, mappings with dotted keys as nested ones."""
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return as_layer(value)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value.item() if hasattr(value, 'item') and getattr(value, 'ndim', None) == 0 else value
