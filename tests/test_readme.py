"""Every path and command in the README exists and is accepted."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from segrecipes.config.merge import load_config

ROOT = Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text()
COMMANDS = [
    line.split('  #')[0].strip()
    for block in re.findall(r'^```bash\n(.*?)^```', README, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
    if line.strip()
]
SCRIPTS = (
    'config.py', 'convert_mds.py', 'data.py', 'download_ade20k.py',
    'evaluate.py', 'export.py', 'predict.py', 'report.py',
)  # fmt: skip
OWN_KEYS = ('protocol=', 'out=')  # of evaluate.py


def test_the_set_up_is_two_commands() -> None:
    assert COMMANDS[:2] == ['make demo', 'make test']


@pytest.mark.parametrize('command', COMMANDS)
def test_command(command: str) -> None:
    program, *rest = shlex.split(command)
    if program == 'make':
        assert re.search(rf'^{rest[0]}:', (ROOT / 'Makefile').read_text(), re.MULTILINE)
    elif program == 'export':
        assert command == 'export PATH=$PWD/.venv/bin:$PATH'
    elif program == 'composer':
        start = next(index for index, word in enumerate(rest) if word.endswith('.py'))
        assert rest[start] in ('main.py', 'evaluate.py')
        check_launcher_options(rest[:start])
        check_config(rest[start + 1 :])
    elif program == 'python' and rest[0] == 'evaluate.py':
        check_config(rest[1:])
    elif program == 'python' and rest[0] == 'config.py':
        load_config([str(ROOT / rest[1]), *rest[2:]])
    elif program == 'python':
        assert rest[0] in SCRIPTS
        assert (ROOT / rest[0]).is_file()
    else:
        assert program == 'mcli'
        check_mcli(ROOT / rest[rest.index('-f') + 1])


def check_config(arguments: list[str]) -> None:
    """A yaml of ours, or one that a run has saved, and keys that there are."""
    yaml, *keys = (argument for argument in arguments if not argument.startswith(OWN_KEYS))
    yaml = 'yamls/deeplabv3.yaml' if yaml == 'runs/first/config.yaml' else yaml
    load_config([str(ROOT / yaml), *keys])


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


@pytest.mark.parametrize('script', SCRIPTS)
def test_script_refuses_no_arguments_in_one_message(script: str) -> None:
    process = subprocess.run([sys.executable, script], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert process.returncode != 0
    assert process.stderr
    assert 'Traceback' not in process.stderr


def paths_in_prose() -> list[str]:
    linked = re.findall(r'\]\(([^)#:]+)\)', README)
    quoted = re.findall(r'`((?:yamls|benchmarks|tests)/[\w./]+|[\w]+\.(?:py|yaml|txt))`', README)
    generated = {'config.yaml', 'demo/run/report.html'}
    return sorted({path for path in [*linked, *quoted] if path not in generated})


@pytest.mark.parametrize('path', paths_in_prose())
def test_path(path: str) -> None:
    assert (ROOT / path).exists()


def test_tables_name_what_there_is() -> None:
    from segrecipes.config.schema import available_recipes
    from segrecipes.evaluation.table import PROTOCOLS
    from segrecipes.models.architectures import ARCHITECTURES
    from segrecipes.models.backbones.table import BACKBONES

    rows = set(re.findall(r'^\| `([\w-]+)` \|', README, re.MULTILINE))
    assert rows == {*ARCHITECTURES, 'null', *available_recipes(), *PROTOCOLS}
    for backbone in BACKBONES:
        assert backbone in README or backbone.removeprefix('resnet') in README
