"""Fetch ADE20K (20,210 + 2,000 images), verified: ``python download_ade20k.py --path ./ade20k``.

A door, to ``segrecipes/storage/fetch.py``.
"""

if __name__ == '__main__':
    from segrecipes.commands.cli import run

    run('download')
