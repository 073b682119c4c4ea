"""Evaluation protocols by name: what a network is shown of an image, and how its logits become labels of its pixels."""

from collections import ChainMap
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from segrecipes.base.errors import unknown_name
from segrecipes.base.lazy import Lazy

if TYPE_CHECKING:
    from segrecipes.evaluation.protocols import EvalProtocol

# Each makes an EvalProtocol for a size, and a stride of windows, in pixels; the literature's size is 512
PROTOCOLS: dict[str, Callable[..., Any]] = {
    'mosaic-512sq': Lazy('segrecipes.evaluation.protocols:mosaic_512sq'),
    'ade20k-ss': Lazy('segrecipes.evaluation.protocols:ade20k_ss'),
    'ade20k-ms': Lazy('segrecipes.evaluation.protocols:ade20k_ms'),
    'slide': Lazy('segrecipes.evaluation.protocols:slide'),
}
# The same under names that speak of no dataset; a result is called as it was asked for
ALIASES: dict[str, Any] = {'fit-ss': 'ade20k-ss', 'fit-ms': 'ade20k-ms'}
NAMES: ChainMap[str, Any] = ChainMap(ALIASES, PROTOCOLS)
USUAL = 'ade20k-ss'  # of a picture that is segmented for its own sake


def without_alias(name: str) -> str:
    """``ade20k-ss@192`` of ``fit-ss@192``, which is the same."""
    name, at, size = name.partition('@')
    return f'{ALIASES.get(name, name)}{at}{size}'


def get_protocol(name: str, size: int = 512, stride: int | None = None) -> 'EvalProtocol':
    """The protocol of that name for images of ``size`` pixels; ``stride`` is that of the windows."""
    if name not in NAMES:
        raise unknown_name('eval_protocol', name, NAMES)
    if name in ALIASES:
        return replace(PROTOCOLS[ALIASES[name]](size, stride), name=name)
    return PROTOCOLS[name](size, stride)
