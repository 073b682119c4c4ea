import dataclasses
import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from segrecipes.base.errors import MissingPathError, UserError
from segrecipes.config.check import COMPILE_OPTIONS, check_batch_sizes
from segrecipes.config.describe import describe, save
from segrecipes.config.layers import FOLDERS, YAMLS, available, yaml_file
from segrecipes.config.merge import load_config
from segrecipes.config.schema import Config, DatasetConfig, ModelConfig
from segrecipes.models.spec import NetworkSpec

ROOT = Path(__file__).parents[2]
RECIPES = {'null': None, 'mild': 25, 'medium': 90, 'hot': 240}  # and their epochs

# What MosaicML's own deeplabv3.yaml holds, under the names and with the empty values that it has.
UPSTREAM = """
run_name: deeplabv3_ade20k
is_train: true
seed: 17
max_duration: 128ep
device_train_microbatch_size: auto
model:
  num_classes: 150
  backbone_arch: resnet101
  backbone_weights: IMAGENET1K_V2
  sync_bn: true
  cross_entropy_weight: 0.375
  dice_weight: 1.125
train_dataset:
  is_streaming: false
  path: ./ade20k/
  local: null
  base_size: 512
  min_resize_scale: 0.5
  max_resize_scale: 2.0
  final_size: 512
  ignore_background: true
  batch_size: 128
eval_dataset:
  is_streaming: false
  path: ./ade20k/
  local: null
  base_size: 512
  min_resize_scale: 0.5
  max_resize_scale: 2.0
  final_size: 512
  ignore_background: true
  batch_size: 128
  drop_last: false
optimizer:
  lr: 0.08
  momentum: 0.9
  weight_decay: 5.0e-5
loggers:
  progress_bar: {}
recipe_name:
mild:
  max_duration: 25ep
medium:
  max_duration: 90ep
hot:
  max_duration: 240ep
save_folder:
save_interval: 10ep
save_num_checkpoints_to_keep: 1
load_path:
"""

SMALL = """
train_dataset: {path: data}
eval_dataset: {path: data}
"""


@pytest.fixture
def upstream(tmp_path: Path) -> str:
    return write(tmp_path, UPSTREAM, 'upstream.yaml')


@pytest.fixture
def small(tmp_path: Path) -> str:
    return write(tmp_path, SMALL)


def write(folder: Path, text: str, name: str = 'run.yaml') -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def refused(*argv: str) -> str:
    with pytest.raises(UserError) as error:
        load_config(argv)
    assert 'full_key' not in str(error.value)
    assert 'object_type' not in str(error.value)
    return str(error.value)


# The schema


def test_defaults_are_the_published_settings(small: str):
    config, sources = load_config([small])
    paths = dict.fromkeys(['train_dataset.path', 'eval_dataset.path'], small)
    assert sources == paths | {'model.num_classes': 'train_dataset.name', 'run_name': 'yaml and dataset'}
    assert (config.seed, config.max_duration, config.device_train_microbatch_size) == (17, '128ep', 'auto')
    assert config.optimizer == {'name': 'decoupled_sgdw', 'lr': 0.08, 'momentum': 0.9, 'weight_decay': 5e-5}
    assert config.scheduler == {'name': 'cosine_annealing'}
    assert config.algorithms == {}
    model, train, evaluation = config.model, config.train_dataset, config.eval_dataset
    assert (model.architecture, model.num_classes, model.backbone_arch) == ('deeplabv3plus', 150, 'resnet101')
    assert (model.cross_entropy_weight, model.dice_weight) == (0.375, 1.125)
    assert (train.base_size, train.final_size, train.batch_size) == (512, 512, 128)
    assert (train.min_resize_scale, train.max_resize_scale) == (0.5, 2.0)
    assert (train.drop_last, train.shuffle) == (True, True)
    assert (evaluation.drop_last, evaluation.shuffle) == (False, False)


@pytest.mark.parametrize(
    ('argument', 'expected'),
    [
        ('compile=true', True),
        ('compile.mode=max-autotune-no-cudagraphs', {'mode': 'max-autotune-no-cudagraphs'}),
        ('compile={dynamic: false, mode: null}', {'dynamic': False, 'mode': None}),
    ],
)
def test_compile_takes_torchs_options(small: str, argument: str, expected: Any):
    config, _ = load_config([small, argument])
    assert config.compile == expected
    assert set(COMPILE_OPTIONS) == {*inspect.signature(torch.compile).parameters} - {'model', 'disable'}


