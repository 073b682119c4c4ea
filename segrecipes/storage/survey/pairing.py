"""Which pictures of a folder are masks, and of which image: by their names, and where those say nothing by a look."""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path, PurePosixPath

import numpy as np

from segrecipes.base.errors import MissingPathError, UserError
from segrecipes.base.files import IMAGE_SUFFIXES
from segrecipes.storage.decode import DataError, decode_mask

# Words of folders' and files' names. The earlier of two is taken where both kinds of masks are there.
MASK_WORDS = (
    'mask', 'masks', 'label', 'labels', 'annotation', 'annotations', 'annot', 'anno', 'ann', 'segmentationclass',
    'segmentationclassaug', 'segmentation', 'segmentations', 'seg', 'segs', 'gt', 'gts', 'groundtruth', 'truth',
    'gtfine', 'labelids', 'labeltrainids', 'lbl', 'target', 'targets', 'manual',
)  # fmt: skip
IMAGE_WORDS = (
    'image', 'images', 'img', 'imgs', 'jpegimages', 'photo', 'photos', 'picture', 'pictures', 'rgb', 'leftimg8bit',
    'sat', 'im', 'input', 'inputs', 'frame', 'frames',
)  # fmt: skip
MASK_ENDS = ('L', 'P')  # CamVid's, in capitals, and only where a name ends
MASK_SUFFIXES = IMAGE_SUFFIXES | {'.gif'}

_WORD = '|'.join(sorted((*MASK_WORDS, *IMAGE_WORDS), key=len, reverse=True))
_HEAD = re.compile(rf'(?i)(?:{_WORD})(?:[_\-. ]|(?=\d))')
_TAIL = re.compile(rf'[_\-. ](?:(?i:{_WORD})\d?|{"|".join(MASK_ENDS)})$')
_TOKEN = re.compile(r'leftImg8bit|[A-Za-z]+?(?=annot(?![A-Za-z]))|[A-Za-z]+|\d+|.')
_BARE = re.compile(r'([/_\-. ]*)(.*?)([/_\-. ]*)')  # what is between separators

MOST_LOOKED_AT = 200  # masks whose image is searched for; what they agree on is then applied to all
MOST_LABELS = 32  # in a picture that looks like a mask


@dataclass(frozen=True)
class Pairing:
    """All paths are below the folder, with ``/`` between their parts.

    Args:
        mask: a regular expression and its replacement, from an image's path to its mask's.
        pairs: image → mask, sorted.
        alone: images without a mask, and masks without an image.
        reason: how masks were told from images.
        others: rules that would have found pairs too, and how many.
    """

    mask: tuple[str, str]
    pairs: dict[str, str]
    alone: tuple[list[str], list[str]]
    reason: str
    others: dict[str, int]


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


def find_pairing(root: Path) -> Pairing:
    """
    Raises:
        MissingPathError: no such folder.
        UserError: no picture in it, or none with a mask; what was looked for and what is there.
    """
    if not root.is_dir():
        raise MissingPathError(f'dataset folder does not exist: {root}')
    pictures = find_pictures(root)
    if not pictures:
        raise UserError(f'no picture in {root}; expected files ending in {", ".join(sorted(IMAGE_SUFFIXES))}')
    for tell, reason in WITNESSES:
        masks = tell(root, pictures)
        images = [name for name in pictures if name not in masks and PurePosixPath(name).suffix.lower() != '.gif']
        if pairing := best_rule(images, sorted(masks), reason):
            return pairing
    raise UserError(
        f'no image with a mask in {root}. Found: {describe(pictures)}. Looked for: masks in folders, or in files '
        f'beside the images, with one of the words {", ".join(MASK_WORDS)} in their name ({", ".join(MASK_ENDS)} at '
        f'its end), otherwise called as their image is; and for folders of pictures with one channel and at most '
        f'{MOST_LABELS} values, called as those of another folder'
    )


def masks_by_folder(root: Path, pictures: Sequence[str]) -> set[str]:
    shared = len(common_parts(pictures))  # what stands in each path tells nothing
    return {name for name in pictures if in_mask_folder(PurePosixPath(name).parts[shared:-1])}


def masks_by_name(root: Path, pictures: Sequence[str]) -> set[str]:
    return masks_by_folder(root, pictures) | {name for name in pictures if is_mask_name(PurePosixPath(name).stem)}


def in_mask_folder(folders: Sequence[str]) -> bool:
    return any(word in MASK_WORDS for word in _TOKEN.findall('/'.join(folders).lower()))


def is_mask_name(stem: str) -> bool:
    return any(word.lower() in MASK_WORDS or word in MASK_ENDS for word in words_around(stem))


def masks_by_look(root: Path, pictures: Sequence[str]) -> set[str]:
    """All pictures of the folders in which three of them look like label maps."""
    folders = by_folder(pictures)
    return {
        name
        for names in folders.values()
        if all(looks_like_mask(root / name) for name in spread(names, 3))
        for name in names
    }


def looks_like_mask(file: Path) -> bool:
    try:
        return len(np.unique(decode_mask(file, str(file)))) <= MOST_LABELS
    except DataError:
        return False


WITNESSES = (
    (masks_by_folder, 'by the names of folders'),
    (masks_by_name, 'by the names of files'),
    (masks_by_look, f'by a look at their pixels, one channel and at most {MOST_LABELS} values: no name says it'),
)


