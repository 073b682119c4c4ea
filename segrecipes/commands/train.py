"""Train a segmentation network, as a yaml says.

    segrecipes train yamls/deeplabv3.yaml recipe_name=mild
    composer -n 8 -c segrecipes train yamls/deeplabv3.yaml recipe_name=hot save_folder=runs/{run_name}

Merged in this order, the later one winning: the defaults, the dataset's file, the yaml, the recipe, the command line.
"""

import argparse
from typing import TYPE_CHECKING

from segrecipes.commands import configs

if TYPE_CHECKING:
    from composer import Trainer

    from segrecipes.config.schema import Config

add_arguments = configs.add_arguments


def run(arguments: argparse.Namespace) -> None:
    from segrecipes.config.merge import load_config
    from segrecipes.training.run import main
    from segrecipes.training.trainer import close
    from segrecipes.training.warnings import ignore_known_warnings

    cfg, sources = load_config([arguments.config, *arguments.settings])
    ignore_known_warnings()
    trainer = main(cfg, sources)
    close(trainer)
    summarize(cfg, trainer)


def summarize(cfg: 'Config', trainer: 'Trainer') -> None:
    """The last evaluation, or all of a run that only evaluates, and where everything is."""
    from segrecipes.commands.evaluate import show
    from segrecipes.training.device import say
    from segrecipes.training.evaluate import shown_results

    results = shown_results(trainer)
    if results is None:
        return
    show(results.evaluations[-1:] if cfg.is_train else results.evaluations)
    for what, folder in {'results': results.folder, 'checkpoints': cfg.save_folder if cfg.is_train else None}.items():
        if folder:
            say(f'{what}: {folder.format(run_name=trainer.state.run_name)}')