@pytest.mark.parametrize(('recipe', 'epochs'), RECIPES.items())
def test_upstreams_yaml_is_accepted_as_it_is(upstream: str, recipe: str, epochs: int | None):
    config, sources = load_config([upstream, f'recipe_name={recipe}'])
    given: Any = OmegaConf.to_container(OmegaConf.create(UPSTREAM))
    assert config.recipe_name == (None if epochs is None else recipe)
    assert config.max_duration == f'{epochs or 128}ep'
    for key in ('run_name', 'is_train', 'seed', 'save_folder', 'save_interval', 'load_path', 'loggers'):
        assert getattr(config, key) == given[key]
        assert sources[key if given[key] != {'progress_bar': {}} else 'loggers.progress_bar'] == upstream
    assert config.save_num_checkpoints_to_keep == 1
    assert config.device_train_microbatch_size == 'auto'
    for section in ('model', 'train_dataset', 'eval_dataset'):
        for key, value in given[section].items():
            assert getattr(getattr(config, section), key) == value
    assert config.optimizer == {'name': 'decoupled_sgdw', **given['optimizer']}


def test_upstreams_yaml_without_a_value_for_path(tmp_path: Path):
    given = write(tmp_path, UPSTREAM.replace('path: ./ade20k/', 'path:'))
    message = refused(given)
    assert 'train_dataset.path is not set' in message
    assert 'eval_dataset.path is not set' in message
    assert load_config([given, 'train_dataset.path=a', 'eval_dataset.path=b'])[0].eval_dataset.path == 'b'


# The merge order


