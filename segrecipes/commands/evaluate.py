"""Evaluate a checkpoint in full resolution, by a protocol whose numbers can be quoted.

    segrecipes evaluate runs/first/best-rank0.pt --protocol fit-ss
    segrecipes evaluate runs/first/best-rank0.pt --data mydata
    composer -n 2 -c segrecipes evaluate yamls/deeplabv3.yaml load_path=best-rank0.pt --protocol all

A checkpoint alone has its config from the config.yaml beside it, or from the card that it carries.

Of a checkpoint with averaged weights (EMA) both they and the raw ones are evaluated. Computes in float32 unless
``precision`` is set.
"""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from segrecipes.commands import configs
from segrecipes.evaluation.table import NAMES

if TYPE_CHECKING:
    from segrecipes.evaluation.scores import Scores


def add_arguments(parser: argparse.ArgumentParser) -> None:
    configs.add_arguments(parser, '; or a checkpoint')
    names = ', '.join(NAMES)
    parser.add_argument('--protocol', metavar='NAME', help=f'{names}, or all; default: eval_protocol of the yaml')
    parser.add_argument('--verbose', action='store_true', help='print all of the config, not only what was set')
    parser.add_argument('--data', metavar='NAME', help='of a checkpoint alone: another dataset, by name or path')
    parser.add_argument('--out', metavar='FOLDER', help='of the results; default: beside the checkpoint')


def run(arguments: argparse.Namespace) -> None:
    from segrecipes.api import evaluate

    options = {name: getattr(arguments, name) for name in ('protocol', 'data', 'out', 'verbose')}
    show(evaluate(arguments.config, arguments.settings, **options))


def show(evaluations: 'Sequence[Scores]') -> None:
    """Print the table of each evaluation, then the figures of all; on rank 0."""
    from composer.utils import dist
    from rich.console import Console

    from segrecipes.evaluation.scores import comparison

    if evaluations and dist.get_global_rank() == 0:
        console = Console()
        for scores in evaluations:
            console.print(scores.table())
            for remark in scores.remarks():
                console.print(remark, soft_wrap=True, markup=False, highlight=False)
        console.print(comparison(evaluations) if len(evaluations) > 1 else str(evaluations[0]), soft_wrap=True)
