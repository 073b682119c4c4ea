"""Look at pictures of your own and write dataset.yaml beside them: what is an image, a mask, a class, a split.

    segrecipes data init ./mydata
    segrecipes train yamls/deeplabv3.yaml dataset=./mydata

Each decision is printed with its reason, and is a line of the file, which is yours to edit.
"""

import argparse
from pathlib import Path

from segrecipes.base.errors import UserError
from segrecipes.base.files import write_text
from segrecipes.datasets.file import FILE, read_file, to_yaml

PROTOCOL = 'fit-ss'  # the image keeps its ratio, and its own mask is scored
HEADER = '# segrecipes data init found this; the keys below are yours to edit.\n'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('path', type=Path, help='folder of the pictures')
    parser.add_argument('--name', help="of the dataset; default: the folder's")
    parser.add_argument('--force', action='store_true', help=f'replace a {FILE} that is there')


def run(arguments: argparse.Namespace) -> None:
    from segrecipes.storage.survey.survey import survey

    path = arguments.path.expanduser()
    file = path / FILE
    if file.exists() and not arguments.force:
        raise UserError(f'{file} exists; --force replaces it')
    decisions: list[str] = []

    def say(what: str, text: str) -> None:
        print(f'{what:<8} {text}')
        if what:
            decisions.append(f'# {what:<8} {text}\n')

    row, config = survey(path, arguments.name or path.resolve().name, PROTOCOL, say)
    try:
        write_text(file, f'{HEADER}{"".join(decisions)}\n{to_yaml(row, config)}')
    except OSError as error:
        raise UserError(f'{file} cannot be written ({error.strerror})') from error
    assert read_file(file).row == row
    print(f'\n{file} is written. Read it, name the classes, then:')
    print(f'  segrecipes data {path}\n  segrecipes train yamls/deeplabv3.yaml dataset={path}')