def test_each_layer_wins_over_those_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Six values, and each is set by one more layer than the one before: the last one to set it is its source."""
    for key, folder in (('recipe_name', 'recipes'), ('dataset', 'datasets')):
        (tmp_path / folder).mkdir()
        monkeypatch.setitem(FOLDERS, key, tmp_path / folder)
    monkeypatch.chdir(tmp_path)
    keys = {
        'eval_interval': '{}ba',
        'save_interval': '{}ba',
        'max_duration': '{}ep',
        'seed': '{}',
        'model.head_channels': '{}',
        'algorithms.sam.rho': '{}',
    }

    def layer(number: int) -> str:
        names = list(keys)[number - 1 :]
        values = OmegaConf.create()
        for name in names:
            OmegaConf.update(values, name, OmegaConf.create(f'a: {keys[name].format(number)}').a, force_add=True)
        return OmegaConf.to_yaml(values)

    (tmp_path / 'recipes' / 'tasty.yaml').write_text(layer(4))
    (tmp_path / 'datasets' / 'mine.yaml').write_text(layer(2))
    block = '\n'.join(f'  {line}' for line in layer(5).splitlines())
    given = write(tmp_path, f'{SMALL}\n{layer(3)}\ntasty:\n{block}\n')
    config, sources = load_config([given, 'algorithms.sam.rho=6', 'recipe_name=tasty', 'dataset=mine'])

    assert config.eval_interval == '1ep'  # the schema's own
    assert config.save_interval == '2ba'
    assert config.max_duration == '3ep'
    assert config.seed == 4
    assert config.model.head_channels == 5
    assert config.algorithms == {'sam': {'rho': 6}}
    assert sources == {
        'train_dataset.path': given,
        'eval_dataset.path': given,
        'save_interval': 'datasets/mine.yaml',
        'max_duration': given,
        'seed': 'recipes/tasty.yaml',
        'model.head_channels': f'{given}: tasty',
        'model.num_classes': 'train_dataset.name',
        'algorithms.sam.rho': 'command line',
        'recipe_name': 'command line',
        'dataset': 'command line',
        'run_name': 'yaml and dataset',
    }
    config, sources = load_config(
        [given, 'tasty.seed=6', 'recipe_name=tasty', 'model.head_channels=7', 'tasty.model={}']
    )
    assert (config.seed, config.model.head_channels) == (6, 7)
    assert (sources['seed'], sources['model.head_channels']) == ('command line: tasty', 'command line')


def test_without_its_recipe_a_block_is_ignored(upstream: str):
    config, sources = load_config([upstream])
    assert config.max_duration == '128ep'
    assert not any('mild' in key or 'mild' in source for key, source in sources.items())


def test_command_line_beats_the_recipe(upstream: str):
    config, sources = load_config([upstream, 'recipe_name=mild', 'max_duration=1ep'])
    assert config.max_duration == '1ep'
    assert sources['max_duration'] == 'command line'
    assert config.algorithms['ema'] == {'half_life': '1000ba', 'update_interval': '10ba'}
    assert sources['algorithms.ema.half_life'].endswith('yamls/recipes/mild.yaml')


def test_recipe_named_by_the_yaml(tmp_path: Path):
    given = write(tmp_path, f'{SMALL}\nrecipe_name: mild\n')
    assert load_config([given])[0].max_duration == '25ep'
    assert load_config([given, 'recipe_name=medium'])[0].max_duration == '90ep'
    for none in ('null', 'none', ''):
        config, _ = load_config([given, f'recipe_name={none}'])
        assert (config.recipe_name, config.max_duration) == (None, '128ep')


def test_recipe_by_path(small: str, tmp_path: Path):
    recipe = write(tmp_path, 'max_duration: 3ep\nalgorithms: {label_smoothing: {smoothing: 0.2}}\n', 'mine.yaml')
    config, sources = load_config([small, f'recipe_name={recipe}'])
    assert config.max_duration == '3ep'
    assert config.algorithms == {'label_smoothing': {'smoothing': 0.2}}
    assert Path(sources['max_duration']).resolve() == Path(recipe).resolve()
    with pytest.raises(MissingPathError, match=r'no-such\.yaml'):
        load_config([small, 'recipe_name=no-such.yaml'])


def test_another_file_in_the_recipe_folder_is_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / 'recipes').mkdir()
    monkeypatch.setitem(FOLDERS, 'recipe_name', tmp_path / 'recipes')
    given = write(tmp_path, f'{SMALL}\nspicy:\n  seed: 4\n')
    assert 'unknown key spicy' in refused(given)
    (tmp_path / 'recipes' / 'spicy.yaml').write_text('max_duration: 7ep\n')
    assert load_config([given])[0].seed == 17
    config, _ = load_config([given, 'recipe_name=spicy'])
    assert (config.seed, config.max_duration) == (4, '7ep')
    assert 'Legal: null, path/to/file.yaml, spicy' in refused(given, 'recipe_name=mild')


@pytest.mark.parametrize(
    ('override', 'sam'),
    [
        ('algorithms.sam=null', None),
        ('algorithms.sam.rho=0.2', {'rho': 0.2, 'interval': 2}),
        ('algorithms.sam.epsilon=1e-9', {'rho': 0.3, 'interval': 2, 'epsilon': 1e-9}),
    ],
)
def test_one_algorithm_of_a_recipe_changed(small: str, override: str, sam: Any):
    config, sources = load_config([small, 'recipe_name=medium', override])
    assert config.algorithms == {
        'channels_last': {},
        'ema': {'half_life': '1000ba', 'update_interval': '10ba'},
        'sam': sam,
        'mixup': {'alpha': 0.2},
    }
    assert sources[override.partition('=')[0]] == 'command line'


def test_null_of_a_recipe_stands_until_it_is_set_again(small: str):
    assert load_config([small, 'recipe_name=mild'])[0].scheduler is None
    config, _ = load_config([small, 'recipe_name=mild', 'scheduler.name=polynomial', 'scheduler.power=0.9'])
    assert config.scheduler == {'name': 'polynomial', 'power': 0.9}


# A dataset's own file


@pytest.fixture
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of them with one, ``roads``, which sets a value of an evaluation too."""
    folder = tmp_path / 'datasets'
    folder.mkdir()
    text = """
    eval_protocol: slide
    model: {num_classes: 11}
    train_dataset: {name: camvid, path: roads, batch_size: 6}
    eval_dataset: {batch_size: 3}
    """
    write(folder, text, 'roads.yaml')
    monkeypatch.setitem(FOLDERS, 'dataset', folder)
    return folder


def test_a_dataset_stands_under_the_yaml(datasets: Path, tmp_path: Path):
    given = write(tmp_path, 'train_dataset: {batch_size: 4}\nmodel: {head_channels: 12}\n')
    config, sources = load_config([given, 'dataset=roads', 'train_dataset.path=here'])
    file = os.path.relpath(datasets / 'roads.yaml')
    assert config.dataset == 'roads'
    for key, value, source in (
        ('eval_protocol', 'slide', file),
        ('model.head_channels', 12, given),
        ('train_dataset.name', 'camvid', file),
        ('eval_dataset.name', 'camvid', 'train_dataset.name'),
        ('train_dataset.path', 'here', 'command line'),
        ('eval_dataset.path', 'here', 'train_dataset.path'),
        ('train_dataset.batch_size', 4, given),
        ('eval_dataset.batch_size', 3, file),
    ):
        assert OmegaConf.select(OmegaConf.structured(config), key) == value
        assert sources[key] == source


