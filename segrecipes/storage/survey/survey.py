"""Somebody's pictures → the dataset that they are, each decision said with its reason."""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from segrecipes.base.errors import UserError
from segrecipes.datasets.file import UID
from segrecipes.datasets.row import IGNORED, DatasetRow, Split, ranges, uid_of
from segrecipes.datasets.table import DATASETS
from segrecipes.storage.folders import find_pairs, image_names
from segrecipes.storage.survey.labels import Found, propose, read_labels
from segrecipes.storage.survey.names import find_names
from segrecipes.storage.survey.pairing import Pairing, find_pairing
from segrecipes.storage.survey.rule import mask_pattern
from segrecipes.storage.survey.sizes import BATCH, BATCHES, LARGEST, STRIDE, Sizes, read_sizes, suggest
from segrecipes.storage.survey.splits import find_division

Say = Callable[[str, str], None]  # what a line is about, and the line
SHOWN = 3  # names of a long list


def survey(root: Path, name: str, protocol: str, say: Say) -> tuple[DatasetRow, dict[str, Any]]:
    """Look at the pictures in a folder.

    Args:
        name: of the dataset.
        protocol: of the first evaluations.
        say: is given each decision as it is made.

    Returns: the dataset, and the keys of a run that suit it.

    Raises:
        MissingPathError: no such folder.
        UserError: what was looked for is not there, or makes no dataset; what is there.
    """
    pairing = find_pairing(root)
    say_pairing(pairing, say)

    row = DatasetRow(classes=(), splits={}, mask=pairing.mask, uid=UID, labels=0, name=name)
    division = find_division(root, [*pairing.pairs], pairing.alone[0], row)
    say('splits', division.reason)
    row = replace(
        row, splits=division.splits, group=division.group, skipped=skipped(root, pairing, row, division.splits)
    )
    row = replace(row, excluded=excluded(root, pairing, row, division.excluded))

    found, names = read_labels(root, [*pairing.pairs.values()]), find_names(root)
    whole = 'all' if found.read == found.total else f'{found.read} of the'
    say('labels', f'in {whole} {found.total} masks: {ranges(found.labels)}')
    classes = propose(found, names, zero_is_other=is_ade20k(pairing))
    row = replace(row, classes=classes.names, colors=classes.colors, labels=classes.labels, ignored=classes.ignored)
    say('classes', classes.reason)
    say_labels(found, row, say)
    if names is None:
        say('', 'no file names the classes: edit their names in the file that is written')

    sizes = read_sizes(root, pairing.pairs)
    counts = {split: len(find_pairs(root, split, row)) for split in row.splits}
    config = suggest(sizes.short_side, counts['train'], protocol)
    say_sizes(sizes, config, say)
    if known := known_as(root):
        say('known', f'{", ".join(known)} are laid out like this: if it is one, dataset={known[0]} knows its classes')
    say('images', ', '.join(f'{split} {count}' for split, count in counts.items()))
    return row, config


def skipped(root: Path, pairing: Pairing, row: DatasetRow, splits: Mapping[str, Split]) -> str | None:
    """A regular expression of masks, where a glob of images matches them too."""
    masks = {*pairing.pairs.values(), *pairing.alone[1]}
    if masks.isdisjoint(name for split in splits.values() for name in image_names(root, row, split)):
        return None
    pattern = mask_pattern(pairing.mask)
    return pattern.removeprefix('.+') if pattern.startswith('.+') else f'^{pattern}'


def excluded(
    root: Path, pairing: Pairing, row: DatasetRow, given: Mapping[str, frozenset[str]]
) -> dict[str, frozenset[str]]:
    """The uids of images without a mask, and those that are given, by split."""
    found = {}
    for split, images in row.splits.items():
        names = row.part(split, image_names(root, row, images))
        unmasked = frozenset(uid_of(row, name) for name in names if name not in pairing.pairs)
        found[split] = given.get(split, frozenset()) | unmasked
    return {split: uids for split, uids in found.items() if uids}


def is_ade20k(pairing: Pairing) -> bool:
    """Whether the folders are called as those of ADE20K's scene parsing benchmark: annotations/training."""
    return all(re.search('(^|/)annotations/(training|validation)/', mask) for mask in pairing.pairs.values())


def known_as(root: Path) -> list[str]:
    """Datasets of our own that have images here."""
    names = []
    for name, row in DATASETS.items():
        with suppress(UserError):
            if find_pairs(root, 'train', row) and find_pairs(root, 'val', row):
                names.append(name)
    return names


def say_pairing(pairing: Pairing, say: Say) -> None:
    pattern, replacement = pairing.mask
    image, mask = next(iter(pairing.pairs.items()))
    say('pairs', f'{len(pairing.pairs)} images have a mask, found {pairing.reason}: {pattern} → {replacement}')
    say('', f'such as {image} and {mask}')
    for rule, count in pairing.others.items():
        say('', f'not taken: {rule}, {count} pairs')
    for names, what in zip(pairing.alone, ('images without a mask, which are left out', 'masks without an image')):
        if names:
            say('', f'{what}: {len(names)}, {first(names)}')


def say_labels(found: Found, row: DatasetRow, say: Say) -> None:
    """What becomes of each label that occurs."""
    table = row.label_map(len(row.classes))
    names = {label: 'ignored' if table[label] == IGNORED else row.classes[table[label]] for label in found.labels}
    longest = max(map(len, names.values()))
    for label, name in names.items():
        share = found.pixels[label] / found.pixels.sum()
        say('', f'{label:>3} {name:<{longest}} {share:7.2%} of the pixels, in {found.masks[label]} masks')
    if found.damaged:
        say('', f'masks that cannot be read: {len(found.damaged)}, {found.damaged[0]}')


def say_sizes(sizes: Sizes, config: Mapping[str, Any], say: Say) -> None:
    widths, heights = zip(*sizes.sizes)
    modes = ', '.join(f'{mode} {count}' for mode, count in sizes.modes.items())
    say('sizes', f'{min(widths)}…{max(widths)} wide, {min(heights)}…{max(heights)} high; modes: {modes}')
    if sizes.modes.keys() - {'RGB'}:
        say('', 'all are read as three channels of 8 bits')
    for fault in sizes.faults[:SHOWN]:
        say('', f'fault: {fault}')
    train = config['train_dataset']
    limit = f', at most {LARGEST} for a first run' if sizes.short_side > LARGEST else ''
    say(
        'config',
        f'base_size {train["base_size"]} is their shorter side{limit}; final_size {train["final_size"]}, the crop, is '
        f'a multiple of {STRIDE}; batch_size {train["batch_size"]} is at most {BATCH}, and fewer where an epoch would '
        f'have less than {BATCHES} batches',
    )


def first(names: Sequence[str]) -> str:
    return ', '.join(names[:SHOWN]) + (', …' if len(names) > SHOWN else '')
