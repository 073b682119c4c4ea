"""Every key of the schema, at a value that is not the default, is seen where it ends: through the verb one types."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import composer
import pytest
import torch
from composer.callbacks import SpeedMonitor
from composer.utils import dist
from helpers.runs import ROOT
from torch import nn

from segrecipes.commands.cli import run as verb
from segrecipes.commands.configs import leaves
from segrecipes.config.augmentation import AUGMENTATION
from segrecipes.config.schema import Config
from segrecipes.data import loader as loader_module
from segrecipes.data.augment import TrainTransform
from segrecipes.datasets.table import DATASETS
from segrecipes.training import run as run_module
from segrecipes.training.callbacks.best import BestCheckpoint
from segrecipes.training.tasks import segmentation

pytestmark = pytest.mark.usefixtures('clean_shared_memory')


@dataclass
class Seen:
    """What the ends were given: by the library's own signature where it is a library's."""

    trainer: dict[str, Any] = field(default_factory=dict)  # of composer.Trainer
    streams: list[dict[str, Any]] = field(default_factory=list)  # of StreamingDataset, training first
    loaders: list[dict[str, Any]] = field(default_factory=list)  # of DataLoader, training first
    samples: list[Any] = field(default_factory=list)  # SampleMakers, training first
    rows: list[str] = field(default_factory=list)  # datasets looked up for the loaders
    loss: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)  # of build_model
    compiled: dict[str, Any] = field(default_factory=dict)  # of torch.compile
    safe: list[tuple[str, bool]] = field(default_factory=list)  # of check_safe
    weights: list[str] = field(default_factory=list)  # files that went into the model
    state: Any = None  # of the Trainer, once it has run


def watched(argv: list[str]) -> Seen:
    """Runs ``segrecipes train`` for real, and notes what passes."""
    seen = Seen()

    def spy(owner: Any, name: str, note: Callable[..., Any]) -> Any:
        real = getattr(owner, name)

        def noting(*args: Any, **kwargs: Any) -> Any:
            note(*args, **kwargs)
            return real(*args, **kwargs)

        return mock.patch.object(owner, name, noting)

    from streaming import StreamingDataset

    from segrecipes.training import restore

    def trained(trainer: Any, *args: Any, **kwargs: Any) -> None:
        seen.trainer = kwargs

    def loaded(network: Any, checkpoint: Any, card: Any, where: str) -> None:
        seen.weights.append(where)

    real_main = run_module.main

    def main(*args: Any, **kwargs: Any) -> Any:
        trainer = real_main(*args, **kwargs)
        seen.state = trainer.state
        return trainer

    with (
        spy(composer.Trainer, '__init__', trained),
        spy(StreamingDataset, '__init__', lambda self, **kwargs: seen.streams.append(kwargs)),
        spy(torch.utils.data.DataLoader, '__init__', lambda self, *args, **kwargs: seen.loaders.append(kwargs)),
        spy(loader_module, 'SampleMaker', lambda *args: seen.samples.append(args)),
        spy(loader_module, 'get_dataset', lambda name: seen.rows.append(name)),
        spy(segmentation, 'segmentation_loss', lambda *args, **kwargs: seen.loss.update(kwargs)),
        spy(run_module, 'build_model', lambda spec, **kwargs: seen.model.update(kwargs, spec=spec)),
        spy(torch, 'compile', lambda *args, **kwargs: seen.compiled.update(kwargs)),
        spy(restore, 'check_safe', lambda path, trust: seen.safe.append((path, trust))),
        spy(restore, 'load_to_fine_tune', loaded),
        mock.patch.object(run_module, 'main', main),
    ):
        verb('train', argv)
    return seen


COMMON = (
    'model.num_classes=9', 'model.in_channels=3', 'model.backbone_arch=resnet34', 'model.backbone_weights=null',
    'model.head_channels=24', 'train_dataset.name=synthetic', 'train_dataset.ignore_background=false',
    'loggers.progress_bar=null', 'save_folder=null',
)  # fmt: skip


AUGMENTED = {
    'max_class_share': 0.9, 'flip_probability': 0.25, 'vertical_flip_probability': 0.75, 'right_angle_turns': True,
    'rotation': 12.5, 'brightness': 0.125, 'contrast': 0.25, 'saturation': 0.375, 'hue': 0.0625,
    'blur_probability': 0.5, 'blur_sigma': 1.5, 'albumentations': [{'name': 'CLAHE', 'p': 0.5}],
}  # fmt: skip


@pytest.fixture(scope='module')
def first(synthetic_mds: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Seen, Path]:
    """From shards, with every key of the data that shards have."""
    folder = tmp_path_factory.mktemp('seams')
    shards = folder / 'local'
    argv = [
        str(ROOT / 'yamls/pspnet.yaml'), *COMMON, f'save_folder={folder}/{{run_name}}', 'run_name=seam', 'seed=23',
        'max_duration=3ba', 'eval_interval=2ba', 'eval_protocol=ade20k-ss', 'device_train_microbatch_size=2',
        'precision=bf16', 'compile={backend: eager}', 'train_metrics=true', 'model.architecture=upernet',
        'model.output_stride=16', 'model.auxiliary_weight=0.3', 'model.sync_bn=false', 'model.freeze=[backbone.conv1]',
        'model.cross_entropy_weight=0.25', 'model.dice_weight=0.75', 'model.dice_per=image', 'dataset=synthetic',
        'train_dataset.is_streaming=true', f'train_dataset.path={synthetic_mds}', f'train_dataset.local={shards}/train',
        'train_dataset.base_size=40', 'train_dataset.final_size=36', 'train_dataset.min_resize_scale=0.75',
        'train_dataset.max_resize_scale=1.25', 'train_dataset.keep_ratio=true', 'train_dataset.ignore_background=false',
        'train_dataset.pad_to_square=true',
        'train_dataset.batch_size=4', 'train_dataset.drop_last=false', 'train_dataset.shuffle=false',
        'train_dataset.num_workers=1', 'train_dataset.prefetch_factor=3', 'train_dataset.persistent_workers=false',
        'train_dataset.predownload=5', 'train_dataset.cache_limit=1gb', 'train_dataset.num_canonical_nodes=1',
        'train_dataset.shuffle_algo=py1s', 'train_dataset.download_retry=4', 'train_dataset.download_timeout=11',
        'train_dataset.validate_hash=sha1',
        *(f'train_dataset.{key}={value}' for key, value in AUGMENTED.items()),
        'eval_dataset.name=synthetic', 'eval_dataset.is_streaming=true', f'eval_dataset.path={synthetic_mds}',
        f'eval_dataset.local={shards}/val', 'eval_dataset.final_size=44', 'eval_dataset.ignore_background=false',
        'eval_dataset.batch_size=2', 'eval_dataset.num_workers=2', 'eval_dataset.prefetch_factor=4',
        'eval_dataset.persistent_workers=false', 'eval_dataset.predownload=6', 'eval_dataset.cache_limit=2gb',
        'eval_dataset.num_canonical_nodes=2', 'eval_dataset.shuffle_algo=naive', 'eval_dataset.download_retry=5',
        'eval_dataset.download_timeout=12', 'eval_dataset.validate_hash=xxh64',
        'optimizer.name=sgd', 'optimizer.lr=0.003', 'scheduler={name: constant}',
        'algorithms={label_smoothing: {smoothing: 0.2}}',
        'callbacks={speed_monitor: {window_size: 7}}', 'loggers.in_memory={}', 'save_interval=1ba',
        'save_num_checkpoints_to_keep=2', 'save_overwrite=true', 'autoresume=true', 'python_log_level=error',
    ]  # fmt: skip
    return watched(argv), folder


@pytest.fixture(scope='module')
def second(first: tuple[Seen, Path], synthetic_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """From a folder, deterministic, by a recipe, from the first one's weights, and without a best checkpoint."""
    torch_flag = torch.are_deterministic_algorithms_enabled()
    argv = [
        str(ROOT / 'yamls/pspnet.yaml'), *COMMON, f'train_dataset.path={synthetic_folder}',
        'model.architecture=upernet', 'model.output_stride=16', 'train_dataset.final_size=32',
        'train_dataset.batch_size=4', 'max_duration=1ba',
        'train_dataset.num_workers=0', 'eval_dataset.num_workers=0', 'deterministic_mode=true', 'save_best=false',
        f'save_folder={tmp_path_factory.mktemp("second")}', 'recipe_name=mild', 'load_weights_only=true',
        f'load_path={first[1]}/seam/latest-rank0.pt', 'eval_protocol=slide', 'eval_dataset.window_stride=20',
        'eval_dataset.base_size=77', 'trust_checkpoint=true', 'train_dataset.ignore_background=false',
        'model.loss={focal: 0.5, lovasz: 0.25}', 'model.focal_gamma=1.5', 'model.class_weights=inverse',
        'model.ohem={thresh: 0.6, min_kept: 50}',
    ]  # fmt: skip
    try:
        return watched(argv)
    finally:
        torch.use_deterministic_algorithms(torch_flag)


