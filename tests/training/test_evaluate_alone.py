"""A checkpoint is evaluated without a yaml: by the config beside it, or by the card in it."""

import shutil
from pathlib import Path

import pytest
from helpers.runs import arguments, run

from segrecipes.api import evaluate
from segrecipes.base.errors import UserError
from segrecipes.commands.cli import run as run_verb

NAMES = ('sky', 'ground', 'tree', 'house', 'car', 'ball', 'fence', 'sign')
ROOT = 'ADEChallengeData2016'


@pytest.fixture(scope='module')
def checkpoint(synthetic_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('run')
    run(arguments(synthetic_folder, 'max_duration=2ba', f'save_folder={folder}', 'model.auxiliary_weight=0.4'))
    return folder / 'latest-rank0.pt'


def described(folder: Path, path: Path) -> Path:
    """The same pictures as somebody's own."""
    folder.joinpath('dataset.yaml').write_text(
        f'name: mine\npath: {path}\nclasses: [{", ".join(NAMES)}]\nlabels: 1\nignored: [0]\n'
        f'splits: {{train: {ROOT}/images/training/*, val: {ROOT}/images/validation/*}}\n'
        f"mask: ['^{ROOT}/images/(.+)\\.\\w+$', '{ROOT}/annotations/\\1.png']\n"
    )
    return folder


def test_with_and_without_a_yaml(checkpoint: Path, synthetic_folder: Path, tmp_path: Path) -> None:
    """The same pixels are counted by the yaml, the run's config, another dataset's file, and the card alone."""
    argv = arguments(synthetic_folder, f'load_path={checkpoint}', 'model.auxiliary_weight=0.4')
    [known] = evaluate(argv[0], argv[1:], protocol='fit-ss', out=tmp_path / 'known')
    moved = shutil.copy(checkpoint, tmp_path / 'moved.pt')
    own = described(tmp_path, synthetic_folder)
    here = [f'train_dataset.path={synthetic_folder}', 'eval_dataset.num_workers=0']
    found = {
        'config': evaluate(checkpoint, protocol='fit-ss', out=tmp_path / 'a'),
        'data': evaluate(checkpoint, data=own, protocol='fit-ss', out=tmp_path / 'b'),
        'card': evaluate(moved, here, protocol='fit-ss', out=tmp_path / 'c'),
        'card and data': evaluate(moved, here[1:], data=own, protocol='fit-ss', out=tmp_path / 'd'),
    }
    for case, [scores] in found.items():
        assert (scores.confusion == known.confusion).all(), case
        assert (scores.images, scores.class_names, scores.protocol) == (5, NAMES, 'fit-ss@32')


def test_what_is_not_known_is_asked_for(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    import torch

    content = torch.load(checkpoint, weights_only=False)
    content['state']['callbacks']['Describe']['dataset'] = 'mine'
    torch.save(content, tmp_path / 'mine.pt')
    with pytest.raises(UserError, match=r'mine\.pt was trained on mine, .*--data PATH'):
        evaluate(tmp_path / 'mine.pt')
    torch.save({'a': torch.zeros(1)}, tmp_path / 'state.pt')
    with pytest.raises(UserError, match=r'state\.pt has no model card, and no config\.yaml lies beside it'):
        evaluate(tmp_path / 'state.pt')
    with pytest.raises(SystemExit):
        run_verb('evaluate', ['deeplabv3', '--data', 'camvid'])
    assert 'beside a yaml it is dataset=camvid' in capsys.readouterr().err


def test_the_verb(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run_verb('evaluate', [str(checkpoint), '--protocol', 'fit-ss', '--out', str(tmp_path / 'out')])
    assert 'fit-ss@32, raw weights, 5 images: pixel accuracy' in capsys.readouterr().out
    run_verb('report', [str(tmp_path / 'out')])
    assert (tmp_path / 'out/report.html').is_file()
