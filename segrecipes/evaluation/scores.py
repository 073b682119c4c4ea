"""What an evaluation found: the benchmark's figures, class by class and over all, from the confusion matrix."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from segrecipes.base.files import write_text
from segrecipes.base.palette import Color, class_colors
from segrecipes.base.run_files import SCORES, SCORES_TABLE


@dataclass(frozen=True)
class Scores:
    """All figures in percent, NaN where not defined. ``confusion``: (C, C) int64 pixels, true class by predicted class.

    Of ADE20K's development kit: pixel accuracy is the share of labelled pixels that are right, IoU is intersection over
    union of a class over the whole set, the final score the mean of pixel accuracy and mean IoU. As in mmsegmentation,
    a class without a labelled pixel has no accuracy, one that is not predicted either no IoU, and means leave it out.

    ``group_dice``: (C,) of each group of images, such as a patient's slices, which are scored as one; a class that is
    in neither truth nor prediction of a group has none there, and mean and median leave it out. ``warning``: what is to
    be said with these figures.
    """

    confusion: np.ndarray
    class_names: tuple[str, ...]
    images: int
    protocol: str
    weights: str = 'raw'  # or ema
    epoch: int = 0
    batch: int = 0
    group_dice: Mapping[str, np.ndarray] = field(default_factory=dict)
    warning: str = ''
    colors: tuple[Color, ...] = ()  # RGB of the classes

    def __post_init__(self) -> None:
        object.__setattr__(self, 'colors', class_colors(self.class_names, self.colors))

    @property
    def labelled(self) -> np.ndarray:
        """(C,) labelled pixels of each class."""
        return self.confusion.sum(axis=1)

    @property
    def iou(self) -> np.ndarray:
        hits = self.confusion.diagonal()
        return _percent(hits, self.labelled + self.confusion.sum(axis=0) - hits)

    @property
    def accuracy(self) -> np.ndarray:
        return _percent(self.confusion.diagonal(), self.labelled)

    @property
    def pixel_share(self) -> np.ndarray:
        return _percent(self.labelled, self.confusion.sum())

    @property
    def predicted_share(self) -> np.ndarray:
        return _percent(self.confusion.sum(axis=0), self.confusion.sum())

    @property
    def pixel_accuracy(self) -> float:
        return float(_percent(self.confusion.trace(), self.confusion.sum()))

    @property
    def mean_accuracy(self) -> float:
        return _mean(self.accuracy)

    @property
    def mean_iou(self) -> float:
        return _mean(self.iou)

    @property
    def final_score(self) -> float:
        return (self.pixel_accuracy + self.mean_iou) / 2

    @property
    def dice(self) -> dict[str, np.ndarray]:
        """(C,) mean and median Dice of the groups; nothing without groups."""
        if not self.group_dice:
            return {}
        columns = np.stack([*self.group_dice.values()]).T
        return {
            name: np.array([_over(reduce, column) for column in columns])
            for name, reduce in {'mean_dice': np.mean, 'median_dice': np.median}.items()
        }

    def summary(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in ('pixel_accuracy', 'mean_accuracy', 'mean_iou', 'final_score')}

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it: None in place of NaN."""
        columns = {name: getattr(self, name) for name in ('iou', 'accuracy', 'pixel_share', 'predicted_share')}
        columns |= self.dice
        groups = {name: [defined(float(value)) for value in dice] for name, dice in self.group_dice.items()}
        return {
            **{name: getattr(self, name) for name in ('protocol', 'weights', 'epoch', 'batch', 'images')},
            **{name: defined(value) for name, value in self.summary().items()},
            'classes': [
                {'name': name, 'color': list(self.colors[index])}
                | {column: defined(float(values[index])) for column, values in columns.items()}
                for index, name in enumerate(self.class_names)
            ],
            'confusion': self.confusion.tolist(),
            **({'warning': self.warning} if self.warning else {}),
            **({'group_dice': groups} if groups else {}),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> 'Scores':
        """The scores of which ``values`` is :meth:`to_dict`; all figures follow from the confusion matrix.

        Raises:
            KeyError, TypeError, ValueError, OverflowError: ``values`` is something else.
        """
        names = tuple(str(row['name']) for row in values['classes'])
        confusion = np.array(values['confusion'], np.int64)
        if not names or confusion.shape != (len(names), len(names)):
            raise ValueError(f'confusion is {confusion.shape} for {len(names)} classes')
        images, epoch, batch = (int(values[name]) for name in ('images', 'epoch', 'batch'))
        groups = {str(name): np.array(dice, np.float64) for name, dice in values.get('group_dice', {}).items()}
        if any(dice.shape != (len(names),) for dice in groups.values()):
            raise ValueError(f'group_dice is not of {len(names)} classes')
        return cls(
            confusion, names, images, str(values['protocol']), str(values['weights']), epoch, batch,
            groups, str(values.get('warning', '')), tuple(read_color(row['color']) for row in values['classes']),
        )  # fmt: skip

    def to_csv(self) -> str:
        text = io.StringIO()
        rows = csv.writer(text)
        columns = {'iou': self.iou, 'accuracy': self.accuracy, 'pixel_share': self.pixel_share, **self.dice}
        without = [''] * len(self.dice)
        rows.writerow(('class', *columns))
        rows.writerows(zip(self.class_names, *(map(figure, values) for values in columns.values())))
        rows.writerow(('mean', figure(self.mean_iou), figure(self.mean_accuracy), '', *without))
        rows.writerow(('pixel accuracy', '', figure(self.pixel_accuracy), '', *without))
        return text.getvalue()

    def write(self, folder: Path) -> None:
        """``scores.json`` and ``scores.csv``, each replaced when it is complete."""
        write_text(folder / SCORES, json.dumps(self.to_dict(), allow_nan=False) + '\n')
        write_text(folder / SCORES_TABLE, self.to_csv())

    def remarks(self) -> list[str]:
        """What the figures do not say by themselves, a sentence each."""
        if not self.confusion.any():
            return ['no pixel of these images has a class: there is nothing to score, and no figure is defined']
        is_labelled, is_predicted = self.labelled > 0, self.confusion.any(axis=0)
        kinds = {
            'never predicted, though labelled': is_labelled & ~is_predicted,
            'in no mask, yet predicted': ~is_labelled & is_predicted,
            'neither labelled nor predicted, and in no mean': ~is_labelled & ~is_predicted,
        }
        named = {what: [name for name, is_one in zip(self.class_names, of) if is_one] for what, of in kinds.items()}
        return [f'{what}: {_first(names)}' for what, names in named.items() if names]

    def table(self) -> Table:
        table = Table(title=f'{self.protocol}, {self.weights} weights, {self.images} images', title_justify='left')
        table.caption, table.caption_justify = self.warning or None, 'left'
        table.add_column('class')
        columns = {'IoU': self.iou, 'accuracy': self.accuracy, 'share of pixels': self.pixel_share}
        for name, values in self.dice.items():
            columns[f'{name.replace("_", " ")} of {len(self.group_dice)} groups'] = values
        for name in columns:
            table.add_column(name, justify='right')
        for row in zip(self.class_names, *(map(figure, values) for values in columns.values())):
            table.add_row(*row)
        table.add_section()
        table.add_row('mean', figure(self.mean_iou), figure(self.mean_accuracy), '')
        return table

    def __str__(self) -> str:
        figures = ', '.join(f'{name.replace("_", " ")} {value:.2f}' for name, value in self.summary().items())
        return f'{self.protocol}, {self.weights} weights, {self.images} images: {figures}'


def _first(names: Sequence[str], shown: int = 12) -> str:
    more = f' and {len(names) - shown} more' if len(names) > shown else ''
    return ', '.join(names[:shown]) + more


def read_color(value: Any) -> Color:
    red, green, blue = map(int, value)
    return red, green, blue


def defined(value: float) -> float | None:
    """As JSON has it."""
    return None if np.isnan(value) else value


def figure(value: float) -> str:
    """As a table has it."""
    return '' if np.isnan(value) else f'{value:.2f}'


def comparison(all_scores: Sequence[Scores]) -> Table:
    """Several evaluations under each other."""
    table = Table()
    for name in ('protocol', 'weights', 'images', 'pixel acc.', 'mean acc.', 'mean IoU', 'final'):
        is_text = name in ('protocol', 'weights')
        table.add_column(name, justify='left' if is_text else 'right', no_wrap=is_text)
    for scores in all_scores:
        table.add_row(scores.protocol, scores.weights, str(scores.images), *map(figure, scores.summary().values()))
    return table


def _percent(part: Any, whole: Any) -> np.ndarray:
    with np.errstate(divide='ignore', invalid='ignore'):
        return 100 * np.divide(part, whole, dtype=np.float64)


def _mean(values: np.ndarray) -> float:
    return _over(np.mean, values)


def _over(reduce: Callable[[np.ndarray], Any], values: np.ndarray) -> float:
    """Of those that are defined."""
    values = values[~np.isnan(values)]
    return float(reduce(values)) if len(values) else np.nan
