"""Train a segmentation network, as a yaml says.

    segrecipes train yamls/deeplabv3.yaml recipe_name=mild
    composer -n 8 -c segrecipes train yamls/deeplabv3.yaml recipe_name=hot save_folder=runs/{run_name}

Merged in this order, the later one winning: the defaults, the dataset's file, the yaml, the recipe, the command line.
"""

import argparse
from typing import TYPE_CHECKING

from segrecipes.commands import configs

if TYPE_CHECKING:
    from segrecipes.api import RunResult

add_arguments = configs.add_arguments


def run(arguments: argparse.Namespace) -> None:
    from segrecipes.api import train

    summarize(train(arguments.config, arguments.settings))


def summarize(result: 'RunResult') -> None:
    """The last evaluation, or all of a run that only evaluates, and where everything is."""
    from segrecipes.commands.evaluate import show
    from segrecipes.training.device import say

    show(result.evaluations[-1:] if result.config.is_train else result.evaluations)
    for what, folder in {'results': result.results, 'checkpoints': result.folder}.items():
        if folder:
            say(f'{what}: {folder}')
