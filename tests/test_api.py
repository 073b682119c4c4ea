"""``from segrecipes import train, evaluate, predict``: what the commands do and write, as values."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.buckets import lay_out
from helpers.runs import TINY
from PIL import Image

import segrecipes
from segrecipes import Predictor, RunResult, UserError, evaluate, predict, train
from segrecipes.commands.cli import run as verb
from segrecipes.config.merge import load
from segrecipes.evaluation.scores import Scores

RUN = {
    'max_duration': '2ba',
    'eval_interval': '2ba',
    'save_interval': '2ba',
    'algorithms': {'ema': {'half_life': '1ba', 'update_interval': '1ba'}},
    'precision': 'fp32',  # as evaluate has it
}


@pytest.fixture(scope='module')
def settings(synthetic_folder: Path) -> list[str]:
    return [*TINY, f'train_dataset.path={synthetic_folder}', 'eval_protocol=ade20k-ss']


@pytest.fixture(scope='module')
def trained(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    folder = tmp_path_factory.mktemp('runs')
    return train('deeplabv3', settings, run_name='first', save_folder=folder / '{run_name}', **RUN)


def test_train_returns_what_it_wrote(trained: RunResult) -> None:
    folder = Path(trained.folder or '')
    assert (trained.run_name, folder.name) == ('first', 'first')
    assert trained.checkpoint == f'{folder}/best-rank0.pt'
    assert (folder / 'best-rank0.pt').is_file()
    assert trained.results == f'{folder}/evaluation'
    assert [scores.batch for scores in trained.evaluations] == [2]
    assert trained.scores is not None and trained.scores is trained.evaluations[0]
    written = Scores.from_dict(json.loads(Path(f'{trained.results}/scores.json').read_text()))
    np.testing.assert_array_equal(trained.scores.confusion, written.confusion)
    assert trained.config.max_duration == '2ba'
    assert 'max_duration: 2ba' in (folder / 'config.yaml').read_text()


def test_evaluate_is_the_command(trained: RunResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = f'{trained.folder}/config.yaml'
    found = evaluate(config, load_path=trained.checkpoint, protocol='ade20k-ss', out=tmp_path / 'function')
    assert [scores.weights for scores in found] == ['ema', 'raw']
    np.testing.assert_array_equal(found[0].confusion, trained.evaluations[0].confusion)
    capsys.readouterr()
    argv = [config, f'load_path={trained.checkpoint}', '--protocol', 'ade20k-ss', '--out', str(tmp_path / 'command')]
    verb('evaluate', argv)
    for scores in found:
        at = f'ade20k-ss/{scores.weights}/scores.json'
        by_function, by_command = ((tmp_path / who / at).read_text() for who in ('function', 'command'))
        assert by_function == by_command
        assert Scores.from_dict(json.loads(by_function)).summary() == scores.summary()
    assert f'{found[0].mean_iou:.2f}' in capsys.readouterr().out


def test_results_go_to_a_store(trained: RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay_out(tmp_path, monkeypatch)
    [*_, raw] = evaluate(f'{trained.folder}/config.yaml', load_path=trained.checkpoint, out='gs://bucket/found')
    there = tmp_path / 'gs/bucket/found/ade20k-ss/raw'
    written = Scores.from_dict(json.loads((there / 'scores.json').read_text()))
    np.testing.assert_array_equal(written.confusion, raw.confusion)
    files = {path.relative_to(there) for path in there.rglob('*') if path.is_file()}
    here = Path(f'{trained.results}')
    assert files == {path.relative_to(here) for path in here.rglob('*') if path.is_file()}


def test_predict_is_the_command(trained: RunResult, synthetic_folder: Path, tmp_path: Path) -> None:
    checkpoint, images = str(trained.checkpoint), str(synthetic_folder / 'ADEChallengeData2016/images/validation')
    found = predict(checkpoint, images, out=tmp_path / 'function', flip=True, size=48)
    verb('predict', [checkpoint, images, '--flip', '--size', '48', '--out', str(tmp_path / 'command')])
    files = [sorted(file.relative_to(tmp_path / who) for file in (tmp_path / who).rglob('*.*'))
             for who in ('function', 'command')]  # fmt: skip
    assert files[0] == files[1] and len(files[0]) == 2 * len(found) + 1
    for file in files[0]:
        assert (tmp_path / 'function' / file).read_bytes() == (tmp_path / 'command' / file).read_bytes()
    for name, labels in found.items():
        with Image.open(tmp_path / 'command/masks' / f'{name}.png') as mask:
            np.testing.assert_array_equal(labels, np.array(mask))
    [first, *_] = sorted(Path(images).iterdir())
    np.testing.assert_array_equal(predict(checkpoint, first)[first.stem], Predictor(checkpoint)(first))


def test_without_a_folder_nothing_is_written(
    settings: list[str], trained: RunResult, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new('RGB', (40, 30)).save('a.png')
    assert predict(str(trained.checkpoint), 'a.png')['a'].shape == (30, 40)
    assert [file.name for file in tmp_path.iterdir()] == ['a.png']


def test_an_image_that_cannot_be_read(trained: RunResult, tmp_path: Path) -> None:
    Image.new('RGB', (40, 30)).save(tmp_path / 'a.png')
    (tmp_path / 'b.png').write_bytes(b'no image')
    with pytest.raises(UserError, match=f'{tmp_path}/b.png'):
        predict(str(trained.checkpoint), tmp_path)
    told: list[str] = []
    assert [*predict(str(trained.checkpoint), tmp_path, on_error=lambda name, _: told.append(name))] == ['a']
    assert told == ['b']


def test_settings_say_the_same_however_they_are_given(settings: list[str]) -> None:
    first = load('deeplabv3', settings, {'optimizer.lr': 0.5, 'max_duration': '3ep'})[0]
    assert load('deeplabv3', [*settings, 'optimizer.lr=0.5', 'max_duration=3ep'])[0] == first
    assert load('deeplabv3', settings, {'optimizer': {'lr': np.float64(0.5)}}, {'max_duration': '3ep'})[0] == first
    assert load({'optimizer.lr': 0.5, 'max_duration': '3ep'}, settings)[0].optimizer['lr'] == 0.01  # the later wins


REFUSED = {
    'an unknown key': (lambda: train('deeplabv3', max_durations='1ep'), r'^arguments: unknown key max_durations\.'),
    'a value that is none': (lambda: train('deeplabv3', max_duration=object()), '^max_duration=<object object'),
    'settings as text': (lambda: train('deeplabv3', 'max_duration=1ep'), '^settings=.* must be a mapping, or a list'),
    'no yaml': (lambda: train('deeplabv4'), '^config file does not exist: deeplabv4'),
    'no checkpoint': (lambda: evaluate('deeplabv3', [*TINY, 'train_dataset.path=.']), '^load_path is not set'),
    'a protocol': (lambda: predict('{checkpoint}', 'x.png', protocol='ade'), '^protocol=ade is not known'),
    'no image': (lambda: predict('{checkpoint}', 'x.png'), '^no image at x.png'),
    'no file': (lambda: predict('none.pt', 'x.png'), 'none.pt'),
}


@pytest.mark.parametrize('what', REFUSED)
def test_refused(what: str, trained: RunResult, monkeypatch: pytest.MonkeyPatch) -> None:
    call, message = REFUSED[what]
    own = predict
    named = lambda path, *more, **options: own(path.format(checkpoint=trained.checkpoint), *more, **options)  # noqa: E731
    monkeypatch.setitem(call.__globals__, 'predict', named)
    with pytest.raises(UserError, match=message):
        call()


def test_importing_is_light() -> None:
    """Neither torch nor OmegaConf before they are used."""
    code = 'import segrecipes, sys; dir(segrecipes); print([name for name in sys.modules if name.count(".") == 0])'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout.replace("'", '"')))
    assert not loaded & {'torch', 'omegaconf', 'numpy', 'composer', 'PIL'}


def test_all_names_are_there() -> None:
    for name in segrecipes.__all__:
        assert getattr(segrecipes, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'trane'"):
        _ = segrecipes.trane  # type: ignore[attr-defined]
