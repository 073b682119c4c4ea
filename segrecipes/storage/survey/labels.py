"""Which labels occur in masks, and which classes they are proposed to be."""

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from segrecipes.base.errors import UserError
from segrecipes.datasets.row import IGNORED, MOST_CLASSES, ranges
from segrecipes.storage.decode import UNREADABLE, DataError, decode_mask
from segrecipes.storage.survey.names import Names
from segrecipes.storage.survey.pictures import spread

MOST_READ = 500
BLURRED = 32  # labels between two extremes: edges that were smoothed, or JPEG
ABSENT = 0.5  # of 0…n may not have been seen in a sample, for them to count as numbered through


@dataclass
class Found:
    """Labels of the masks that were read: pixels by label (256,), and masks by label (256,)."""

    total: int
    read: int = 0
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    masks: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    damaged: list[str] = field(default_factory=list)

    @property
    def labels(self) -> list[int]:
        return np.flatnonzero(self.pixels).tolist()


@dataclass(frozen=True)
class Classes:
    """What a row says of labels, and why."""

    names: tuple[str, ...]
    labels: int | Mapping[int, int]
    ignored: frozenset[int]
    reason: str
    colors: tuple[tuple[int, int, int], ...] = ()


def read_labels(root: Path, masks: Sequence[str]) -> Found:
    """Count the labels of all masks, or of ``MOST_READ`` evenly from all.

    Raises:
        UserError: most of them are no masks of one channel.
    """
    names = spread(masks, MOST_READ)
    found = Found(len(masks))
    with ThreadPoolExecutor() as pool:
        for counts in pool.map(lambda name: count_labels(root / name), names):
            if isinstance(counts, str):
                found.damaged.append(counts)
                continue
            found.read += 1
            found.pixels += counts
            found.masks += counts > 0
    if len(found.damaged) > found.read:
        raise UserError(refusal_of_colors(root, names) or found.damaged[0])
    return found


def count_labels(mask: Path) -> np.ndarray | str:
    try:
        return np.bincount(decode_mask(mask, str(mask)).ravel(), minlength=256)
    except DataError as error:
        return str(error)


def refusal_of_colors(root: Path, masks: Sequence[str]) -> str:
    """What is to be said of masks that are pictures in colours; nothing where they are none."""
    colors: Counter[tuple[int, ...]] = Counter()
    for name in spread(masks, 20):
        try:
            with Image.open(root / name) as picture:
                pixels = np.asarray(picture.convert('RGB')).reshape(-1, 3) if len(picture.getbands()) > 1 else ()
        except UNREADABLE:
            continue
        for color, count in zip(*np.unique(pixels, axis=0, return_counts=True) if len(pixels) else ((), ())):
            colors[tuple(color.tolist())] += int(count)
    if not colors:
        return ''
    shown = ', '.join('#{:02x}{:02x}{:02x}'.format(*color) for color, _ in colors.most_common(12))
    more = f' and {len(colors) - 12} more' if len(colors) > 12 else ''
    if all(red == green == blue for red, green, blue in colors):
        return (
            f'masks such as {root / masks[0]} have three equal channels, and a mask has one. In Python, '
            "PIL.Image.open(mask).convert('L').save(mask) makes one of them; run this again then"
        )
    return (
        f'masks such as {root / masks[0]} are pictures in colours, and a mask has one channel of labels 0…255. Colours '
        f'that occur: {shown}{more}. Write each mask as a PNG of one channel, one number for each colour, and run this '
        'again'
    )


def propose(found: Found, names: Names | None, zero_is_other: bool) -> Classes:
    """The classes of the labels that occur.

    Args:
        found: the labels.
        names: those of a file, if there is one; how many there are tells what label is the first.
        zero_is_other: the folders are those of ADE20K, in whose masks 0 is all that has no class.

    Raises:
        UserError: labels of which no classes can be made, and why.
    """
    labels = found.labels
    inner = [label for label in labels if label != IGNORED]
    check(found)
    return (
        numbered_by_file(labels, names, zero_is_other)
        or two(labels, names)
        or numbered(inner, names, zero_is_other, found.read < found.total)
        or one_by_one(labels, names)
    )


def check(found: Found) -> None:
    labels, pixels = found.labels, found.pixels
    if len(labels) < 2:
        only = f'only label {labels[0]} occurs' if labels else 'no label occurs'
        raise UserError(
            f'{only} in {found.read} masks, and of one class nothing can be learnt. Look whether these are the masks; '
            'a mask needs a label for the background too'
        )
    extremes = pixels[labels[0]] + pixels[labels[-1]]
    if (len(labels) > BLURRED and extremes > 0.9 * pixels.sum()) or len(labels) > MOST_CLASSES:
        raise UserError(
            f'{len(labels)} labels occur ({ranges(labels)}), and {extremes / pixels.sum():.0%} of the pixels have '
            f'{labels[0]} or {labels[-1]}: masks with smoothed edges or saved as JPEG, or no masks. Round them to the '
            'labels that are meant, and save them as PNG'
        )


