"""Which images train and which validate: as folders or list files say, else by shares."""

import glob
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from segrecipes.base.errors import UserError
from segrecipes.datasets.row import DatasetRow, Split, place, uid_of
from segrecipes.storage.survey.pictures import by_folder

WORDS = {
    'train': ('train', 'training'),
    'val': ('val', 'valid', 'validation', 'dev'),
    'test': ('test', 'testing'),
}
LIST_SUFFIXES = ('.txt', '.lst')
SHARE = 0.8  # trains, of images that nothing divides
NEAR = (0.1, 0.3)  # of the images validate, for that share to be taken as it is

# A folder a patient, or film1_0001.png: what should stay together, in the order in which it is looked for
FRAME = r'([^/]*[A-Za-z][^/]*)[_-][A-Za-z]{0,2}\d{2,}\.\w+$'
FEWEST_GROUPS = 4


@dataclass(frozen=True)
class Division:
    """The splits, and what else of the row they need."""

    splits: dict[str, Split]
    reason: str
    group: str | None = None
    excluded: dict[str, frozenset[str]] = field(default_factory=dict)


def find_division(root: Path, images: Sequence[str], unmasked: Sequence[str], row: DatasetRow) -> Division:
    """The splits.

    Args:
        images: those with a mask, by their paths below ``root``.
        unmasked: those without, which a list may name all the same.
        row: what is known of the dataset, by which an image has its uid.

    Raises:
        UserError: too few images for two splits.
    """
    if len(images) < 2:
        raise UserError(f'{root}: one image with a mask is not enough: one to train on and one to validate are needed')
    return by_folders(images, row) or by_lists(root, images, unmasked, row) or by_share(images, row)


def by_folders(images: Sequence[str], row: DatasetRow) -> Division | None:
    """``images/train`` and ``images/val``, or ``train/images`` and ``val/images``."""
    found: dict[str, list[str]] = {split: [] for split in WORDS}
    for name in images:
        if split := split_of(name):
            found[split].append(name)
    outside = len(images) - sum(map(len, found.values()))
    if not found['train'] or not (found['val'] or found['test']) or outside > len(images) / 2:
        return None
    rest = f'; {outside} images in none of these folders are left out' if outside else ''
    folders = {split: Split(glob_of(names)) for split, names in found.items() if names}
    if 'val' in folders:
        said = ', '.join(f'{split} {images.images}' for split, images in folders.items())
        return Division(folders, f'folders are called so: {said}{rest}')
    shared = by_share(found['train'], row, 'there are folders for train and test, none for val')
    splits = {**shared.splits, 'test': folders['test']}
    return replace(shared, splits=splits, reason=f'{shared.reason}; test stays apart{rest}')


def split_of(name: str) -> str | None:
    """The split whose word stands in a path's folders."""
    words = re.findall('[a-z]+?(?=annot)|[a-z]+', str(PurePosixPath(name).parent).lower())
    return next((split for split, known in WORDS.items() if any(word in known for word in words)), None)


def by_lists(root: Path, images: Sequence[str], unmasked: Sequence[str], row: DatasetRow) -> Division | None:
    """``train.txt`` and ``val.txt`` whose lines name images; of several such pairs the one with the most lines."""
    called: dict[str, str] = {}
    for name in (*unmasked, *images):
        path = PurePosixPath(name)
        called |= dict.fromkeys((path.stem, path.name, str(path.with_suffix('')), name), name)
    folders = by_folder(
        path.relative_to(root).as_posix() for suffix in LIST_SUFFIXES for path in sorted(root.rglob(f'*{suffix}'))
    )
    candidates = []
    for files in folders.values():
        lists: dict[str, tuple[str, set[str]]] = {}
        for file in files:
            split = split_named(PurePosixPath(file).stem)
            lines = [line.strip() for line in read_lines(root / file) if line.strip()] if split else []
            named = {called[line] for line in lines if line in called}
            if split and all(line in called for line in lines) and 2 * len(named & {*images}) > len(named):
                lists.setdefault(split, (file, named))
        if 'val' in lists or {'train', 'test'} <= lists.keys():
            candidates.append(lists)
    if not candidates:
        return None
    lists = max(candidates, key=lambda lists: sum(len(names) for _, names in lists.values()))
    images_glob = glob_of(images)
    splits = {split: Split(images_glob, file) for split, (file, _) in lists.items()}
    said = ', '.join(f'{file} names {len(names)}' for file, names in lists.values())
    rest = len({*images} - set().union(*(names for _, names in lists.values())))
    if 'val' not in splits:  # test is the only one that was kept from training
        splits['val'] = splits.pop('test')
        return Division(splits, f'{said}; no list of val, so test validates; {rest} images in no list are left out')
    if 'train' not in splits:
        uids = frozenset(uid_of(row, name) for _, names in lists.values() for name in names)
        splits = {'train': Split(images_glob), **splits}
        return Division(splits, f'{said}; all others train, by excluded', excluded={'train': uids})
    return Division(splits, said + (f'; {rest} images in no list are left out' if rest else ''))


