"""Segment images with a trained network.

    segrecipes predict runs/first/best-rank0.pt street.jpg photos/ 'more/*.png' --out pred

The checkpoint, or an exported .onnx or .pt2 file, knows its architecture, classes and normalisation. Written below
``--out``: ``masks/`` (palette PNGs of class indices), ``overlays/`` (the classes' colours over the image) and
``shares.json`` (of each image, the share of its pixels by class). A GeoTIFF of any size is read by blocks and labelled
by windows in its own resolution; its mask is a GeoTIFF in the same place (``pip install rasterio``). In Python:

    from segrecipes import Predictor
    labels = Predictor('runs/first/best-rank0.pt')('street.jpg')  # (H, W) uint8
"""

import argparse
import sys
from pathlib import Path

from segrecipes.base.errors import UserError
from segrecipes.evaluation.table import NAMES, USUAL


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('checkpoint', help='a checkpoint, or an exported .onnx or .pt2 file')
    parser.add_argument('images', nargs='+', help='images, folders of images, or patterns such as "photos/*.jpg"')
    parser.add_argument('--out', type=Path, default=Path('predictions'), help='default: predictions')
    parser.add_argument('--protocol', metavar='NAME', help=f'{", ".join(NAMES)}; default: {USUAL}')
    parser.add_argument('--ms', action='store_true', help='average over six scales, 0.5 to 1.75')
    parser.add_argument('--flip', action='store_true', help='average with the mirrored image')
    parser.add_argument('--slide', action='store_true', help='windows over the image in its own resolution')
    parser.add_argument('--size', type=int, help='short side, or window, in pixels; default: that of its evaluation')
    parser.add_argument('--submission', action='store_true', help="also write ADE20K's form: labels from 1, no palette")
    parser.add_argument('--weights', default='best', help='ema, raw, or best: EMA where there is one; default: best')
    parser.add_argument('--device', help='such as cuda:1 or cpu; default: a GPU where there is one')
    parser.add_argument('--trust-checkpoint', action='store_true', help='may run code that is in the checkpoint')


def run(arguments: argparse.Namespace) -> None:
    from tqdm import tqdm

    from segrecipes.inference.predictor import Predictor
    from segrecipes.inference.segment import choose_protocol, segment

    if arguments.protocol and arguments.slide:
        raise UserError(f'--slide is --protocol slide; --protocol={arguments.protocol} is given too')
    protocol = 'slide' if arguments.slide else arguments.protocol
    predictor = Predictor(
        arguments.checkpoint, weights=arguments.weights, device=arguments.device, trust=arguments.trust_checkpoint
    )
    predictor.protocol = choose_protocol(
        protocol, arguments.size, predictor.card.image_size, ms=arguments.ms, flip=arguments.flip
    )
    failed: list[str] = []

    def left_out(name: str, error: Exception) -> None:
        failed.append(name)
        tqdm.write(f'left out: {error}', file=sys.stderr)

    found = segment(
        predictor, arguments.images, out=arguments.out, submission=arguments.submission, keep=False, on_error=left_out
    )
    count = sum(1 for _ in found)
    print(f'{count} images segmented: {arguments.out}')
    if failed:
        raise UserError(f'{len(failed)} of {count + len(failed)} images were left out: {", ".join(failed)}')
