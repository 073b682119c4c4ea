# PYTHON_ARGCOMPLETE_OK
"""The command line: a verb, and what it is given.

Verbs that run a config take a yaml and ``key=value``; verbs that take files take paths and ``--flags``. A verb is a
file beside this one with ``add_arguments(parser)``, ``run(arguments)``, and a docstring that ``--help`` shows;
``data init`` is ``data_init.py``. None of them imports torch before it has work to do.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from segrecipes.base.errors import clean_exit, suggestion
from segrecipes.base.version import VERSION

VERBS = {
    'train': 'train a network, as a yaml says',
    'evaluate': 'score a checkpoint by a protocol whose numbers can be quoted',
    'predict': 'segment images with a trained network',
    'export': 'write a network as ONNX, torch.export or safetensors',
    'report': 'write one page about a run, or compare several',
    'sweep': 'search for the best settings of a training',
    'data': 'check a dataset, or draw its augmented samples',
    'data init': 'describe pictures of your own in a dataset.yaml',
    'convert': 'turn a dataset into MDS shards, on disk or on S3',
    'convert coco': "draw the masks of COCO's instances",
    'download': 'fetch ADE20K',
    'synthesize': 'draw a small dataset',
    'config': 'print a config, and where each of its values comes from',
}


@clean_exit
def main(argv: Sequence[str] | None = None) -> None:
    """``segrecipes VERB …``"""
    argv = list(sys.argv[1:] if argv is None else argv)
    if '_ARGCOMPLETE' in os.environ:
        complete()
    if argv and argv[0] in VERBS:
        run(argv[0], argv[1:], f'segrecipes {argv[0]}')
        return
    parser = argparse.ArgumentParser('segrecipes', description=summary(), formatter_class=Help, usage='%(prog)s VERB …')
    add_version(parser)
    if argv and not argv[0].startswith('-'):
        parser.exit(2, f'segrecipes {argv[0]}: no such verb.{suggestion(argv[0], VERBS)}\n')
    parser.parse_args(argv or ['--help'])


@clean_exit
def run(verb: str, argv: Sequence[str] | None = None, program: str | None = None) -> None:
    """A verb with its own arguments, as the scripts in the root call it. Its first argument may be part of the verb."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and f'{verb} {argv[0]}' in VERBS:
        verb, program, argv = f'{verb} {argv[0]}', f'{program or Path(sys.argv[0]).name} {argv[0]}', argv[1:]
    module, parser = verb_parser(verb, program)
    module.run(parser.parse_intermixed_args(argv))


def verb_parser(verb: str, program: str | None = None) -> tuple[Any, argparse.ArgumentParser]:
    module: Any = import_module(f'segrecipes.commands.{verb.replace(" ", "_")}')
    parser = argparse.ArgumentParser(program, description=module.__doc__, formatter_class=Help)
    module.add_arguments(parser)
    add_version(parser)
    return module, parser


class Help(argparse.RawDescriptionHelpFormatter):
    """Descriptions as they are written."""


def add_version(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--version', action='version', version=f'segrecipes {VERSION}')


def summary() -> str:
    verbs = '\n'.join(f'  {verb:<14}{what}' for verb, what in VERBS.items())
    return f'{__doc__.splitlines()[0] if __doc__ else ""}\n\n{verbs}\n\nsegrecipes VERB --help says more of each.'


def complete() -> None:
    """Answer a shell that asks what can stand here; it does so in a process of its own."""
    import argcomplete

    parser = argparse.ArgumentParser('segrecipes')
    verbs = parser.add_subparsers()
    for verb in (verb for verb in VERBS if ' ' not in verb):
        module = import_module(f'segrecipes.commands.{verb}')
        module.add_arguments(verbs.add_parser(verb))
    argcomplete.autocomplete(parser)
