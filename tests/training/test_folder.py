"""Where a run saves if nobody says so, and what it says at its end."""

import shlex
from pathlib import Path

import pytest
from helpers.runs import arguments, launch

from segrecipes.commands.cli import main, run
from segrecipes.config.merge import load_config
from segrecipes.config.schema import Config
from segrecipes.training.folder import reserve_folder

DEFAULT = 'save_folder=runs/{run_name}'


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_default_is_a_folder_of_its_own() -> None:
    assert f'save_folder={Config().save_folder}' == DEFAULT


def reserved(source: str = 'yaml and dataset', **values: object) -> str | None:
    cfg = Config(**{'run_name': 'a-b', **values})  # type: ignore[arg-type]
    reserve_folder(cfg, {'run_name': source})
    return cfg.run_name


def test_a_name_that_is_taken_is_numbered(here: Path) -> None:
    assert [reserved(), reserved(), reserved(), reserved(run_name='c')] == ['a-b', 'a-b-2', 'a-b-3', 'c']
    assert sorted(path.name for path in here.joinpath('runs').iterdir()) == ['a-b', 'a-b-2', 'a-b-3', 'c']


@pytest.mark.parametrize(
    'values',
    [
        {'source': 'command line'}, {'autoresume': True}, {'save_overwrite': True}, {'save_folder': None},
        {'save_folder': 's3://bucket/{run_name}'}, {'save_folder': 'one'}, {'is_train': False},
    ],
)  # fmt: skip
def test_a_name_that_is_meant_is_left(values: dict[str, object], here: Path) -> None:
    (here / 'runs/a-b').mkdir(parents=True)
    assert reserved(**values) == 'a-b'  # type: ignore[arg-type]
    assert [path.name for path in here.rglob('*')] == ['runs', 'a-b']


@pytest.mark.parametrize(
    ('settings', 'name'),
    [
        ([], 'deeplabv3-ade20k'),
        (['dataset=camvid'], 'deeplabv3-camvid'),
        (['run_name=mine'], 'mine'),
        (['is_train=false'], None),
    ],
)
def test_name_of_a_run(settings: list[str], name: str | None) -> None:
    cfg, sources = load_config(['yamls/deeplabv3.yaml', *settings])
    assert cfg.run_name == name
    assert sources['run_name'] == {'deeplabv3-ade20k': 'yaml and dataset', 'mine': 'command line'}.get(
        name or '', 'yamls/deeplabv3.yaml' if name is None else 'yaml and dataset'
    )


def test_the_platforms_name_is_left_to_composer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('RUN_NAME', 'theirs')
    assert load_config(['yamls/deeplabv3.yaml'])[0].run_name is None


def test_a_run_says_what_to_type_next(here: Path, synthetic_folder: Path, capsys: pytest.CaptureFixture) -> None:
    """And what it says works as it is."""
    argv = arguments(synthetic_folder, 'max_duration=1ep', DEFAULT)
    run('train', argv)
    said = capsys.readouterr().out
    folder = 'runs/deeplabv3-synthetic'
    assert f'best checkpoint: {folder}/best-rank0.pt (best-ep1-ba3-rank0.pt)' in said
    assert f'latest checkpoint: {folder}/latest-rank0.pt (ep1-ba3-rank0.pt)' in said
    commands = said.partition('next:\n')[2].splitlines()
    assert len(commands) == 3
    for command in commands:
        words = shlex.split(command)
        main(words[words.index('segrecipes') + 1 :])
    said = capsys.readouterr().out
    assert ' 5 images: pixel accuracy' in said and '1 images segmented' in said and f'{folder}/report.html' in said


def test_a_run_that_saves_nothing_says_so(here: Path, synthetic_folder: Path, capsys: pytest.CaptureFixture) -> None:
    run('train', arguments(synthetic_folder, 'max_duration=1ba', 'eval_interval=0ba', 'save_folder=null'))
    assert capsys.readouterr().out.splitlines()[-1] == 'nothing was saved: save_folder is null'
    assert not [*here.iterdir()]


def test_all_ranks_have_one_name(synthetic_folder: Path, tmp_path: Path) -> None:
    (tmp_path / 'deeplabv3-synthetic').mkdir()
    argv = arguments(synthetic_folder, 'max_duration=1ba', 'eval_interval=0ba', f'save_folder={tmp_path}/{{run_name}}')
    process = launch('composer', '-n', '2', 'main.py', *argv)
    assert process.returncode == 0, process.stdout + process.stderr
    assert not [*(tmp_path / 'deeplabv3-synthetic').iterdir()]
    saved = sorted(path.name for path in (tmp_path / 'deeplabv3-synthetic-2').glob('ep*.pt'))
    assert saved == ['ep0-ba1-rank0.pt']
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith('-3')] == []
