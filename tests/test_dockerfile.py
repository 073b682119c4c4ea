"""The image is made by the README's steps, and hadolint has nothing to say of it."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / 'Dockerfile').read_text()
README = (ROOT / 'README.md').read_text()


def steps(keyword: str) -> list[str]:
    return re.findall(rf'^{keyword} (.*)$', DOCKERFILE.replace('\\\n', ''), re.MULTILINE)


def test_hadolint() -> None:
    hadolint = Path(sys.executable).with_name('hadolint')
    done = subprocess.run([hadolint, ROOT / 'Dockerfile'], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, '', '')


def test_hadolint_would_notice(tmp_path: Path) -> None:
    (tmp_path / 'Dockerfile').write_text(DOCKERFILE.replace('--no-install-recommends ', ''))
    hadolint = Path(sys.executable).with_name('hadolint')
    done = subprocess.run([hadolint, tmp_path / 'Dockerfile'], capture_output=True, text=True)
    assert done.returncode == 1 and 'DL3015' in done.stdout


def test_what_is_installed_is_what_the_readme_asks_for() -> None:
    """Needs Linux … with Python 3.10, 3.11 or 3.12, git and make."""
    needs = re.search(r'^Needs Linux .* with Python (.*), (\w+) and (\w+); no compiler', README, re.MULTILINE)
    assert needs
    [image] = steps('FROM')
    version = re.match(r'python:(\d+\.\d+)-slim', image)
    assert version and version[1] in re.findall(r'\d+\.\d+', needs[1])
    packages = re.search(r'apt-get install --no-install-recommends -y ([\w ]+?) +&&', steps('RUN')[0])
    assert packages and packages[1].split() == [needs[2], needs[3]]


def test_the_steps_are_the_readmes() -> None:
    assert '\n`make install` makes the environment alone.' in README
    assert [step.partition(' ')[0] + ' ' + step.split()[1] for step in steps('RUN')[1:]] == ['make install']
    assert '\nexport PATH=$PWD/.venv/bin:$PATH\n' in README
    [folder], [path] = steps('WORKDIR'), steps('ENV')
    assert path == f'PATH={folder}/.venv/bin:$PATH'


def test_commands_in_its_head_are_known() -> None:
    commands = re.findall(r'^# docker run .* segrecipes (.*)$', DOCKERFILE, re.MULTILINE)
    assert commands and all((ROOT / word).is_file() for command in commands for word in command.split()[1:])
    assert (ROOT / '.dockerignore').read_text().splitlines()[:2] == ['.git', '.venv']
