"""Datasets by name: one row each, in a file of its own that holds data only."""

from segrecipes.base.errors import unknown_name
from segrecipes.datasets import ade20k, camvid, lgg
from segrecipes.datasets.row import DatasetRow
from segrecipes.datasets.synthetic import row as synthetic

DATASETS: dict[str, DatasetRow] = {
    'ade20k': ade20k.ROW,
    'camvid': camvid.ROW,
    'lgg': lgg.ROW,
    'synthetic': synthetic.ROW,
}


def get_dataset(name: str) -> DatasetRow:
    if name not in DATASETS:
        raise unknown_name('train_dataset.name', name, DATASETS)
    return DATASETS[name]