def numbered_by_file(labels: Sequence[int], names: Names | None, zero_is_other: bool) -> Classes | None:
    """A file that names each label, or as many classes as there are numbers."""
    if names is None:
        return None
    said, inner = f'{names.file} names {len(names.names)} classes', [label for label in labels if label != IGNORED]
    if names.labels and {*inner} <= {*names.labels} and max(names.labels) <= IGNORED and len(names.names) > 1:
        numbers = {label: index for index, label in enumerate(names.labels)}
        is_plain = [*numbers] == [*range(min(numbers), min(numbers) + len(numbers))]
        ignored = frozenset({IGNORED} - {*numbers})
        first: int | dict[int, int] = min(numbers) if is_plain and ignored else numbers
        return Classes(names.names, first, ignored, f'{said} by their labels', names.colors)
    count = len(names.names)
    if not 2 <= count <= MOST_CLASSES or [*labels] == [0, IGNORED]:
        return None
    if max(inner, default=0) < count:
        return Classes(names.names, 0, frozenset({IGNORED}), f'{said}, and labels are below that', names.colors)
    if max(inner) != count:
        return None
    if 0 in inner and not zero_is_other:
        colors = ((0, 0, 0), *names.colors) if names.colors else ()
        reason = f'{said}, the last label is {count}, and 0 has no name: it is taken for the background'
        zero = 'other' if 'background' in names.names else 'background'
        return Classes((zero, *names.names), 0, frozenset({IGNORED}), reason, colors)
    zero = 'has no name' if 0 in inner else 'does not occur'
    reason = f'{said}, and the last label is {count}: 1 is the first class, and 0, which {zero}, is ignored'
    return Classes(names.names, 1, frozenset({IGNORED}), reason, names.colors)


def two(labels: Sequence[int], names: Names | None) -> Classes | None:
    """0 and 255, or 0 and 1."""
    inner = [*labels] if len(labels) == 2 else [label for label in labels if label != IGNORED]
    if inner not in ([0, 1], [0, IGNORED]):
        return None
    given = names.names if names and len(names.names) <= 2 and names.names != ('background',) else ('object',)
    classes = given if len(given) == 2 else ('background', *given)
    colors = names.colors if names and len(given) == 2 else ()
    why = f'only {inner[0]} and {inner[1]} occur' + (f' beside {IGNORED}' if len(labels) > 2 else '')
    named = '' if names else '; call the class what it is'
    labels_of = {inner[0]: 0, inner[1]: 1}
    return Classes(
        classes, labels_of, frozenset({IGNORED} - {*inner}), f'{why}: a background and one class{named}', colors
    )


def numbered(labels: Sequence[int], names: Names | None, zero_is_other: bool, is_sample: bool) -> Classes | None:
    """0 or 1 to the last, all of them; in a sample of the masks some may not have been seen."""
    last = labels[-1] if labels else 0
    missing = sorted({*range(1, last + 1)} - {*labels})
    if last < 2 or len(missing) > (ABSENT * last if is_sample else 0):
        return None
    first = 1 if zero_is_other or 0 not in labels else 0
    unseen = f', but for {ranges(missing)}, which the masks that were not read may have' if missing else ''
    zero = {
        (True, True): ': folders as ADE20K has them, where 0 is all else, so 0 is ignored',
        (False, False): ': 0 does not occur and would be ignored',
        (False, True): ': 0 does not occur and would be ignored',
        (True, False): ': each is a class, 0 too; were it all that has no class, labels: 1 would ignore it',
    }[0 in labels, zero_is_other]
    reason = f'labels are numbered from {min(labels)} to {last}{unseen}{zero}{unfit(names)}'
    return Classes(placeholders(range(first, last + 1)), first, frozenset({IGNORED}), reason)


def one_by_one(labels: Sequence[int], names: Names | None) -> Classes:
    """Each label that occurs is a class."""
    fits = names is not None and len(names.names) == len(labels)
    classes = names.names if fits and names else placeholders(labels)
    colors = names.colors if fits and names else ()
    rest = f'; {IGNORED} too: were it the border, ignored: [{IGNORED}] would say so' if IGNORED in labels else ''
    order = f', named by {names.file} in its order' if fits and names else unfit(names)
    return Classes(
        classes,
        {label: index for index, label in enumerate(labels)},
        frozenset({IGNORED} - {*labels}),
        f'labels are not numbered through, so each is mapped by itself{rest}{order}',
        colors,
    )


def placeholders(labels: Sequence[int]) -> tuple[str, ...]:
    return tuple(f'class{label}' for label in labels)


def unfit(names: Names | None) -> str:
    return f'; {names.file} has {len(names.names)} names, which do not fit, and is not used' if names else ''