def test_a_dataset_named_by_the_yaml(datasets: Path, tmp_path: Path):
    given = write(tmp_path, 'dataset: roads\n')
    config, sources = load_config([given])
    assert (config.dataset, config.train_dataset.path, sources['dataset']) == ('roads', 'roads', given)
    other = write(tmp_path, 'train_dataset: {path: elsewhere}\n', 'other.yaml')
    config, sources = load_config([given, f'dataset={other}'])
    assert (config.dataset, config.train_dataset.path, config.eval_protocol) == (other, 'elsewhere', 'mosaic-512sq')
    for none in ('null', 'none', ''):
        assert 'train_dataset.path' in refused(given, f'dataset={none}')
        config, _ = load_config([given, f'dataset={none}', 'train_dataset.path=a'])
        assert (config.dataset, config.model.num_classes) == (None, 150)


def test_a_recipe_stands_over_a_dataset(datasets: Path, tmp_path: Path):
    recipe = write(tmp_path, 'train_dataset: {batch_size: 9}\n', 'mine.yaml')
    config, _ = load_config([write(tmp_path, ''), 'dataset=roads', f'recipe_name={recipe}'])
    assert (config.train_dataset.batch_size, config.eval_dataset.batch_size) == (9, 3)


def test_wrong_datasets(datasets: Path, small: str, tmp_path: Path):
    assert refused(small, 'dataset=road') == (
        "dataset=road is not known. Did you mean 'roads'? Legal: null, path/to/file.yaml, roads."
    )
    with pytest.raises(MissingPathError, match=r'no-such\.yaml'):
        load_config([small, 'dataset=no-such.yaml'])
    wrong = write(tmp_path, 'train_dataset: {pathh: a}\n', 'wrong.yaml')
    message = refused(small, f'dataset={wrong}')
    assert 'wrong.yaml: unknown key train_dataset.pathh' in message and "'path'" in message
    block = write(tmp_path, 'mild: {seed: 3}\n', 'block.yaml')  # of recipes; those are the yaml's
    assert 'unknown key mild' in refused(small, f'dataset={block}')


@pytest.mark.parametrize('name', available('dataset'))
def test_each_dataset_of_the_package(name: str, tmp_path: Path):
    """Its file alone says enough, and of the dataset of its name."""
    config, _ = load_config([write(tmp_path, ''), f'dataset={name}'])
    assert config.train_dataset.name == config.eval_dataset.name == name
    assert config.train_dataset.path == config.eval_dataset.path


# What eval_dataset has from train_dataset


def test_eval_dataset_has_what_it_is_not_given(tmp_path: Path):
    text = """
    train_dataset: {path: s3://b/c, is_streaming: true, local: a, batch_size: 6, keep_ratio: true, cache_limit: 20gb}
    eval_dataset: {batch_size: 3, local: b}
    """
    given = write(tmp_path, text)
    config, sources = load_config([given, 'train_dataset.final_size=99'])
    inherited = {'path': 's3://b/c', 'is_streaming': True, 'keep_ratio': True, 'cache_limit': '20gb', 'final_size': 99}
    for key, value in inherited.items():
        assert getattr(config.eval_dataset, key) == value
        assert sources[f'eval_dataset.{key}'] == f'train_dataset.{key}'
    assert (config.eval_dataset.batch_size, config.eval_dataset.local) == (3, 'b')
    assert sources['eval_dataset.batch_size'] == sources['eval_dataset.local'] == given
    own = {key for key in sources if key.startswith('eval_dataset.')}
    assert own == {f'eval_dataset.{key}' for key in (*inherited, 'batch_size', 'local')}
    assert config.eval_dataset.base_size == DatasetConfig().base_size


def test_eval_dataset_has_order_and_end_of_its_own(small: str):
    config, sources = load_config([small, 'train_dataset.drop_last=true', 'train_dataset.shuffle=true'])
    assert (config.eval_dataset.drop_last, config.eval_dataset.shuffle) == (False, False)
    assert not {'eval_dataset.drop_last', 'eval_dataset.shuffle'} & sources.keys()
    assert load_config([small, 'eval_dataset.shuffle=true'])[0].eval_dataset.shuffle


