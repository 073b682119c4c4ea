"""PASCAL VOC 2012, 1,464 images to train and 1,449 to validate: http://host.robots.ox.ac.uk/pascal/VOC/voc2012

And PASCAL Context's labels for images of VOC 2010, 4,998 and 5,105: https://cs.stanford.edu/~roozbeh/pascal-context
Its masks and lists are those that mmsegmentation's tools/dataset_converters/pascal_context.py writes.
"""

from dataclasses import replace

from segrecipes.datasets.row import DatasetRow, Split, named, rgb

CLASSES = """
background, aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable, dog, horse,
motorbike, person, pottedplant, sheep, sofa, train, tvmonitor
"""
COLORS = """
000000 800000 008000 808000 000080 800080 008080 808080 400000 c00000 408000 c08000 400080 c00080
408080 c08080 004000 804000 00c000 80c000 004080
"""
CONTEXT_CLASSES = """
background, aeroplane, bag, bed, bedclothes, bench, bicycle, bird, boat, book, bottle, building, bus, cabinet,
car, cat, ceiling, chair, cloth, computer, cow, cup, curtain, dog, door, fence, floor, flower, food, grass,
ground, horse, keyboard, light, motorbike, mountain, mouse, person, plate, platform, pottedplant, road, rock,
sheep, shelves, sidewalk, sign, sky, snow, sofa, table, track, train, tree, truck, tvmonitor, wall, water,
window, wood
"""


def listed(folder: str) -> dict[str, Split]:
    return {split: Split('JPEGImages/*.jpg', listed=f'ImageSets/{folder}/{split}.txt') for split in ('train', 'val')}


ROW = DatasetRow(
    name='voc2012',
    classes=named(CLASSES),
    colors=rgb(COLORS),
    root='VOCdevkit/VOC2012',
    splits=listed('Segmentation'),
    mask=(r'^JPEGImages/(.+)\.\w+$', r'SegmentationClass/\1.png'),
    uid=r'/([^/]+)\.\w+$',
    labels=0,  # the border of things is 255
)

CONTEXT_60 = replace(
    ROW,
    name='pascal_context60',
    classes=named(CONTEXT_CLASSES),
    colors=(),
    root='VOCdevkit/VOC2010',
    splits=listed('SegmentationContext'),
    mask=(r'^JPEGImages/(.+)\.\w+$', r'SegmentationClassContext/\1.png'),
)

CONTEXT_59 = replace(CONTEXT_60, name='pascal_context59', classes=CONTEXT_60.classes[1:], labels=1)
