"""Drawn landscapes in ADE20K's layout, eight classes; ``write`` makes them."""

from dataclasses import replace

from segrecipes.datasets import ade20k

ROW = replace(
    ade20k.ROW,
    name='synthetic',
    classes=('sky', 'ground', 'tree', 'house', 'car', 'ball', 'fence', 'sign'),
    uid=ade20k.ANY_NAME,
    excluded={},
    colors=(),
)
