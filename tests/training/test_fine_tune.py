"""A run that begins from the weights of another dataset's network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.checkpoint_files import SHAPES, build_mmseg, mmseg_config, saved
from helpers.runs import arguments, assert_same_weights, run
from torch import Tensor

from segrecipes.base.errors import UserError
from segrecipes.checkpoints.export import export
from segrecipes.checkpoints.fine_tune import per_class
from segrecipes.checkpoints.network import load_network
from segrecipes.checkpoints.read import read_checkpoint
from segrecipes.commands.cli import run as verb
from segrecipes.models.architectures import ARCHITECTURES
from segrecipes.models.spec import NetworkSpec
from segrecipes.training import restore

OTHER = 'is of another number of classes'
EIGHT = '8 classes (sky, ground, tree, …)'
LAST = ['classifier.conv_seg.weight', 'classifier.conv_seg.bias']


@pytest.fixture(scope='module')
def first(synthetic_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the drawn landscapes' eight classes, with an average beside the raw weights."""
    folder = tmp_path_factory.mktemp('first')
    run(arguments(
        synthetic_folder, 'max_duration=2ba', 'eval_interval=0ba', f'save_folder={folder}', 'save_best=false',
        'algorithms.ema={half_life: 1ba, update_interval: 1ba}',
    ))  # fmt: skip
    return folder / 'latest-rank0.pt'


def dataset(folder: Path, pictures: Path, classes: str) -> str:
    """A ``dataset.yaml`` over the drawn landscapes; what is no class of it is ignored."""
    folder.mkdir(exist_ok=True)
    folder.joinpath('dataset.yaml').write_text(f"""
name: mine
path: {pictures}/ADEChallengeData2016
classes: [{classes}]
labels: {{{', '.join(f'{label}: {min(label, classes.count(","))}' for label in range(9))}}}
splits: {{train: images/training/*, val: images/validation/*}}
mask: ['^images/(.+)\\.jpg$', 'annotations/\\1.png']
""")
    return str(folder / 'dataset.yaml')


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    """The network's tensors before and after each load."""
    states, load = [], restore.load_checkpoint

    def loading(cfg: Any, model: Any, card: Any) -> Any:
        states.append({name: value.clone() for name, value in model.module.state_dict().items()})
        found = load(cfg, model, card)
        states.append({name: value.clone() for name, value in model.module.state_dict().items()})
        return found

    monkeypatch.setattr('segrecipes.training.run.load_checkpoint', loading)
    return states


def own(folder: Path, pictures: Path, classes: str, *more: str) -> list[str]:
    """Arguments of a run on a dataset of these classes."""
    argv = [part for part in arguments(pictures) if 'dataset.name' not in part and 'dataset.path' not in part]
    return [
        *argv, f'dataset={dataset(folder / "data", pictures, classes)}', 'max_duration=1ba', 'eval_interval=0ba', *more,
    ]  # fmt: skip


def assert_loaded(states: list[dict[str, Tensor]], weights: dict[str, Tensor], new: list[str]) -> None:
    before, after = states
    for name, value in after.items():
        assert torch.equal(value, (before if name in new else weights)[name]), name


KINDS = ('composer', 'safetensors', 'plain')


def in_kind(kind: str, checkpoint: Path, folder: Path) -> Path:
    if kind == 'safetensors':
        card, network = load_network(checkpoint, 'raw')
        export(network, card, folder / 'network.safetensors', 'safetensors')
        return folder / 'network.safetensors'
    return checkpoint if kind == 'composer' else saved(read_checkpoint(checkpoint).weights, folder / 'plain.pth')


@pytest.mark.parametrize('kind', KINDS)
def test_the_last_layers_are_new_where_the_number_of_classes_is_another(
    kind: str, first: Path, synthetic_folder: Path, tmp_path: Path, begun: list, capsys: pytest.CaptureFixture
) -> None:
    path = in_kind(kind, first, tmp_path)
    run(own(tmp_path, synthetic_folder, 'sky, ground, rest', f'load_path={path}', 'load_weights_only=true'))
    assert_loaded(begun, read_checkpoint(first).weights, LAST)
    has = (
        f'has {EIGHT}, this run 3 classes (sky, ground, rest)' if kind != 'plain' else 'is of another number of classes'
    )
    assert (
        f'load_path={path}: {has}; its last layers are new:\n'
        '  classifier.conv_seg.weight (8, 16, 1, 1) → (3, 16, 1, 1)\n'
        '  classifier.conv_seg.bias (8,) → (3,)\n'
    ) in capsys.readouterr().out


