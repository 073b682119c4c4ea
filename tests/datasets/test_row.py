"""What a row makes of the labels in a mask, and of paths."""

from dataclasses import replace

import numpy as np
import pytest

from segrecipes.base.errors import UserError
from segrecipes.base.palette import even_colors
from segrecipes.datasets.row import IGNORED, ILLEGAL, DatasetRow, Split, mask_of, ranges, uid_of
from segrecipes.datasets.table import DATASETS

FROM_ONE = DatasetRow(
    classes=('a', 'b', 'c'),
    splits={'train': Split('images/*')},
    mask=(r'^images/(.+)\.\w+$', r'masks/\1.png'),
    uid=r'/([^/]+)\.\w+$',
    labels=1,
)
FROM_ZERO = replace(FROM_ONE, labels=0)
MAPPED = replace(FROM_ONE, labels={0: 0, 255: 1, 7: 2, 9: 2}, ignored=frozenset({3}))


def classes_of(row: DatasetRow, num_classes: int | None = 3, ignore_background: bool = True) -> dict[int, int]:
    """The labels that have a class, and theirs; those ignored under 255. All others are illegal."""
    table = row.label_map(num_classes, ignore_background)
    assert (table.shape, table.dtype) == ((256,), np.uint8)
    return {label: int(index) for label, index in enumerate(table) if index != ILLEGAL}


@pytest.mark.parametrize(
    ('row', 'expected'),
    [
        (FROM_ONE, {0: IGNORED, 1: 0, 2: 1, 3: 2, 255: IGNORED}),
        (FROM_ZERO, {0: 0, 1: 1, 2: 2, 255: IGNORED}),
        (replace(FROM_ONE, labels=3), {0: IGNORED, 1: IGNORED, 2: IGNORED, 3: 0, 4: 1, 5: 2, 255: IGNORED}),
        (replace(FROM_ZERO, ignored=frozenset()), {0: 0, 1: 1, 2: 2}),
        (replace(FROM_ZERO, ignored=frozenset({1, 200})), {0: 0, 1: IGNORED, 2: 2, 200: IGNORED}),
        (MAPPED, {0: 0, 3: IGNORED, 7: 2, 9: 2, 255: 1}),
        (replace(MAPPED, labels={255: 0}, ignored=frozenset({0})), {0: IGNORED, 255: 0}),
        (replace(MAPPED, labels={0: 0, 254: 1}, ignored=frozenset()), {0: 0, 254: 1}),
    ],
)
def test_label_map(row: DatasetRow, expected: dict[int, int]) -> None:
    """255 and 0 are labels as others are, where a map says so."""
    assert classes_of(row) == expected


def test_the_background_as_a_class() -> None:
    assert classes_of(FROM_ONE, 4, ignore_background=False) == {0: 0, 1: 1, 2: 2, 3: 3, 255: IGNORED}
    for row in (FROM_ZERO, MAPPED):  # nothing to take for one
        assert classes_of(row, ignore_background=False) == classes_of(row)


def test_colours_of_the_same_classes() -> None:
    """The even ones where the row has none; what lies below the first label is black."""
    assert FROM_ONE.class_colors() == even_colors()[: len(FROM_ONE.classes)]
    own = tuple((index, 2, 3) for index in range(len(FROM_ONE.classes)))
    row = replace(FROM_ONE, colors=own)
    assert row.class_colors() == own
    assert row.class_colors(ignore_background=False) == ((0, 0, 0), *own)
    assert FROM_ONE.class_colors(ignore_background=False) == ((0, 0, 0), *even_colors()[: len(FROM_ONE.classes)])


def test_a_network_of_fewer_or_more_classes() -> None:
    assert classes_of(FROM_ONE, 2) == {0: IGNORED, 1: 0, 2: 1, 255: IGNORED}
    assert classes_of(FROM_ONE, 5) == {0: IGNORED, **{label: label - 1 for label in range(1, 6)}, 255: IGNORED}
    assert classes_of(MAPPED, 2) == {0: 0, 3: IGNORED, 255: 1}
    assert classes_of(MAPPED, 5) == classes_of(MAPPED)


def test_whatever_label_there_is() -> None:
    assert classes_of(FROM_ONE, None) == {0: IGNORED, **{label: label - 1 for label in range(1, 255)}, 255: IGNORED}
    assert classes_of(FROM_ZERO, None) == {**{label: label for label in range(254)}, 255: IGNORED}
    assert classes_of(MAPPED, None) == classes_of(MAPPED)  # a map says all there is


@pytest.mark.parametrize('name', DATASETS)
def test_each_class_of_a_dataset_has_a_label(name: str) -> None:
    row = DATASETS[name]
    assert {*classes_of(row, len(row.classes)).values()} - {IGNORED} == {*range(len(row.classes))}


def test_paths() -> None:
    assert uid_of(FROM_ONE, 'images/a.b.jpg') == 'a.b'
    assert mask_of(FROM_ONE, 'images/x/a.jpg') == 'masks/x/a.png'
    with pytest.raises(UserError, match=r'^a/b is no picture of .*data init PATH writes it'):
        uid_of(FROM_ONE, 'a/b')
    with pytest.raises(UserError, match=r'^a/b\.jpg: no mask for this path by '):
        mask_of(FROM_ONE, 'a/b.jpg')


def test_lgg_paths() -> None:
    row, name = DATASETS['lgg'], 'TCGA_CS_4944_20010208/TCGA_CS_4944_20010208_7.tif'
    assert uid_of(row, name) == 'TCGA_CS_4944_20010208_7'
    assert mask_of(row, name) == name.replace('_7.', '_7_mask.')


def test_ranges() -> None:
    assert ranges([0, 1, 2, 5, 7, 8, 255]) == '0…2, 5, 7…8, 255'
    assert ranges([]) == ''
