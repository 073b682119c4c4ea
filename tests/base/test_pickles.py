"""Files that would run code, where they are read and where Composer would evaluate strings in them."""

import copyreg
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import composer.algorithms
import numpy as np
import pytest
from composer.core import State
from composer.devices import DeviceCPU
from composer.loggers import Logger
from helpers.checkpoint_files import FILES, SMALL, assert_equal, composer_state, saved
from helpers.networks import build_model
from torch import nn

from segrecipes.base.errors import UserError
from segrecipes.base.pickles import check_safe
from segrecipes.checkpoints.read import read_checkpoint


class Call:
    """Calls what it is given when it is unpickled; with ``state``, sets that on what came out."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None):
        self.reduced = (function, arguments, *([] if state is None else [state]))

    def __reduce__(self) -> Any:
        return self.reduced

    def __call__(self) -> None:
        """Pickle wants a callable where one call's result is called in turn."""


class New(Call):
    """Makes an object of a class without calling the class, as pickle does with most objects."""

    def __init__(self, cls: type, *arguments: Any):
        super().__init__(copyreg.__newobj__, cls, *arguments)  # type: ignore[attr-defined]

    @property
    def __class__(self) -> Any:  # which pickle compares
        return self.reduced[1][0]


def spill(path: str) -> str:
    Path(path).write_text('run')
    return path


def attacks(mark: Path) -> dict[str, tuple[Any, str]]:
    """An object to pickle, and what the message names."""
    code = f'open({str(mark)!r}, "w").close()'
    return {
        'exec': (Call(exec, code), 'exec'),
        'eval': (Call(eval, code), 'eval'),
        'os.system': (Call(os.system, f'touch {mark}'), 'posix.system'),
        'a function of a module': (Call(spill, str(mark)), f'{__name__}.spill'),
    }


ATTACKS = list(attacks(Path()))


def content_with(attack: Any, place: str) -> dict[str, Any]:
    return {
        'beside the weights': {'state_dict': SMALL, 'epoch': attack},
        'among the weights': {'state_dict': {**SMALL, 'backbone.x': attack}},
        'in the random state': {**composer_state(SMALL), 'rng': attack},
        'in an algorithm': composer_state(SMALL, algorithms=[('EMA', {'repr': attack})]),
    }[place]


@pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'legacy'])
@pytest.mark.parametrize('place', ['beside the weights', 'among the weights', 'in the random state', 'in an algorithm'])
@pytest.mark.parametrize('attack', ATTACKS)
def test_no_code_in_a_file_is_run(attack: str, place: str, zipped: bool, tmp_path: Path) -> None:
    mark = tmp_path / 'mark'
    value, name = attacks(mark)[attack]
    path = saved(content_with(value, place), tmp_path / 'file.pt', _use_new_zipfile_serialization=zipped)
    assert not mark.exists()
    for read in (read_checkpoint, check_safe):
        with pytest.raises(UserError) as error:
            read(path)
        assert str(error.value) == (
            f'{path}: reading it needs {name}, which can run code. If you trust where it comes from: '
            'trust_checkpoint=true, on command lines --trust-checkpoint, loads it all the same, and runs whatever code '
            'is in it.'
        )
    assert not mark.exists()
    check_safe(path, trust=True)
    assert not mark.exists()  # that alone reads nothing
    if place == 'among the weights':
        with pytest.raises(UserError, match=r"not a state dict, 'backbone.x' in it is a (NoneType|int|str)"):
            read_checkpoint(path, trust=True)
    else:
        assert_equal(read_checkpoint(path, trust=True).weights, SMALL)
    assert mark.exists()


@pytest.mark.parametrize('read', [read_checkpoint, check_safe])
def test_getattr_leads_nowhere(read: Any, tmp_path: Path) -> None:
    """``print``, by way of a class that is allowed."""
    from mmengine.logging import HistoryBuffer

    looked_up = Call(getattr, Call(getattr, HistoryBuffer, '__init__'), '__globals__')
    attack = Call(Call(getattr, looked_up, 'get'), 'x')
    path = saved({'state_dict': SMALL, 'x': attack}, tmp_path / 'file.pt')
    with pytest.raises(UserError, match=r'reading it needs .*trust_checkpoint=true'):
        read(path)
    assert read_checkpoint(saved({'state_dict': SMALL, 'x': looked_up}, path)).kind == 'state_dict'


