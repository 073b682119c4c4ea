"""Commands as they would be typed again, from how this one was."""

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path


def command(*arguments: object) -> str:
    """A verb of this package and its arguments, for a shell."""
    program = ['segrecipes'] if shutil.which('segrecipes') else ['python', '-m', 'segrecipes']
    return shlex.join([*program, *map(str, arguments)])


def this_command(*more: str, argv: Sequence[str] | None = None) -> str:
    """The command that this process was started by, and more ``key=value``, which win over its own."""
    program, *arguments = sys.argv if argv is None else argv
    keys = {setting.partition('=')[0] for setting in more}
    words = [*(word for word in arguments if word.partition('=')[0] not in keys), *more]
    ranks = os.environ.get('LOCAL_WORLD_SIZE', '1')  # Composer sets it where it was started without its launcher, too
    launcher = ['composer', '-n', ranks] if int(os.environ.get('WORLD_SIZE', '1')) > 1 else []
    name = Path(program).name
    if name == '__main__.py':
        start = [*launcher, '-m', 'segrecipes'] if launcher else ['python', '-m', 'segrecipes']
    elif name.endswith('.py'):
        start = [*(launcher or ['python']), program]
    else:
        start = [*launcher, '-c', name] if launcher else [name]
    return shlex.join([*start, *words])