@pytest.fixture(scope='module')
def third(first: tuple[Seen, Path], synthetic_folder: Path) -> Seen:
    """An evaluation of the first one."""
    argv = [
        str(ROOT / 'yamls/pspnet.yaml'), *COMMON, f'train_dataset.path={synthetic_folder}', 'is_train=false',
        'model.architecture=upernet', 'model.output_stride=16', 'train_dataset.final_size=32',
        'eval_dataset.num_workers=0', 'eval_dataset.batch_size=2', f'load_path={first[1]}/seam/latest-rank0.pt',
    ]  # fmt: skip
    return watched(argv)


def backbone_strides(seen: Seen) -> tuple[int, ...]:
    return seen.state.model.module.backbone.strides


def classes_of(label: int, maker: Any) -> int:
    return int(maker[2][label])


FROZEN = ['module.backbone.conv1.weight']

# By the key: what is found at its end in the first run, and what that must be
FIRST: dict[str, tuple[Callable[[Seen], Any], Any]] = {
    'run_name': (lambda s: s.state.run_name, 'seam'),
    'seed': (lambda s: (s.state.rank_zero_seed, s.samples[0][1], s.streams[0]['shuffle_seed']), (23, 23, 23)),
    'max_duration': (lambda s: str(s.state.timestamp.batch.value), '3'),
    'eval_interval': (lambda s: s.trainer['eval_interval'], '2ba'),
    'eval_protocol': (
        lambda s: list(s.state.eval_metrics['eval']), ['CrossEntropy[ade20k-ss@44]', 'mIoU[ade20k-ss@44]'],
    ),
    'device_train_microbatch_size': (lambda s: s.trainer['device_train_microbatch_size'], 2),
    'precision': (lambda s: s.state.model.autocast, torch.bfloat16),
    'compile': (lambda s: s.compiled, {'backend': 'eager'}),
    'train_metrics': (lambda s: sorted(s.state.train_metrics), ['CrossEntropy', 'MIoU']),
    'model.architecture': (lambda s: type(s.state.model.module.classifier).__name__, 'UPerHead'),
    'model.num_classes': (lambda s: s.state.model.module.classifier.conv_seg.out_channels, 9),
    'model.in_channels': (lambda s: s.state.model.module.backbone.conv1.in_channels, 3),
    'model.backbone_arch': (lambda s: len(s.state.model.module.backbone.layer3), 6),
    'model.output_stride': (backbone_strides, (4, 8, 16, 16)),
    'model.head_channels': (lambda s: s.state.model.module.classifier.conv_seg.in_channels, 24),
    'model.backbone_weights': (lambda s: s.model['backbone_weights'], None),
    'model.auxiliary_weight': (lambda s: s.state.model.module.auxiliary and s.state.model.auxiliary_weight, 0.3),
    'model.sync_bn': (lambda s: s.model['sync_bn'], False),
    'model.freeze': (lambda s: [n for n, p in s.state.model.named_parameters() if not p.requires_grad], FROZEN),
    'model.cross_entropy_weight': (lambda s: s.loss['cross_entropy_weight'], 0.25),
    'model.dice_weight': (lambda s: s.loss['dice_weight'], 0.75),
    'model.dice_per': (lambda s: s.loss['dice_per'], 'image'),
    'train_dataset.name': (lambda s: s.rows[0], 'synthetic'),
    'train_dataset.is_streaming': (lambda s: len(s.streams), 2),
    'train_dataset.path': (lambda s: Path(s.streams[0]['remote']).name, 'mds'),
    'train_dataset.local': (lambda s: Path(s.streams[0]['local']).parts[-2:], ('local', 'train')),
    'train_dataset.base_size': (lambda s: s.samples[0][0].base_size, 40),
    'train_dataset.min_resize_scale': (lambda s: s.samples[0][0].min_resize_scale, 0.75),
    'train_dataset.max_resize_scale': (lambda s: s.samples[0][0].max_resize_scale, 1.25),
    'train_dataset.keep_ratio': (lambda s: s.samples[0][0].keep_ratio, True),
    'train_dataset.pad_to_square': (lambda s: s.samples[0][3], True),
    'eval_dataset.pad_to_square': (lambda s: s.samples[1][3], True),
    'train_dataset.final_size': (lambda s: s.samples[0][0].final_size, 36),
    **{
        f'train_dataset.{key}': (lambda s, key=key: getattr(s.samples[0][0], key), value)
        for key, value in AUGMENTED.items()
    },
    'train_dataset.ignore_background': (lambda s: classes_of(0, s.samples[0]), 0),
    'train_dataset.batch_size': (lambda s: s.loaders[0]['batch_size'], 4),
    'train_dataset.drop_last': (lambda s: s.loaders[0]['drop_last'], False),
    'train_dataset.shuffle': (lambda s: s.streams[0]['shuffle'], False),
    'train_dataset.num_workers': (lambda s: s.loaders[0]['num_workers'], 1),
    'train_dataset.prefetch_factor': (lambda s: s.loaders[0]['prefetch_factor'], 3),
    'train_dataset.persistent_workers': (lambda s: s.loaders[0]['persistent_workers'], False),
    'train_dataset.predownload': (lambda s: s.streams[0]['predownload'], 5),
    'train_dataset.cache_limit': (lambda s: s.streams[0]['cache_limit'], '1gb'),
    'train_dataset.num_canonical_nodes': (lambda s: s.streams[0]['num_canonical_nodes'], 1),
    'train_dataset.shuffle_algo': (lambda s: s.streams[0]['shuffle_algo'], 'py1s'),
    'train_dataset.download_retry': (lambda s: s.streams[0]['download_retry'], 4),
    'train_dataset.download_timeout': (lambda s: s.streams[0]['download_timeout'], 11),
    'train_dataset.validate_hash': (lambda s: s.streams[0]['validate_hash'], 'sha1'),
    'eval_dataset.name': (lambda s: s.rows[1], 'synthetic'),
    'eval_dataset.is_streaming': (lambda s: len(s.streams), 2),
    'eval_dataset.path': (lambda s: Path(s.streams[1]['remote']).name, 'mds'),
    'eval_dataset.local': (lambda s: Path(s.streams[1]['local']).parts[-2:], ('local', 'val')),
    'eval_dataset.final_size': (lambda s: s.samples[1][0].size, 44),
    'eval_dataset.ignore_background': (lambda s: classes_of(0, s.samples[1]), 0),
    'eval_dataset.batch_size': (lambda s: s.loaders[1]['batch_size'], 1),  # images of their own sizes: one at a time
    'eval_dataset.drop_last': (lambda s: s.loaders[1]['drop_last'], False),
    'eval_dataset.shuffle': (lambda s: s.streams[1]['shuffle'], False),
    'eval_dataset.num_workers': (lambda s: s.loaders[1]['num_workers'], 2),
    'eval_dataset.prefetch_factor': (lambda s: s.loaders[1]['prefetch_factor'], 4),
    'eval_dataset.persistent_workers': (lambda s: s.loaders[1]['persistent_workers'], False),
    'eval_dataset.predownload': (lambda s: s.streams[1]['predownload'], 6),
    'eval_dataset.cache_limit': (lambda s: s.streams[1]['cache_limit'], '2gb'),
    'eval_dataset.num_canonical_nodes': (lambda s: s.streams[1]['num_canonical_nodes'], 2),
    'eval_dataset.shuffle_algo': (lambda s: s.streams[1]['shuffle_algo'], 'naive'),
    'eval_dataset.download_retry': (lambda s: s.streams[1]['download_retry'], 5),
    'eval_dataset.download_timeout': (lambda s: s.streams[1]['download_timeout'], 12),
    'eval_dataset.validate_hash': (lambda s: s.streams[1]['validate_hash'], 'xxh64'),
    'optimizer': (lambda s: [(type(o), o.defaults['lr']) for o in s.state.optimizers], [(torch.optim.SGD, 0.003)]),
    'scheduler': (lambda s: type(s.trainer['schedulers']).__name__, 'ConstantScheduler'),
    'algorithms': (lambda s: [a.smoothing for a in s.trainer['algorithms']], [0.2]),
    'callbacks': (lambda s: [c.history_wct.maxlen for c in s.state.callbacks if isinstance(c, SpeedMonitor)], [8]),
    'loggers': (lambda s: [type(one).__name__ for one in s.trainer['loggers']], ['InMemoryLogger', 'History']),
    'dataset': (lambda s: s.trainer['train_dataloader'].dataloader.dataset.path.endswith('mds/train'), True),
    'save_folder': (lambda s: Path(s.trainer['save_folder']).name, '{run_name}'),
    'save_interval': (lambda s: s.trainer['save_interval'], '1ba'),
    'save_num_checkpoints_to_keep': (lambda s: s.trainer['save_num_checkpoints_to_keep'], 2),
    'save_overwrite': (lambda s: s.trainer['save_overwrite'], True),
    'autoresume': (lambda s: s.trainer['autoresume'], True),
    'python_log_level': (lambda s: s.trainer['python_log_level'], 'error'),
}  # fmt: skip

