"""Streaming's shared memory, a part of its numbers for each process of pytest-xdist.

Streaming numbers from 0, goes past numbers that a lock file in the temporary folder claims, and cleans up all there is.
"""

import os
import tempfile
from pathlib import Path

SHARED_MEMORY = Path('/dev/shm')
WORKER = int(os.environ.get('PYTEST_XDIST_WORKER', 'gw0').removeprefix('gw'))
NUMBERS = 100


def sweep() -> None:
    """What StreamingDatasets of this process have left behind, in memory and as locks."""
    for place in (SHARED_MEMORY, Path(tempfile.gettempdir())):
        for file in place.glob('[0-9][0-9][0-9][0-9][0-9][0-9]_*'):
            if int(file.name[:6]) // NUMBERS == WORKER:
                file.unlink(missing_ok=True)
