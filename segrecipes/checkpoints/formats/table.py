"""Formats that a network is exported to, by name: one row each, and a file of that name beside this one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segrecipes.base.errors import MissingPathError, UserError
from segrecipes.base.lazy import Lazy


@dataclass(frozen=True)
class Format:
    """
    Args:
        module: the file with ``save(network, card, path)``, ``load(path)``, which gives the network as a function, and
            ``read_card(path)``, which gives the card's JSON without running what is in the file.
        is_program: the file brings its own code, and is not built anew from its card.
        runs_code: loading it may run any code in it.
    """

    suffix: str
    module: str
    is_program: bool = True
    runs_code: bool = False

    def _lazy(self, name: str) -> Any:
        return Lazy(f'segrecipes.checkpoints.formats.{self.module}:{name}')

    @property
    def save(self) -> Any:
        return self._lazy('save')

    @property
    def load(self) -> Any:
        return self._lazy('load')

    @property
    def read_card(self) -> Any:
        return self._lazy('read_card')


FORMATS = {
    'onnx': Format('.onnx', 'onnx'),
    'torch.export': Format('.pt2', 'program', runs_code=True),
    'safetensors': Format('.safetensors', 'safetensors', is_program=False),
}


def format_of(path: str | Path) -> tuple[Format, Path]:
    """The row of ``FORMATS`` by the suffix of a file that exists."""
    path = Path(path)
    for form in FORMATS.values():
        if path.suffix == form.suffix:
            if not path.is_file():
                raise MissingPathError(f'{path}: no such file')
            return form, path
    raise UserError(f'{path}: not an exported file. Legal: {", ".join(form.suffix for form in FORMATS.values())}.')
