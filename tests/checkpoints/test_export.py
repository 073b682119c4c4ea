"""Each exported file computes what the network does at any size, tells what it is, or is not written."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import safetensors.torch
import torch
from composer import Trainer
from composer.algorithms import EMA
from helpers.exported_files import SUFFIXES, card_of, exported_files, network_of  # noqa: F401
from torch import Tensor, nn
from torch.utils.data import DataLoader

from segrecipes.base.errors import UserError
from segrecipes.checkpoints import network as network_module
from segrecipes.checkpoints.card import ModelCard
from segrecipes.checkpoints.export import CHECKED, compare, export
from segrecipes.checkpoints.formats import safetensors as safetensors_format
from segrecipes.checkpoints.formats.function import TRACED
from segrecipes.checkpoints.formats.onnx import AdaptivePool, with_exportable_pools
from segrecipes.checkpoints.formats.table import FORMATS
from segrecipes.checkpoints.load_export import load_exported, read_card
from segrecipes.checkpoints.read import read_checkpoint
from segrecipes.commands import cli
from segrecipes.models.architectures import ARCHITECTURES
from segrecipes.models.network import build_network
from segrecipes.training.callbacks.describe import Describe
from segrecipes.training.tasks.segmentation import build_model

ROOT = Path(__file__).parents[2]

# Of the logits' largest magnitude; a program's operators may be others than the network's, and in another order.
TOLERANCES = {'onnx': 1e-5, 'torch.export': 1e-6, 'safetensors': 0}
PROGRAMS = [to for to, form in FORMATS.items() if form.is_program]


def test_suffixes_tell_the_formats_apart() -> None:
    assert SUFFIXES.items() >= {('onnx', '.onnx'), ('torch.export', '.pt2'), ('safetensors', '.safetensors')}
    assert len(set(SUFFIXES.values())) == len(FORMATS)
    assert [to for to, form in FORMATS.items() if form.runs_code] == ['torch.export']
    assert 'safetensors' not in PROGRAMS


# The same logits


@pytest.mark.parametrize('to', SUFFIXES)
@pytest.mark.parametrize('architecture', ARCHITECTURES)
def test_logits_equal_the_networks_at_any_size(architecture: str, to: str, tmp_path: Path) -> None:
    card = card_of(architecture)
    network, path = network_of(card), tmp_path / f'net{SUFFIXES[to]}'
    differences = export(network, card, path, to)
    assert [difference.shape for difference in differences] == list(CHECKED)
    assert list(tmp_path.iterdir()) == [path]
    assert read_card(path) == card

    run = load_exported(path)
    for shape in ((1, 3, 32, 32), (3, 3, 45, 78), (2, 3, 100, 33), (1, 3, 1, 1)):
        assert shape not in (*CHECKED, TRACED)
        images = torch.randn(shape)
        with torch.no_grad():
            expected = network(images)
        logits = run(images)
        assert logits.dtype == torch.float32 and not logits.requires_grad
        assert logits.shape == expected.shape == (shape[0], 5, *shape[2:])
        assert (logits - expected).abs().max() <= TOLERANCES.get(to, 1e-5) * expected.abs().max()


@pytest.mark.parametrize('to', PROGRAMS)
def test_a_deep_stem_and_another_output_stride(to: str, tmp_path: Path) -> None:
    card = card_of('pspnet', backbone_arch='resnetv1c18', output_stride=16)
    network, path = network_of(card), tmp_path / f'net{SUFFIXES[to]}'
    export(network, card, path, to)
    images = torch.randn(1, 3, 41, 70)
    torch.testing.assert_close(load_exported(path)(images), network(images).detach(), rtol=1e-4, atol=1e-4)
    assert read_card(path) == card


def test_pool_equals_torchs() -> None:
    for bins in (1, 2, 3, 6, 7):
        for side in range(1, 40):
            x = torch.randn(2, 3, side, (7 * side) % 31 + 1, dtype=torch.float64)
            torch.testing.assert_close(AdaptivePool(bins)(x), nn.AdaptiveAvgPool2d(bins)(x), rtol=1e-12, atol=1e-12)


def test_pool_bins_overlap_where_the_side_is_no_multiple() -> None:
    x = torch.tensor([[[[1.0, 2.0, 4.0, 8.0, 16.0]]]])
    torch.testing.assert_close(AdaptivePool(2)(x), torch.tensor([[[[7 / 3, 28 / 3]] * 2]]))  # pixels 0…2 and 2…4
    torch.testing.assert_close(AdaptivePool(6)(x)[0, 0, 0], torch.tensor([1.0, 1.5, 3.0, 6.0, 12.0, 16.0]))


def test_pools_are_replaced_on_a_copy() -> None:
    network = network_of(card_of('pspnet'))

    def pools(network: nn.Module, kind: type) -> int:
        return sum(isinstance(module, kind) for module in network.modules())

    copy = with_exportable_pools(network)
    assert (pools(network, nn.AdaptiveAvgPool2d), pools(network, AdaptivePool)) == (4, 0)
    assert (pools(copy, nn.AdaptiveAvgPool2d), pools(copy, AdaptivePool)) == (1, 3)


def test_network_is_left_as_it_was(tmp_path: Path) -> None:
    card = card_of(auxiliary=True)
    network = network_of(card).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    export(network, card, tmp_path / 'net.safetensors', 'safetensors')
    assert all(module.training for module in network.modules())
    assert all(parameter.requires_grad for parameter in network.parameters())
    after = network.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)


# What the files hold


def test_auxiliary_head_is_left_out(tmp_path: Path) -> None:
    card = card_of(auxiliary=True)
    path = tmp_path / 'net.safetensors'
    export(network_of(card), card, path, 'safetensors')
    assert read_card(path) == replace(card, auxiliary=False)
    names = safetensors.torch.load_file(path).keys()
    assert {name.split('.')[0] for name in names} == {'backbone', 'classifier'}


def test_onnx_names_its_axes_and_counts_its_classes(files: dict[str, Path]) -> None:
    session = onnxruntime.InferenceSession(files['onnx'])
    (images,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.type, images.shape) == ('images', 'tensor(float)', ['batch', 3, 'height', 'width'])
    assert (logits.name, logits.type, logits.shape) == ('logits', 'tensor(float)', ['batch', 5, 'height', 'width'])
    model = onnx.load(files['onnx'])
    assert [entry.version for entry in model.opset_import] == [17]


def test_safetensors_is_a_checkpoint_again(files: dict[str, Path]) -> None:
    checkpoint = read_checkpoint(files['safetensors'])
    expected = network_of(card_of()).state_dict()
    assert (checkpoint.kind, checkpoint.card) == ('safetensors', card_of())
    assert checkpoint.weights.keys() == expected.keys()
    assert all(torch.equal(checkpoint.weights[name], value) for name, value in expected.items())


def test_torch_export_keeps_the_card_as_an_extra_file(files: dict[str, Path]) -> None:
    extra = {'model_card.json': ''}
    torch.export.load(files['torch.export'], extra_files=extra)
    assert ModelCard.from_dict(json.loads(extra['model_card.json']), 'here') == card_of()


def test_a_network_in_channels_last_is_written_contiguous(tmp_path: Path) -> None:
    card = card_of()
    network = network_of(card).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    export(network, card, tmp_path / 'net.safetensors', 'safetensors')
    weights = safetensors.torch.load_file(tmp_path / 'net.safetensors')
    assert all(torch.equal(weights[name], value) for name, value in network.state_dict().items())


# A file that is not written


def not_running(images: Tensor) -> Tensor:
    raise RuntimeError('expected 64 rows')


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda run: lambda images: run(images) * 1.002, 'differs from the network.* by at most '),
        (lambda run: lambda images: run(images) * float('nan'), 'differs from the network.* by at most nan'),
        (lambda run: lambda images: run(images)[..., :-1], r'logits of \(1, 5, 257, 189\) for images of \(1, 3, 257, '),
        (lambda run: not_running, r'does not run on images of \(1, 3, 257, 190\): expected 64 rows$'),
    ],
    ids=['differs', 'nan', 'shape', 'raises'],
)
def test_a_file_that_fails_its_check_is_not_published(
    change: Callable, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = safetensors_format.load
    monkeypatch.setattr(safetensors_format, 'load', lambda path: change(load(path)))
    path = tmp_path / 'net.safetensors'
    with pytest.raises(UserError, match=f'^{re.escape(str(path))} was not written: .*{message}'):
        export(network_of(card_of()), card_of(), path, 'safetensors')
    assert list(tmp_path.iterdir()) == []
    path.write_text('an older export')
    with pytest.raises(UserError):
        export(network_of(card_of()), card_of(), path, 'safetensors')
    assert list(tmp_path.iterdir()) == [path] and path.read_text() == 'an older export'


def test_difference_is_of_logits_and_of_classes() -> None:
    """Two classes that nearly tie: the network takes one everywhere, the other side the second where pixels are > 0."""

    def network(images: Tensor) -> Tensor:
        return torch.stack([torch.full_like(images[:, 0], 100), torch.full_like(images[:, 0], 99.97)], dim=1)

    def run(images: Tensor) -> Tensor:
        logits = network(images)
        logits[:, 1] += 0.0625 * (images[:, 0] > 0)
        return logits

    differences = compare(network, run, 'net')  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    for difference, shape in zip(differences, CHECKED, strict=True):
        positive = (torch.randn(shape, generator=generator)[:, 0] > 0).float().mean()
        assert difference.shape == shape
        assert difference.largest == pytest.approx(0.0625, rel=1e-3)
        assert difference.magnitude == 100
        assert difference.share_of_pixels == pytest.approx(float(positive))
    assert re.fullmatch(
        r'1×3×257×190: logits up to 100 differ by at most 0\.062, the class by (49|50)\.\d{4}% of pixels',
        str(differences[0]),
    )


def test_an_argument_that_is_not_legal(tmp_path: Path) -> None:
    card = card_of()
    network = network_of(card)
    with pytest.raises(UserError, match=r"--to=onx is not known\. Did you mean 'onnx'\? Legal: onnx, safetensors, tor"):
        export(network, card, tmp_path / 'net.onnx', 'onx')
    with pytest.raises(UserError, match=r'--out=.*net\.pth: a file of torch\.export is named …\.pt2$'):
        export(network, card, tmp_path / 'net.pth', 'torch.export')
    (tmp_path / 'file').touch()
    with pytest.raises(UserError, match=r'--out=.*file/net\.safetensors: cannot be written \('):
        export(network, card, tmp_path / 'file' / 'net.safetensors', 'safetensors')
    (tmp_path / 'net.safetensors').mkdir()
    with pytest.raises(UserError, match=r'--out=.*net\.safetensors: cannot be written \('):
        export(network, card, tmp_path / 'net.safetensors', 'safetensors')
    assert {path.name for path in tmp_path.iterdir()} == {'file', 'net.safetensors'}


# The command


@pytest.fixture(scope='module')
def composer_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run with EMA, whose weights are then far from the run's own."""
    card = card_of(auxiliary=True)
    torch.manual_seed(0)
    samples = [(torch.randn(3, 32, 32), torch.randint(5, (32, 32))) for _ in range(8)]
    model = build_model(card.network, auxiliary_weight=0.4)
    folder = tmp_path_factory.mktemp('run')
    trainer = Trainer(
        model=model,
        train_dataloader=DataLoader(samples, batch_size=4),  # type: ignore[arg-type]
        optimizers=torch.optim.SGD(model.parameters(), lr=0.1),
        max_duration='2ep',
        algorithms=EMA(half_life='2ba', update_interval='1ba'),
        callbacks=Describe(card),
        save_folder=str(folder),
        save_filename='run.pt',
        save_latest_filename=None,
        progress_bar=False,
    )
    trainer.fit()
    trainer.close()
    return folder / 'run.pt'


