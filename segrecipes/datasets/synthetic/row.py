"""Drawn landscapes in ADE20K's layout, eight classes; ``write`` makes them."""

from dataclasses import replace

from segrecipes.datasets import ade20k

ROW = replace(
    ade20k.ROW,
    name='synthetic',
    classes=('sky', 'ground', 'tree', 'house', 'car', 'ball', 'fence', 'sign'),
    uid=ade20k.ANY_NAME,
    excluded={},
    colors=(
        (130, 190, 245), (150, 190, 90), (30, 110, 50), (205, 80, 60), (70, 70, 170), (250, 200, 40), (140, 90, 50),
        (235, 120, 200),
    ),
)  # fmt: skip
