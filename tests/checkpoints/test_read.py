"""Weights from every kind of file; files that lie or are damaged."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.checkpoint_files import CARD, FILES, SMALL, assert_equal, composer_state, logits, named, network_of, saved
from safetensors.torch import save_file
from torch import Tensor

from segrecipes.base.errors import MissingPathError, UserError
from segrecipes.base.pickles import check_safe
from segrecipes.checkpoints.fit import load_weights
from segrecipes.checkpoints.read import Checkpoint, read_checkpoint
from segrecipes.config.merge import load_config
from segrecipes.models.network import build_network
from segrecipes.models.spec import NetworkSpec
from segrecipes.training import run

ROOT = Path(__file__).parents[2]


# Every kind of file


@pytest.mark.parametrize('name', FILES)
def test_every_kind_gives_the_same_logits(name: str, tmp_path: Path) -> None:
    kind, suffix, write = FILES[name]
    network = network_of()
    path = tmp_path / f'file.{suffix}'
    write(network.state_dict(), path)
    checkpoint = read_checkpoint(path)
    path.write_bytes(b'')  # what was read needs the file no longer
    assert (checkpoint.path, checkpoint.kind, checkpoint.ema) == (str(path), kind, None)
    assert (checkpoint.epoch, checkpoint.batch) == ((18, 450) if name == 'composer' else (0, 0))
    assert checkpoint.card == (CARD if kind == 'safetensors' else None)
    assert_equal(checkpoint.weights, network.state_dict())
    other = network_of(seed=1)
    assert not torch.allclose(logits(other), logits(network), atol=1e-3)
    load_weights(other, checkpoint.weights, checkpoint.path)
    assert torch.equal(logits(other), logits(network))


def test_the_card_of_a_composer_checkpoint(tmp_path: Path) -> None:
    network = network_of()
    callbacks = {'SpeedMonitor': {}, 'Describe': CARD.to_dict()}
    checkpoint = read_checkpoint(saved(composer_state(network.state_dict(), callbacks=callbacks), tmp_path / 'a.pt'))
    assert checkpoint.card is not None and checkpoint.card == CARD
    rebuilt = build_network(checkpoint.card.network).eval()
    load_weights(rebuilt, checkpoint.weights, checkpoint.path)
    assert torch.equal(logits(rebuilt), logits(network))


def damaged_card(kind: str, folder: Path) -> Path:
    weights = network_of().state_dict()
    if kind == 'composer':
        return saved(composer_state(weights, callbacks={'Describe': {'architecture': 'pspnet'}}), folder / 'a.pt')
    cards = {'not JSON': '{', 'not a card': '{"num_classes": 5}', 'a list': '[1]'}
    save_file(weights, folder / 'a.safetensors', {'model_card': cards[kind]})
    return folder / 'a.safetensors'


@pytest.mark.parametrize('kind', ['composer', 'not JSON', 'not a card', 'a list'])
def test_a_damaged_card_is_named(kind: str, tmp_path: Path) -> None:
    path = damaged_card(kind, tmp_path)
    with pytest.raises(UserError, match=f'^{path}: its model card is damaged'):
        read_checkpoint(path)


# Averages

LAYOUTS_OF_EMA = ['tuples', 'dict', 'before 0.13']


def ema_state(layout: str, held: dict[str, Tensor], model: dict[str, Tensor], active: bool, **more: Any) -> Any:
    """EMA's part of a checkpoint whose model has ``model``; ``held`` is the other of raw and averaged weights."""
    if layout == 'before 0.13':
        values = {'training_model': named(held if active else model), 'ema_model': named(model if active else held)}
    else:
        parameters = {name: v for name, v in named(held).items() if v.dtype.is_floating_point and 'running' not in name}
        buffers = {name: value for name, value in named(held).items() if name not in parameters}
        values = {'ema_model': {'named_parameters_dict': parameters, 'named_buffers_dict': buffers}}
    values = {'repr': '<ema.EMA object>', **values, 'ema_weights_active': active, **more}
    return {'EMA': values} if layout == 'dict' else [('ChannelsLast', {'repr': '<c>'}), ('EMA', values)]


@pytest.mark.parametrize('active', [True, False])
@pytest.mark.parametrize('layout', LAYOUTS_OF_EMA)
def test_raw_and_averaged_weights_are_told_apart(layout: str, active: bool, tmp_path: Path) -> None:
    raw, averaged = network_of(seed=1).state_dict(), network_of(seed=2).state_dict()
    held, model = (raw, averaged) if active else (averaged, raw)
    algorithms = ema_state(layout, held, model, active, ema_started=True)
    checkpoint = read_checkpoint(saved(composer_state(model, algorithms=algorithms), tmp_path / 'a.pt'))
    assert_equal(checkpoint.weights, raw)
    assert checkpoint.ema is not None
    assert_equal(checkpoint.ema, averaged)
    for which, expected in {'raw': raw, 'ema': averaged, 'best': averaged}.items():
        assert_equal(checkpoint.choose(which), expected)


