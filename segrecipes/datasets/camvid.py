"""CamVid's road scenes in ADE20K's layout, eleven classes: http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid"""

from dataclasses import replace

from segrecipes.datasets import ade20k

ROW = replace(
    ade20k.ROW,
    name='camvid',
    classes=(
        'sky', 'building', 'pole', 'road', 'pavement', 'tree', 'sign', 'fence', 'car', 'pedestrian', 'bicyclist',
    ),
    uid=ade20k.ANY_NAME,
    excluded={},
)  # fmt: skip
