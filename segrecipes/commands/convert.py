"""Convert a dataset of image and mask files into MosaicML Streaming shards, on disk or on S3.

    segrecipes convert ./ade20k --out ./ade20k_mds
    segrecipes convert ./ade20k --out s3://bucket/ade20k

One sub-folder a split, in the schema of streaming's own ADE20K converter. Files are copied byte by byte, masks not so
with --fast-masks; the shards are the same whatever the number of workers.
"""

import argparse

from segrecipes.datasets.file import FILE
from segrecipes.datasets.row import SPLITS
from segrecipes.datasets.table import DATASETS, USUAL


def comma_separated(text: str) -> list[str]:
    return text.split(',')


def comma_separated_or_none(text: str) -> list[str]:
    return text.split(',') if text else []


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('path', help='folder of the dataset')
    parser.add_argument(
        '--out', required=True, help='a folder, or a URL of s3, gs, oci, azure or hf, such as s3://bucket/prefix'
    )
    parser.add_argument('--name', help=f'{", ".join(DATASETS)}, or path/to/{FILE}; default: that in PATH, else {USUAL}')
    parser.add_argument('--splits', type=comma_separated, default=SPLITS, help='default: train,val')
    parser.add_argument('--num-workers', type=int, help='processes; default: one a core')
    parser.add_argument('--size-limit', default='4mb', help='bytes of a shard before compression; default: 4mb')
    parser.add_argument('--compression', help='such as zstd or zstd:7; default: none')
    parser.add_argument(
        '--hashes', type=comma_separated_or_none, default=('sha1', 'xxh64'), help="'' for none; default: sha1,xxh64"
    )
    parser.add_argument('--overwrite', action='store_true', help='replace what is in the way')
    parser.add_argument('--fast-masks', action='store_true', help='re-encode masks as PNGs that are faster to decode')
    parser.add_argument('--shuffle-seed', type=int, default=0, help='orders the training samples; default: 0')


def run(arguments: argparse.Namespace) -> None:
    from segrecipes.storage.convert import convert

    for split, count in convert(**vars(arguments)).items():
        print(f'{arguments.out.rstrip("/")}/{split}: {count} samples')