def test_eval_dataset_keeps_a_default_that_it_is_given(small: str):
    config, sources = load_config([small, 'train_dataset.local=a', 'eval_dataset.local=null'])
    assert config.eval_dataset.local is None
    assert sources['eval_dataset.local'] == 'command line'


def test_a_path_that_is_left_open(tmp_path: Path):
    """In OmegaConf's own words."""
    assert 'train_dataset.path is not set' in refused(write(tmp_path, 'train_dataset: {path: "???"}\n'))


# A network's part


def test_the_model_is_a_spec_that_does_not_change(small: str):
    config, _ = load_config([small, 'model.head_channels=64', 'model.dice_weight=2'])
    assert isinstance(config.model, NetworkSpec)
    assert config.model.network == NetworkSpec(head_channels=64)
    assert type(config.model.network) is NetworkSpec
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.model.num_classes = 3  # type: ignore[misc]
    assert dataclasses.replace(config.model, num_classes=3) == ModelConfig(
        num_classes=3, in_channels=3, head_channels=64, dice_weight=2
    )


# Yamls by name


def test_a_yaml_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name in ('deeplabv3', 'deeplabv3.yaml', 'yamls/deeplabv3.yaml', 'yamls/deeplabv3'):
        assert yaml_file(name) == YAMLS / 'deeplabv3.yaml'
    assert yaml_file('elsewhere/deeplabv3.yaml') == Path('elsewhere/deeplabv3.yaml')
    assert yaml_file('none.yaml') == Path('none.yaml')
    write(tmp_path, SMALL, 'deeplabv3.yaml')
    assert yaml_file('deeplabv3.yaml') == Path('deeplabv3.yaml')  # one's own comes first


# What is refused


@pytest.mark.parametrize(
    ('argument', 'parts'),
    [
        ('max_durations=1ep', ['command line', 'unknown key max_durations', "'max_duration'"]),
        ('optimiser.lr=1', ['command line', 'unknown key optimiser', "'optimizer'", 'Legal: ']),
        ('model.backbone=resnet50', ['unknown key model.backbone', "'backbone_arch'", 'num_classes']),
        ('train_dataset.batchsize=4', ['unknown key train_dataset.batchsize', "'batch_size'"]),
        ('eval_dataset.resize=4', ['unknown key eval_dataset.resize', 'base_size']),
        ('seed=many', ['command line', 'seed', 'many', 'Integer']),
        ('model.num_classes=1.5', ['command line', 'model.num_classes', '1.5', 'Integer']),
        ('is_train=perhaps', ['is_train', 'perhaps', 'bool']),
        ('train_dataset.min_resize_scale=big', ['train_dataset.min_resize_scale', 'big', 'Float']),
        ('optimizer=sgd', ['optimizer', 'Dict']),
        ('seed=null', ['seed', 'None']),
        ('recipe_name=milt', ['recipe_name=milt', "'mild'", 'Legal: hot, medium, mild, null, path/to/file.yaml']),
        ('device_train_microbatch_size=0', ['device_train_microbatch_size=0', "positive number, 'auto' or null"]),
        ('device_train_microbatch_size=-2', ['device_train_microbatch_size=-2', "'auto'"]),
        ('device_train_microbatch_size=big', ["device_train_microbatch_size='big'", "'auto'"]),
        ('compile=max-autotune', ["compile='max-autotune' must be true, false or a mapping of backend, dynamic, "]),
        (
            'compile.mod=default',
            ["compile.mod is not an option of torch.compile. Did you mean 'mode'?"],
        ),
        ('device_train_microbatch_size=1.5', ['device_train_microbatch_size=1.5', "'auto'"]),
        ('train_dataset.batch_size=0', ['train_dataset.batch_size=0', 'positive']),
        ('eval_dataset.final_size=-4', ['eval_dataset.final_size=-4', 'positive']),
        ('train_dataset.min_resize_scale=3', ['=3.0 is above train_dataset.max_resize_scale']),
        ('train_dataset.rotation=200', ['train_dataset.rotation=200.0 must be 0 … 180']),
        ('train_dataset.hue=0.7', ['train_dataset.hue=0.7 must be 0 … 0.5']),
        ('train_dataset.blur_sigma=0', ['train_dataset.blur_sigma=0.0 must be positive']),
        ('train_dataset.num_workers=-1', ['train_dataset.num_workers=-1', '0 or more']),
        ('train_dataset.path=null', ['train_dataset.path is not set', 's3://bucket/folder']),
        ('train_dataset.path=s3://b/c', ['train_dataset.path=s3://b/c is remote', 'is_streaming=true', 'local=']),
        ('autoresume=true', ['autoresume=true', 'run_name', 'save_folder']),
        ('algorithms.sam', ["'algorithms.sam' is not of the form key=value"]),
        ('--recipe_name', ["'--recipe_name' is not of the form key=value"]),
        ('model=[1', ['command line']),
    ],
)
def test_wrong_argument(small: str, argument: str, parts: list[str]):
    message = refused(small, argument)
    assert [part for part in parts if part not in message] == []


