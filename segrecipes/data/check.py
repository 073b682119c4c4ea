"""Before a run: whether the masks hold what the dataset says, and something to learn."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from segrecipes.base.errors import UserError
from segrecipes.datasets.row import CURE, ILLEGAL, DatasetRow, ranges

GLANCE = 64  # masks, of any dataset


class Masks(Protocol):
    """A dataset that gives its masks alone."""

    @property
    def size(self) -> int: ...

    def read_mask(self, index: int) -> tuple[str, np.ndarray]:
        """(name, (H, W) uint8 labels) of a sample."""
        ...


def check_labels(
    masks: Masks, row: DatasetRow, label_map: np.ndarray, class_names: tuple[str, ...], *, is_train: bool
) -> None:
    """Look at the labels of ``GLANCE`` masks; where they show a single class, of as many more as it takes.

    Args:
        label_map: (256,) uint8, of ``row``: the class of each label.
        is_train: whether there must be a second class, without which there is nothing to learn.

    Raises:
        UserError: a label that has no class, no pixel with a class, or one class only.
    """
    seen = np.zeros(256, bool)
    read = 0
    for index in order(masks):
        if read >= GLANCE and len(classes_of(seen, label_map)) > is_train:
            return
        name, mask = masks.read_mask(index)
        of_mask = np.bincount(mask.ravel(), minlength=256) > 0
        if (illegal := np.flatnonzero(of_mask & (label_map == ILLEGAL))).size:
            legal = ranges(np.flatnonzero(label_map != ILLEGAL).tolist())
            raise UserError(
                f'{masks}: label {illegal[-1]} in mask {name} is none of dataset {row.name}. Legal: {legal}. {CURE}'
            )
        seen |= of_mask
        read += 1
    check_seen(str(masks), seen, read, row, label_map, class_names, is_train=is_train)


def check_seen(
    where: str,
    seen: np.ndarray,
    read: int,
    row: DatasetRow,
    label_map: np.ndarray,
    class_names: tuple[str, ...],
    *,
    is_train: bool,
) -> None:
    """Whether there is something to learn in the labels, (256,) bool, that were seen in so many masks.

    Raises:
        UserError: no label with a class, or with one class only.
    """
    present = classes_of(seen, label_map)
    found = f'the labels of its {read} masks are {ranges(np.flatnonzero(seen).tolist())}'
    its = f'The classes of dataset {row.name} are labels {ranges(np.flatnonzero(label_map < ILLEGAL).tolist())}. {CURE}'
    if not present:
        raise UserError(f'{where}: no pixel has a class, all are ignored: {found}. {its}')
    if is_train and len(present) == 1:
        raise UserError(
            f'{where}: {class_names[present[0]]} is the only class, and there is nothing to learn: {found}. {its}'
        )


def order(masks: Masks) -> Iterator[int]:
    """``GLANCE`` of all, evenly spaced where they are at hand; then the others."""
    step = 1 if '://' in str(masks) else max(1, masks.size // GLANCE)  # samples of one shard are fetched together
    first = range(0, masks.size, step)[:GLANCE]
    yield from first
    yield from (index for index in range(masks.size) if index not in first)


def classes_of(seen: np.ndarray, label_map: np.ndarray) -> list[int]:
    return np.unique(label_map[seen & (label_map < ILLEGAL)]).tolist()
