"""Train and evaluate a segmentation network: ``composer main.py yamls/deeplabv3.yaml recipe_name=mild``.

A door. ``segrecipes/training/run.py`` is the table of contents; behind it ``config/`` merges the yaml,
``data/loader.py`` makes batches, ``training/tasks/`` the model, ``training/trainer.py`` Composer's Trainer.
"""

if __name__ == '__main__':
    from segrecipes.commands.cli import run

    run('train')
else:
    from segrecipes.training.run import build_trainer, dataspec, main, say

    __all__ = ['build_trainer', 'dataspec', 'main', 'say']