SECOND: dict[str, tuple[Callable[[Seen], Any], Any]] = {
    'deterministic_mode': (lambda s: s.trainer['deterministic_mode'], True),
    'recipe_name': (lambda s: sorted(type(a).__name__ for a in s.state.algorithms), ['ChannelsLast', 'EMA']),
    'save_best': (lambda s: [c for c in s.state.callbacks if isinstance(c, BestCheckpoint)], []),
    'load_path': (lambda s: [Path(where).name for where in s.weights], ['latest-rank0.pt']),
    'load_weights_only': (lambda s: s.trainer['load_path'], None),
    'eval_dataset.window_stride': (lambda s: s.samples[1][0].stride, 20),
    'model.loss': (lambda s: (s.loss['focal_weight'], s.loss['lovasz_weight']), (0.5, 0.25)),
    'model.focal_gamma': (lambda s: s.loss['focal_gamma'], 1.5),
    'model.class_weights': (lambda s: round(sum(s.loss['class_weights']), 3), 9),
    'model.ohem': (lambda s: s.loss['ohem'], (0.6, 50)),
}

THIRD: dict[str, tuple[Callable[[Seen], Any], Any]] = {
    'is_train': (lambda s: (s.trainer['train_dataloader'], s.state.timestamp.batch.value), (None, 3)),
}  # fmt: skip

