"""Shares of a run, in batches where Composer takes no share."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from composer.algorithms import SWA
from composer.callbacks import EarlyStopper
from composer.core import Time
from helpers.runs import arguments, run

from segrecipes.algorithms.ema import EMA
from segrecipes.base.errors import UserError
from segrecipes.config.merge import load_config
from segrecipes.training.durations import batches_of, in_batches
from segrecipes.training.run import check_registered, main

pytestmark = pytest.mark.usefixtures('clean_shared_memory')


@pytest.mark.parametrize(('share', 'batches'), [('0.05dur', 50), ('.0126dur', 13), ('1dur', 1000), ('0.0001dur', 1)])
def test_a_share_is_so_many_batches_and_one_at_least(share: str, batches: int) -> None:
    given = {'ema': {'half_life': share, 'update_interval': '10ba'}, 'swa': {'swa_start': '0.5dur'}, 'sam': None}
    found = in_batches('algorithms', given, 1000)
    assert found == given | {'ema': {'half_life': f'{batches}ba', 'update_interval': '10ba'}}
    assert given['ema'] == {'half_life': share, 'update_interval': '10ba'}


@pytest.mark.parametrize(('max_duration', 'batches'), [('7ep', 21), ('7ba', 7), ('10sp', 3)])
def test_batches_of_a_run(max_duration: str, batches: int) -> None:
    cfg: Any = SimpleNamespace(max_duration=max_duration, train_dataset=SimpleNamespace(batch_size=4))
    assert batches_of(cfg, [None] * 3) == batches
    assert batches_of(cfg, None) == 0


def test_in_a_run(synthetic_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Of two epochs of three batches; the average is what one of 3ba would be."""
    argv = arguments(
        synthetic_folder, 'max_duration=2ep', 'eval_interval=0ba', f'save_folder={tmp_path}', 'save_interval=1dur',
        'algorithms={ema: {half_life: 0.5dur}, swa: {update_interval: 0.3dur}}',
        'callbacks={EarlyStopper: {monitor: MIoU, dataloader_label: eval, patience: 0.34dur}}',
    )  # fmt: skip
    state = run(argv).state
    ema = next(one for one in state.algorithms if isinstance(one, EMA))
    assert (ema.half_life, ema.update_interval) == (Time(3, 'ba'), Time(1, 'ba'))
    assert ema.smoothing == pytest.approx(2 ** (-1 / 3))
    assert next(one for one in state.algorithms if isinstance(one, SWA)).update_interval == Time(2, 'ba')
    assert next(one for one in state.callbacks if isinstance(one, EarlyStopper)).patience == Time(2, 'ba')
    assert 'algorithms.ema.half_life=0.5dur is 3ba of 6' in capsys.readouterr().out
    trainer = main(*load_config([*argv, 'is_train=false', f'load_path={tmp_path}/latest-rank0.pt']))
    trainer.close()


@pytest.mark.parametrize('value', ['0dur', '1.5dur', '-0.1dur', 'dur', 'half dur'])
def test_what_is_no_share_is_refused(value: str) -> None:
    cfg, _ = load_config(arguments(Path('data'), f'algorithms.ema.half_life={value}'))
    with pytest.raises(UserError, match=f'algorithms.ema.half_life={value} must be a share of the run'):
        check_registered(cfg)
