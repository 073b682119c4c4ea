"""Datasets as Composer DataSpecs, and their check: ``python data.py PATH [LOCAL]``, ``--show grid.png`` draws samples.

A door. ``segrecipes/datasets/`` has a row a dataset, ``storage/`` reads folders and shards, ``data/`` makes batches.
"""

if __name__ == '__main__':
    from segrecipes.commands.cli import run

    run('data')
else:
    from segrecipes.data.loader import build_dataspec
    from segrecipes.upstream import build_ade20k_dataspec, check_dataloader

    __all__ = ['build_ade20k_dataspec', 'build_dataspec', 'check_dataloader']
