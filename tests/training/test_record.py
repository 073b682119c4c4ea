"""run.json says when a run was, on what and with which versions, and how it ended."""

import json
import platform
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.runs import arguments, evaluations, launch, run

from segrecipes import __version__
from segrecipes.reports.run import read_run
from segrecipes.training import provenance
from segrecipes.training.callbacks import record
from segrecipes.training.callbacks.record import Record

STATE = SimpleNamespace(timestamp=SimpleNamespace(batch=0), run_name='first')


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / 'run.json').read_text())


@pytest.mark.usefixtures('clean_shared_memory')
def test_a_run_that_finished_and_one_that_was_resumed(
    synthetic_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, 'argv', ['/somewhere/segrecipes/__main__.py', 'train', 'my file.yaml'])
    first = run(arguments(synthetic_folder, 'max_duration=2ba', f'save_folder={tmp_path}', 'save_interval=1ba'))
    found = read(tmp_path)
    started, ended = (datetime.fromisoformat(found[key]) for key in ('started', 'ended'))
    assert timedelta() <= ended - started < timedelta(minutes=10)
    assert abs(datetime.now(timezone.utc) - ended) < timedelta(minutes=10)
    assert (found['state'], found['resumed']) == ('finished', [])
    assert found['command'] == "segrecipes train 'my file.yaml'"
    assert found['images'] == {'train': 12, 'val': 5}
    assert found['parameters'] == sum(p.numel() for p in first.state.model.parameters())
    assert found['duration'] == '2ba'
    assert (found['dataset'], found['warning']) == ('synthetic', '')
    assert found['versions']['segrecipes'] == __version__
    assert found['versions']['torch'] == torch.__version__.partition('+')[0]
    assert found['versions']['python'] == platform.python_version()
    assert found['hardware']['ranks'] == found['hardware']['nodes'] == 1
    ((protocol, ious),) = read_run(tmp_path).history.class_ious.items()
    (scores,) = evaluations(first)
    assert protocol == scores.protocol
    assert {name: series.value.tolist() for name, series in ious.items()} == {
        name: [iou] for name, iou in zip(scores.class_names, scores.iou.tolist()) if iou == iou
    }
    assert found['hardware']['device'] and found['hardware']['cores'] >= 1

    monkeypatch.setattr(record, 'timestamp', lambda: '2100-01-01T00:00:00+00:00')
    run(arguments(synthetic_folder, 'max_duration=3ba', f'save_folder={tmp_path}', 'autoresume=true', 'run_name=x',
                  f'load_path={tmp_path}/latest-rank0.pt', 'save_overwrite=true'))  # fmt: skip
    again = read(tmp_path)
    assert again['started'] == found['started']
    assert again['resumed'] == ['2100-01-01T00:00:00+00:00'] == [again['ended']]


@pytest.mark.usefixtures('clean_shared_memory')
def test_a_run_whose_loss_is_lost(synthetic_folder: Path, tmp_path: Path) -> None:
    """It is stopped, and its history has the batch that did it."""
    settings = arguments(synthetic_folder, 'max_duration=20ba', f'save_folder={tmp_path}', 'optimizer.lr=1e30')
    done = launch(sys.executable, '-m', 'segrecipes', 'train', *settings)
    assert done.returncode == 1 and 'the loss is not finite in batch ' in done.stderr
    assert read(tmp_path)['state'] == 'stopped'
    last = json.loads((tmp_path / 'history.jsonl').read_text().splitlines()[-1])
    assert f'not finite in batch {last["batch"]} ' in done.stderr
    assert last['metrics']['loss/train/total'] is None
    assert read_run(tmp_path).history.lost == last['batch']


def test_how_it_ends(tmp_path: Path) -> None:
    state: Any = STATE
    nothing: Any = None
    for ends, expected in ([], None), (['close'], 'stopped'), (['fit_end', 'close'], 'finished'):
        one = Record(str(tmp_path / '{run_name}'), {'images': {'train': 3}})
        one.fit_start(state, nothing)
        one.batch_start(state, nothing)
        for end in ends:
            getattr(one, end)(state, nothing)
        found = read(tmp_path / 'first')
        assert found['state'] == expected and (found['ended'] is None) == (expected is None)
        assert found['images'] == {'train': 3}


def test_a_run_that_never_began_leaves_that_of_before(tmp_path: Path) -> None:
    (tmp_path / 'run.json').write_text('{}')
    one = Record(str(tmp_path), {})
    state: Any = STATE
    nothing: Any = None
    one.fit_start(state, nothing)
    one.close(state, nothing)
    assert read(tmp_path) == {}


# Commits


def git(folder: Path, *arguments: str) -> str:
    identity = ('-c', 'user.name=a', '-c', 'user.email=a@b.c')
    return subprocess.run(
        ['git', *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_a_commit_and_whether_there_are_changes(tmp_path: Path) -> None:
    assert provenance.commit(tmp_path) == ''
    git(tmp_path, 'init', '-q')
    (tmp_path / 'a').write_text('1')
    git(tmp_path, 'add', 'a')
    git(tmp_path, 'commit', '-qm', 'first')
    number = git(tmp_path, 'rev-parse', 'HEAD')[:12]
    (tmp_path / 'b').write_text('what git does not know is no change')
    assert provenance.commit(tmp_path) == number
    (tmp_path / 'a').write_text('2')
    assert provenance.commit(tmp_path) == f'{number} and changes'


def test_an_installed_package_is_no_part_of_the_repository_around_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(tmp_path, 'init', '-q')
    (tmp_path / 'mine').write_text('1')
    git(tmp_path, 'add', 'mine')
    git(tmp_path, 'commit', '-qm', 'mine')
    package = tmp_path / 'venv' / 'segrecipes'
    package.mkdir(parents=True)
    (package / '__init__.py').touch()
    monkeypatch.setattr(provenance, '__file__', str(package / 'training' / 'provenance.py'))
    monkeypatch.chdir(tmp_path)
    assert provenance.commits() == {}
    (tmp_path / 'other').mkdir()
    git(tmp_path / 'other', 'init', '-q')
    git(tmp_path / 'other', 'commit', '-qm', 'empty', '--allow-empty')
    monkeypatch.chdir(tmp_path / 'other')
    assert provenance.commits() == {'folder': git(tmp_path / 'other', 'rev-parse', 'HEAD')[:12]}


def test_without_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('PATH', '')
    assert provenance.commits() == {}
