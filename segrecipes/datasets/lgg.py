"""Brain MRI of lower-grade gliomas, a tumour or none: https://www.kaggle.com/datasets/mateuszbuda/lgg-mri-segmentation

A folder a patient. ``lgg`` keeps a patient's slices in one split; about a fifth of the patients validate, 20 of 110, by
the SHA-1 of the case's name. ``lgg-slices`` splits slices, as much has been published with, and leaks.
"""

from dataclasses import replace

from segrecipes.datasets.row import DatasetRow, Split

SLICES = '*/*_[0-9]*.tif'
VALIDATED = {'train': (0.2, 1.0), 'val': (0.0, 0.2)}

ROW = DatasetRow(
    name='lgg',
    classes=('background', 'tumour'),
    splits={split: Split(SLICES, share=share) for split, share in VALIDATED.items()},
    group=r'^(TCGA_[^_/]+_[^_/]+)',  # TCGA_CS_4941 of TCGA_CS_4941_19960909
    skipped=r'_mask\.tif$',
    mask=(r'\.tif$', '_mask.tif'),
    uid=r'([^/]+)\.\w+$',
    root='kaggle_3m',
    labels={0: 0, 255: 1},
    ignored=frozenset(),
)

BY_SLICE = replace(
    ROW,
    name='lgg-slices',
    splits={split: Split(SLICES, share=share, permuted=233) for split, share in VALIDATED.items()},
    warning='This split leaks: it is one of slices, and of the full set all 786 validation slices have slices of their '
    'patient among those trained on. Figures by patient are those of the dataset lgg.',
)
