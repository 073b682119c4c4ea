"""What the masks of a dataset show before a run."""

from typing import Any

import numpy as np
import pytest

from segrecipes.base.errors import UserError
from segrecipes.data.check import GLANCE, check_labels, order
from segrecipes.datasets.row import DatasetRow, Split

FROM_ONE = DatasetRow(
    name='mine',
    classes=('road', 'car', 'tree'),
    splits={'train': Split('images/*'), 'val': Split('images/*')},
    mask=('', ''),
    uid='(.*)',
    labels=1,
)
TUMOUR = DatasetRow(
    name='mri',
    classes=('background', 'tumour'),
    splits=FROM_ONE.splits,
    mask=('', ''),
    uid='(.*)',
    labels={0: 0, 255: 1},
    ignored=frozenset(),
)


class Masks:
    """Of one row of pixels each; remembers which were read."""

    def __init__(self, *labels: list[int], path: str = 'pictures'):
        self.labels, self.path, self.read = labels, path, []
        self.size = len(labels)

    def __str__(self) -> str:
        return self.path

    def read_mask(self, index: int) -> tuple[str, np.ndarray]:
        self.read.append(index)
        return f'{index}.png', np.array([self.labels[index]], np.uint8)


def check(masks: Masks, row: DatasetRow = FROM_ONE, is_train: bool = True, **options: Any) -> None:
    label_map = row.label_map(len(row.class_names(**options)), **options)
    check_labels(masks, row, label_map, row.class_names(**options), is_train=is_train)


def refused(*arguments: Any, **options: Any) -> str:
    with pytest.raises(UserError) as error:
        check(*arguments, **options)
    assert str(error.value).endswith(
        'Your own pictures are described by a dataset.yaml: segrecipes data init PATH writes it, dataset=PATH takes it'
    )
    return str(error.value)


def test_good_ones_pass() -> None:
    check(Masks([0, 1], [2, 255]))
    check(Masks([0, 255]), TUMOUR)
    check(Masks([0, 1]), ignore_background=False)


def test_masks_of_0_and_255() -> None:
    message = refused(Masks([0, 255], [0, 0]))
    assert message.startswith(
        'pictures: no pixel has a class, all are ignored: the labels of its 2 masks are 0, 255. '
        'The classes of dataset mine are labels 1…3. '
    )
    assert refused(Masks([0, 255]), is_train=False).startswith('pictures: no pixel has a class')


def test_masks_of_0_and_1() -> None:
    message = refused(Masks([0, 1], [1, 1]))
    assert message.startswith(
        'pictures: road is the only class, and there is nothing to learn: the labels of its 2 masks are 0…1. '
    )
    check(Masks([0, 1]), is_train=False)  # one picture may well show one class


def test_labels_without_a_class() -> None:
    assert 'label 9 in mask 1.png is none of dataset mine. Legal: 0…3, 255. ' in refused(Masks([1, 2], [4, 9]))
    assert 'label 1 in mask 0.png is none of dataset mri. Legal: 0, 255. ' in refused(Masks([0, 1]), TUMOUR)


def test_a_glance_is_spread_over_all() -> None:
    masks = Masks(*[[1, 2]] * 1000)
    check(masks)
    assert masks.read == [15 * index for index in range(GLANCE)]
    remote = Masks(*[[1, 2]] * 1000, path='s3://bucket/shards/train')
    check(remote)
    assert remote.read == list(range(GLANCE))


def test_a_rare_class_is_looked_for() -> None:
    masks = Masks(*[[1, 1]] * 199, [2, 2])
    check(masks)
    assert sorted(masks.read) == list(range(200))
    assert 'the labels of its 200 masks are 1. ' in refused(Masks(*[[1]] * 200))


@pytest.mark.parametrize('size', [0, 1, 63, 64, 65, 130, 1001])
def test_order_has_each_once(size: int) -> None:
    assert sorted(order(Masks(*[[0]] * size))) == list(range(size))
