"""Every path and command in the README exists and is accepted."""

import re
import shlex
from pathlib import Path

import pytest

from segrecipes.commands.cli import VERBS, verb_parser
from segrecipes.config.merge import load_config

ROOT = Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text()
COMMANDS = [
    line.split('  #')[0].strip()
    for block in re.findall(r'^```bash\n(.*?)^```', README, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
    if line.strip()
]
DOORS = ('data.py', 'download_ade20k.py')


def test_the_set_up_is_two_commands() -> None:
    assert COMMANDS[:2] == ['make demo', 'make test']


OWN = """
classes: [background, tumour]
labels: {0: background, 255: tumour}
splits: {train: images/train/*, val: images/val/*}
mask: ['^images/(.+)\\.\\w+$', 'masks/\\1.png']
"""


@pytest.fixture
def own_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder to stand in where there is what the commands are about, and the yamls."""
    (tmp_path / 'mydata').mkdir()
    (tmp_path / 'mydata' / 'dataset.yaml').write_text(OWN)
    (tmp_path / 'yamls').symlink_to(ROOT / 'yamls')
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures('own_pictures')
@pytest.mark.parametrize('command', COMMANDS)
def test_command(command: str) -> None:
    program, *rest = shlex.split(command)
    if program == 'make':
        assert re.search(rf'^{rest[0]}:', (ROOT / 'Makefile').read_text(), re.MULTILINE)
    elif program == 'export':
        assert command == 'export PATH=$PWD/.venv/bin:$PATH'
    elif program == 'composer':
        start = next(index for index, word in enumerate(rest) if word in ('main.py', 'segrecipes'))
        check_launcher_options(rest[:start])
        check_verb(['train', *rest[start + 1 :]] if rest[start] == 'main.py' else rest[start + 1 :])
    elif program == 'segrecipes':
        check_verb(rest)
    elif program == 'python':
        assert rest[0] in DOORS
        check_verb([{'data.py': 'data', 'download_ade20k.py': 'download'}[rest[0]], *rest[1:]])
    else:
        assert program == 'mcli'
        check_mcli(ROOT / rest[rest.index('-f') + 1])


def check_verb(words: list[str]) -> None:
    """Its arguments are there, and keys of a yaml of ours, or of one that a run has saved."""
    if words == ['--help']:
        return
    verb, *argv = words
    if argv and f'{verb} {argv[0]}' in VERBS:
        verb, argv = f'{verb} {argv[0]}', argv[1:]
    arguments = verb_parser(verb)[1].parse_intermixed_args(argv)
    if 'settings' in arguments:
        saved = arguments.config in ('runs/first/config.yaml', 'runs/first/best-rank0.pt')
        yaml = 'yamls/deeplabv3.yaml' if saved else str(arguments.config)
        load_config([str(ROOT / yaml), *arguments.settings])


def check_launcher_options(options: list[str]) -> None:
    from composer.cli.launcher import _get_parser

    parsed = _get_parser().parse_args([*options, 'main.py'])
    assert parsed.nproc is None or parsed.nproc > 0


def check_mcli(file: Path) -> None:
    """mcli reads the job, and the run it starts is one that main.py accepts."""
    from mcli import RunConfig

    run = RunConfig.from_file(str(file))
    words = shlex.split(str(run.command).replace('\\\n', ' '))
    start = words.index('main.py') + 1
    load_config([str(ROOT / words[start]), *words[start + 1 :]])
    assert not run.parameters  # one yaml, not a copy of it


@pytest.mark.parametrize('verb', VERBS)
def test_verb_refuses_no_arguments_in_one_message(verb: str, capsys: pytest.CaptureFixture) -> None:
    if verb == 'download':
        return
    with pytest.raises(SystemExit) as stop:
        verb_parser(verb)[1].parse_args([])
    assert stop.value.code == 2
    assert 'the following arguments are required' in capsys.readouterr().err


def paths_in_prose() -> list[str]:
    linked = re.findall(r'\]\(([^)#:]+)\)', README)
    quoted = re.findall(r'`((?:yamls|benchmarks|tests)/[\w./]+|[\w]+\.(?:py|yaml|txt))`', README)
    generated = {'config.yaml', 'dataset.yaml', 'mydata/dataset.yaml', 'demo/run/report.html'}
    return sorted({path for path in [*linked, *quoted] if path not in generated})


@pytest.mark.parametrize('path', paths_in_prose())
def test_path(path: str) -> None:
    assert (ROOT / path).exists()


def test_tables_name_what_there_is() -> None:
    from segrecipes.config.layers import available
    from segrecipes.datasets.table import DATASETS
    from segrecipes.evaluation.table import NAMES
    from segrecipes.models.architectures import ARCHITECTURES
    from segrecipes.models.backbones.table import BACKBONES

    first_cells = re.findall(r'^\|([^|]+)\|', README, re.MULTILINE)
    named = {name for cell in first_cells for name in re.findall(r'`([\w-]+)`', cell)}
    assert named == {*ARCHITECTURES, 'null', *available('recipe_name'), *NAMES, *DATASETS}
    for backbone in BACKBONES:
        assert backbone in README or backbone.removeprefix('resnet') in README
