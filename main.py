"""Train and evaluate a segmentation network: ``composer main.py yamls/deeplabv3.yaml recipe_name=mild``.

A door. ``segrecipes/training/run.py``, which ``import main`` gives, is the table of contents; behind it ``config/``
merges the yaml, ``data/loader.py`` makes batches, ``training/tasks/`` the model, ``training/trainer.py`` the Trainer.
"""

if __name__ == '__main__':
    from segrecipes.commands.cli import run

    run('train')
else:
    import sys

    from segrecipes.training.run import *  # noqa: F403

    sys.modules[__name__] = sys.modules['segrecipes.training.run']
