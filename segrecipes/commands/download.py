"""Download, verify and unpack ADE20K (scene parsing, 20,210 + 2,000 images); run again to resume.

segrecipes download --path ./ade20k
"""

import argparse
from pathlib import Path

from segrecipes.datasets.ade20k import URL


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--path', type=Path, default=Path('ade20k'), help='folder to unpack into (default: ./ade20k)')
    parser.add_argument('--url', default=URL, help='a mirror of the same file (default: %(default)s)')
    parser.add_argument('--keep-zip', action='store_true', help='keep the zip once it is unpacked')


def run(arguments: argparse.Namespace) -> None:
    from segrecipes.storage.fetch import download

    folder = arguments.path.expanduser()
    root = download(folder, arguments.url, arguments.keep_zip)
    print(f'{root} is complete' if root else f'{folder} is complete already, nothing to do')
