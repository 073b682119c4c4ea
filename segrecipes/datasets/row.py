"""What a dataset is: where its images and masks lie, which belong to a split, and what the labels in a mask mean."""

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from segrecipes.base.errors import UserError
from segrecipes.base.palette import BLACK, Color, class_colors

IGNORED = 255  # a pixel that is never scored and never trained on, once a row has given labels their meaning
ILLEGAL = 254  # a label that the row does not know
MOST_CLASSES = 254
SPLITS = ('train', 'val')
CURE = 'Your own pictures are described by a dataset.yaml: segrecipes data init PATH writes it, dataset=PATH takes it'


@dataclass(frozen=True)
class Split:
    """Images of a split: those that match a glob, and of them the listed ones or a share of the groups.

    Args:
        images: a glob below the dataset's folder.
        listed: a file below it that names one image a line, with or without folder and suffix.
        share: from where to where in 0…1, of groups in an order that depends on their names alone: by their SHA-1.
        permuted: a seed, by which the share is of the images in a random order instead, whatever their groups:
            numpy's ``RandomState(permuted).permutation`` of their sorted paths, as scikit-learn's ``train_test_split``
            with ``random_state`` has it. A split that leaks, where images of a group are alike.
    """

    images: str
    listed: str | None = None
    share: tuple[float, float] = (0.0, 1.0)
    permuted: int | None = None


@dataclass(frozen=True)
class DatasetRow:
    """One dataset. All paths are below its folder, with ``/`` between their parts.

    Args:
        name: what it is called in reports and on a model's card.
        classes: their names, in the order of the logits.
        splits: by name; ``train`` and ``val`` are what a training asks for.
        mask: a regular expression and its replacement, from an image's path to its mask's.
        uid: a regular expression whose group is the sample's name; a sample is augmented by it.
        labels: the label of class 0, the others follow it; or the class of each label.
        ignored: labels of pixels that are not scored; without a map also all below class 0.
        root: a folder that may stand between the one that is given and the images.
        group: a regular expression whose group names what a split by share must not tear apart; by default the uid.
            Where a uid matches it too, an evaluation scores each group as a whole: a patient's slices, as one volume.
        skipped: a regular expression of paths that match a glob and are no images.
        excluded: uids left out of a split.
        colors: RGB of each class; by default the even ones of ``base.palette``.
        channels: of its images.
        values: of a pixel that become 0 and 255; None: of 8 bits as they are, of 16 bits their whole range.
        warning: what is to be said with every figure of it.
    """

    classes: tuple[str, ...]
    splits: Mapping[str, Split]
    mask: tuple[str, str]
    uid: str
    labels: int | Mapping[int, int]
    ignored: frozenset[int] = frozenset({255})
    root: str = ''
    group: str | None = None
    skipped: str | None = None
    excluded: Mapping[str, frozenset[str]] = field(default_factory=dict)
    colors: tuple[Color, ...] = ()
    channels: int = 3
    values: tuple[float, float] | None = None
    warning: str = ''
    name: str = ''

    @property
    def pixels(self) -> 'Pixels':
        return Pixels(self.channels, self.values)

    def class_names(self, ignore_background: bool = True) -> tuple[str, ...]:
        """Of the network's classes: with ``ignore_background=False`` what lies below the first label is one more."""
        return self.classes if ignore_background else (*('other',) * self.label_offset, *self.classes)

    def class_colors(self, ignore_background: bool = True) -> tuple[Color, ...]:
        """Of the same classes, their RGB."""
        own = self.colors if ignore_background or not self.colors else (*(BLACK,) * self.label_offset, *self.colors)
        return class_colors(self.class_names(ignore_background), own)

    @property
    def label_offset(self) -> int:
        """The label of class 0, where the others follow it."""
        return self.labels if isinstance(self.labels, int) else 0

    def label_map(self, num_classes: int | None = None, ignore_background: bool = True) -> np.ndarray:
        """(256,) uint8: the class of each label, ``IGNORED`` or ``ILLEGAL``.

        Args:
            num_classes: classes of the network; None takes whatever label there is.
            ignore_background: False makes label 0 class 0 where the row would begin at a later one.
        """
        table = np.full(256, ILLEGAL, np.uint8)
        if isinstance(self.labels, int):
            first = self.labels if ignore_background else 0
            count = min(MOST_CLASSES if num_classes is None else num_classes, MOST_CLASSES, 256 - first)
            table[:first] = IGNORED
            table[first : first + count] = np.arange(count)
        else:
            for label, index in self.labels.items():
                table[label] = index
            if num_classes is not None and num_classes < len(self.classes):
                table[table < MOST_CLASSES] = np.where(
                    (kept := table[table < MOST_CLASSES]) < num_classes, kept, ILLEGAL
                )
        table[[*self.ignored]] = IGNORED
        return table

    def part(self, split: str, names: list[str]) -> list[str]:
        """Of the images that a split could have, by their sorted paths, those of its share."""
        share, seed = self.splits[split].share, self.splits[split].permuted
        if seed is not None:
            first, last = (math.ceil(Fraction(str(end)) * len(names)) for end in share)
            chosen = np.random.RandomState(seed).permutation(len(names))[first:last]
            return [names[index] for index in sorted(chosen)]
        return [name for name in names if share[0] <= place(self.group_of(name) or uid_of(self, name)) < share[1]]

    def group_of(self, name: str) -> str | None:
        """The group of an image, by its path or uid; None where that tells none."""
        found = re.search(self.group, name) if self.group else None
        return found[1] if found else None


class Pixels(NamedTuple):
    """What the pixels of an image are: so many channels, and the values that become 0 and 255."""

    channels: int = 3
    values: tuple[float, float] | None = None


RGB = Pixels()


def place(group: str) -> float:
    """Where in 0…1 a group is: the first 48 bits of its SHA-1, so that 1 is not reached."""
    return int.from_bytes(hashlib.sha1(group.encode()).digest()[:6], 'big') / 2**48


def named(text: str) -> tuple[str, ...]:
    """Names between commas, over several lines."""
    return tuple(name.strip() for name in text.replace('\n', ' ').split(','))


def rgb(text: str) -> tuple[tuple[int, int, int], ...]:
    """Colours by their hexadecimal digits, six each: ``'804080 f423e8'``."""
    return tuple((red, green, blue) for red, green, blue in map(bytes.fromhex, text.split()))


def uid_of(row: DatasetRow, name: str) -> str:
    """The uid of an image, by its path below the dataset's folder."""
    found = re.search(row.uid, f'/{name}')
    if found is None:
        raise UserError(f'{name} is no picture of {row.name}: its path does not match {row.uid}. {CURE}')
    return found[1]


def mask_of(row: DatasetRow, name: str) -> str:
    """The path of an image's mask, by that of the image; both below the dataset's folder."""
    mask, count = re.subn(*row.mask, name)
    if not count:  # the image itself would be taken for its mask
        raise UserError(f'{name}: no mask for this path by {row.mask[0]}')
    return mask


def ranges(numbers: list[int]) -> str:
    """``0…150, 255`` of sorted numbers."""
    starts = [number for number in numbers if number - 1 not in numbers]
    ends = [number for number in numbers if number + 1 not in numbers]
    return ', '.join(str(start) if start == end else f'{start}…{end}' for start, end in zip(starts, ends))