def split_named(stem: str) -> str | None:
    """``train``, ``train_list``, ``valid``, but not ``trainval``."""
    words = re.findall('[a-z]+', stem.lower())
    found = {split for split, known in WORDS.items() if any(word in known for word in words)}
    return found.pop() if len(found) == 1 else None


def read_lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding='utf-8').splitlines()
    except (OSError, UnicodeDecodeError):
        return []


def by_share(images: Sequence[str], row: DatasetRow, given: str = 'no folder and no list says it') -> Division:
    """Shares by the hash of each name, or of its group; near enough to four fifths in images, not in names alone."""
    group, why = group_of(images)
    row = replace(row, group=group)
    places = [place(row.group_of(name) or uid_of(row, name)) for name in images]
    starts = sorted((start / 100 for start in range(1, 100)), key=lambda start: abs(start - SHARE))
    validating = {start: sum(where >= start for where in places) for start in starts}
    legal = [start for start in starts if 0 < validating[start] < len(images)]
    if not legal:
        raise UserError(f'{len(images)} images cannot be split by share: {why}. Make folders train and val of them')
    near = [start for start in legal if NEAR[0] <= validating[start] / len(images) <= NEAR[1]]
    start = near[0] if near else min(legal, key=lambda start: abs(validating[start] / len(images) - 1 + SHARE))
    pattern = glob_of(images)
    splits = {'train': Split(pattern, share=(0.0, start)), 'val': Split(pattern, share=(start, 1.0))}
    moved = '' if start == SHARE else f'; at {start} and not at {SHARE}, for about a fifth of the images to validate'
    return Division(splits, f'{given}: shares by a hash of the name; {why}{moved}', group)


def group_of(images: Sequence[str]) -> tuple[str | None, str]:
    """A regular expression of what the names show to belong together, and the words for it."""
    folders = [PurePosixPath(name).parts[:-1] for name in images]
    depth = min(map(len, folders))
    for level in range(depth):
        names = {parts[level] for parts in folders}
        if len(names) >= FEWEST_GROUPS and 2 * len(names) <= len(images):
            group = '^' + '[^/]+/' * level + '([^/]+)/'
            return group, f'the {len(names)} folders such as {min(names)}/ are taken for groups that stay whole'
    frames = defaultdict(set)  # how long the names of a group are: numbers of frames have their zeros, others have not
    for name in images:
        if found := re.search(FRAME, name):
            frames[found[1]].add(len(PurePosixPath(name).name))
    is_film = FEWEST_GROUPS <= len(frames) <= len(images) / 3 and all(len(lengths) == 1 for lengths in frames.values())
    if is_film and all(re.search(FRAME, name) for name in images):
        return FRAME, f'names begin alike: the {len(frames)} groups such as {min(frames)} stay whole'
    return None, 'the names show no groups that would have to stay whole, such as patients; group: says it if there are'


def glob_of(names: Sequence[str]) -> str:
    """The closest glob of images: the folders that all share as they are, ``*`` for one that differs."""
    folders = [PurePosixPath(name).parts[:-1] for name in names]
    if len({*map(len, folders)}) == 1:
        parts = [glob.escape(column[0]) if len({*column}) == 1 else '*' for column in zip(*folders)]
        return '/'.join([*parts, '*'])
    shared = [column[0] for column in zip(*folders)]
    kept = next((i for i, column in enumerate(zip(*folders)) if len({*column}) > 1), len(shared))
    return '/'.join([*map(glob.escape, shared[:kept]), '**', '*'])
