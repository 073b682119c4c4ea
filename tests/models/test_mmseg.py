import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def has_mmcv_lite() -> bool:
    try:
        return bool(version('mmcv-lite'))
    except PackageNotFoundError:
        return False


lite_only = pytest.mark.skipif(not has_mmcv_lite(), reason='the compiled mmcv is installed')


def run(code: str) -> str:
    """A fresh interpreter's stdout: what is in sys.modules is the point of these tests."""
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@lite_only
def test_decode_heads_import_and_an_op_says_what_is_missing():
    out = run("""
from segrecipes.models.mmseg import ensure_ops
ensure_ops()
from mmseg.models.decode_heads import DepthwiseSeparableASPPHead
import torch
from mmcv.ops import nms
print(DepthwiseSeparableASPPHead.__name__)
try:
    nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)
except RuntimeError as error:
    print(error)
""")
    assert out.splitlines() == [
        'DepthwiseSeparableASPPHead',
        'mmcv.ops: nms needs the compiled mmcv, and mmcv-lite is installed. Get it with: make mmcv-ops',
    ]


@lite_only
def test_a_second_call_changes_nothing():
    run("""
import sys
from segrecipes.models.mmseg import ensure_ops
ensure_ops()
first = sys.modules['mmcv._ext']
ensure_ops()
assert sys.modules['mmcv._ext'] is first
""")


@lite_only
def test_the_stand_in_has_ops_but_no_module_attributes():
    run("""
import inspect, sys
from segrecipes.models.mmseg import ensure_ops
ensure_ops()
stand_in = sys.modules['mmcv._ext']
assert stand_in.roi_align_forward.__name__ == 'roi_align_forward'
assert not hasattr(stand_in, '__path__')
assert inspect.getmodule(ensure_ops).__name__ == 'segrecipes.models.mmseg'  # walks sys.modules
""")


@lite_only
def test_mmengines_runner_trains_beside_the_stand_in(tmp_path: Path):
    out = run(f"""
from segrecipes.models.mmseg import ensure_ops
ensure_ops()

import importlib.util, pkgutil
import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmengine.utils.dl_utils import mmcv_full_available

assert importlib.util.find_spec('mmcv._ext').name == 'mmcv._ext'
assert pkgutil.find_loader('mmcv._ext') is None and not mmcv_full_available()

class Line(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def forward(self, x, mode):
        return {{'loss': self.layer(x).square().mean()}}

runner = Runner(
    Line(),
    work_dir={str(tmp_path)!r},
    train_dataloader=torch.utils.data.DataLoader([{{'x': torch.ones(1)}}] * 3),
    train_cfg={{'by_epoch': True, 'max_epochs': 1}},
    optim_wrapper={{'optimizer': {{'type': 'SGD', 'lr': 0.1}}, 'paramwise_cfg': {{'bias_lr_mult': 2.0}}}},
    log_level='ERROR',
)
runner.train()
print(runner.iter)
""")
    assert out.splitlines()[-1] == '3'


def test_a_loaded_extension_is_left_alone():
    run("""
import sys, types
from segrecipes.models.mmseg import ensure_ops
loaded = sys.modules['mmcv._ext'] = types.ModuleType('mmcv._ext')
ensure_ops()
assert sys.modules['mmcv._ext'] is loaded
""")


def test_an_extension_that_is_not_loaded_yet_is_left_alone(tmp_path: Path):
    (tmp_path / '_ext.py').write_text("nms = 'compiled'")
    out = run(f"""
import sys
import mmcv
mmcv.__path__.insert(0, {str(tmp_path)!r})
from segrecipes.models.mmseg import ensure_ops
ensure_ops()
assert 'mmcv._ext' not in sys.modules
import mmcv._ext
print(mmcv._ext.nms)
""")
    assert out == 'compiled\n'


def test_an_extension_that_fails_to_load_keeps_its_own_error(tmp_path: Path):
    (tmp_path / '_ext.py').write_text("raise ImportError('undefined symbol: at')")
    out = run(f"""
import mmcv
mmcv.__path__.insert(0, {str(tmp_path)!r})
from segrecipes.models.mmseg import ensure_ops
ensure_ops()
try:
    import mmcv._ext
except ImportError as error:
    print(error)
""")
    assert out == 'undefined symbol: at\n'