@pytest.mark.parametrize(
    ('classes', 'new'),
    [
        ('sky, ground, tree, house, car, ball, fence, sign', []),
        ('sky, ground, tree, house, car, ball, fence, flag', LAST),
        ('ground, sky, tree, house, car, ball, fence, sign', LAST),
    ],
    ids=['same', 'another name', 'another order'],
)
def test_as_many_classes_are_compared_by_name(
    classes: str, new: list[str], first: Path, synthetic_folder: Path, tmp_path: Path, begun: list,
    capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    run(own(tmp_path, synthetic_folder, classes, f'load_path={first}', 'load_weights_only=true'))
    assert_loaded(begun, read_checkpoint(first).weights, new)
    ours = f'8 classes ({", ".join(classes.split(", ")[:3])}, …)'
    said = f'is of other classes: {EIGHT} there, {ours} in this run; its last layers are new:\n'
    assert (said in capsys.readouterr().out) == bool(new)


def test_without_a_card_as_many_classes_are_the_same(
    first: Path, synthetic_folder: Path, tmp_path: Path, begun: list, capsys: pytest.CaptureFixture
) -> None:
    path = in_kind('plain', first, tmp_path)
    classes = 'a, b, c, d, e, f, g, h'
    run(own(tmp_path, synthetic_folder, classes, f'load_path={path}', 'load_weights_only=true'))
    assert_loaded(begun, read_checkpoint(first).weights, [])
    assert 'last layers' not in capsys.readouterr().out


@pytest.mark.parametrize('auxiliary', [False, True], ids=['alone', 'auxiliary'])
def test_from_a_file_of_mmsegmentations(
    auxiliary: bool, synthetic_folder: Path, tmp_path: Path, begun: list, capsys: pytest.CaptureFixture
) -> None:
    theirs = build_mmseg(mmseg_config('pspnet', *SHAPES['resnetv1c18'], auxiliary=auxiliary)).state_dict()
    path = saved({'meta': {'CLASSES': tuple('abcde')}, 'state_dict': theirs}, tmp_path / 'zoo.pth')
    run(own(
        tmp_path, synthetic_folder, 'sky, ground, rest', f'load_path={path}', 'load_weights_only=true',
        'model.architecture=pspnet', 'model.backbone_arch=resnetv1c18', 'model.auxiliary_weight=0.4',
    ))  # fmt: skip
    out = capsys.readouterr().out
    renamed = {
        name.replace('decode_head.', 'classifier.').replace('auxiliary_head.', 'auxiliary.'): value
        for name, value in theirs.items()
    }
    auxiliary_names = [name for name in begun[0] if name.startswith('auxiliary.')]
    both = [*LAST, 'auxiliary.conv_seg.weight', 'auxiliary.conv_seg.bias']
    assert_loaded(begun, renamed, both if auxiliary else LAST + auxiliary_names)
    assert 'has 5 classes (a, b, c, …), this run 3 classes (sky, ground, rest); its last layers are new:' in out
    assert ('  auxiliary.conv_seg.weight (5, 256, 1, 1) → (3, 256, 1, 1)\n' in out) == auxiliary
    assert (f'load_path={path}: has no auxiliary head; that of this run is new' in out) != auxiliary


@pytest.mark.parametrize('architecture', ARCHITECTURES)
def test_what_goes_by_the_number_of_classes(architecture: str) -> None:
    spec = NetworkSpec(architecture, 150, 'resnet18', head_channels=16)
    assert per_class(spec, auxiliary=False) == LAST
    assert per_class(spec, auxiliary=True) == [*LAST, 'auxiliary.conv_seg.weight', 'auxiliary.conv_seg.bias']


def test_all_else_must_fit(first: Path, synthetic_folder: Path, tmp_path: Path, begun: list) -> None:
    """And the message says of what network the file is."""
    with pytest.raises(UserError) as error:
        run(own(
            tmp_path, synthetic_folder, 'sky, ground, rest', f'load_path={first}', 'load_weights_only=true',
            'model.head_channels=24',
        ))  # fmt: skip
    message = str(error.value)
    assert 'tensors are of another shape (classifier.image_pool.1.conv.weight: (16, 512, 1, 1) in the file, ' in message
    assert 'conv_seg.bias' not in message
    assert (
        'The file is of model.architecture=deeplabv3plus model.num_classes=8 model.backbone_arch=resnet18 '
        'model.output_stride=null model.head_channels=16'
    ) in message


@pytest.mark.parametrize('kind', KINDS)
def test_a_run_of_other_classes_does_not_go_on(
    kind: str, first: Path, synthetic_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = in_kind(kind, first, tmp_path)
    with pytest.raises(SystemExit):
        verb('train', own(tmp_path, synthetic_folder, 'sky, ground, rest', f'load_path={path}'))
    has = (
        f'has {EIGHT}, this run 3 classes (sky, ground, rest)' if kind != 'plain' else 'is of another number of classes'
    )
    assert (
        f'error: load_path={path} {has}. Set load_weights_only=true to begin a new training from its weights; these '
        'are then new: classifier.conv_seg.weight, classifier.conv_seg.bias\n'
    ) == capsys.readouterr().err


def test_classes_of_other_names_go_on(first: Path, synthetic_folder: Path, tmp_path: Path) -> None:
    """Who has renamed one meanwhile still means that run."""
    classes = 'sky, ground, tree, house, car, ball, fence, flag'
    trainer = run(own(
        tmp_path, synthetic_folder, classes, f'load_path={first}', 'max_duration=3ba',
        'algorithms.ema={half_life: 1ba, update_interval: 1ba}',
    ))  # fmt: skip
    assert trainer.state.timestamp.batch == 3


@pytest.fixture
def tuned(first: Path, synthetic_folder: Path, tmp_path: Path) -> Callable[..., Any]:
    def train(name: str, batches: int) -> Any:
        more = (f'load_path={first}', 'load_weights_only=true', 'scheduler=null', 'save_best=false')
        argv = own(tmp_path, synthetic_folder, 'sky, ground, rest', *more)
        return run([
            *argv, f'max_duration={batches}ba', 'autoresume=true', f'run_name={name}', 'save_interval=1ba',
            'save_num_checkpoints_to_keep=-1', f'save_folder={tmp_path}/{{run_name}}',
        ])  # fmt: skip

    return train


def test_a_fine_tuned_run_resumes_from_its_own_checkpoint(tuned: Callable[..., Any], tmp_path: Path) -> None:
    tuned('again', 2)
    assert tuned('again', 4).state.timestamp.batch == 4
    tuned('whole', 4)
    assert_same_weights(tmp_path / 'again' / 'ep1-ba4-rank0.pt', tmp_path / 'whole' / 'ep1-ba4-rank0.pt')


def test_no_weights_are_fetched_for_a_backbone_that_the_file_has(
    first: Path, synthetic_folder: Path, tmp_path: Path, begun: list
) -> None:
    missing = f'model.backbone_weights={tmp_path}/none.pth'
    run(own(
        tmp_path, synthetic_folder, 'sky, ground, rest', f'load_path={first}', 'load_weights_only=true', missing,
    ))  # fmt: skip
    assert_loaded(begun, read_checkpoint(first).weights, LAST)


def test_the_config_of_a_run_trains_on_another_dataset(
    first: Path, synthetic_folder: Path, tmp_path: Path, begun: list, capsys: pytest.CaptureFixture
) -> None:
    """As its report proposes it: place, name and number of classes are the new dataset's, all else stays."""
    file = dataset(tmp_path / 'data', synthetic_folder, 'sky, ground, rest')
    more = (f'load_path={first}', 'load_weights_only=true', f'dataset={file}', f'save_folder={tmp_path}/on')
    trainer = run([str(first.parent / 'config.yaml'), *more, 'save_overwrite=true'])
    assert_loaded(begun, read_checkpoint(first).weights, LAST)
    assert trainer.state.timestamp.batch == 2
    card = read_checkpoint(tmp_path / 'on' / 'latest-rank0.pt').card
    assert card is not None and card.class_names == ('sky', 'ground', 'rest')
    said = 'a new training begins from its weights; load_weights_only=false goes on with that run\n'
    assert f'load_path={first}: {said}' in capsys.readouterr().out