@pytest.mark.parametrize('active', [True, False])
def test_an_average_is_completed_by_what_is_not_averaged(active: bool, tmp_path: Path) -> None:
    """EMA holds no frozen parameters, and holds buffers that no state dict has."""
    raw, averaged = network_of(seed=1).state_dict(), network_of(seed=2).state_dict()
    averaged['backbone.conv1.weight'] = raw['backbone.conv1.weight']
    held, model = (raw, averaged) if active else (averaged, raw)
    some = {name: value for name, value in held.items() if name != 'backbone.conv1.weight'}
    some['classifier.not_persistent'] = torch.zeros(3)
    algorithms = ema_state('tuples', some, model, active)
    checkpoint = read_checkpoint(saved(composer_state(model, algorithms=algorithms), tmp_path / 'a.pt'))
    assert_equal(checkpoint.weights, raw)
    assert_equal(checkpoint.ema, averaged)


@pytest.mark.parametrize('values', [{'ema_started': False}, {'ema_model': None}])
def test_an_average_that_has_not_started_is_none(values: dict[str, Any], tmp_path: Path) -> None:
    """Until then EMA holds a copy of the initial weights."""
    weights, initial = network_of(seed=1).state_dict(), network_of(seed=2).state_dict()
    algorithms = ema_state('tuples', initial, weights, active=False, **values)
    checkpoint = read_checkpoint(saved(composer_state(weights, algorithms=algorithms), tmp_path / 'a.pt'))
    assert checkpoint.ema is None
    assert_equal(checkpoint.weights, weights)


def test_what_is_chosen_without_an_average() -> None:
    weights = {'a': torch.zeros(1)}
    checkpoint = Checkpoint('run/latest.pt', 'composer', weights)
    assert checkpoint.choose('best') is weights and checkpoint.choose('raw') is weights
    with pytest.raises(UserError, match=r'^weights=ema is not possible, run/latest.pt has no averaged weights\.'):
        checkpoint.choose('ema')
    with pytest.raises(UserError, match=r"^weights=emma is not known. Did you mean 'ema'\? Legal: best, ema, raw\.$"):
        checkpoint.choose('emma')


def train(data: Path, folder: Path, *more: str) -> None:
    arguments = (
        'model.num_classes=8', 'model.backbone_arch=resnet18', 'model.backbone_weights=null', 'model.head_channels=8',
        'train_dataset.name=synthetic', 'eval_dataset.name=synthetic', f'train_dataset.path={data}',
        f'eval_dataset.path={data}', 'train_dataset.final_size=32', 'train_dataset.base_size=32',
        'eval_dataset.final_size=32', 'train_dataset.batch_size=4', 'eval_dataset.batch_size=5',
        'train_dataset.num_workers=0', 'eval_dataset.num_workers=0', 'optimizer.lr=0.05', 'precision=fp32',
        'callbacks={}', 'loggers={progress_bar: null}', f'save_folder={folder}', 'save_interval=1ba',
        'save_num_checkpoints_to_keep=-1',
        'max_duration=3ba', 'eval_interval=1ba',
    )  # fmt: skip
    run.main(*load_config([str(ROOT / 'yamls/pspnet.yaml'), *arguments, *more])).close()


