"""Draw the masks of COCO's instances, and write the dataset.yaml of them and the photographs.

    segrecipes convert coco annotations/instances_*.json --images ./coco --out ./coco12 --classes coco12
    segrecipes train yamls/deeplabv3.yaml dataset=./coco12

As a U-Net at 384 pixels, images padded to a square, is trained and scored:

    segrecipes train yamls/deeplabv3.yaml dataset=./coco12 eval_protocol=mosaic-512sq \\
        train_dataset.pad_to_square=true train_dataset.keep_ratio=false train_dataset.min_resize_scale=1 \\
        train_dataset.max_resize_scale=1 train_dataset.base_size=384 train_dataset.final_size=384

Class 0 is the background, the others are the 80 categories or the 12 super-categories in the order of COCO's ids. Small
things lie on top of large ones, crowds are ignored, and images without annotation stay.
"""

import argparse
from pathlib import Path

CLASSES = ('coco80', 'coco12')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('annotations', nargs='+', type=Path, help='instances_train2017.json, or several such files')
    parser.add_argument('--images', type=Path, required=True, help='folder of the images, or of train2017 and val2017')
    parser.add_argument('--out', type=Path, required=True, help='folder of the masks')
    parser.add_argument('--classes', default='coco80', help=f'{", ".join(CLASSES)}; default: coco80')
    parser.add_argument('--num-workers', type=int, help='processes; default: one a core')


def run(arguments: argparse.Namespace) -> None:
    from segrecipes.storage.coco import convert_coco

    for split, count in convert_coco(**vars(arguments)).items():
        print(f'{arguments.out}: {split}, {count} masks')
    print(f'segrecipes train yamls/deeplabv3.yaml dataset={arguments.out}')
