"""Which classes are proposed for which labels."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from segrecipes.base.errors import UserError
from segrecipes.storage.survey.labels import Found, propose
from segrecipes.storage.survey.names import Names, from_lines, from_yaml


def found(labels: Sequence[int], read: int = 10, total: int = 10) -> Found:
    pixels = np.zeros(256, np.int64)
    pixels[[*labels]] = 100
    return Found(total, read, pixels, (pixels > 0).astype(np.int64))


@pytest.mark.parametrize(
    ('labels', 'zero_is_other', 'expected', 'names', 'ignored', 'reason'),
    [
        ((0, 255), False, {0: 0, 255: 1}, 'background object', set(), 'only 0 and 255 occur'),
        ((0, 1), False, {0: 0, 1: 1}, 'background object', {255}, 'only 0 and 1 occur'),
        ((0, 1, 255), False, {0: 0, 1: 1}, 'background object', {255}, 'only 0 and 1 occur beside 255'),
        ((0, 1, 2), False, 0, 'class0 class1 class2', {255}, 'from 0 to 2: each is a class, 0 too'),
        ((0, 1, 2, 255), False, 0, 'class0 class1 class2', {255}, 'from 0 to 2'),
        ((0, 1, 2), True, 1, 'class1 class2', {255}, 'folders as ADE20K has them'),
        ((1, 2, 3), False, 1, 'class1 class2 class3', {255}, 'from 1 to 3: 0 does not occur'),
        ((0, 38, 75), False, {0: 0, 38: 1, 75: 2}, 'class0 class38 class75', {255}, 'mapped by itself'),
        ((0, 128, 255), False, {0: 0, 128: 1, 255: 2}, 'class0 class128 class255', set(), '255 too'),
        ((0, 1, 2, 4), False, {0: 0, 1: 1, 2: 2, 4: 3}, 'class0 class1 class2 class4', {255}, 'mapped by itself'),
    ],
)  # fmt: skip
def test_without_names(
    labels: Sequence[int], zero_is_other: bool, expected: int | Mapping[int, int], names: str, ignored: set, reason: str
) -> None:
    classes = propose(found(labels), None, zero_is_other)
    assert (classes.labels, ' '.join(classes.names), classes.ignored) == (expected, names, ignored)
    assert reason in classes.reason


def test_a_sample_may_have_missed_a_label() -> None:
    classes = propose(found((0, 1, 2, 4), read=500, total=9000), None, False)
    assert (classes.labels, len(classes.names)) == (0, 5)
    assert 'but for 3, which the masks that were not read may have' in classes.reason


THREE = Names('classes.txt', ('a', 'b', 'c'), colors=((1, 1, 1), (2, 2, 2), (3, 3, 3)))


@pytest.mark.parametrize(
    ('labels', 'names', 'zero_is_other', 'expected', 'classes'),
    [
        ((0, 1, 2), THREE, False, 0, 'a b c'),
        ((0, 2, 255), THREE, False, 0, 'a b c'),
        ((1, 2, 3), THREE, False, 1, 'a b c'),
        ((0, 1, 2, 3), THREE, False, 0, 'background a b c'),
        ((0, 1, 2, 3), THREE, True, 1, 'a b c'),
        ((0, 1, 2), Names('labels.txt', ('cell', 'background')), False, 0, 'other cell background'),
        ((0, 255), Names('labels.txt', ('background',)), False, {0: 0, 255: 1}, 'background object'),
        ((0, 38, 75), THREE, False, {0: 0, 38: 1, 75: 2}, 'a b c'),
        ((0, 1, 2, 3, 4, 5), THREE, False, 0, 'class0 class1 class2 class3 class4 class5'),
        ((0, 255), Names('labels.txt', ('tumour',)), False, {0: 0, 255: 1}, 'background tumour'),
        ((0, 255), Names('labels.txt', ('healthy', 'tumour')), False, {0: 0, 255: 1}, 'healthy tumour'),
        ((0, 255), THREE, False, {0: 0, 255: 1}, 'background object'),
        ((7, 9), Names('labels.txt', ('x', 'y', 'z'), (7, 8, 9)), False, 7, 'x y z'),
        ((0, 200), Names('labels.txt', ('x', 'y'), (0, 200)), False, {0: 0, 200: 1}, 'x y'),
    ],
)
def test_with_names(
    labels: Sequence[int], names: Names, zero_is_other: bool, expected: int | Mapping[int, int], classes: str
) -> None:
    proposed = propose(found(labels), names, zero_is_other)
    assert (proposed.labels, ' '.join(proposed.names)) == (expected, classes)
    assert len(proposed.colors) in (0, len(proposed.names))


def test_refused() -> None:
    with pytest.raises(UserError, match='only label 255 occurs in 10 masks'):
        propose(found((255,)), None, False)
    with pytest.raises(UserError, match='256 labels occur'):
        propose(found(range(256)), None, False)


@pytest.mark.parametrize(
    ('text', 'names', 'labels', 'colors'),
    [
        ('sky\nold car\n', ('sky', 'old car'), (), ()),
        ('0: sky\n1: car', ('sky', 'car'), (0, 1), ()),
        ('3 sky\n7 old car', ('sky', 'old car'), (3, 7), ()),
        ('64 128 64\tAnimal\n192 0 128\tArchway\n', ('Animal', 'Archway'), (), ((64, 128, 64), (192, 0, 128))),
        ('# label:color_rgb:parts:actions\nsky:1,2,3::\ncar:4,5,6::', ('sky', 'car'), (), ((1, 2, 3), (4, 5, 6))),
        ('name,r,g,b\nsky, 1, 2, 3\ncar,4,5,6', ('sky', 'car'), (), ((1, 2, 3), (4, 5, 6))),
    ],
)
def test_names_in_lines(text: str, names: tuple, labels: tuple, colors: tuple) -> None:
    assert from_lines('f', text) == Names('f', names, labels, colors)


def test_names_in_yaml() -> None:
    assert from_yaml('f', {'names': ['a', 'b']}) == Names('f', ('a', 'b'))
    assert from_yaml('f', {'names': {1: 'b', 0: 'a'}}) == Names('f', ('a', 'b'), (0, 1))
    assert from_yaml('f', {'path': '.'}) is None
