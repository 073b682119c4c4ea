import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from segrecipes.config.check import check_batch_sizes
from segrecipes.config.merge import load_config
from segrecipes.datasets import table as datasets
from segrecipes.training.checks import check_registered

YAMLS = Path(__file__).parents[1] / 'yamls'
ROOT = YAMLS.parent
RECIPES = sorted(YAMLS.glob('recipes/*.yaml'))
DATASETS = sorted(YAMLS.glob('datasets/*.yaml'))
CONFIGS = sorted({*YAMLS.glob('*.yaml')} - {YAMLS / 'mcloud_run.yaml'})
NAMES = ['null', *(file.stem for file in RECIPES)]


def ids(value: Any) -> str:
    return value.stem if isinstance(value, Path) else str(value)


def test_the_ones_that_are_promised():
    assert {'deeplabv3', 'pspnet', 'upernet', 'demo'} <= {file.stem for file in CONFIGS}
    assert {'mild', 'medium', 'hot'} <= {file.stem for file in RECIPES}
    assert {file.stem for file in DATASETS} == {*datasets.DATASETS}


@pytest.mark.parametrize('file', CONFIGS + RECIPES + DATASETS, ids=ids)
def test_starts_with_its_command(file: Path, monkeypatch: pytest.MonkeyPatch):
    first, second, *_ = file.read_text().splitlines()
    command = re.search(r'composer main\.py (.*)', first)
    assert first.startswith('# ')
    assert second == '#'
    assert command
    given, *overrides = shlex.split(command[1])
    if file in RECIPES + DATASETS:
        assert overrides == [f'{"recipe_name" if file in RECIPES else "dataset"}={file.stem}']
    else:
        assert ROOT / given == file
    monkeypatch.chdir(ROOT)
    config, _ = load_config([given, *overrides])
    assert config.recipe_name == dict(override.split('=') for override in overrides).get('recipe_name')


@pytest.mark.parametrize('recipe', NAMES)
@pytest.mark.parametrize('file', CONFIGS, ids=ids)
def test_loads_with_every_recipe(file: Path, recipe: str):
    config, sources = load_config([str(file), f'recipe_name={recipe}'])
    check_registered(config)
    for workers in (1, 2, 4, 8):
        check_batch_sizes(config, workers)
    train, evaluation = config.train_dataset, config.eval_dataset
    assert train.name is not None
    assert len(datasets.get_dataset(train.name).classes) == config.model.num_classes
    assert (train.name, train.path, train.is_streaming) == (evaluation.name, evaluation.path, evaluation.is_streaming)
    assert train.final_size <= evaluation.final_size
    assert train.ignore_background == evaluation.ignore_background
    if recipe != 'null':
        assert any(source.endswith(f'recipes/{recipe}.yaml') for source in sources.values())


@pytest.mark.parametrize('name', [file.stem for file in DATASETS])
def test_a_dataset_stands_under_the_yaml(name: str):
    config, sources = load_config([str(YAMLS / 'deeplabv3.yaml'), f'dataset={name}', 'model.backbone_weights=null'])
    row = datasets.get_dataset(name)
    assert config.train_dataset.name == config.eval_dataset.name == name
    assert config.model.num_classes == len(row.classes)
    assert config.train_dataset.path == config.eval_dataset.path
    assert config.train_dataset.final_size <= config.eval_dataset.final_size
    assert sources['train_dataset.path'].endswith(f'datasets/{name}.yaml')
    assert sources['eval_dataset.path'] == 'train_dataset.path'
    assert config.max_duration == '128ep'  # the yaml's


@pytest.mark.parametrize('file', [file for file in CONFIGS if file.stem != 'demo'], ids=ids)
def test_published_settings(file: Path):
    config, _ = load_config([str(file)])
    model, train, evaluation = config.model, config.train_dataset, config.eval_dataset
    assert model.architecture == {'deeplabv3': 'deeplabv3plus'}.get(file.stem, file.stem)
    assert (model.backbone_arch, model.backbone_weights, model.sync_bn) == ('resnet101', 'IMAGENET1K_V2', True)
    assert (model.cross_entropy_weight, model.dice_weight) == (0.375, 1.125)
    assert config.optimizer == {'name': 'decoupled_sgdw', 'lr': 0.08, 'momentum': 0.9, 'weight_decay': 5e-5}
    assert config.scheduler == {'name': 'cosine_annealing'}
    assert (config.max_duration, config.algorithms) == ('128ep', {})
    assert (train.batch_size, train.base_size, train.final_size) == (128, 512, 512)
    assert (train.min_resize_scale, train.max_resize_scale, train.keep_ratio) == (0.5, 2.0, False)
    assert evaluation.batch_size == 128


@pytest.mark.parametrize(
    ('name', 'content'),
    [
        (
            'mild',
            {
                'max_duration': '25ep',
                'scheduler': None,
                'algorithms': {'channels_last': {}, 'ema': {'half_life': '1000ba', 'update_interval': '10ba'}},
            },
        ),
        (
            'medium',
            {
                'max_duration': '90ep',
                'scheduler': None,
                'algorithms': {
                    'channels_last': {},
                    'ema': {'half_life': '1000ba', 'update_interval': '10ba'},
                    'sam': {'rho': 0.3, 'interval': 2},
                    'mixup': {'alpha': 0.2},
                },
            },
        ),
        (
            'hot',
            {
                'max_duration': '240ep',
                'scheduler': {'name': 'cosine_annealing'},
                'algorithms': {
                    'channels_last': {},
                    'ema': {'half_life': '2000ba', 'update_interval': '1ba'},
                    'sam': {'rho': 0.3, 'interval': 1},
                    'mixup': {'alpha': 0.5},
                },
            },
        ),
    ],
)
def test_published_recipes(name: str, content: dict[str, Any]):
    assert OmegaConf.to_container(OmegaConf.load(YAMLS / 'recipes' / f'{name}.yaml')) == content


def test_demo_with_its_own_mild():
    config, sources = load_config([str(YAMLS / 'demo.yaml'), 'recipe_name=mild'])
    plain, _ = load_config([str(YAMLS / 'demo.yaml')])
    assert config.max_duration == plain.max_duration
    assert sources['max_duration'].endswith('demo.yaml: mild')
    batches = int(config.max_duration.removesuffix('ep')) * 400 // config.train_dataset.batch_size
    assert int(config.algorithms['ema']['half_life'].removesuffix('ba')) < batches / 4
