"""What a space file may say, what is tried of it, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from segrecipes.base.errors import UserError
from segrecipes.sweep.space import Choices, Range, as_text, plain, read_space


class Trial:
    """Answers as it is told, and notes what it was asked."""

    def __init__(self, **answers: Any):
        self.answers, self.asked = answers, {}

    def suggest_int(self, key: str, low: int, high: int, **options: Any) -> int:
        self.asked[key] = ('int', low, high, options)
        return self.answers[key]

    def suggest_float(self, key: str, low: float, high: float, **options: Any) -> float:
        self.asked[key] = ('float', low, high, options)
        return self.answers[key]

    def suggest_categorical(self, key: str, choices: list[str]) -> str:
        self.asked[key] = choices
        return choices[self.answers[key]]


def write(folder: Path, text: str) -> Path:
    path = folder / 'space.yaml'
    path.write_text(text)
    return path


def test_every_form(tmp_path: Path) -> None:
    space = read_space(
        write(
            tmp_path,
            'optimizer.lr: {low: 0.01, high: 1, log: true}\n'
            'model: {head_channels: {low: 32, high: 128, step: 32}, output_stride: {choices: [8, 16]}}\n'
            'algorithms:\n  sam: [null, {rho: {low: 0.05, high: 0.5}, interval: 2}]\n'
            'scheduler: [null, {name: cosine_annealing}]\n',
        )
    )
    assert space == {
        'optimizer.lr': Range(0.01, 1, log=True),
        'model.head_channels': Range(32, 128, step=32),
        'model.output_stride': Choices((8, 16)),
        'algorithms.sam': Choices((None, {'rho': Range(0.05, 0.5), 'interval': 2})),
        'scheduler': Choices((None, {'name': 'cosine_annealing'})),
    }
    assert space['algorithms.sam'].ends() == [None, {'rho': 0.05, 'interval': 2}, {'rho': 0.5, 'interval': 2}]
    assert plain(space['algorithms.sam']) == {'choices': [None, {'rho': {'low': 0.05, 'high': 0.5}, 'interval': 2}]}


def test_what_is_tried() -> None:
    trial = Trial(a=0.123456, b=64, c=1, **{'c[1].rho': 0.30001})
    assert Range(0.01, 1, log=True).suggest(trial, 'a') == 0.1235
    assert Range(32, 128, step=32).suggest(trial, 'b') == 64
    sam = Choices((None, {'rho': Range(0.05, 0.5), 'interval': 2}))
    assert sam.suggest(trial, 'c') == {'rho': 0.3, 'interval': 2}
    assert trial.asked == {
        'a': ('float', 0.01, 1, {'log': True}),
        'b': ('int', 32, 128, {'step': 32}),
        'c': ['null', '{rho: {low: 0.05, high: 0.5}, interval: 2}'],
        'c[1].rho': ('float', 0.05, 0.5, {}),
    }
    trial = Trial(c=0)
    assert sam.suggest(trial, 'c') is None and [*trial.asked] == ['c']  # no range of what is not there


@pytest.mark.parametrize(
    'value',
    [None, True, 3, 0.00001, 1e30, 'mild', '0.5', 'a: b', '', [1, 2], {'alpha': 0.2}, {'t': '0.05dur'}],
    ids=str,
)
def test_a_value_comes_back_from_the_command_line(value: Any) -> None:
    read = OmegaConf.to_container(OmegaConf.from_dotlist([f'a.b={as_text(value)}']))
    assert read == {'a': {'b': value}}


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('{}', 'no key to search over'),
        ('a: 3', 'a=3 must be a list of values'),
        ('a: []', r'a=\[\] must have a value to choose'),
        ('a: {}', r'a=\{\} must be a list of values'),
        ('a: {b: {}}', r'a.b=\{\} must be a list of values'),
        ('a: [1, 1]', r'a=\[1, 1\] has 1 twice'),
        ('a: {low: 1}', 'must have numbers for low and high'),
        ('a: {low: 1, high: true}', 'must have numbers for low and high'),
        ('a: {low: 1, high: 1}', 'must have low below high'),
        ('a: {low: 1, hgih: 2}', "has hgih. Did you mean 'high'"),
        ('a: {low: 0, high: 1, log: true}', 'log: true only above 0'),
        ('a: {low: 1, high: 9, log: true, step: 2}', 'log: true only above 0 and without step'),
        ('a: {low: 1, high: 9, step: 0}', 'a step above 0'),
        ('a: [{b: {low: 2, high: 1}}]', 'must have low below high'),
        ('a: [null, {b: 1}]\na.b: [1, 2]', 'a.b lies in a, which has choices of its own'),
        ('- a', 'must hold keys and values'),
    ],
)
def test_one_message(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as fault:
        read_space(write(tmp_path, text))
    assert str(tmp_path / 'space.yaml') in str(fault.value)


def test_all_faults_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError) as fault:
        read_space(write(tmp_path, 'a: 3\nb: {low: 2, high: 1}\n'))
    assert 'a=3' in str(fault.value) and 'b={low: 2, high: 1}' in str(fault.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match='does not exist'):
        read_space(tmp_path / 'none.yaml')
