"""What make runs for a GPU, where nothing is installed: a Python that has what is needed, or a message."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Answers as importlib.util.find_spec would where only the packages of $HAS are, and prints any other command line.
FAKE = """#!/bin/sh
here=$(dirname "$0")
if [ "$1" = -c ]; then
    shift 2
    for package; do grep -qx "$package" "$here/packages" || exit 1; done
else
    echo "$(basename "$here")/$(basename "$0") $*"
fi
"""


def fake_python(path: Path, *packages: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(FAKE)
    path.chmod(0o755)
    (path.parent / 'packages').write_text('\n'.join(packages))
    return path


def make(folder: Path, target: str, *variables: str) -> subprocess.CompletedProcess:
    """In a project without .venv, where the path has no Python but those in ``folder``."""
    (folder / 'tests').mkdir()
    (folder / 'tests' / 'test_one.py').write_text('@pytest.mark.gpu')
    (folder / 'tests' / 'test_other.py').touch()
    for name in ('python3', 'python', 'python3.10', 'python3.11', 'python3.12'):
        path = folder / 'bin' / name
        if not path.exists():
            path.write_text('#!/bin/sh\nexit 127\n')
            path.chmod(0o755)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(('MAKE', 'MFLAGS', 'PYTHON'))}
    return subprocess.run(
        ['make', '-f', str(ROOT / 'Makefile'), target, *variables],
        cwd=folder,
        env={**inherited, 'PATH': f'{folder}/bin{os.pathsep}{os.environ["PATH"]}'},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize('name', ['python3', 'python'])
def test_benchmarks_are_run_by_the_paths_python_with_torch(name: str, tmp_path: Path) -> None:
    fake_python(tmp_path / 'bin' / name, 'torch')
    done = make(tmp_path, 'bench-gpu', 'DATA=photographs')
    scripts = ('loss', 'train_step', 'algorithms', 'scoring', 'evaluation', 'profile_step')
    expected = [f'bin/{name} benchmarks/{script}.py' for script in scripts]
    assert done.stdout.splitlines() == [*expected, f'bin/{name} benchmarks/recipes.py photographs'], done.stderr


def test_the_files_with_tests_of_a_gpu_are_run(tmp_path: Path) -> None:
    fake_python(tmp_path / 'bin' / 'python3', 'torch', 'pytest')
    done = make(tmp_path, 'test-gpu', 'ARGS=-q')
    assert done.stdout == 'bin/python3 -m pytest -m gpu -q tests/test_one.py\n', done.stderr


def test_the_named_python_is_the_first(tmp_path: Path) -> None:
    fake_python(tmp_path / 'bin' / 'python3', 'torch', 'pytest')
    other = fake_python(tmp_path / 'other' / 'python', 'torch', 'pytest')
    done = make(tmp_path, 'test-gpu', f'PYTHON={other}')
    assert done.stdout == 'other/python -m pytest -m gpu tests/test_one.py\n', done.stderr


@pytest.mark.parametrize(
    ('packages', 'target', 'missing'),
    [
        (['pytest'], 'bench-gpu', 'torch'),
        (['pytest'], 'test-gpu', 'torch and pytest'),
        (['torch'], 'test-gpu', 'torch and pytest'),
    ],
)
def test_without_what_is_needed_there_is_a_message(
    packages: list[str], target: str, missing: str, tmp_path: Path
) -> None:
    fake_python(tmp_path / 'bin' / 'python3', *packages)
    done = make(tmp_path, target)
    assert (done.returncode, done.stdout) == (2, '')
    assert done.stderr.splitlines()[0] == f'No Python with {missing} found. Set PYTHON=/path/to/python'