FOREIGN = {
    'objects': Call(np.ndarray, (1,), np.dtype('O'), bytearray(8)),
    'objects by name': Call(np.ndarray, (1,), 'O', bytearray(8)),
    'objects by new': New(np.ndarray, (1,), 'O', bytearray(8)),
    'numbers': Call(np.ndarray, (1,), 'u8', bytearray(8)),
    'dtype of objects': Call(np.dtype, 'O'),
    'dtype of objects by new': New(np.dtype, 'O'),
    'dtype of structures': Call(np.dtype, [('repr', 'U9')]),
    'dtype of structures by code': Call(np.dtype, 'f4,O'),
    'dtype of numbers and objects by code': Call(np.dtype, 'f4,O8'),
    'flags of a dtype': Call(np.dtype, 'f8', False, True, state=(3, '<', None, None, None, -1, -1, 63)),
}


@pytest.mark.parametrize('read', [read_checkpoint, check_safe])
@pytest.mark.parametrize('name', FOREIGN)
def test_numpy_makes_arrays_of_numbers_only(name: str, read: Any, tmp_path: Path) -> None:
    """With a buffer of its own, an array of objects takes a file's bytes for addresses."""
    path = saved({**composer_state(SMALL), 'rng': FOREIGN[name]}, tmp_path / 'file.pt')
    with pytest.raises(UserError, match=f'^{path}: (reading it needs|not a readable checkpoint)'):
        read(path)


@pytest.mark.parametrize('package', ['numpy.core', 'numpy._core'])
def test_arrays_of_every_numpy_are_read(package: str, tmp_path: Path) -> None:
    """numpy 1 pickled under the name numpy.core, which numpy 2 has no more. Both are as long in a text file."""
    path = saved(composer_state(SMALL), tmp_path / 'a.pt', _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    assert content.count(b'numpy._core.multiarray') > 0
    path.write_bytes(content.replace(b'cnumpy._core.multiarray\n', f'c{package}.multiarray\n'.encode()))
    assert_equal(read_checkpoint(path).weights, SMALL)
    check_safe(path)


def test_a_whole_module_needs_trust(tmp_path: Path) -> None:
    path = saved(nn.Linear(2, 3), tmp_path / 'file.pt')
    with pytest.raises(
        UserError, match=f'^{path}: reading it needs torch.nn.modules.linear.Linear, which can run code'
    ):
        read_checkpoint(path)
    with pytest.raises(UserError, match=f'^{path}: holds a Linear, not a checkpoint or a state dict'):
        read_checkpoint(path, trust=True)


def test_a_newer_pickle_needs_trust(tmp_path: Path) -> None:
    path = saved(SMALL, tmp_path / 'file.pt', pickle_protocol=4)
    with pytest.raises(UserError, match=rf'^{path}: reading it needs Unsupported operand \d+, .*trust_checkpoint=true'):
        read_checkpoint(path)
    assert_equal(read_checkpoint(path, trust=True).weights, SMALL)


def test_trust_does_not_read_a_class_that_is_gone(tmp_path: Path) -> None:
    path = saved({'a': Call(spill, 'b')}, tmp_path / 'file.pt', _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b'spill\n', b'spilt\n'))
    with pytest.raises(UserError, match=f'^{path}: not a readable checkpoint, .*AttributeError: .*spilt'):
        read_checkpoint(path, trust=True)


# Strings that Composer evaluates


def evil(mark: Path) -> dict[str, str]:
    write = f'open({str(mark)!r}, "w").close()'
    return {
        'a value': f'BlurPool(min_channels={write})',
        'after': f'BlurPool() and {write}',
        'a list': f'BlurPool(replace_convs=[{write}])',
        'positional': f'BlurPool({write})',
        'keywords': f'BlurPool(**dict(a={write}))',
        'an attribute': f'BlurPool.__init__.__globals__["__builtins__"]["exec"]({write!r})',
        'another name': f'EMA and {write}',
        'a comprehension': f'BlurPool(blur_first=[{write} for _ in "a"])',
        'a string': f'BlurPool(blur_first=f"{{{write[:-1].replace(chr(34), chr(39) * 3)}) }}")',
        'lines': f'BlurPool(\nmin_channels={write}\n)',
    }


def composer_applies(algorithms: list[Any]) -> None:
    """What the Trainer does with a checkpoint's algorithms."""
    model = build_model(architecture='pspnet', num_classes=5, backbone_arch='resnet18', head_channels=8)
    state = State(model=model, rank_zero_seed=0, run_name='test', device=DeviceCPU())
    with suppress(ValueError):  # of what it evaluates to
        state._apply_required_algorithms({'algorithms': algorithms}, Logger(state))


