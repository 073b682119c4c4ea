"""What a config is told, and what it says of itself."""

from dataclasses import fields
from pathlib import Path

import pytest

from segrecipes.base.errors import UserError
from segrecipes.commands.cli import run as run_verb
from segrecipes.commands.configs import leaves
from segrecipes.config.aliases import ALIASES
from segrecipes.config.describe import outline
from segrecipes.config.merge import load_config
from segrecipes.config.schema import Config
from segrecipes.training import registry

SMALL = 'train_dataset: {path: data}\n'


@pytest.fixture
def small(tmp_path: Path) -> str:
    return write(tmp_path, SMALL)


def write(folder: Path, text: str) -> str:
    (folder / 'run.yaml').write_text(text)
    return str(folder / 'run.yaml')


def refused(*argv: str) -> str:
    with pytest.raises(UserError) as error:
        load_config(argv)
    return str(error.value)


def test_an_outline_has_what_was_set(tmp_path: Path):
    """In the schema's order; not what is the default or train_dataset's, unless it stands on the command line."""
    text = 'seed: 17\nsave_interval: 3ep\nloggers: {in_memory: {}}\ntrain_dataset: {path: data, final_size: 96}\n'
    given = write(tmp_path, text)
    config, sources = load_config([given, 'max_duration=128ep', 'algorithms.sam.rho=0.1', 'recipe_name=null'])
    assert [line.split('#')[0].rstrip() for line in outline(config, sources).splitlines()] == [
        'run_name: run-ade20k', 'max_duration: 128ep', 'train_dataset:', '  path: data', '  final_size: 96',
        'algorithms:', '  sam:', '    rho: 0.1', 'loggers:', '  in_memory: {}', 'recipe_name: null',
        'save_interval: 3ep',
    ]  # fmt: skip
    found = {line.split(':')[0].strip(): line.partition('# ')[2] for line in outline(config, sources).splitlines()}
    assert (found['rho'], found['final_size'], found['run_name']) == ('command line', given, 'yaml and dataset')


@pytest.mark.parametrize(
    ('typed', 'meant'),
    [
        ('lr=0.1', 'optimizer.lr'),
        ('epochs=5', 'max_duration=25ep'),
        ('batch_size=4', 'train_dataset.batch_size'),
        ('num_classes=2', 'model.num_classes'),
        ('path=x', 'train_dataset.path'),
        ('keep_ratio=true', 'train_dataset.keep_ratio'),
        ('backbone=resnet18', 'model.backbone_arch'),
        ('name=mine', 'run_name'),
    ],
)
def test_what_people_type_for_a_key(small: str, typed: str, meant: str):
    assert refused(small, typed) == f'command line: unknown key {typed.split("=")[0]}. Did you mean {meant}?'


def test_every_alias_means_a_key(small: str):
    """And is none itself."""
    known = {name for name, _ in leaves(Config())}
    for alias, meant in ALIASES.items():
        assert alias not in {field.name for field in fields(Config)}
        assert meant in known or meant.split('.')[0] in ('optimizer', 'algorithms', 'callbacks', 'loggers')
        if meant.startswith(('algorithms', 'callbacks', 'loggers')):
            kind, name, *_ = meant.split('.')
            assert name in registry.REGISTRY[kind]


@pytest.mark.parametrize(
    ('argument', 'expected'),
    [
        ('optimizer.lr=-1', 'optimizer.lr=-1 must be a number, 0 or more'),
        ('optimizer.lr=fast', 'optimizer.lr=fast must be a number, 0 or more'),
        ('optimizer.lr=true', 'optimizer.lr=True must be a number, 0 or more'),
        ('optimizer.weight_decay=-0.1', 'optimizer.weight_decay=-0.1 must be a number, 0 or more'),
        ('model.architecture=pspnett', "model.architecture=pspnett is not known. Did you mean 'pspnet'?"),
        ('model.backbone_arch=resnet19', 'model.backbone_arch=resnet19 is not known.'),
        ('eval_protocol=ade', 'eval_protocol=ade is not known.'),
    ],
)
def test_what_main_refuses_is_refused_here(small: str, argument: str, expected: str):
    assert refused(small, argument).startswith(expected)


@pytest.mark.parametrize(
    ('arguments', 'fault'),
    [
        (['optimizer.nesterov=3'], 'optimizer.nesterov=3 must be of type bool'),
        (['optimizer={name: adam, lr: 0.1, betas: [0.9, 2]}'], 'Invalid beta parameter at index 1: 2'),
        (['scheduler={name: polynomial}'], 'scheduler.power is not set'),
        (['algorithms.sam.rho=high'], 'algorithms.sam.rho'),
        (['strategy=dpp'], "strategy=dpp is not known. Did you mean 'ddp'?"),
    ],
)
def test_the_verb_refuses_what_only_the_libraries_know(
    small: str, arguments: list[str], fault: str, capsys: pytest.CaptureFixture
):
    with pytest.raises(SystemExit) as stop:
        run_verb('config', [small, *arguments])
    said = capsys.readouterr()
    assert stop.value.code == 1
    assert fault in said.err and not said.out


def test_another_optimizer_has_its_own_arguments(small: str):
    config, sources = load_config([small, 'optimizer.name=adam', 'scheduler={name: polynomial, power: 0.9}'])
    assert config.optimizer == {'name': 'adam'}
    assert sources['optimizer.name'] == 'command line, without lr, momentum, weight_decay of decoupled_sgdw'
    assert config.scheduler == {'name': 'polynomial', 'power': 0.9}
    assert sources['scheduler.name'] == 'command line'


def test_the_arguments_of_its_own_layer_stay(tmp_path: Path):
    given = write(tmp_path, SMALL + 'optimizer: {name: sgd, lr: 0.2, momentum: 0.8}\n')
    config, sources = load_config([given])
    assert config.optimizer == {'name': 'sgd', 'lr': 0.2, 'momentum': 0.8}
    config, sources = load_config([given, 'optimizer.name=SGD', 'optimizer.lr=0.3'])  # the same one
    assert config.optimizer == {'name': 'SGD', 'lr': 0.3, 'momentum': 0.8}
    config, sources = load_config([given, 'optimizer.name=adamw', 'optimizer.lr=0.001'])
    assert config.optimizer == {'name': 'adamw', 'lr': 0.001}
    assert (sources['optimizer.lr'], 'optimizer.momentum' in sources) == ('command line', False)