LEGAL_INTERVAL = (
    'a whole number of ep, ba, sp or sec, such as 1ep or 500ba, or a share of the run up to 1dur, such as 0.1dur'
)
LEGAL_DURATIONS = {
    'max_duration': 'a whole number of ep, ba or sp, 1 or more, such as 25ep or 1000ba',
    'eval_interval': LEGAL_INTERVAL,
    'save_interval': LEGAL_INTERVAL,
}


@pytest.mark.parametrize('key', LEGAL_DURATIONS)
@pytest.mark.parametrize(
    'value', ['1ep', '025ep', '1000ba', '8sp', '0ep', '10sec', '0.1dur', '.05dur', '1dur', '1.0dur']
)
def test_legal_duration(small: str, key: str, value: str):
    if key == 'max_duration' and value.endswith(('sec', 'dur', '0ep')):
        assert refused(small, f'{key}={value}') == f'{key}={value!r} must be {LEGAL_DURATIONS[key]}'
    else:
        assert getattr(load_config([small, f'{key}={value}'])[0], key) == value


@pytest.mark.parametrize('key', LEGAL_DURATIONS)
@pytest.mark.parametrize(
    'value', ['10', 'tenep', '25epochs', '-1ep', '1 ep', '1.5ep', '5tok', '2iter', '1h30m', '0dur', '0.0dur', '1.5dur']
)
def test_wrong_duration(small: str, key: str, value: str):
    assert refused(small, f'{key}={value}') == f'{key}={value!r} must be {LEGAL_DURATIONS[key]}'


def test_remote_without_a_local_folder(small: str):
    remote = [f'{key}_dataset.{value}' for key in ('train', 'eval') for value in ('path=s3://b/c', 'is_streaming=true')]
    message = refused(small, *remote)
    assert 'train_dataset.local is not set' in message
    assert 'eval_dataset.local is not set' in message
    assert 's3://b/c' in message
    local = ['train_dataset.local=a', 'eval_dataset.local=b']
    assert load_config([small, *remote, *local])[0].eval_dataset.local == 'b'


def test_missing_path(tmp_path: Path):
    given = write(tmp_path, 'seed: 3\n')
    assert 'train_dataset.path' in refused(given)


def test_all_faults_at_once(small: str):
    message = refused(small, 'max_duration=soon', 'train_dataset.batch_size=-1', 'autoresume=true')
    assert [part for part in ("'soon'", 'batch_size=-1', 'autoresume=true') if part not in message] == []


@pytest.mark.parametrize(
    ('line', 'parts'),
    [
        ('lr: 0.1', ['run.yaml: unknown key lr', 'optimizer.lr']),
        ('model: {num_clases: 4}', ['run.yaml: unknown key model.num_clases', "'num_classes'"]),
        ('seed: [1]', ['run.yaml', 'seed']),
        (
            'recipe_name: mild\nmild: {max_durration: 1ep}',
            ['run.yaml: mild: unknown key max_durration', 'max_duration'],
        ),
        ('recipe_name: mild\nmild: {seed: x}', ['run.yaml: mild', 'seed', "'x'"]),
    ],
)
def test_wrong_yaml(tmp_path: Path, line: str, parts: list[str]):
    message = refused(write(tmp_path, f'{SMALL}\n{line}\n'))
    assert [part for part in parts if part not in message] == []


def test_wrong_recipe_file(small: str, tmp_path: Path):
    recipe = write(tmp_path, 'max_durration: 1ep\n', 'mine.yaml')
    message = refused(small, f'recipe_name={recipe}')
    assert 'mine.yaml: unknown key max_durration' in message
    assert "'max_duration'" in message


