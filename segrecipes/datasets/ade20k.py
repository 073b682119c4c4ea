"""ADE20K's scene parsing benchmark, 20,210 training and 2,000 validation images: http://sceneparsing.csail.mit.edu"""

from segrecipes.datasets.row import DatasetRow, Split

URL = 'http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip'

# Other datasets in this layout may be called anything; but what is not called so is no picture of ADE20K.
ANY_NAME = r'/(?:ADE_(?:train|val)_)?([^/]+)\.\w+$'

CLASSES = """
wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth,
door, table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug,
field, armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column,
signboard, chest of drawers, counter, sand, sink, skyscraper, fireplace, refrigerator, grandstand, path,
stairs, runway, case, pool table, pillow, screen door, stairway, river, bridge, bookcase, blind, coffee table,
toilet, flower, book, hill, bench, countertop, stove, palm, kitchen island, computer, swivel chair, boat, bar,
arcade machine, hovel, bus, towel, light, truck, tower, chandelier, awning, streetlight, booth, television
receiver, airplane, dirt track, apparel, pole, land, bannister, escalator, ottoman, bottle, buffet, poster,
stage, van, ship, fountain, conveyer belt, canopy, washer, plaything, swimming pool, stool, barrel, basket,
waterfall, tent, bag, minibike, cradle, oven, ball, food, step, tank, trade name, microwave, pot, animal,
bicycle, lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase, traffic light, tray, ashcan, fan,
pier, crt screen, plate, monitor, bulletin board, shower, radiator, glass, clock, flag
"""

ROW = DatasetRow(
    name='ade20k',
    classes=tuple(name.strip() for name in CLASSES.replace('\n', ' ').split(',')),
    root='ADEChallengeData2016',
    splits={'train': Split('images/training/*'), 'val': Split('images/validation/*')},
    mask=(r'^images/(.+)\.\w+$', r'annotations/\1.png'),
    uid=r'/ADE_(?:train|val)_(\d+)\.\w+$',
    labels=1,  # 0 is "other"
    # Three grayscale images and a damaged one, which streaming's converter and upstream leave out too.
    excluded={'train': frozenset({'00001701', '00003020', '00008455', '00013508'})},
)
