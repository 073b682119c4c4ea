"""Which pictures of a folder are masks, and of which image: by their names, and where those say nothing by a look."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from segrecipes.base.errors import MissingPathError, UserError
from segrecipes.base.files import IMAGE_SUFFIXES
from segrecipes.storage.decode import DataError, decode_mask
from segrecipes.storage.survey.pictures import common_parts, describe, find_pictures, same, spread
from segrecipes.storage.survey.rule import Rule, apply, mask_pattern, rule_between, taste
from segrecipes.storage.survey.words import MASK_ENDS, MASK_WORDS, core, is_mask_folder, is_mask_name

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

    mask: Rule
    pairs: dict[str, str]
    alone: tuple[list[str], list[str]]
    reason: str
    others: dict[str, int]


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
    for witnesses in WITNESSES:
        found = []
        for tell, reason in witnesses:
            masks = tell(root, pictures)
            images = [n for n in pictures if n not in masks and PurePosixPath(n).suffix.lower() in IMAGE_SUFFIXES]
            found += best_rule(images, sorted(masks), reason)
        if found:
            return max(found, key=lambda pairing: len(pairing.pairs))
    raise UserError(
        f'no image with a mask in {root}. Found: {describe(pictures)}. Looked for: masks in folders, or in files '
        f'beside the images, with one of the words {", ".join(MASK_WORDS)} in their name ({", ".join(MASK_ENDS)} at '
        f'its end), otherwise called as their image is; and for pictures of one channel and at most '
        f'{MOST_LABELS} values, called as others are'
    )


def masks_by_folder(root: Path, pictures: Sequence[str]) -> set[str]:
    shared = len(common_parts(pictures))  # what stands in each path tells nothing
    return {name for name in pictures if is_mask_folder('/'.join(PurePosixPath(name).parts[shared:-1]))}


def masks_by_name(root: Path, pictures: Sequence[str]) -> set[str]:
    return masks_by_folder(root, pictures) | {name for name in pictures if is_mask_name(PurePosixPath(name).stem)}


def masks_by_look(root: Path, pictures: Sequence[str]) -> set[str]:
    """All pictures of one folder and suffix, where three of them look like label maps."""
    kinds = defaultdict(list)
    for name in pictures:
        kinds[PurePosixPath(name).parent, PurePosixPath(name).suffix].append(name)
    masks = [names for names in kinds.values() if all(looks_like_mask(root / name) for name in spread(names, 3))]
    return {name for names in masks for name in names}


def looks_like_mask(file: Path) -> bool:
    try:
        return len(np.unique(decode_mask(file, str(file)))) <= MOST_LABELS
    except DataError:
        return False


# What tells masks from images; of those in a row the one that finds more pairs, of rows the first that finds any
WITNESSES = (
    ((masks_by_folder, 'by the names of folders'), (masks_by_name, 'by the names of files')),
    ((masks_by_look, f'by a look at their pixels, one channel and at most {MOST_LABELS} values: no name says it'),),
)


def best_rule(images: Sequence[str], masks: Sequence[str], reason: str) -> list[Pairing]:
    """The rule that gives the most images a mask; none where there is none."""
    by_core: dict[str, list[str]] = defaultdict(list)
    for name in images:
        by_core[core(name)].append(name)
    votes: Counter[Rule] = Counter()
    for mask in spread(masks, MOST_LOOKED_AT):
        votes.update({rule_between(image, mask) for image in nearest(mask, by_core[core(mask)])})
    existing = {*masks}
    found = {rule: apply(rule, images, existing) for rule, _ in votes.most_common(12)}
    found = {rule: pairs for rule, pairs in found.items() if pairs}
    if not found:
        return []
    first, *others = sorted(found, key=lambda rule: (-len(found[rule]), *taste(rule)))
    pairs = found[first]
    kind = re.compile(f'^{mask_pattern(first)}')
    alone = (
        [name for name in images if re.search(first[0], name) and name not in pairs],
        sorted({name for name in masks if kind.search(name)} - {*pairs.values()}),
    )
    return [Pairing(first, pairs, alone, reason, {f'{a} → {b}': len(found[a, b]) for a, b in others})]


def nearest(mask: str, images: Iterable[str]) -> list[str]:
    """Those images whose folders are most like the mask's."""
    parts = PurePosixPath(mask).parts[:-1]

    def likeness(image: str) -> int:
        other = PurePosixPath(image).parts[:-1]
        return same(parts, other) + same(parts[::-1], other[::-1])

    by_likeness = defaultdict(list)
    for image in images:
        by_likeness[likeness(image)].append(image)
    return by_likeness[max(by_likeness)] if by_likeness else []
