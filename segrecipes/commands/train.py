"""Train a segmentation network, as a yaml says.

    segrecipes train yamls/deeplabv3.yaml recipe_name=mild
    composer -n 8 -c segrecipes train yamls/deeplabv3.yaml recipe_name=hot

Merged in this order, the later one winning: the defaults, the dataset's file, the yaml, the recipe, the command line.
Checkpoints and results go to runs/{run_name}, or where save_folder says; save_folder=null saves nothing.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from segrecipes.base.run_files import BEST_CHECKPOINT, LATEST_CHECKPOINT
from segrecipes.base.stores import is_url
from segrecipes.commands import configs
from segrecipes.commands.program import command, this_command
from segrecipes.datasets.table import get_dataset

if TYPE_CHECKING:
    from segrecipes.api import RunResult
    from segrecipes.config.schema import DatasetConfig
    from segrecipes.training.callbacks.interrupt import Stopped


def add_arguments(parser: argparse.ArgumentParser) -> None:
    configs.add_arguments(parser)
    parser.add_argument('--verbose', action='store_true', help='print all of the config, not only what was set')


def run(arguments: argparse.Namespace) -> None:
    from segrecipes.api import train
    from segrecipes.training.callbacks.interrupt import Stopped
    from segrecipes.training.device import say

    try:
        result = train(arguments.config, arguments.settings, verbose=arguments.verbose)
    except Stopped as stopped:
        say(how_to_go_on(stopped))
        raise
    summarize(result)


def how_to_go_on(stopped: 'Stopped') -> str:
    if stopped.checkpoint is None:
        return f'stopped at batch {stopped.batch}; nothing was saved, because save_folder is null'
    again = this_command(f'run_name={stopped.run_name}', 'autoresume=true')
    return f'stopped at batch {stopped.batch}, saved as {stopped.checkpoint}; to go on: {again}'


def summarize(result: 'RunResult') -> None:
    """The last evaluation, or all of a run that only evaluates, where everything is, and what one would do next."""
    from segrecipes.commands.evaluate import show
    from segrecipes.training.device import say

    show(result.evaluations[-1:] if result.config.is_train else result.evaluations)
    if result.results:
        say(f'results: {result.results}')
    if result.config.is_train:
        say(next_steps(result))


def next_steps(result: 'RunResult') -> str:
    """The run's checkpoints, and the three commands that one would type next."""
    if result.folder is None:
        return 'nothing was saved: save_folder is null'
    if is_url(result.folder) or result.checkpoint is None:
        return f'checkpoints: {result.folder}'
    folder, used = Path(result.folder), result.checkpoint
    named = {'best': BEST_CHECKPOINT.format(rank=0), 'latest': LATEST_CHECKPOINT.format(rank=0)}
    there = {which: folder / name for which, name in named.items() if (folder / name).exists()}
    return '\n'.join([
        *(f'{which} checkpoint: {path} ({path.resolve().name})' for which, path in there.items()),
        'next:',
        f'  {command("evaluate", used, "--protocol", "fit-ss")}',
        f'  {command("predict", used, example(result.config.eval_dataset))}',
        f'  {command("report", folder)}',
    ])  # fmt: skip


def example(dataset: 'DatasetConfig') -> str:
    """A picture to predict: the first that was evaluated, where there are files."""
    from segrecipes.storage.folders import find_pairs

    if dataset.is_streaming or dataset.name is None or dataset.path is None:
        return 'picture.jpg'
    return str(find_pairs(dataset.path, 'val', get_dataset(dataset.name))[0].image)