@pytest.mark.parametrize('which', [None, 'best', 'ema', 'raw'])
def test_weights_of_a_run(which: str | None, composer_checkpoint: Path, tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / 'new' / 'net.safetensors'
    flags = [f'--weights={which}'] if which else []
    cli.run('export', [str(composer_checkpoint), '--to=safetensors', f'--out={path}', *flags])
    checkpoint = read_checkpoint(composer_checkpoint)
    assert checkpoint.ema is not None
    expected, other = checkpoint.ema, checkpoint.weights
    if which == 'raw':
        expected, other = other, expected
    weights = safetensors.torch.load_file(path)
    assert all(torch.equal(value, expected[name]) for name, value in weights.items())
    assert not torch.equal(weights['classifier.conv_seg.weight'], other['classifier.conv_seg.weight'])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(':')[0] for line in lines] == ['1×3×257×190', '3×3×65×97', '2×3×32×150', str(path)]
    assert lines[-1] == f'{path}: safetensors, {path.stat().st_size / 1e6:.1f} MB'


def launch(*arguments: str | Path) -> subprocess.CompletedProcess:
    command = [sys.executable, '-m', 'segrecipes', 'export', *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)


def test_command_writes_beside_the_checkpoint(composer_checkpoint: Path) -> None:
    process = launch(composer_checkpoint, '--to', 'onnx')
    assert (process.returncode, process.stderr) == (0, '')
    path = composer_checkpoint.with_suffix('.onnx')
    assert process.stdout.splitlines()[-1].startswith(f'{path}: onnx, ')
    assert {file.name for file in path.parent.iterdir()} == {'run.pt', 'run.onnx'}

    checkpoint = read_checkpoint(composer_checkpoint)
    assert checkpoint.card is not None
    assert read_card(path) == replace(checkpoint.card, auxiliary=False)
    network = build_network(checkpoint.card.network, auxiliary=checkpoint.card.auxiliary).eval()
    network.load_state_dict(checkpoint.choose('ema'))
    images = torch.randn(1, 3, 39, 52)
    torch.testing.assert_close(load_exported(path)(images), network(images).detach(), rtol=1e-4, atol=1e-4)


