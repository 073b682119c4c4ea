"""What the user got wrong: one message without a traceback, and an exit status other than 0."""

import functools
import sys
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import ParamSpec

P = ParamSpec('P')


class UserError(ValueError):
    """Wrong input. The message names the key, file or value and the legal choice."""


class MissingPathError(UserError, FileNotFoundError):
    """A file or folder that should exist and does not."""

    __str__ = ValueError.__str__


def suggestion(value: object, legal: Iterable[str]) -> str:
    """`` Did you mean 'x'? Legal: x, y.`` from the table's own names."""
    names = sorted(legal)
    close = get_close_matches(str(value), names, n=1) or [name for name in names if name.startswith(f'{value}_')]
    hint = f" Did you mean '{close[0]}'?" if close else ''
    return f'{hint} Legal: {", ".join(names)}.'


def unknown_name(key: str, value: object, legal: Iterable[str]) -> UserError:
    """The error for a name that is in no table."""
    return UserError(f'{key}={value} is not known.{suggestion(value, legal)}')


def clean_exit(function: Callable[P, object]) -> Callable[P, None]:
    """Turn a UserError of a command-line entry point into ``error: …`` on stderr and exit status 1."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            function(*args, **kwargs)
        except UserError as error:
            print(f'error: {error}', file=sys.stderr)
            sys.exit(1)
        except KeyboardInterrupt:
            sys.exit(130)

    return run