# Of no effect where they stand, and why
ELSEWHERE = {
    'train_dataset.window_stride': 'windows are an evaluation\'s',
    **dict.fromkeys(
        (f'eval_dataset.{key}' for key in AUGMENTATION if key != 'final_size'),
        'augmentation is of training; upstream\'s yaml has it in both',
    ),
    'strategy': 'has one row: test_an_unknown_strategy_is_refused',
    'trust_checkpoint': 'test_what_runs_code_is_refused_before_a_resumption',
}  # fmt: skip


def test_every_key_of_the_schema_has_a_row() -> None:
    keys = {key for key, _ in leaves(Config())}
    assert keys == {*FIRST, *SECOND, *THIRD, *ELSEWHERE}


@pytest.mark.slow
@pytest.mark.parametrize('key', FIRST)
def test_first(key: str, first: tuple[Seen, Path]) -> None:
    find, wanted = FIRST[key]
    assert find(first[0]) == wanted


@pytest.mark.slow
@pytest.mark.parametrize('key', SECOND)
def test_second(key: str, second: Seen) -> None:
    find, wanted = SECOND[key]
    assert find(second) == wanted


@pytest.mark.slow
@pytest.mark.parametrize('key', THIRD)
def test_third(key: str, third: Seen) -> None:
    find, wanted = THIRD[key]
    assert find(third) == wanted