@pytest.fixture(scope='module')
def runs(synthetic_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three batches without and with an average of half life one batch."""
    folder = tmp_path_factory.mktemp('runs')
    train(synthetic_folder, folder / 'plain')
    train(synthetic_folder, folder / 'ema', 'algorithms.ema={half_life: 1ba, update_interval: 1ba}')
    return folder


def test_weights_of_a_run_with_ema_are_those_without(runs: Path) -> None:
    """An average takes no part in training."""
    for batch in (1, 2, 3):
        name = next((runs / 'ema').glob(f'ep*-ba{batch}-rank0.pt')).name
        checkpoint, plain = read_checkpoint(runs / 'ema' / name), read_checkpoint(runs / 'plain' / name)
        assert_equal(checkpoint.weights, plain.weights)
        assert plain.ema is None
        assert (checkpoint.kind, checkpoint.batch) == ('composer', batch)


def test_average_of_a_run_is_the_average_of_its_weights(runs: Path) -> None:
    expected: dict[str, Tensor] = {}
    for batch in (1, 2, 3):
        checkpoint = read_checkpoint(next((runs / 'ema').glob(f'ep*-ba{batch}-rank0.pt')))
        assert checkpoint.ema is not None and checkpoint.ema.keys() == checkpoint.weights.keys()
        for name, value in checkpoint.weights.items():
            old = expected.get(name, value)
            expected[name] = 0.5 * old + 0.5 * value if value.is_floating_point() else value
            torch.testing.assert_close(checkpoint.ema[name], expected[name], rtol=1e-5, atol=1e-6)
    name = 'classifier.conv_seg.weight'
    assert not torch.allclose(checkpoint.ema[name], checkpoint.weights[name], atol=1e-4)


def test_the_best_checkpoint_of_a_run_has_the_same_weights(runs: Path) -> None:
    """Saved by a callback that EMA does not know, hence with the raw weights in the model."""
    best = read_checkpoint(next((runs / 'ema').glob('best-ep*.pt')))
    usual = read_checkpoint(next((runs / 'ema').glob(f'ep*-ba{best.batch}-rank0.pt')))
    assert_equal(best.weights, usual.weights)
    assert_equal(best.ema, usual.ema)


def test_a_run_says_what_it_is(runs: Path) -> None:
    checkpoint = read_checkpoint(runs / 'ema' / 'latest-rank0.pt')
    assert checkpoint.card is not None
    assert checkpoint.card.network == NetworkSpec('pspnet', 8, 'resnet18', output_stride=None, head_channels=8)
    assert checkpoint.card.auxiliary == any(name.startswith('auxiliary.') for name in checkpoint.weights)
    network = build_network(checkpoint.card.network, auxiliary=checkpoint.card.auxiliary)
    for which in ('raw', 'ema'):
        load_weights(network, checkpoint.choose(which), checkpoint.path)
        assert_equal(network.state_dict(), checkpoint.choose(which))


def test_a_run_is_safe_to_resume(runs: Path) -> None:
    for path in runs.glob('*/*.pt'):
        check_safe(path)


# Loading


def test_networks_keep_their_dtype() -> None:
    source, network = network_of(), network_of(seed=1).bfloat16()
    load_weights(network, source.state_dict(), 'file.pt')
    for name, value in network.state_dict().items():
        assert torch.equal(value, source.state_dict()[name].to(value.dtype))
        assert value.dtype == (torch.int64 if name.endswith('tracked') else torch.bfloat16)


def test_counters_may_be_missing() -> None:
    network = network_of()
    weights = {name: value for name, value in network_of(seed=1).state_dict().items() if 'tracked' not in name}
    load_weights(network, weights, 'file.pt')
    assert torch.equal(logits(network), logits(network_of(seed=1)))
    assert network.state_dict()['backbone.bn1.num_batches_tracked'] == 7


@pytest.mark.parametrize('has', [False, True], ids=['network', 'file'])
def test_an_auxiliary_head_may_be_missing_on_one_side(has: bool) -> None:
    network, source = network_of(seed=1, auxiliary=not has), network_of(seed=2, auxiliary=has)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    load_weights(network, source.state_dict(), 'file.pt')
    for name, value in network.state_dict().items():
        assert torch.equal(value, (before if name.startswith('auxiliary.') else source.state_dict())[name])


def test_an_auxiliary_head_on_both_sides_must_fit() -> None:
    network, weights = network_of(auxiliary=True), network_of(seed=1, auxiliary=True).state_dict()
    load_weights(network, weights, 'file.pt')
    assert_equal(network.state_dict(), weights)
    del weights['auxiliary.conv_seg.bias']
    with pytest.raises(
        UserError, match=r'1 tensor is missing \(auxiliary.conv_seg.bias: not there in the file, \(5,\)'
    ):
        load_weights(network, weights, 'file.pt')


def test_what_does_not_fit_is_said_at_once_and_nothing_is_loaded() -> None:
    network = network_of()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    weights = network_of(seed=1, num_classes=7).state_dict()
    for name in [name for name in weights if name.startswith('backbone.layer4.1.')][:4]:
        del weights[name]
    weights['criterion.weight'] = torch.zeros(2, 3)
    with pytest.raises(UserError) as error:
        load_weights(network, weights, 'load_path=file.pt')
    assert str(error.value) == (
        'load_path=file.pt does not fit the network: 4 tensors are missing ('
        'backbone.layer4.1.conv1.weight: not there in the file, (512, 512, 3, 3) in the network, '
        'backbone.layer4.1.bn1.weight: not there in the file, (512,) in the network, '
        'backbone.layer4.1.bn1.bias: not there in the file, (512,) in the network, …); '
        '1 tensor is not known (criterion.weight: (2, 3) in the file, not there in the network); '
        '2 tensors are of another shape ('
        'classifier.conv_seg.weight: (7, 8, 1, 1) in the file, (5, 8, 1, 1) in the network, '
        'classifier.conv_seg.bias: (7,) in the file, (5,) in the network). '
        'Check model.architecture, model.backbone_arch and model.num_classes.'
    )
    assert_equal(network.state_dict(), before)


# Files that are none


@pytest.mark.parametrize('read', [read_checkpoint, check_safe])
def test_a_missing_file_is_named(read: Any, tmp_path: Path) -> None:
    with pytest.raises(MissingPathError, match=f'^{tmp_path}/no.pt: no such file$'):
        read(tmp_path / 'no.pt')


def test_a_missing_safetensors_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingPathError, match=f'^{tmp_path}/no.safetensors: no such file$'):
        read_checkpoint(str(tmp_path / 'no.safetensors'))


@pytest.mark.parametrize('name', ['run', 'run.safetensors'])
def test_a_folder_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=f'^{tmp_path}/{name}: a folder, not a checkpoint file$'):
        read_checkpoint(tmp_path / name)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'', r'not a checkpoint of PyTorch \(the file is empty\)'),
        (b'cos\nsystem\n(S"echo"\ntR.', r'not a checkpoint of PyTorch \(other content\)'),
        (b'epoch: 3\n', r'not a checkpoint of PyTorch \(other content\)'),
        (b'PK\x03\x04 and no more', 'not a readable checkpoint, damaged or cut short'),
        (pickle.dumps({'a': 1}, protocol=2), 'not a readable checkpoint, damaged or cut short'),
        (
            pickle.dumps([1.5], protocol=5),
            'not a readable checkpoint, damaged or cut short|reading it needs Unsupported',
        ),
    ],
    ids=['empty', 'pickle as text', 'text', 'zip', 'pickle', 'new pickle'],
)
@pytest.mark.parametrize('read', [read_checkpoint, check_safe])
def test_other_files_are_refused(read: Any, content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / 'file.pt'
    path.write_bytes(content)
    with pytest.raises(UserError, match=f'^{path}: ({message})'):
        read(path)


def test_a_zip_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / 'file.pt'
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('photo.jpg', b'123')
    for trust in (False, True):
        with pytest.raises(UserError, match=f'^{path}: not a readable checkpoint, damaged or cut short'):
            read_checkpoint(path, trust)


@pytest.mark.parametrize('name', ['composer', 'legacy', 'safetensors'])
@pytest.mark.parametrize('kept', [1, 7, 100, 0.1, 0.5, 0.99, -1])
def test_a_file_cut_short_is_named(name: str, kept: float, tmp_path: Path) -> None:
    _, suffix, write = FILES[name]
    path = tmp_path / f'file.{suffix}'
    write(SMALL, path)
    content = path.read_bytes()
    path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    for trust in (False, True):
        with pytest.raises(UserError, match=rf'^{path}: not a (readable )?(checkpoint|safetensors file)'):
            read_checkpoint(path, trust)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ([1, 2], 'holds a list, not a checkpoint or a state dict'),
        (torch.zeros(3), 'holds a Tensor, not a checkpoint or a state dict'),
        ({}, 'holds an empty dict where the weights should be'),
        ({'state': {'model': {}}}, 'holds an empty dict where the weights should be'),
        ({'state': {'model': None}}, 'holds a NoneType where the weights should be'),
        ({'epoch': 3}, "not a state dict, 'epoch' in it is a int and not a tensor"),
        ({'state_dict': {'a': [1]}}, "not a state dict, 'a' in it is a list and not a tensor"),
        ({3: torch.zeros(1)}, 'not a state dict, 3 in it is a Tensor and not a tensor'),
        (
            {'state': {'model': {'a': torch.zeros(1)}, 'algorithms': [1]}},
            r'not in the form of a checkpoint \(TypeError',
        ),
        (
            {'state': {'model': {'a': torch.zeros(1)}, 'algorithms': [('EMA', {'ema_model': {'x': 1}})]}},
            r'not in the form of a checkpoint \(KeyError',
        ),
        ({'decode_head.a': torch.zeros(1), 'meta': 3}, 'not a state dict'),
        ({'state_dict': {'decode_head.a': torch.zeros(1)}, 'meta': 3}, r'not in the form of a checkpoint \(\w+Error'),
    ],
)
def test_other_contents_are_refused(content: Any, message: str, tmp_path: Path) -> None:
    path = saved(content, tmp_path / 'file.pt')
    with pytest.raises(UserError, match=f'^{path}: {message}'):
        read_checkpoint(path)
