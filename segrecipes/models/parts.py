"""Parts of a network by name, such as ``backbone``, ``backbone.layer1`` or ``classifier``."""

from collections.abc import Iterable

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from segrecipes.base.errors import unknown_name

THEIRS = {'decode_head': 'classifier', 'auxiliary_head': 'auxiliary'}  # mmsegmentation's names


def own_name(part: str) -> str:
    """The name here of a part that may have mmsegmentation's."""
    first, dot, rest = part.partition('.')
    return THEIRS.get(first, first) + dot + rest


def is_in(name: str, part: str) -> bool:
    """Whether a parameter or module lies in a part, both by their names in a network."""
    return f'{name}.'.startswith(f'{own_name(part)}.')


def check_parts(network: nn.Module, parts: Iterable[str], key: str) -> None:
    """
    Raises:
        UserError: one of them has no parameter; ``key`` is the config's.
    """
    names = [name for name, _ in network.named_parameters()]
    for part in parts:
        if not any(is_in(name, part) for name in names):
            legal = {'.'.join(name.split('.')[:depth]) for name in names for depth in (1, 2)}
            raise unknown_name(key, part, legal)


def freeze(network: nn.Module, parts: Iterable[str]) -> list[nn.Module]:
    """Take the gradients of these parts away; returns their batch norms, which are to stay in evaluation mode."""
    parts = [*parts]
    for name, parameter in network.named_parameters():
        if any(is_in(name, part) for part in parts):
            parameter.requires_grad_(False)
    return [
        module
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm) and any(is_in(name, part) for part in parts)
    ]