@pytest.mark.slow
def test_checkpoints_kept(first: tuple[Seen, Path]) -> None:
    """Two of three, and the best."""
    names = sorted(file.name for file in (first[1] / 'seam').glob('*-rank0.pt') if not file.is_symlink())
    assert [name for name in names if not name.startswith('best')] == ['ep0-ba2-rank0.pt', 'ep0-ba3-rank0.pt']


@pytest.mark.slow
def test_the_card_of_unusual_settings(first: tuple[Seen, Path]) -> None:
    from segrecipes.checkpoints.read import read_checkpoint

    card = read_checkpoint(first[1] / 'seam' / 'latest-rank0.pt').card
    assert card is not None
    found = {key: value for key, value in card.to_dict().items() if key not in ('palette', 'mean', 'std')}
    assert found == {
        'architecture': 'upernet', 'num_classes': 9, 'backbone_arch': 'resnet34', 'output_stride': 16,
        'head_channels': 24, 'in_channels': 3, 'values': None, 'auxiliary': True,
        'class_names': ('other', *DATASETS['synthetic'].classes),
        'dataset': 'synthetic', 'label_offset': 0, 'image_size': 44, 'warning': '',
    }  # fmt: skip


@pytest.mark.slow
def test_fine_tuning_begins_from_the_raw_weights(first: tuple[Seen, Path], second: Seen) -> None:
    assert second.weights and second.trainer['load_path'] is None
    assert isinstance(second.samples[0][0], TrainTransform)


