"""What a table names and is imported only when it is used."""

from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any


@dataclass(frozen=True)
class Lazy:
    """A function by its place, ``package.module:name``, with its first arguments.

    Tables of these are read in a moment, by ``--help`` too: torch takes seconds to import.
    """

    place: str
    arguments: tuple[Any, ...] = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return resolve_name(self.place)(*self.arguments, *args, **kwargs)
