"""Lets mmsegmentation be imported where mmcv has no compiled ops (mmcv-lite)."""

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import NoReturn

EXTENSION = 'mmcv._ext'


class MissingOps(ModuleType):
    """Has every op mmcv looks for at import; an op fails once it is called."""

    def __init__(self, name: str):
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, loader=None)  # by the missing loader mmengine knows that nothing is compiled

    def __getattr__(self, name: str):
        if name.startswith('__'):  # Python's own questions about a module, such as __path__
            raise AttributeError(f'module {self.__name__!r} has no attribute {name!r}')

        def op(*args: object, **kwargs: object) -> NoReturn:
            raise RuntimeError(
                f'mmcv.ops: {name} needs the compiled mmcv, and mmcv-lite is installed. Get it with: make mmcv-ops'
            )

        op.__name__ = op.__qualname__ = name
        return op


def ensure_ops() -> None:
    """Call before importing ``mmseg.models``. A compiled mmcv is left alone, also one that fails to load."""
    if EXTENSION not in sys.modules and importlib.util.find_spec(EXTENSION) is None:
        sys.modules[EXTENSION] = MissingOps(EXTENSION)