def test_an_unknown_strategy_is_refused(synthetic_folder: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        verb('train', [str(ROOT / 'yamls/pspnet.yaml'), f'train_dataset.path={synthetic_folder}', 'strategy=dpp'])
    assert "strategy=dpp is not known. Did you mean 'ddp'? Legal: ddp." in capsys.readouterr().err


class Hostile:
    """Pickled, it runs a command when it is loaded."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


@pytest.mark.parametrize('weights_only', ['true', 'false'])
def test_what_runs_code_is_refused_before_a_resumption(
    weights_only: str, synthetic_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    torch.save({'state': {'model': {'a': torch.zeros(1)}, 'x': Hostile(tmp_path / 'ran')}}, tmp_path / 'hostile.pt')
    argv = [
        str(ROOT / 'yamls/pspnet.yaml'), *COMMON, f'train_dataset.path={synthetic_folder}',
        f'load_path={tmp_path}/hostile.pt', f'load_weights_only={weights_only}', 'max_duration=1ba',
        'train_dataset.batch_size=4', 'train_dataset.num_workers=0',
    ]  # fmt: skip
    with pytest.raises(SystemExit):
        verb('train', argv)
    assert 'can run code' in capsys.readouterr().err
    assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize('count', [1, 2, 4])
def test_microbatches_add_up_to_the_batch(count: int, synthetic_folder: Path) -> None:
    """Without batch norm's and dropout's own say, one step is the same to rounding however it is cut."""
    results = []
    for size in (4, 4 // count):
        argv = [
            str(ROOT / 'yamls/pspnet.yaml'), *COMMON, f'train_dataset.path={synthetic_folder}', 'max_duration=1ba',
            'train_dataset.batch_size=4', 'train_dataset.final_size=32', 'train_dataset.num_workers=0',
            f'device_train_microbatch_size={size}', 'eval_interval=0ba', 'callbacks.show_results=null',
            'model.dice_weight=0', 'model.cross_entropy_weight=1', 'model.backbone_arch=resnet18', 'precision=fp32',
        ]  # fmt: skip

        def frozen(module: nn.Module, mode: bool = True, train: Any = nn.Module.train) -> nn.Module:
            return train(module, mode and not isinstance(module, nn.BatchNorm2d | nn.Dropout2d))

        with mock.patch.object(nn.BatchNorm2d, 'train', frozen), mock.patch.object(nn.Dropout2d, 'train', frozen):
            seen = watched(argv)
        results.append({name: value.clone() for name, value in seen.state.model.state_dict().items()})
        assert dist.get_world_size() == 1
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value, rtol=1e-4, atol=1e-5)