@pytest.mark.filterwarnings('ignore::UserWarning', 'ignore::SyntaxWarning')
@pytest.mark.parametrize('entry', [tuple, list])
@pytest.mark.parametrize('attack', list(evil(Path())))
def test_no_code_in_the_repr_of_an_algorithm_is_run(attack: str, entry: type, tmp_path: Path) -> None:
    mark = tmp_path / 'mark'
    algorithms = [entry(['BlurPool', {'repr': evil(mark)[attack]}])]
    path = saved(composer_state(SMALL, algorithms=algorithms), tmp_path / 'file.pt')
    with pytest.raises(UserError, match=f'^{path}: to rebuild the algorithm BlurPool Composer would run .*trust_check'):
        check_safe(path)
    check_safe(path, trust=True)
    assert read_checkpoint(path).kind == 'composer'  # which evaluates nothing
    assert not mark.exists()
    composer_applies(algorithms)
    assert mark.exists()  # so it is what had to be refused


REQUIRED = [
    name
    for name, algorithm in vars(composer.algorithms).items()
    if getattr(algorithm, 'required_on_load', bool)() and isinstance(algorithm, type)
]


def test_the_algorithms_that_composer_rebuilds() -> None:
    assert 'BlurPool' in REQUIRED and 'EMA' not in REQUIRED and 'SAM' not in REQUIRED


@pytest.mark.parametrize('name', REQUIRED)
def test_no_algorithm_that_composer_rebuilds_is_overlooked(name: str, tmp_path: Path) -> None:
    content = composer_state(SMALL, algorithms=[(name, {'repr': f'{name}(a=exec("1"))'})])
    with pytest.raises(UserError, match=f'to rebuild the algorithm {name} Composer would run'):
        check_safe(saved(content, tmp_path / 'file.pt'))


@pytest.mark.parametrize(
    ('name', 'text'),
    [
        ('BlurPool', repr(composer.algorithms.BlurPool())),
        ('SqueezeExcite', repr(composer.algorithms.SqueezeExcite())),
        ('GhostBatchNorm', repr(composer.algorithms.GhostBatchNorm())),
        ('BlurPool', 'BlurPool()'),
        ('SqueezeExcite', 'SqueezeExcite(latent_channels=-1.5,min_channels=(1, "a", None))'),
        ('EMA', '<composer.algorithms.ema.ema.EMA object at 0x7f>'),
        ('SAM', 'exec("not evaluated")'),
        ('NoSuchAlgorithm', 'exec("not evaluated")'),
        ('warnings', 'exec("not evaluated")'),
    ],
)
def test_harmless_reprs_are_let_through(name: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / 'file.pt'
    check_safe(saved(composer_state(SMALL, algorithms=[(name, {'repr': text})]), path))


@pytest.mark.parametrize('text', ['GhostBatchNorm()', '<BlurPool object>', '', 3, None, 'BlurPool' + '(' * 1000])
def test_other_reprs_are_refused(text: Any, tmp_path: Path) -> None:
    algorithms = [('EMA', {}), ('BlurPool', {'repr': text})]
    path = saved(composer_state(SMALL, algorithms=algorithms), tmp_path / 'file.pt')
    with pytest.raises(UserError, match=f'^{path}: to rebuild the algorithm BlurPool Composer would run'):
        check_safe(path)


@pytest.mark.parametrize('entry', [3, 'ab', ('EMA',), ('EMA', 'x'), (3, {}), {'BlurPool': 1, 'b': 2}])
def test_other_algorithms_are_refused(entry: Any, tmp_path: Path) -> None:
    path = saved(composer_state(SMALL, algorithms=[entry]), tmp_path / 'file.pt')
    with pytest.raises(UserError, match=f'^{path}: its algorithms are not in the form of a Composer checkpoint$'):
        check_safe(path)


@pytest.mark.parametrize(('content', 'kind'), [([1], 'list'), ({'state': [1]}, 'list'), ({'state': None}, 'NoneType')])
def test_other_states_are_refused(content: Any, kind: str, tmp_path: Path) -> None:
    path = saved(content, tmp_path / 'file.pt')
    with pytest.raises(UserError, match=f'^{path}: holds a {kind}, not a checkpoint of Composer$'):
        check_safe(path)


@pytest.mark.parametrize('algorithms', [{'BlurPool': {'repr': 'exec("1")'}}, None])
def test_algorithms_of_old_checkpoints_are_not_evaluated(algorithms: Any, tmp_path: Path) -> None:
    check_safe(saved(composer_state(SMALL, algorithms=algorithms), tmp_path / 'file.pt'))


@pytest.mark.parametrize('name', ['plain', 'safetensors', 'composer'])
def test_files_without_code_are_safe(name: str, tmp_path: Path) -> None:
    _, suffix, write = FILES[name]
    write(SMALL, tmp_path / f'file.{suffix}')
    check_safe(tmp_path / f'file.{suffix}')