@pytest.mark.parametrize('text', ['a: [1', 'a: 1\n b: 2\n', '\tseed: 1', 'seed: 1\nseed: 2\n'])
def test_malformed_yaml(tmp_path: Path, text: str):
    message = refused(write(tmp_path, text))
    assert message.startswith(f'{tmp_path / "run.yaml"} is not a yaml file: ')
    assert '\n' not in message


@pytest.mark.parametrize('text', ['- 1\n- 2\n', '[]'])
def test_yaml_without_keys(tmp_path: Path, text: str):
    message = refused(write(tmp_path, text))
    assert str(tmp_path / 'run.yaml') in message
    assert 'keys and values' in message


def test_missing_yaml(tmp_path: Path):
    with pytest.raises(MissingPathError, match=f'^config file does not exist: {tmp_path}/none.yaml$'):
        load_config([f'{tmp_path}/none.yaml'])
    assert 'the first argument must be a yaml config' in refused()
    assert 'the first argument must be a yaml config' in refused('seed=1')


@pytest.mark.parametrize(
    ('train', 'evaluation', 'world_size', 'key', 'legal'),
    [
        (128, 128, 8, None, ()),
        (6, 128, 1, None, ()),
        (128, 128, 6, 'train_dataset.batch_size=128', (126, 132)),
        (3, 8, 8, 'train_dataset.batch_size=3', (8,)),
        (16, 20, 8, 'eval_dataset.batch_size=20', (16, 24)),
    ],
)
def test_batch_size_that_ranks_cannot_share(
    small: str, train: int, evaluation: int, world_size: int, key: str | None, legal: tuple[int, ...]
):
    config, _ = load_config([small, f'train_dataset.batch_size={train}', f'eval_dataset.batch_size={evaluation}'])
    if key is None:
        check_batch_sizes(config, world_size)
        return
    with pytest.raises(UserError) as error:
        check_batch_sizes(config, world_size)
    message = str(error.value)
    assert message.startswith(f'{key} ')
    assert f'{world_size} ranks' in message
    suggested = message.partition('such as ')[2].rstrip('.').split(' or ')
    assert {int(size) for size in suggested} == set(legal)


# The description


@pytest.mark.parametrize('recipe', RECIPES)
def test_description_is_the_config(upstream: str, recipe: str):
    argv = [upstream, f'recipe_name={recipe}', 'train_dataset.path=s3://b/c', 'train_dataset.is_streaming=true']
    config, sources = load_config([*argv, 'train_dataset.local=/tmp/c', 'algorithms.mixup.alpha=0.7'])
    text = describe(config, sources)
    merged = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.create(text))
    assert OmegaConf.to_object(merged) == config
    lines = {line.strip().partition(':')[0]: line.partition(' # ')[2] for line in text.splitlines()}
    assert lines['alpha'] == 'command line'
    assert lines['is_train'] == upstream
    assert lines['eval_interval'] == ''
    shown = [line.partition(' # ')[2] for line in text.splitlines() if ' # ' in line]
    assert sorted(shown) == sorted(sources.values())


def test_saved_config_runs_again(upstream: str, tmp_path: Path):
    config, sources = load_config([upstream, 'recipe_name=medium', 'seed=5', 'algorithms.sam=null'])
    save(config, sources, tmp_path / 'run' / 'config.yaml')
    assert [file.name for file in (tmp_path / 'run').iterdir()] == ['config.yaml']
    assert load_config([str(tmp_path / 'run' / 'config.yaml')])[0] == dataclasses.replace(
        config, recipe_name=None, dataset=None
    )


@pytest.mark.parametrize('key', ['recipe_name', 'dataset'])
def test_a_saved_config_says_what_is_merged_into_it(small: str, tmp_path: Path, key: str):
    """Named in it, a recipe would be merged over what the command line had changed."""
    layer = write(tmp_path, 'seed: 5\nmax_duration: 3ep\n', 'layer.yaml')
    config, sources = load_config([small, f'{key}={layer}', 'max_duration=4ep'])
    save(config, sources, tmp_path / 'config.yaml')
    lines = (tmp_path / 'config.yaml').read_text().splitlines()
    [line] = [line for line in lines if line.startswith(f'{key}:')]
    assert line.split() == [
        f'{key}:',
        'null',
        '#',
        'was',
        f'{layer},',
        *['which', 'is', 'merged', 'into', 'this', 'file'],
    ]
    again, _ = load_config([str(tmp_path / 'config.yaml')])
    assert (again.seed, again.max_duration) == (5, '4ep')
    assert again == dataclasses.replace(config, recipe_name=None, dataset=None)


