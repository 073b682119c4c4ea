"""The pictures below a folder, and paths of them: strings from that folder, with ``/`` between their parts."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from segrecipes.base.files import IMAGE_SUFFIXES

MASK_SUFFIXES = IMAGE_SUFFIXES | {'.gif'}


def find_pictures(root: Path) -> list[str]:
    """All of them below a folder, sorted. Hidden files, and what macOS adds to archives, are none."""
    found, visited = [], set()
    for folder, folders, files in os.walk(root, followlinks=True):
        place = Path(folder).resolve()
        known = place in visited
        visited.add(place)
        folders[:] = [] if known else sorted(name for name in folders if name[0] != '.' and name != '__MACOSX')
        found += [
            (Path(folder) / name).relative_to(root).as_posix()
            for name in files
            if not known and name[0] != '.' and PurePosixPath(name).suffix.lower() in MASK_SUFFIXES
        ]
    return sorted(found)


def describe(pictures: Sequence[str], most: int = 8) -> str:
    """``12 .jpg in photos/ (a.jpg, …)`` of each folder."""
    said = []
    for folder, names in by_folder(pictures).items():
        suffixes = ', '.join(f'{n} {suffix}' for suffix, n in Counter(PurePosixPath(n).suffix for n in names).items())
        said.append(f'{suffixes} in {folder}/ ({PurePosixPath(names[0]).name}{", …" if len(names) > 1 else ""})')
    return '; '.join(said[:most]) + (f'; and {len(said) - most} more folders' if len(said) > most else '')


def by_folder(names: Iterable[str]) -> dict[str, list[str]]:
    folders: dict[str, list[str]] = defaultdict(list)
    for name in names:
        folders[str(PurePosixPath(name).parent)].append(name)
    return folders


def common_parts(names: Iterable[str]) -> tuple[str, ...]:
    """The folders that all paths begin with."""
    folders = [PurePosixPath(name).parts[:-1] for name in names]
    first, last = min(folders), max(folders)
    return first[: same(first, last)]


def spread(names: Sequence[str], count: int) -> list[str]:
    """At most so many of them, evenly from all."""
    places: list[int] = np.linspace(0, len(names) - 1, min(count, len(names))).round().astype(int).tolist()
    return [names[place] for place in places]


def same(first: Sequence[str], second: Sequence[str]) -> int:
    """How many of the leading entries two sequences share."""
    return next((i for i, (a, b) in enumerate(zip(first, second)) if a != b), min(len(first), len(second)))
