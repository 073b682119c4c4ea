"""Draw a small segmentation dataset of landscapes, in ADE20K's layout.

segrecipes synthesize --path ./demo/data --num-train 400 --num-val 80 --size 128 --seed 0
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--path', required=True, help='folder that gets ADEChallengeData2016/')
    parser.add_argument('--num-train', type=int, default=400, help='default: 400')
    parser.add_argument('--num-val', type=int, default=80, help='default: 80')
    parser.add_argument('--size', type=int, default=128, help='sides are 0.9 to 1.2 times as many pixels; default: 128')
    parser.add_argument('--seed', type=int, default=0, help='default: 0')


def run(arguments: argparse.Namespace) -> None:
    from segrecipes.datasets.synthetic.write import write_dataset

    write_dataset(**vars(arguments))
