"""Cityscapes' street scenes as they are shipped, 2,975 to train and 500 to validate: https://www.cityscapes-dataset.com

leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip, unpacked into one folder.
"""

from segrecipes.datasets.row import DatasetRow, Split, rgb

# The ids that are evaluated, in the order of their train ids, as cityscapesScripts' labels.py has them:
# https://github.com/mcordts/cityscapesScripts/blob/master/cityscapesscripts/helpers/labels.py
IDS = {
    7: 'road', 8: 'sidewalk', 11: 'building', 12: 'wall', 13: 'fence', 17: 'pole', 19: 'traffic light',
    20: 'traffic sign', 21: 'vegetation', 22: 'terrain', 23: 'sky', 24: 'person', 25: 'rider', 26: 'car', 27: 'truck',
    28: 'bus', 31: 'train', 32: 'motorcycle', 33: 'bicycle',
}  # fmt: skip
COLORS = """
804080 f423e8 464646 66669c be9999 999999 faaa1e dcdc00 6b8e23 98fb98
4682b4 dc143c ff0000 00008e 000046 003c64 005064 0000e6 770b20
"""

ROW = DatasetRow(
    name='cityscapes',
    classes=tuple(IDS.values()),
    colors=rgb(COLORS),
    root='cityscapes',
    splits={split: Split(f'leftImg8bit/{split}/*/*_leftImg8bit.png') for split in ('train', 'val')},
    mask=(r'^leftImg8bit/(.+)_leftImg8bit\.\w+$', r'gtFine/\1_gtFine_labelIds.png'),
    uid=r'/([^/]+)_leftImg8bit\.\w+$',
    labels={label: index for index, label in enumerate(IDS)},
    ignored=frozenset({*range(34), 255} - {*IDS}),
)
