"""The depthwise kernels against ``F.conv2d``: cases, and the errors of each. Without a GPU:

TRITON_INTERPRET=1 PYTHONPATH=. python tests/helpers/depthwise_cases.py
"""

import json
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from segrecipes.models.layers.depthwise import depthwise_conv2d


class Case(NamedTuple):
    shape: tuple[int, int, int, int]
    dilation: int
    dtype: torch.dtype = torch.float32


CASES = {
    'dilation 2': Case((2, 5, 4, 3), 2),
    'dilation 12': Case((1, 5, 13, 13), 12),
    'many channels': Case((1, 66, 3, 4), 2),
    'dilation beyond the map': Case((1, 16, 4, 5), 12),
    'bfloat16': Case((1, 16, 4, 34), 2, torch.bfloat16),
    'float16': Case((1, 20, 6, 5), 2, torch.float16),
}


def errors(case: Case, device: str) -> dict[str, float]:
    """Of output and gradients, in norms, against a float32 convolution of the same values."""
    channels = case.shape[1]
    generator = torch.Generator().manual_seed(0)
    shapes = {'input': case.shape, 'weight': (channels, 1, 3, 3), 'output': case.shape}
    given = {name: torch.randn(shape, generator=generator).to(device, case.dtype) for name, shape in shapes.items()}

    def results(function, dtype: torch.dtype) -> dict[str, Tensor]:
        input, weight = (given[name].to(dtype).requires_grad_() for name in ('input', 'weight'))
        output = function(input, weight)
        gradients = torch.autograd.grad(output, (input, weight), given['output'].to(dtype))
        return {'output': output.detach(), 'input': gradients[0], 'weight': gradients[1]}

    actual = results(lambda input, weight: depthwise_conv2d(input, weight, case.dilation), case.dtype)
    padding = {'padding': case.dilation, 'dilation': case.dilation, 'groups': channels}
    expected = results(lambda *tensors: F.conv2d(*tensors, **padding), torch.float32)
    assert all(tensor.dtype == case.dtype for tensor in actual.values())
    return {name: ((actual[name].float() - value).norm() / value.norm()).item() for name, value in expected.items()}


if __name__ == '__main__':
    print(json.dumps({name: errors(case, 'cpu') for name, case in CASES.items()}))