def words_around(stem: str) -> list[str]:
    """The words of either kind that a name begins and ends with."""
    if re.fullmatch(f'(?i){_WORD}', stem):
        return [stem]
    head = _HEAD.match(stem)
    words = [head[0].rstrip('_-. ')] if head else []
    while tail := _TAIL.search(stem):
        words.append(tail[0][1:].rstrip('0123456789'))
        stem = stem[: tail.start()]
    return words


def core(stem: str) -> str:
    """A name without those words: what an image and its mask have in common."""
    if re.fullmatch(f'(?i){_WORD}', stem):
        return ''
    stem = _HEAD.sub('', stem, count=1) if _HEAD.match(stem) else stem
    while tail := _TAIL.search(stem):
        stem = stem[: tail.start()]
    return stem


def best_rule(images: Sequence[str], masks: Sequence[str], reason: str) -> Pairing | None:
    """The rule that gives the most images a mask."""
    by_core: dict[str, list[str]] = defaultdict(list)
    for name in images:
        by_core[core(PurePosixPath(name).stem)].append(name)
    votes: Counter[tuple[str, str]] = Counter()
    for mask in spread(masks, MOST_LOOKED_AT):
        votes.update({rule_between(image, mask) for image in nearest(mask, by_core[core(PurePosixPath(mask).stem)])})
    existing = {*masks}
    found = {rule: apply(rule, images, existing) for rule, _ in votes.most_common(12)}
    found = {rule: pairs for rule, pairs in found.items() if pairs}
    if not found:
        return None
    first, *others = sorted(found, key=lambda rule: (-len(found[rule]), *taste(rule)))
    pairs = found[first]
    kind = re.compile(f'^{mask_pattern(first)}')
    alone = (
        [name for name in images if re.search(first[0], name) and name not in pairs],
        sorted({name for name in masks if kind.search(name)} - {*pairs.values()}),
    )
    return Pairing(first, pairs, alone, reason, {f'{a} → {b}': len(found[a, b]) for a, b in others})


def nearest(mask: str, images: Iterable[str]) -> list[str]:
    """Those images whose folders are most like the mask's."""
    parts = PurePosixPath(mask).parts[:-1]

    def likeness(image: str) -> int:
        other = PurePosixPath(image).parts[:-1]
        return _same(parts, other) + _same(parts[::-1], other[::-1])

    images = [*images]
    best = max(map(likeness, images), default=0)
    return [image for image in images if likeness(image) == best]


def rule_between(image: str, mask: str) -> tuple[str, str]:
    r"""Of ``images/a.jpg`` and ``masks/a_L.png``: ``^images/(.+)\.\w+$`` and ``masks/\1_L.png``.

    What both have is a group, and what differs stands there as it is.
    """
    old = _TOKEN.findall(str(PurePosixPath(image).with_suffix('')))
    new = _TOKEN.findall(str(PurePosixPath(mask).with_suffix('')))
    blocks = [block for block in SequenceMatcher(None, old, new, autojunk=False).get_matching_blocks() if block.size]
    pattern, replacement, a, b, groups = '^', '', 0, 0, 0
    for index, block in enumerate(blocks):
        is_last = index + 1 == len(blocks)
        # Nothing stands here between two groups: what ends the one is that a part of the path ends
        is_open = (index > 0 and block.a == a) or (not is_last and blocks[index + 1].a == block.a + block.size)
        pattern += re.escape(''.join(old[a : block.a]))
        replacement += ''.join(new[b : block.b])
        a, b = block.a + block.size, block.b + block.size
        start, same, end = _BARE.fullmatch(''.join(old[block.a : a])).groups()  # type: ignore[union-attr]
        group, reference = '', ''
        if same:
            groups += 1
            group = '([^/]+)' if is_open and '/' not in same else '(.+)'
            reference = rf'\{groups}' if end or not ''.join(new[b:])[:1].isdigit() else rf'\g<{groups}>'
        pattern += re.escape(start) + group + re.escape(end)
        replacement += start + reference + end
    pattern += re.escape(''.join(old[a:])) + r'\.\w+$'
    replacement += ''.join(new[b:]) + PurePosixPath(mask).suffix
    return pattern, replacement


def apply(rule: tuple[str, str], images: Iterable[str], masks: Collection[str]) -> dict[str, str]:
    pattern = re.compile(rule[0])
    mapped = {name: pattern.subn(rule[1], name) for name in images}
    return {name: mask for name, (mask, count) in mapped.items() if count and mask in masks}


def mask_pattern(rule: tuple[str, str]) -> str:
    """A regular expression, but for its ``^``, of the paths that a rule leads to."""
    parts = re.split(r'\\\d|\\g<\d>', rule[1])
    return '.+'.join(map(re.escape, parts)) + '$'


def taste(rule: tuple[str, str]) -> tuple[int, int, int, str]:
    """Of two rules for as many pairs the smaller one is taken: a usual name for images, for masks, and short."""
    named = not any(word in IMAGE_WORDS for word in re.findall('[a-z0-9]+', rule[0].lower()))
    words = re.findall('[a-z]+', rule[1].lower())
    place = min((MASK_WORDS.index(word) for word in words if word in MASK_WORDS), default=len(MASK_WORDS))
    return named, place, len(rule[1]), rule[1]


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
    return first[: _same(first, last)]


def spread(names: Sequence[str], count: int) -> list[str]:
    """At most so many of them, evenly from all."""
    places: list[int] = np.linspace(0, len(names) - 1, min(count, len(names))).round().astype(int).tolist()
    return [names[place] for place in places]


def _same(first: Sequence[str], second: Sequence[str]) -> int:
    """How many of the leading entries two sequences share."""
    return next((i for i, (a, b) in enumerate(zip(first, second)) if a != b), min(len(first), len(second)))
