"""Train and evaluate a segmentation network: ``composer main.py yamls/deeplabv3.yaml recipe_name=mild``.

A door: ``import main`` gives ``segrecipes/training/run.py``, the table of contents. From there ``config/`` merges the
yaml, ``data/loader.py`` makes batches, ``training/tasks/`` the model, ``training/trainer.py`` Composer's Trainer."""

import sys

if __name__ == '__main__':
    from segrecipes.commands import cli

    cli.run('train')
else:
    from segrecipes.training.run import *  # noqa: F403

    sys.modules[__name__] = sys.modules['segrecipes.training.run']
