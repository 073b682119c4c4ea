import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.loss_kernels import CASES, errors, evaluate, tensors
from helpers.triton_kernels import interpreted, resources

from segrecipes.models.losses.segmentation import segmentation_loss
from segrecipes.models.losses.sliced import SlicedLoss, loss_by_labels

pytest.importorskip('triton')

ROOT = Path(__file__).parents[2]

VALUE = 1e-5
GRADIENT = {torch.float32: 1e-5, torch.float16: 2**-11, torch.bfloat16: 2**-8}  # rounding of the last
FLOATS = 'lse', 'parts', 'scale', 'by_intersection', 'by_probs', 'shift'

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
cases = pytest.mark.parametrize('name', CASES)


@pytest.fixture(scope='module')
def results() -> dict[str, Any]:
    return interpreted('loss_kernels.py')


@pytest.mark.slow
@cases
def test_fused_equals_sliced_in_the_interpreter(name, results) -> None:
    value, gradient = results['errors'][name]
    assert value <= VALUE
    dtype = CASES[name].dtype
    assert gradient <= GRADIENT[dtype] * (1 if dtype == torch.float32 else 2)  # it cuts off where a GPU rounds
    if name == 'all ignored':
        assert value == gradient == 0


@pytest.mark.slow
def test_a_label_that_is_no_class_is_not_overlooked(results) -> None:
    (total, *_), gradient = results['of no class']
    assert math.isnan(total)
    assert all(math.isnan(value) for value in torch.tensor(gradient)[..., 0, 0].flatten())


@pytest.mark.gpu
@needs_gpu
@cases
def test_fused_equals_sliced_on_a_gpu(name) -> None:
    value, gradient = errors(CASES[name], 'cuda')
    assert value <= VALUE
    assert gradient <= GRADIENT[CASES[name].dtype]


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize('channels_last', [False, True])
def test_of_full_size_on_a_gpu(channels_last) -> None:
    """Equals the sliced loss, through autocast too, and repeats bit by bit."""
    from segrecipes.models.losses.fused import FusedLoss

    case = CASES['ADE20K']._replace(small=(128, 128), large=(512, 512), batch=4, memory='')
    logits, labels = tensors(case, 'cuda')
    assert loss_by_labels(logits) is FusedLoss
    if channels_last:
        logits = logits.contiguous(memory_format=torch.channels_last)
    values, gradient = evaluate(FusedLoss, case, logits, labels)
    expected, expected_gradient = evaluate(SlicedLoss, case, logits.float(), labels)
    torch.testing.assert_close(values, expected, rtol=1e-5, atol=0)
    assert (gradient.float() - expected_gradient).norm() <= 2**-8 * expected_gradient.norm()
    for _ in range(3):
        assert all(map(torch.equal, evaluate(FusedLoss, case, logits, labels), (values, gradient)))
    options: dict[str, Any] = {'cross_entropy_weight': 0.375, 'dice_weight': 1.125}
    with torch.autocast('cuda', dtype=torch.bfloat16):
        small = segmentation_loss(logits, labels[0], **options)['total']
    full_size = F.interpolate(logits.float(), size=(512, 512), mode='bilinear')
    torch.testing.assert_close(small, segmentation_loss(full_size, labels[0], **options)['total'], rtol=1e-5, atol=0)


def compiled(capability: int, dtype: str, mixed: bool, ones: Sequence[str], folder: Path) -> dict[str, dict[str, int]]:
    """What the kernels take with these arguments 1, of which Triton makes constants; classes are ADE20K's."""
    from segrecipes.models.losses import fused as fused_loss

    constants = fused_loss.constants(torch.empty(1, 150, 1, 1), torch.empty(1 + mixed, 1, 1, 1))
    options = {name: constants.pop(name) for name in ('num_warps', 'maxnreg')}
    types = {'labels': '*i64', 'logits': f'*{dtype}', 'gradient': f'*{dtype}', 'share': 'fp32', 'other_share': 'fp32'}
    types |= dict.fromkeys(FLOATS, '*fp32')
    used = {}
    for name in ('sum_kernel', 'shift_kernel', 'gather_kernel'):
        kernel = getattr(fused_loss, name)
        given = {**constants, 'dice': True, **dict.fromkeys(ones, 1)}
        given = {argument: value for argument, value in given.items() if argument in kernel.arg_names}
        used[name] = resources(kernel, capability, types, given, folder, **options)
        print(name, capability, dtype, 'mixed' if mixed else 'hard', used[name])
    return used


@pytest.mark.parametrize('mixed', [False, True])
@pytest.mark.parametrize(('dtype', 'unit_stride'), [('bf16', 'class_stride'), ('fp32', 'column_stride')])
@pytest.mark.parametrize('capability', [80, 90])
def test_no_register_of_150_classes_is_spilled(capability, dtype, unit_stride, mixed, tmp_path) -> None:
    """On A100 and H100, logits in either memory layout."""
    used = compiled(capability, dtype, mixed, [unit_stride, f'gradient_{unit_stride}'], tmp_path)
    assert all(kernel['STACK'] == kernel['LOCAL'] == 0 for kernel in used.values())


def test_sizes_of_one_compile(tmp_path) -> None:
    sizes = 'height', 'width', 'rows', 'columns', 'labels_size', 'class_stride', 'row_stride', 'column_stride'
    assert len(compiled(80, 'fp16', True, sizes, tmp_path)) == 3


def test_a_cpu_neither_uses_nor_imports_the_kernels() -> None:
    assert loss_by_labels(torch.zeros(1, 2, 1, 1)) is SlicedLoss
    code = (
        'import sys, torch; from segrecipes.models.losses.segmentation import segmentation_loss;'
        'segmentation_loss(torch.zeros(1, 2, 1, 1), torch.zeros(1, 2, 2).long());'
        'assert not {name for name in sys.modules if name.startswith("segrecipes.models.losses.fused")}'
    )
    subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT)
