"""Evaluating a checkpoint: the files, the numbers against those of training, several ranks, and what is refused."""

import io
import json
import re
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.runs import arguments, launch, run
from PIL import Image

from segrecipes.base.errors import UserError
from segrecipes.checkpoints.fit import load_weights
from segrecipes.checkpoints.read import read_checkpoint
from segrecipes.commands.cli import run as run_verb
from segrecipes.config.schema import Config
from segrecipes.data.normalize import normalize
from segrecipes.evaluation.table import NAMES, PROTOCOLS, get_protocol
from segrecipes.models.network import build_network
from segrecipes.training.callbacks.results import ShowResults
from segrecipes.training.evaluate import shown_results
from segrecipes.training.folder import results_folder
from segrecipes.training.tasks.segmentation import SegmentationModel

EMA = ('recipe_name=mild', 'algorithms.ema.half_life=5ba', 'algorithms.ema.update_interval=1ba')
GRID = 'predictions.png'
FILES = ['image_scores.csv', 'images', 'images.json', GRID, 'scores.csv', 'scores.json']


def call(monkeypatch: pytest.MonkeyPatch, *argv: str) -> None:
    run_verb('evaluate', argv)


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, *argv: str) -> str:
    """The one line on stderr of a run that ends with status 1."""
    with pytest.raises(SystemExit) as exit_:
        call(monkeypatch, *argv)
    assert exit_.value.code == 1
    error = capsys.readouterr().err
    assert 'Traceback' not in error
    return error[error.index('error: ') :].rstrip('\n')


def history(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / 'history.jsonl').read_text().splitlines()]


def values(folder: Path, name: str) -> dict[int, float]:
    """By the batch after which it was logged."""
    return {line['batch']: line['metrics'][name] for line in history(folder) if name in line['metrics']}


def scores(folder: Path) -> dict[str, Any]:
    return json.loads((folder / 'scores.json').read_text())


def files(folder: Path, without: str = '') -> dict[str, bytes]:
    found = [file for file in folder.rglob('*') if file.is_file() and file.name != without]
    return {str(file.relative_to(folder)): file.read_bytes() for file in found}


def printed_rows(text: str) -> list[list[str]]:
    """The cells of all tables, one row after the other."""
    return [[cell.strip() for cell in line.strip('│ ').split('│')] for line in text.splitlines() if '│' in line]


def no_grid(path: Path, *args: Any) -> None:
    """In place of ``save_predictions``, which takes most of the time here."""
    path.touch()


@pytest.fixture(autouse=True)
def draw_no_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('segrecipes.training.callbacks.results.save_predictions', no_grid)


