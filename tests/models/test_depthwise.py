import copy

import pytest
import torch
from helpers.depthwise_cases import CASES, errors
from helpers.networks import build_network
from helpers.triton_kernels import interpreted, resources
from torch import nn

from segrecipes.models.layers import depthwise
from segrecipes.models.layers.depthwise import FastDepthwise, depthwise_conv2d, use_fast_depthwise

pytest.importorskip('triton')

# Of the norm of the float32 result: rounding to the nearest of 8 or 11 binary digits is at most that.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2**-12, torch.bfloat16: 2**-9}

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
cases = pytest.mark.parametrize('name', CASES)


@pytest.fixture(scope='module')
def interpreted_errors() -> dict[str, dict[str, float]]:
    return interpreted('depthwise_cases.py')


@pytest.mark.slow
@cases
def test_equals_conv2d_in_the_interpreter(name, interpreted_errors) -> None:
    dtype = CASES[name].dtype
    tolerance = TOLERANCE[dtype] * (1 if dtype == torch.float32 else 2)  # it cuts off where a GPU rounds
    assert set(interpreted_errors[name]) == {'output', 'input', 'weight'}
    assert max(interpreted_errors[name].values()) <= tolerance


@pytest.mark.gpu
@needs_gpu
@cases
def test_equals_conv2d_on_a_gpu(name) -> None:
    assert max(errors(CASES[name], 'cuda').values()) <= TOLERANCE[CASES[name].dtype]


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize('dilation', [12, 24, 36])
def test_of_full_size_on_a_gpu(dilation) -> None:
    """DeepLabV3+'s, which repeat bit by bit; under autocast the gradients are of the parameters' dtype."""
    case = CASES['bfloat16']._replace(shape=(4, 2048, 64, 64), dilation=dilation)
    assert max(errors(case, 'cuda').values()) <= TOLERANCE[case.dtype]
    module = conv(dilation=dilation, channels=2048).cuda()
    assert use_fast_depthwise(module) == 1
    images = torch.randn(4, 2048, 64, 64, device='cuda', requires_grad=True)
    results = []
    for _ in range(3):
        with torch.autocast('cuda', dtype=torch.bfloat16):
            output = module(images)
        assert output.dtype == torch.bfloat16 and output.is_contiguous(memory_format=torch.channels_last)
        gradients = torch.autograd.grad(output.float().square().sum(), (images, module.weight))
        assert all(gradient.dtype == torch.float32 for gradient in gradients)
        results.append((output, *gradients))
    assert all(map(torch.equal, results[0] * 2, results[1] + results[2]))


@pytest.mark.parametrize('capability', [80, 90])
@pytest.mark.parametrize('name', ['convolve', 'weight'])
def test_no_register_is_spilled(name, capability, tmp_path) -> None:
    """On A100 and H100, of bfloat16 maps."""
    from segrecipes.models.layers import depthwise_kernels

    maps = dict.fromkeys(('input', 'output', 'grad', 'taps'), '*bf16')
    constants = {**depthwise_kernels.TILE, **({'strip': depthwise_kernels.STRIP} if name == 'weight' else {})}
    kernel = getattr(depthwise_kernels, f'{name}_kernel')
    used = resources(kernel, capability, {**maps, 'parts': '*fp32'}, constants, tmp_path)
    print(kernel.__name__, capability, used)
    assert used['STACK'] == used['LOCAL'] == 0


def conv(channels: int = 4, dilation: int = 2, **options) -> nn.Conv2d:
    options = {'padding': dilation, 'dilation': dilation, 'groups': channels, 'bias': False, **options}
    return nn.Conv2d(channels, channels, 3, **options)


@pytest.mark.parametrize(
    ('options', 'fits'),
    [
        ({}, True),
        ({'dilation': 12}, True),
        ({'dilation': 1}, False),
        ({'padding': 1}, False),
        ({'stride': 2}, False),
        ({'groups': 2}, False),
        ({'bias': True}, False),
        ({'padding_mode': 'reflect'}, False),
    ],
)
def test_which_convolutions_are_taken(options, fits) -> None:
    assert use_fast_depthwise(nn.Sequential(conv(**options))) == fits


def test_deeplabv3pluss_are_taken() -> None:
    network = build_network(architecture='deeplabv3plus', num_classes=2, backbone_arch='resnet18', head_channels=8)
    assert use_fast_depthwise(network) == 3
    found = [module for module in network.modules() if isinstance(module, FastDepthwise)]
    assert [module.dilation[0] for module in found] == [12, 24, 36]


def test_shapes_are_known_without_data() -> None:
    """As torch.compile asks for them."""
    with torch._subclasses.FakeTensorMode():
        maps, weight = torch.empty(2, 4, 6, 8), torch.empty(4, 1, 3, 3)
        output = depthwise_conv2d(maps, weight, 12)
        assert output.shape == maps.shape and output.is_contiguous(memory_format=torch.channels_last)


def test_a_swapped_convolution_is_the_same_on_a_cpu() -> None:
    network = nn.Sequential(conv(), nn.BatchNorm2d(4))
    before, images = copy.deepcopy(network), torch.randn(2, 4, 6, 5)
    assert use_fast_depthwise(network) == 1
    assert type(network[0]) is FastDepthwise and use_fast_depthwise(network) == 0
    assert torch.equal(network(images), before(images))
    before.load_state_dict(network.state_dict())
    assert type(copy.deepcopy(network)[0]) is FastDepthwise


def test_neither_evaluation_nor_a_cpu_takes_the_kernels(monkeypatch) -> None:
    monkeypatch.setattr(depthwise, 'depthwise_conv2d', lambda *_: pytest.fail('taken'))
    network = nn.Sequential(conv())
    use_fast_depthwise(network)
    network(torch.zeros(1, 4, 3, 3))
    network.eval()(torch.zeros(1, 4, 3, 3))
    assert depthwise_conv2d is not depthwise.depthwise_conv2d
