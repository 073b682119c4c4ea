"""Print the effective config, with the source of every value that is not the default.

segrecipes config yamls/deeplabv3.yaml recipe_name=mild max_duration=1ep

Refuses what train would refuse before it looks at data or a checkpoint.
"""

import argparse

from segrecipes.commands import configs

add_arguments = configs.add_arguments


def run(arguments: argparse.Namespace) -> None:
    from segrecipes.config.describe import describe
    from segrecipes.config.merge import load_config

    config, sources = load_config([arguments.config, *arguments.settings])
    from segrecipes.training.checks import check_registered  # what is wrong with keys is said in a moment

    check_registered(config)
    print(describe(config, sources))