def refused(capsys: pytest.CaptureFixture, *arguments: str | Path) -> str:
    with pytest.raises(SystemExit) as status:
        cli.run('export', list(map(str, arguments)))
    assert status.value.code == 1
    output = capsys.readouterr()
    assert output.out == ''
    return output.err


def test_what_the_command_refuses(
    files: dict[str, Path], composer_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    weights = files['safetensors']
    assert refused(capsys, weights, '--to=tflite') == (
        'error: --to=tflite is not known. Legal: onnx, safetensors, torch.export.\n'
    )
    assert refused(capsys, weights, '--to=safetensors') == (
        f'error: --out={weights} is the checkpoint itself; choose another file\n'
    )
    assert refused(capsys, tmp_path / 'none.pt', '--to=onnx') == f'error: {tmp_path}/none.pt: no such file\n'
    assert 'best, ema, raw' in refused(capsys, composer_checkpoint, '--to=onnx', '--weights=average')
    assert 'weights=ema is not possible' in refused(capsys, weights, '--to=onnx', '--weights=ema')

    torch.save(network_of(card_of()).state_dict(), tmp_path / 'net.pt')
    assert refused(capsys, tmp_path / 'net.pt', '--to=onnx') == (
        f'error: {tmp_path}/net.pt has no model card, so its architecture and classes are not known: it was written '
        'before checkpoints kept one, or by another tool\n'
    )
    assert [path.name for path in tmp_path.iterdir()] == ['net.pt']
    assert set(files['onnx'].parent.glob('*.*')) == set(files.values())


def test_trust_is_passed_on(files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trusted = []

    def read(path: str | Path, trust: bool = False) -> Any:
        if path == str(files['safetensors']):  # not what is written and checked
            trusted.append(trust)
        return read_checkpoint(path)

    monkeypatch.setattr(network_module, 'read_checkpoint', read)
    for flags in ([], ['--trust-checkpoint']):
        cli.run('export', [str(files['safetensors']), '--to=safetensors', f'--out={tmp_path}/net.safetensors', *flags])
    assert trusted == [False, True]
