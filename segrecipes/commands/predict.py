"""Segment images with a trained network.

    segrecipes predict runs/first/best-rank0.pt street.jpg photos/ 'more/*.png' --out pred

The checkpoint, or an exported .onnx or .pt2 file, knows its architecture, classes and normalisation. Written below
``--out``: ``masks/`` (palette PNGs of class indices), ``overlays/`` (the classes' colours over the image) and
``shares.json`` (of each image, the share of its pixels by class). In Python:

    from segrecipes.inference.predictor import Predictor
    labels = Predictor('runs/first/best-rank0.pt')('street.jpg')  # (H, W) uint8
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from segrecipes.base.errors import UserError, unknown_name
from segrecipes.base.files import write_text
from segrecipes.evaluation.table import NAMES, USUAL, get_protocol

if TYPE_CHECKING:
    from segrecipes.evaluation.protocols import EvalProtocol


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

    from segrecipes.inference.images import find_images, name_images, read_image
    from segrecipes.inference.outputs import class_shares, write
    from segrecipes.inference.predictor import Predictor

    images = name_images(find_images(arguments.images))
    predictor = Predictor(
        arguments.checkpoint, weights=arguments.weights, device=arguments.device, trust=arguments.trust_checkpoint
    )
    predictor.protocol = choose_protocol(arguments, predictor.card.image_size)
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f'--out={arguments.out}: cannot be written ({error.strerror})') from error

    shares, failed = {}, {}
    for name, path in tqdm(images.items(), unit='image', disable=not sys.stderr.isatty()):
        try:
            image = read_image(path)
            labels = predictor(image)
            write(arguments.out, name, image, labels, predictor.card, arguments.submission)
            shares[name] = class_shares(labels, predictor.card.class_names)
        except (UserError, OSError) as error:
            failed[name] = str(error)
            tqdm.write(f'left out: {error}', file=sys.stderr)

    settings = {'checkpoint': str(arguments.checkpoint), 'protocol': str(predictor.protocol)}
    found = json.dumps({**settings, 'images': shares, 'failed': failed}, indent=1)
    write_text(arguments.out / 'shares.json', found + '\n')
    print(f'{len(shares)} images segmented: {arguments.out}')
    if failed:
        raise UserError(f'{len(failed)} of {len(images)} images were left out: {", ".join(failed)}')


def choose_protocol(arguments: argparse.Namespace, size: int) -> 'EvalProtocol':
    """A row of the table, and what flags add to it."""
    if arguments.size is not None and arguments.size < 1:
        raise UserError(f'--size={arguments.size} must be 1 or more pixels')
    name = arguments.protocol or ('slide' if arguments.slide else USUAL)
    if arguments.protocol and arguments.slide:
        raise UserError(f'--slide is --protocol slide; --protocol={arguments.protocol} is given too')
    if name not in NAMES:
        raise unknown_name('--protocol', name, NAMES)
    protocol = get_protocol(name, arguments.size or size)
    ratios = get_protocol('ade20k-ms').ratios
    if arguments.ms and protocol.ratios != ratios:
        protocol = replace(protocol, name=f'{protocol.name}+ms', ratios=ratios)
    if arguments.flip and not protocol.flip:
        protocol = replace(protocol, name=f'{protocol.name}+flip', flip=True)
    return protocol
