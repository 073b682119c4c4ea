"""Brain MRI of lower-grade gliomas, a tumour or none: https://www.kaggle.com/datasets/mateuszbuda/lgg-mri-segmentation

A folder a patient, all of whose slices stay in one split.
"""

from segrecipes.datasets.row import DatasetRow, Split

SLICES = '*/*_[0-9]*.tif'

ROW = DatasetRow(
    name='lgg',
    classes=('background', 'tumour'),
    splits={'train': Split(SLICES, share=(0, 0.8)), 'val': Split(SLICES, share=(0.8, 1))},
    group=r'^([^/]+)/',
    skipped=r'_mask\.tif$',
    mask=(r'\.tif$', '_mask.tif'),
    uid=r'([^/]+)\.\w+$',
    root='kaggle_3m',
    labels={0: 0, 255: 1},
    ignored=frozenset(),
)