def test_command(upstream: str, tmp_path: Path):
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, '-m', 'segrecipes', 'config', *arguments]
        environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)

    good = run(upstream, 'recipe_name=mild', 'max_duration=1ep')
    assert (good.returncode, good.stderr) == (0, '')
    [line] = [line for line in good.stdout.splitlines() if line.startswith('max_duration:')]
    assert line.split() == ['max_duration:', '1ep', '#', 'command', 'line']
    bad = run(upstream, 'recipe_name=milt')
    assert (bad.returncode, bad.stdout) == (1, '')
    assert bad.stderr.startswith("error: recipe_name=milt is not known. Did you mean 'mild'?")
    assert 'Traceback' not in bad.stderr


# Evaluation protocol, best checkpoint, trust


def test_defaults_of_evaluation_and_checkpoints(small: str):
    config, sources = load_config([small])
    assert (config.eval_protocol, config.eval_dataset.window_stride) == ('mosaic-512sq', None)
    assert (config.save_best, config.trust_checkpoint, config.strategy) == (True, False, 'ddp')
    assert not {'eval_protocol', 'save_best', 'trust_checkpoint', 'strategy'} & sources.keys()


@pytest.mark.parametrize(
    ('argument', 'value'),
    [
        ('eval_protocol=ade20k-ms', 'ade20k-ms'),
        ('eval_dataset.window_stride=1', 1),
        ('eval_dataset.window_stride=512', 512),
        ('eval_dataset.window_stride=null', None),
        ('save_best=false', False),
        ('trust_checkpoint=true', True),
        ('strategy=fsdp', 'fsdp'),
    ],
)
def test_keys_of_evaluation_and_checkpoints(small: str, tmp_path: Path, argument: str, value: Any):
    """On the command line, and from the file that a run leaves of its config."""
    config, sources = load_config([small, argument])
    key = argument.partition('=')[0]
    assert OmegaConf.select(OmegaConf.structured(config), key) == value
    assert sources[key] == 'command line'
    save(config, sources, tmp_path / 'config.yaml')
    assert load_config([str(tmp_path / 'config.yaml')])[0] == config


@pytest.mark.parametrize(
    ('argument', 'message'),
    [
        ('eval_dataset.window_stride=0', 'eval_dataset.window_stride=0 must be 1 … final_size=512'),
        ('eval_dataset.window_stride=-3', 'eval_dataset.window_stride=-3 must be 1 … final_size=512'),
        ('eval_dataset.window_stride=513', 'eval_dataset.window_stride=513 must be 1 … final_size=512'),
        (
            'train_dataset.window_stride=513',  # of which eval_dataset has its own
            'train_dataset.window_stride=513 must be 1 … final_size=512\n       '
            'eval_dataset.window_stride=513 must be 1 … final_size=512',
        ),
    ],
)
def test_window_stride_out_of_range(small: str, argument: str, message: str):
    assert refused(small, argument) == message


def test_window_stride_goes_by_its_own_final_size(small: str):
    message = refused(small, 'eval_dataset.final_size=64', 'eval_dataset.window_stride=65')
    assert message == 'eval_dataset.window_stride=65 must be 1 … final_size=64'
    arguments = ['train_dataset.final_size=64', 'eval_dataset.final_size=65', 'eval_dataset.window_stride=65']
    assert load_config([small, *arguments])[0].eval_dataset.window_stride == 65


@pytest.mark.parametrize(
    ('argument', 'parts'),
    [
        ('eval_protocols=slide', ['unknown key eval_protocols', "'eval_protocol'"]),
        ('eval_dataset.window_strides=3', ['unknown key eval_dataset.window_strides', "'window_stride'"]),
        ('eval_dataset.window_stride=wide', ['command line: eval_dataset.window_stride', 'wide', 'Integer']),
        ('save_best=perhaps', ['command line: save_best', 'perhaps', 'bool']),
        ('trust_checkpoints=true', ['unknown key trust_checkpoints', "'trust_checkpoint'"]),
        ('trust_checkpoint=maybe', ['command line: trust_checkpoint', 'maybe', 'bool']),
        ('trust_checkpoint=null', ['command line: trust_checkpoint', 'None']),
    ],
)
def test_wrong_keys_of_evaluation_and_checkpoints(small: str, argument: str, parts: list[str]):
    message = refused(small, argument)
    assert [part for part in parts if part not in message] == []
