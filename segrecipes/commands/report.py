"""Write one page about a training run, or compare several.

segrecipes report RUN_FOLDER [MORE_RUN_FOLDERS …] [--out FILE]

A folder that evaluate has written is taken too.
"""

import argparse
import sys

from segrecipes.base.run_files import REPORT


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('folders', nargs='+', metavar='RUN_FOLDER', help='the page is about the first of them')
    parser.add_argument('--out', metavar='FILE', help=f'default: {REPORT} in the first folder')


def run(arguments: argparse.Namespace) -> None:
    from segrecipes.reports.page import write_report

    path, warnings = write_report(arguments.folders, arguments.out)
    for warning in warnings:
        print(f'warning: {warning}', file=sys.stderr)
    print(f'report: {path} ({path.stat().st_size / 1e6:.1f} MB)')
