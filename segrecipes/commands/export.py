"""Write a checkpoint's network for use without this package, and prove that the file computes the same.

segrecipes export runs/demo/latest-rank0.pt --to onnx
"""

import argparse
from pathlib import Path

from segrecipes.base.errors import UserError, unknown_name
from segrecipes.checkpoints.formats.table import FORMATS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('checkpoint', help='a checkpoint of a run, or what this has exported as safetensors')
    parser.add_argument('--to', required=True, metavar='FORMAT', help=', '.join(FORMATS))
    parser.add_argument('--out', help="default: beside the checkpoint, under the format's suffix")
    parser.add_argument('--weights', default='best', help='ema, raw, or best: EMA where there is one; default: best')
    parser.add_argument('--trust-checkpoint', action='store_true', help='may run code that is in the checkpoint')


def run(arguments: argparse.Namespace) -> None:
    if arguments.to not in FORMATS:
        raise unknown_name('--to', arguments.to, FORMATS)
    from segrecipes.checkpoints.export import export
    from segrecipes.checkpoints.network import load_network

    card, network = load_network(arguments.checkpoint, arguments.weights, arguments.trust_checkpoint)
    suffix = FORMATS[arguments.to].suffix
    path = Path(arguments.out) if arguments.out else Path(arguments.checkpoint).with_suffix(suffix)
    if path.exists() and path.samefile(arguments.checkpoint):
        raise UserError(f'--out={path} is the checkpoint itself; choose another file')
    for difference in export(network, card, path, arguments.to):
        print(difference)
    print(f'{path}: {arguments.to}, {path.stat().st_size / 1e6:.1f} MB')