@pytest.fixture(scope='module')
def runs(synthetic_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three epochs in each of two protocols, in float32, with averaged weights."""
    folders = {}
    for protocol in ('mosaic-512sq', 'ade20k-ss'):
        folders[protocol] = tmp_path_factory.mktemp('runs') / protocol
        argv = arguments(
            synthetic_folder, *EMA, f'eval_protocol={protocol}', f'save_folder={folders[protocol]}',
            'max_duration=3ep', 'precision=fp32', 'optimizer.lr=0.05',
        )  # fmt: skip
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr('segrecipes.training.callbacks.results.save_predictions', no_grid)
            run(argv)
    return folders


@pytest.fixture(scope='module')
def evaluations(runs: dict[str, Path], synthetic_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All protocols of one checkpoint, a folder each, and what was printed."""
    out = tmp_path_factory.mktemp('evaluations')
    checkpoint = runs['mosaic-512sq'] / 'latest-rank0.pt'
    argv = arguments(synthetic_folder, f'load_path={checkpoint}', '--protocol', 'all', '--out', str(out))
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as stdout:
        call(patch, *argv)
    (out / 'stdout').write_text(stdout.getvalue())
    return out


# The command line


def test_every_protocol_of_both_weights(evaluations: Path) -> None:
    assert sorted(folder.name for folder in evaluations.iterdir()) == sorted([*PROTOCOLS, 'stdout'])
    for name in PROTOCOLS:
        assert sorted(folder.name for folder in (evaluations / name).iterdir()) == ['ema', 'raw']
        found = {weights: scores(evaluations / name / weights) for weights in ('ema', 'raw')}
        for weights, entry in found.items():
            assert sorted(file.name for file in (evaluations / name / weights).iterdir()) == FILES
            about = {key: entry[key] for key in ('protocol', 'weights', 'epoch', 'batch', 'images')}
            assert about == {'protocol': f'{name}@32', 'weights': weights, 'epoch': 3, 'batch': 9, 'images': 5}
            rows = (evaluations / name / weights / 'image_scores.csv').read_text().splitlines()
            assert [row.split(',')[0] for row in rows[1:]] == [f'{index:08d}' for index in range(1, 6)]
        assert found['ema']['confusion'] != found['raw']['confusion']
    confusions = [str(scores(evaluations / name / 'ema')['confusion']) for name in PROTOCOLS]
    assert len(set(confusions)) == len(PROTOCOLS)


def test_what_is_scored(evaluations: Path, synthetic_folder: Path) -> None:
    """Each labelled pixel of the masks once; of the square, of the squashed ones."""
    masks = [np.array(Image.open(file)) for file in sorted(synthetic_folder.rglob('validation/*.png'))]
    assert len(masks) == 5
    for name in PROTOCOLS:
        protocol, rng = get_protocol(name, 32), np.random.default_rng()
        scored = [protocol(np.zeros((*mask.shape, 3), np.uint8), mask, rng)[1] for mask in masks]
        counts = np.sum([np.bincount(mask.ravel(), minlength=256) for mask in scored], axis=0)
        for weights in ('ema', 'raw'):
            confusion = np.array(scores(evaluations / name / weights)['confusion'])
            np.testing.assert_array_equal(confusion.sum(axis=1), counts[1:9])


def test_predictions_are_those_of_the_protocol(
    evaluations: Path, runs: dict[str, Path], synthetic_folder: Path
) -> None:
    """Made again image by image, without Trainer and loader, from the file of the weights."""
    checkpoint = read_checkpoint(runs['mosaic-512sq'] / 'latest-rank0.pt')
    assert checkpoint.card is not None
    network = build_network(checkpoint.card.network, auxiliary=checkpoint.card.auxiliary).eval().requires_grad_(False)
    images = sorted(synthetic_folder.rglob('validation/*.jpg'))
    masks = sorted(synthetic_folder.rglob('validation/*.png'))
    for name, weights in ((name, weights) for name in PROTOCOLS for weights in ('ema', 'raw')):
        load_weights(network, checkpoint.choose(weights), 'it')
        protocol = get_protocol(name, 32)
        confusion = np.zeros((8, 8), int)
        for image_file, mask_file in zip(images, masks):
            image, mask = np.array(Image.open(image_file)), np.array(Image.open(mask_file))
            _, mask = protocol(image, mask, np.random.default_rng())
            views = [torch.from_numpy(view).permute(2, 0, 1)[None] for view in protocol.views(image)]
            views = [normalize(view)[0] for view in views]
            labels = protocol.labels(network.logits, views, (mask.shape[0], mask.shape[1])).numpy()
            np.add.at(confusion, (mask[mask > 0] - 1, labels[mask > 0]), 1)
        found = np.array(scores(evaluations / name / weights)['confusion'])
        # Rounding decides where two classes are as good as equal: the evaluation folds the batch norms
        assert np.abs(found - confusion).sum() <= 0.002 * confusion.sum(), (name, weights)


@pytest.mark.slow
def test_two_ranks_write_the_files_of_one(
    runs: dict[str, Path], evaluations: Path, synthetic_folder: Path, tmp_path: Path
) -> None:
    """Byte for byte, from the config that was kept; five images do not divide by two."""
    run_folder = runs['mosaic-512sq']
    process = launch(
        'composer', '-n', '2', '-m', 'segrecipes', 'evaluate', str(run_folder / 'config.yaml'),
        f'load_path={run_folder}/latest-rank0.pt', '--protocol', 'all', '--out', str(tmp_path),
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    one, two = files(evaluations, without='stdout'), files(tmp_path)
    assert one.keys() == two.keys()
    assert [name for name in one if one[name] != two[name]] == []
    assert printed_rows(process.stdout) == printed_rows((evaluations / 'stdout').read_text())
    assert 'Traceback' not in process.stderr


def test_what_is_printed(evaluations: Path) -> None:
    """A table of the classes of each evaluation, and one of all evaluations."""
    text = (evaluations / 'stdout').read_text()
    rows = printed_rows(text)
    assert len(rows) == 8 * (8 + 1) + 8
    pairs = [(name, weights) for name in PROTOCOLS for weights in ('ema', 'raw')]
    for row, (name, weights) in zip(rows[-8:], pairs):
        found = scores(evaluations / name / weights)
        figures = [f'{found[key]:.2f}' for key in ('pixel_accuracy', 'mean_accuracy', 'mean_iou', 'final_score')]
        assert row == [f'{name}@32', weights, '5', *figures]
        assert f'{name}@32, {weights} weights, 5 images' in text


def test_one_protocol_beside_the_checkpoint(
    runs: dict[str, Path], evaluations: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    run_folder = runs['ade20k-ss']
    checkpoint = run_folder / 'latest-rank0.pt'
    call(monkeypatch, str(run_folder / 'config.yaml'), f'load_path={checkpoint}')  # the run's own protocol
    assert sorted(folder.name for folder in run_folder.glob('evaluation-*')) == ['evaluation-ade20k-ss@32']
    call(monkeypatch, str(run_folder / 'config.yaml'), f'load_path={checkpoint}', '--protocol', 'slide')
    assert sorted(folder.name for folder in run_folder.glob('evaluation-*')) == [
        'evaluation-ade20k-ss@32', 'evaluation-slide@32',
    ]  # fmt: skip
    assert scores(run_folder / 'evaluation-slide@32' / 'raw')['protocol'] == 'slide@32'
    out = capsys.readouterr().out
    assert 'precision: fp32' in out
    assert 'slide@32' in out


def test_the_stride_of_the_windows(
    runs: dict[str, Path], evaluations: Path, synthetic_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = f'load_path={runs["mosaic-512sq"]}/latest-rank0.pt'
    argv = arguments(synthetic_folder, load, '--protocol', 'slide', '--out', str(tmp_path))
    call(monkeypatch, *argv, 'eval_dataset.window_stride=21')  # two thirds, the default
    assert files(tmp_path / 'slide', GRID) == files(evaluations / 'slide', GRID)
    call(monkeypatch, *argv, 'eval_dataset.window_stride=9')
    assert files(tmp_path / 'slide', GRID) != files(evaluations / 'slide', GRID)


def test_weights_alone_are_the_raw_ones(
    runs: dict[str, Path], evaluations: Path, synthetic_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state dict of what was evaluated as ema gives the same numbers, under the name raw."""
    checkpoint = read_checkpoint(runs['mosaic-512sq'] / 'latest-rank0.pt')
    torch.save(checkpoint.choose('ema'), tmp_path / 'weights.pt')
    call(monkeypatch, *arguments(synthetic_folder, f'load_path={tmp_path}/weights.pt', '--protocol', 'ade20k-ss'))
    folder = tmp_path / 'evaluation-ade20k-ss@32'
    assert [sub.name for sub in folder.iterdir()] == ['raw']
    assert scores(folder / 'raw')['confusion'] == scores(evaluations / 'ade20k-ss' / 'ema')['confusion']
    assert scores(folder / 'raw')['batch'] == 0


def test_main_evaluates_alike(runs: dict[str, Path], evaluations: Path, synthetic_folder: Path, tmp_path: Path) -> None:
    load = f'load_path={runs["mosaic-512sq"]}/latest-rank0.pt'
    argv = arguments(synthetic_folder, load, 'is_train=false', 'eval_protocol=ade20k-ss', 'precision=fp32')
    trainer = run([*argv, f'callbacks.show_results.folder={tmp_path}'])
    assert files(tmp_path, GRID) == files(evaluations / 'ade20k-ss', GRID)
    results = shown_results(trainer)
    assert isinstance(results, ShowResults)
    assert [found.weights for found in results.evaluations] == ['ema', 'raw']


def test_the_config_of_a_resumable_run_is_evaluated(
    runs: dict[str, Path], synthetic_folder: Path, tmp_path: Path
) -> None:
    load = f'load_path={runs["mosaic-512sq"]}/latest-rank0.pt'
    resumable = ['autoresume=true', 'run_name=first', f'save_folder={tmp_path}/first']
    trainer = run(
        [*arguments(synthetic_folder, load, *resumable), 'is_train=false', f'callbacks.show_results.folder={tmp_path}']
    )
    assert trainer.state.eval_timestamp.sample == 5
    assert not (tmp_path / 'first').exists()


@pytest.mark.parametrize(
    ('load_path', 'folder'),
    [
        ('runs/first/best-rank0.pt', 'runs/first/evaluation-slide'),
        ('best.pt', 'evaluation-slide'),
        ('s3://bucket/run/best-rank0.pt', 'evaluation-slide'),
        (None, None),
    ],
)
def test_where_results_go(load_path: str | None, folder: str | None) -> None:
    assert results_folder(Config(is_train=False, load_path=load_path), 'slide') == folder


# In training


def test_the_protocol_is_in_the_name_of_the_metric(runs: dict[str, Path]) -> None:
    names = {name for line in history(runs['ade20k-ss']) for name in line['metrics'] if name.startswith('metrics/eval')}
    assert names == {
        f'metrics/eval/{name}[ade20k-ss@32]'
        for name in ('mIoU', 'CrossEntropy', 'pixel_accuracy', 'mean_accuracy', 'final_score')
    }
    assert list(values(runs['ade20k-ss'], 'metrics/eval/mIoU[ade20k-ss@32]')) == [3, 6, 9]


def test_the_square_has_upstreams_names_too(runs: dict[str, Path]) -> None:
    folder = runs['mosaic-512sq']
    names = {name for line in history(folder) for name in line['metrics'] if name.startswith('metrics/eval')}
    assert names == {
        *(f'metrics/eval/{n}[mosaic-512sq@32]' for n in ('mIoU', 'pixel_accuracy', 'mean_accuracy', 'final_score')),
        'metrics/eval/MIoU',
        'metrics/eval/CrossEntropy',
    }
    upstreams, ours = values(folder, 'metrics/eval/MIoU'), values(folder, 'metrics/eval/mIoU[mosaic-512sq@32]')
    assert list(ours) == [3, 6, 9]
    assert upstreams == pytest.approx(ours, rel=1e-6)
    assert len(set(ours.values())) == 3


@pytest.mark.parametrize('protocol', ['mosaic-512sq', 'ade20k-ss'])
def test_the_last_evaluation_of_training_is_repeated(
    protocol: str, runs: dict[str, Path], synthetic_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Averaged weights, in float32 both."""
    trained = scores(runs[protocol] / 'evaluation')
    assert {key: trained[key] for key in ('protocol', 'weights', 'epoch', 'batch', 'images')} == {
        'protocol': f'{protocol}@32', 'weights': 'ema', 'epoch': 3, 'batch': 9, 'images': 5,
    }  # fmt: skip
    assert trained['mean_iou'] == values(runs[protocol], f'metrics/eval/mIoU[{protocol}@32]')[9]
    load = f'load_path={runs[protocol]}/latest-rank0.pt'
    call(monkeypatch, *arguments(synthetic_folder, load, '--protocol', protocol, '--out', str(tmp_path)))
    assert scores(tmp_path / protocol / 'ema') == trained


@pytest.mark.parametrize('protocol', ['mosaic-512sq', 'ade20k-ss'])
def test_best_is_the_best_of_the_history(
    protocol: str, runs: dict[str, Path], synthetic_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = values(runs[protocol], f'metrics/eval/mIoU[{protocol}@32]')
    batch = max(found, key=lambda batch: found[batch])
    best = runs[protocol] / 'best-rank0.pt'
    assert best.resolve().name == f'best-ep{batch // 3}-ba{batch}-rank0.pt'
    assert read_checkpoint(best).batch == batch
    assert len(list(runs[protocol].glob('best-ep*'))) == 1
    call(monkeypatch, *arguments(synthetic_folder, f'load_path={best}', '--protocol', protocol, '--out', str(tmp_path)))
    assert scores(tmp_path / protocol / 'ema')['mean_iou'] == found[batch]


def test_resuming_remembers_the_best(synthetic_folder: Path, tmp_path: Path) -> None:
    options = ['run_name=again', 'autoresume=true', f'save_folder={tmp_path}', 'precision=fp32', 'optimizer.lr=0.05']
    argv = arguments(synthetic_folder, *EMA, *options)
    best = []
    for epochs in (2, 4):
        run([*argv, f'max_duration={epochs}ep'])
        found = values(tmp_path, 'metrics/eval/MIoU')
        assert list(found) == [3 * epoch for epoch in range(1, epochs + 1)]
        best.append(max(found, key=lambda batch: found[batch]))
        names = sorted(file.name for file in tmp_path.glob('best*'))
        assert names == [f'best-ep{best[-1] // 3}-ba{best[-1]}-rank0.pt', 'best-rank0.pt']
        assert read_checkpoint(tmp_path / 'best-rank0.pt').batch == best[-1]


def test_no_best_where_it_is_not_wanted(synthetic_folder: Path, tmp_path: Path) -> None:
    run(arguments(synthetic_folder, 'save_best=false', f'save_folder={tmp_path}', 'max_duration=1ep'))
    assert [file.name for file in tmp_path.glob('best*')] == []
    assert (tmp_path / 'latest-rank0.pt').exists()


# What is refused


def test_an_image_that_is_not_scored_ends_the_run(
    runs: dict[str, Path], synthetic_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    update, seen = SegmentationModel.update_metric, []

    def forgetful(self: Any, batch: Any, outputs: Any, metric: Any) -> None:
        seen.append(batch)
        if len(seen) != 2:
            update(self, batch, outputs, metric)

    monkeypatch.setattr(SegmentationModel, 'update_metric', forgetful)
    load = f'load_path={runs["mosaic-512sq"]}/latest-rank0.pt'
    message = refused(monkeypatch, capsys, *arguments(synthetic_folder, load, '--protocol', 'ade20k-ss'))
    assert message == f'error: 4 of the 5 images of {synthetic_folder} were scored'
    assert not list(runs['mosaic-512sq'].glob('evaluation-*'))


def test_no_checkpoint(synthetic_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    wanted = 'error: load_path is not set: the checkpoint to evaluate, such as load_path=runs/first/best-rank0.pt'
    assert refused(monkeypatch, capsys, *arguments(synthetic_folder)) == wanted
    assert refused(monkeypatch, capsys, *arguments(synthetic_folder, '--protocol', 'all')) == wanted
    no_yaml = 'error: the first argument must be a yaml config, such as yamls/deeplabv3.yaml'
    assert refused(monkeypatch, capsys, 'load_path=best.pt') == no_yaml


@pytest.mark.parametrize('nothing', ['', 'null'])
def test_an_empty_checkpoint_is_none(
    nothing: str, synthetic_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """As ``load_path=$CHECKPOINT`` is where that is not set."""
    message = refused(monkeypatch, capsys, *arguments(synthetic_folder, f'load_path={nothing}'))
    assert 'load_path' in message


def test_an_unknown_protocol(
    runs: dict[str, Path], synthetic_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    load = f'load_path={runs["mosaic-512sq"]}/latest-rank0.pt'
    message = refused(monkeypatch, capsys, *arguments(synthetic_folder, load, '--protocol', 'ade20k'))
    assert re.match(r"error: (eval_)?protocol=ade20k is not known\. Did you mean 'ade20k-..'\? Legal: ", message)
    assert all(name in message for name in NAMES)


def test_a_missing_file(
    synthetic_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    message = refused(monkeypatch, capsys, *arguments(synthetic_folder, f'load_path={tmp_path}/none.pt'))
    assert f'{tmp_path}/none.pt' in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    'change', ['model.architecture=pspnet', 'train_dataset.ignore_background=false', 'model.backbone_arch=resnet50']
)
def test_a_checkpoint_of_another_network(
    change: str,
    runs: dict[str, Path],
    synthetic_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    checkpoint = runs['mosaic-512sq'] / 'latest-rank0.pt'
    argv = arguments(synthetic_folder, f'load_path={checkpoint}', '--out', str(tmp_path), change)
    message = refused(monkeypatch, capsys, *argv)
    assert re.match(f'error: (load_path=)?{checkpoint} does not fit the network: ', message)
    assert message.endswith('Check model.architecture, model.backbone_arch and model.num_classes.')
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_key(synthetic_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    message = refused(monkeypatch, capsys, *arguments(synthetic_folder, 'load_path=x.pt', 'protocoll=all'))
    assert 'unknown key protocoll' in message


def test_the_protocol_of_a_config_is_checked_too(synthetic_folder: Path) -> None:
    with pytest.raises(UserError, match=r'^eval_protocol=square is not known\. Legal: '):
        run(arguments(synthetic_folder, 'eval_protocol=square'))
