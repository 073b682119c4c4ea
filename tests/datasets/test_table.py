from pathlib import Path

import pytest

from segrecipes.base.errors import UserError
from segrecipes.datasets.table import DATASETS, get_dataset

DATA = Path(__file__).parents[3] / 'shared' / 'data'


COUNTS = {
    'ade20k': 150, 'camvid': 11, 'camvid-segnet': 11, 'cityscapes': 19, 'coco_stuff': 171, 'lgg': 2, 'lgg-slices': 2,
    'pascal_context59': 59, 'pascal_context60': 60, 'synthetic': 8, 'voc2012': 21,
}  # fmt: skip
FROM_ONE = {'ade20k', 'camvid', 'synthetic', 'pascal_context59'}  # others are numbered from 0, or by a map


def test_get_dataset() -> None:
    assert get_dataset('camvid') is DATASETS['camvid']
    with pytest.raises(UserError, match=r"ade20kk .*Did you mean 'ade20k'\? Legal: ade20k, .*path/to/dataset\.yaml"):
        get_dataset('ade20kk')


@pytest.mark.parametrize(('name', 'count'), COUNTS.items())
def test_classes(name, count) -> None:
    classes = DATASETS[name].classes
    assert len(classes) == len(set(classes)) == count
    assert all(c == c.strip() and '\n' not in c and c for c in classes)
    assert DATASETS[name].label_offset == (name in FROM_ONE)
    assert {*DATASETS[name].splits} >= {'train', 'val'}
    assert DATASETS[name].name == name
    assert {*COUNTS} == {*DATASETS}


def test_ade20k_classes_are_the_benchmarks() -> None:
    """Row i of the benchmark's own table is label i; our name is the first of its synonyms, once a later one."""
    path = DATA / 'ade20k_samples/objectInfo150.txt'
    if not path.is_file():
        pytest.skip(f'no {path}')
    rows = path.read_text().splitlines()[1:]
    assert len(rows) == 150
    for index, (row, name) in enumerate(zip(rows, DATASETS['ade20k'].classes), start=1):
        number, *_, synonyms = row.split('\t')
        assert int(number) == index
        assert name in [synonym.strip().lower() for synonym in synonyms.split(',')]
