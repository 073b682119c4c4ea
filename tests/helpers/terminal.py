"""A command as it looks on a terminal of some width."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Callable

from helpers.runs import ROOT, environment

ESCAPES = re.compile(r'\x1b\[[0-9;?]*[A-Za-z]')


def on_terminal(*command: str, columns: int = 80, watch: Callable[[str, int], None] | None = None) -> tuple[str, int]:
    """All that the command wrote to its terminal, and its exit status.

    ``watch`` is called with what has been written so far, and the process's id, whenever there is more.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack('HHHH', 24, columns, 0, 0))
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs, env=environment(), start_new_session=True
    )
    os.close(theirs)
    written = b''
    try:
        while chunk := read(ours):
            written += chunk
            if watch is not None:
                watch(written.decode(errors='replace'), process.pid)
        return written.decode(), process.wait(timeout=60)
    finally:
        os.close(ours)
        process.kill()


def read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 2**16)
    except OSError:  # on Linux, of a terminal that nobody has open any more
        return b''


def screen(written: str) -> list[str]:
    """The lines that stay: what follows a carriage return is written over the start of its line."""
    lines = []
    for line in ESCAPES.sub('', written).replace('\r\n', '\n').split('\n'):
        shown = ''
        for part in line.split('\r'):
            shown = part + shown[len(part) :]
        lines.append(shown.rstrip())
    return lines


def drawn(written: str) -> list[str]:
    """All that was ever on one line."""
    return re.split(r'[\r\n]+', ESCAPES.sub('', written))
