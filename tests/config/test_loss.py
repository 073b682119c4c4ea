"""Two names of a weight, and what is wrong with losses."""

from pathlib import Path
from typing import Any

import pytest

from segrecipes.base.errors import UserError
from segrecipes.config.loss import KEYS
from segrecipes.config.merge import load_config

YAML = """
train_dataset: {{path: data, name: synthetic}}
{}
"""


@pytest.fixture
def yaml(tmp_path: Path) -> Any:
    def write(content: str = '') -> str:
        path = tmp_path / 'run.yaml'
        path.write_text(YAML.format(content))
        return str(path)

    return write


def model_of(*argv: str) -> Any:
    return load_config(argv)[0].model


def test_without_the_new_keys_all_is_as_it_was(yaml) -> None:
    model = model_of(yaml())
    assert (model.loss, model.class_weights, model.ohem) == ({}, None, None)
    assert model.loss_weights == {'cross_entropy': 0.375, 'dice': 1.125, 'focal': 0, 'lovasz': 0}


def test_what_is_not_named_keeps_its_weight(yaml) -> None:
    model = model_of(yaml('model: {dice_weight: 0.5}'), 'model.loss.focal=2', 'model.focal_gamma=1.5')
    assert model.loss_weights == {'cross_entropy': 0.375, 'dice': 0.5, 'focal': 2, 'lovasz': 0}
    assert model.focal_gamma == 1.5


@pytest.mark.parametrize('name', KEYS)
def test_the_later_of_two_names_counts(name, yaml) -> None:
    key = KEYS[name]
    for below, above in ((f'{key}: 3', f'model.loss.{name}=4'), (f'loss: {{{name}: 3}}', f'model.{key}=4')):
        config, sources = load_config([yaml(f'model: {{{below}}}'), above])
        assert getattr(config.model, key) == config.model.loss[name] == config.model.loss_weights[name] == 4
        assert sources[f'model.{key}'] == sources[f'model.loss.{name}'] == 'command line'


@pytest.mark.parametrize('name', KEYS)
def test_two_names_of_one_source_must_agree(name, yaml) -> None:
    both = [f'model.loss.{name}=3', f'model.{KEYS[name]}=4']
    with pytest.raises(UserError, match=f'model.loss.{name}=3.0 and model.{KEYS[name]}=4.0 are two names of one'):
        model_of(yaml(), *both)
    assert model_of(yaml(), both[0], both[1].replace('=4', '=3')).loss_weights[name] == 3


def test_ohem_has_mmsegmentations_defaults(yaml) -> None:
    ohem = model_of(yaml(), 'model.ohem={}').ohem
    assert (ohem.thresh, ohem.min_kept) == (0.7, 100_000)
    ohem = model_of(yaml('model: {ohem: {thresh: 0.5}}'), 'model.ohem.min_kept=7').ohem
    assert (ohem.thresh, ohem.min_kept) == (0.5, 7)
    assert model_of(yaml('model: {ohem: {}}'), 'model.ohem=null').ohem is None


@pytest.mark.parametrize('given', ['inverse', 'median_frequency', '[1, 2, 0.5, 0, 1, 1, 1, 1]'])
def test_class_weights(given, yaml) -> None:
    weights = model_of(yaml(), f'model.class_weights={given}').class_weights
    assert weights == given or weights == [1, 2, 0.5, 0, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        ('model.loss.ce=1', 'model.loss.ce is not known.*Legal: cross_entropy, dice, focal, lovasz'),
        ('model.loss.focal=-1', r'model.loss.focal=-1.0 must be 0 or more'),
        ('model.loss.lovasz=.nan', r'model.loss.lovasz=nan must be 0 or more'),
        ('model.dice_weight=-1', r'model.dice_weight=-1.0 must be 0 or more'),
        ('model.loss={cross_entropy: 0, dice: 0}', 'the weights of all losses are 0'),
        ('model.loss=1', 'model.loss: Cannot assign int'),
        ('model.focal_gamma=-0.5', 'model.focal_gamma=-0.5 must be 0 or more'),
        ('model.class_weights=inverted', "Did you mean 'inverse'\\? Legal: inverse, median_frequency, null"),
        ('model.class_weights=[1, 2]', 'has 2 numbers; it must be .* a list of 8 numbers'),
        ('model.class_weights=[1, 2, a, 1, 1, 1, 1, 1]', "'a'.* must be .* a list of 8 numbers"),
        ('model.class_weights=[1, 2, -1, 1, 1, 1, 1, 1]', 'must be .* a list of 8 numbers'),
        ('model.class_weights=[0, 0, 0, 0, 0, 0, 0, 0]', 'must be .* a list of 8 numbers'),
        ('model.class_weights=3', 'model.class_weights=3 must be null, inverse'),
        ('model.ohem=true', r'model.ohem=True must hold keys, \{\} for none. Legal: min_kept, thresh'),
        ('model.ohem.tresh=1', "unknown key model.ohem.tresh. Did you mean 'thresh'"),
        ('model.ohem.thresh=1.5', 'model.ohem.thresh=1.5 is a probability'),
        ('model.ohem.thresh=0', 'model.ohem.thresh=0.0 is a probability'),
        ('model.ohem.min_kept=0', 'model.ohem.min_kept=0 must be 1 or more'),
    ],
)
def test_one_message(given, message, yaml) -> None:
    with pytest.raises(UserError, match=message):
        model_of(yaml(), given)


@pytest.mark.parametrize('given', ['model.class_weights=inverse', 'model.ohem={}'])
def test_what_would_have_no_effect_is_refused(given, yaml) -> None:
    with pytest.raises(UserError, match=f'{given.split("=")[0]} is of no effect'):
        model_of(yaml(), given, 'model.loss.cross_entropy=0')
    model_of(yaml(), given, 'model.loss={cross_entropy: 0, focal: 1}')


@pytest.mark.parametrize(
    ('given', 'algorithm', 'refused'),
    [
        ('model.loss.lovasz=1', 'label_smoothing', True),
        ('model.loss.lovasz=1', 'CutMix', True),
        ('model.loss.lovasz=1', 'mixup', False),
        ('model.loss.focal=1', 'label_smoothing', False),
        ('model.class_weights=inverse', 'mixup', False),
        ('model.ohem={}', 'label_smoothing', True),
        ('model.ohem={}', 'mixup', True),
        ('model.ohem={}', 'ema', False),
    ],
)
def test_with_algorithms_that_mix_labels(given, algorithm, refused, yaml) -> None:
    argv = yaml(), given, f'algorithms.{algorithm}={{}}'
    if refused:
        with pytest.raises(UserError, match=f'{given.split("=")[0]} .*algorithms.{algorithm} .*take one away'):
            model_of(*argv)
        argv = *argv, f'algorithms.{algorithm}=null'
    model_of(*argv)
