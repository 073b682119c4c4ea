"""Datasets by name: one row each, in a file of its own that holds data only; or by the path of their owner's file."""

from segrecipes.base.errors import unknown_name
from segrecipes.datasets import ade20k, camvid, cityscapes, coco_stuff, lgg, voc
from segrecipes.datasets.file import FILE, find_file, read_dataset, read_file
from segrecipes.datasets.row import DatasetRow
from segrecipes.datasets.synthetic import row as synthetic

DATASETS: dict[str, DatasetRow] = {
    row.name: row
    for row in (
        ade20k.ROW,
        camvid.ROW,
        camvid.SEGNET,
        cityscapes.ROW,
        coco_stuff.ROW,
        lgg.ROW,
        lgg.BY_SLICE,
        voc.CONTEXT_59,
        voc.CONTEXT_60,
        synthetic.ROW,
        voc.ROW,
    )
}
USUAL = 'ade20k'


def get_dataset(name: str) -> DatasetRow:
    """The row of a name, or of a ``dataset.yaml`` or the folder that holds it.

    Raises:
        UserError: neither, or a file that is not right.
    """
    if name in DATASETS:
        return DATASETS[name]
    if find_file(name) is None:
        raise unknown_name('train_dataset.name', name, [*DATASETS, f'path/to/{FILE}'])
    return read_dataset(name)


def locate(name: str | None, path: str) -> tuple[str, str]:
    """Name and place of the dataset that is meant: the one named, else that of a file at ``path``, else ADE20K."""
    file = find_file(path) if name is None and '://' not in path else None
    return (name or USUAL, path) if file is None else (str(file), str(read_file(file).folder))
