"""A GPU played by the CPU: it computes as the CPU does, and refuses and records what a GPU would refuse or wait for.

    composer -n 2 tests/helpers/pretend_gpu.py null,mild FOLDER yamls/deeplabv3.yaml …

trains those recipes one after the other, into folders of their names, as if each rank had a GPU.

What Composer moves to the device becomes an ``OnDevice`` tensor, and so does all that is computed from one, or made
with an explicit ``device``. Everything else is of the host: collectives refuse it, as NCCL does.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from composer.devices import DeviceGPU
from torch import nn
from torch.overrides import TorchFunctionMode

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / 'segrecipes'
TORCH = str(Path(torch.__file__).parent)
READS = {
    getattr(torch.Tensor, name): name.strip('_')
    for name in ('item', 'cpu', 'numpy', 'tolist', 'nonzero', '__bool__', '__int__', '__float__', '__index__')
}
COLLECTIVES = ('all_reduce', 'all_gather', 'broadcast', 'reduce', 'all_gather_into_tensor', 'reduce_scatter_tensor')


class Read(NamedTuple):
    """The host waited for the device: where in the code, and what for."""

    file: str
    function: str
    what: str


reads: list[Read] = []


class OnDevice(torch.Tensor):
    """A tensor of the pretended GPU."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in READS:
            reads.append(where(READS[func]))
        elif func is torch.Tensor.__getitem__:
            indices = [index for index in (args[1] if isinstance(args[1], tuple) else args[1:])
                       if isinstance(index, torch.Tensor)]  # fmt: skip
            if any(index.dtype == torch.bool for index in indices):
                reads.append(where('index by mask'))
            elif not all(isinstance(index, OnDevice) for index in indices):
                reads.append(where("index of the host's"))
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **kwargs or {})
        return result.as_subclass(torch.Tensor) if func is torch.Tensor.cpu else on_device(result)

    def __deepcopy__(self, memo: Any) -> 'OnDevice':  # Composer copies each microbatch
        return memo.setdefault(id(self), self.detach().clone())


class OnDeviceParameter(nn.Parameter):
    """A parameter of the pretended GPU."""

    __torch_function__ = OnDevice.__torch_function__  # type: ignore[assignment]


def on_device(result: Any) -> Any:
    """Marks all tensors in a result, in place: a new object would be a view, which autograd treats otherwise."""
    if type(result) is torch.Tensor:
        result.__class__ = OnDevice
    elif isinstance(result, (list, tuple)):
        for part in result:
            on_device(part)
    return result


def where(what: str) -> Read:
    """The innermost frame that is neither torch's nor this file's."""
    frame = sys._getframe()
    while frame.f_code.co_filename.startswith(TORCH) or frame.f_code.co_filename == __file__:
        assert frame.f_back is not None
        frame = frame.f_back
    path = Path(frame.f_code.co_filename)
    file = path.relative_to(ROOT) if path.is_relative_to(PACKAGE) else Path(*path.parts[-3:])
    return Read(str(file), frame.f_code.co_name, what)


class MadeOnDevice(TorchFunctionMode):
    """A tensor made with an explicit device, or moved to one, is of the device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if kwargs.get('device') is None and not any(isinstance(arg, torch.device) for arg in args):
            return result
        return on_device(result.clone() if args and result is args[0] else result)


class PretendGPU(DeviceGPU):
    dist_backend = 'gloo'

    def __init__(self) -> None:
        self._device = torch.device('cpu')

    def module_to_device(self, module: Any) -> Any:
        for parameter in module.parameters():
            parameter.__class__ = OnDeviceParameter  # the optimizer already has this very object
        for part in module.modules():
            for name, buffer in part.named_buffers(recurse=False):
                part._buffers[name] = buffer.as_subclass(OnDevice)
        return module

    def tensor_to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.as_subclass(OnDevice)


def refusing(collective: Any) -> Any:
    """The collective of a process group that has a backend for the device alone."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        given = [tensor for arg in args for tensor in (arg if isinstance(arg, list) else [arg])]
        if not all(isinstance(tensor, OnDevice) for tensor in given if isinstance(tensor, torch.Tensor)):
            raise RuntimeError('No backend type associated with device type cpu')
        return collective(*args, **kwargs)

    return refuse


@contextmanager
def pretended_gpu() -> Iterator[list[Read]]:
    """main.py finds a GPU; the reads of its tensors, in the order in which they happen."""
    from segrecipes.training import run as main

    reads.clear()
    collectives = {name: refusing(getattr(torch.distributed, name)) for name in COLLECTIVES}
    with (
        mock.patch.object(main, 'get_device', lambda name: PretendGPU()),
        mock.patch.multiple(torch.distributed, **collectives),
        MadeOnDevice(),
    ):
        yield reads


if __name__ == '__main__':
    sys.path.insert(0, str(ROOT))
    from segrecipes.config.merge import load_config
    from segrecipes.training import run as main

    recipes, folder, *argv = sys.argv[1:]
    for recipe in recipes.split(','):
        with pretended_gpu():
            given = [*argv, f'recipe_name={recipe}', f'save_folder={folder}/{recipe}']
            main.main(*load_config(given)).close()
