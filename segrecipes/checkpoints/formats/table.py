"""An exported file, read again: its model card, and its network as a function."""

import importlib
import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor, nn

from card import ModelCard
from checkpoints import CARD, load_weights, read_checkpoint
from errors import MissingPathError, UserError
from model import build_network

Run = Callable[[Tensor], Tensor]  # (B, 3, H, W) float32 normalised images → (B, num_classes, H, W) float32 logits


def read_card(path: str | Path) -> ModelCard:
    """The model card in an exported file; runs no code that is in it.

    Raises:
        MissingPathError: there is no such file.
        UserError: it is not an exported file, is damaged, or has no card.
    """
    form, path = format_of(path)
    with readable(path):
        text = form.card(path)
        values = None if text is None else json.loads(text)
    if values is None:
        raise UserError(f'{path}: has no model card; it was not written by export.py')
    return ModelCard.from_dict(values, str(path))


def load_exported(path: str | Path) -> Run:
    """The network in an exported file, as a function from images to logits.

    (B, 3, H, W) float32 normalised images → (B, num_classes, H, W) float32 logits, computed on the CPU and returned
    on the images' device. A .pt2 is a program, and loading it may run any code in it: take it from those you trust.
    An .onnx or .safetensors is data.

    Raises:
        MissingPathError: there is no such file.
        UserError: it is not an exported file, or is damaged.
    """
    form, path = format_of(path)
    return form.load(path)


def load_onnx(path: Path) -> Run:
    session = onnx_session(path, optimize=True)
    name = session.get_inputs()[0].name

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {name: images.numpy(force=True)})[0]).to(images.device)

    return run


def load_program(path: Path) -> Run:
    with readable(path):
        return on_cpu(torch.export.load(path).module())


def load_safetensors(path: Path) -> Run:
    network = build_network(**read_card(path).network_arguments())
    load_weights(network, read_checkpoint(path).weights, str(path))
    return on_cpu(network.eval())


def on_cpu(module: nn.Module) -> Run:
    @torch.no_grad()
    def run(images: Tensor) -> Tensor:
        return module(images.cpu()).to(images.device)

    return run


def onnx_card(path: Path) -> str | None:
    return onnx_session(path, optimize=False).get_modelmeta().custom_metadata_map.get(CARD)


def program_card(path: Path) -> str | None:
    with zipfile.ZipFile(path) as archive:  # torch.export.load would run what is in the file
        if min((entry.header_offset for entry in archive.infolist()), default=0) > 0:
            raise zipfile.BadZipFile('its end is missing')  # found is the end of an archive inside it
        names = [name for name in archive.namelist() if name.endswith(f'/{CARD}.json')]
        return archive.read(names[0]).decode() if names else None


def safetensors_card(path: Path) -> str | None:
    with safetensors.safe_open(path, framework='pt') as file:
        return (file.metadata() or {}).get(CARD)


def onnx_session(path: Path, optimize: bool) -> Any:
    runtime = load_package('onnxruntime')
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    if not optimize:
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    with readable(path):
        return runtime.InferenceSession(path, options, providers=['CPUExecutionProvider'])


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """What a library raises on a damaged file, which is anything, becomes one message."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = str(error).strip().split('\n')[0]
        raise UserError(f'{path}: not readable as {path.suffix} ({type(error).__name__}: {reason})') from error


def load_package(name: str) -> Any:
    """A package that only ONNX needs."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f'ONNX needs the package {name} ({error}): pip install -r requirements.txt') from error


@dataclass(frozen=True)
class Format:
    suffix: str
    load: Callable[[Path], Run]
    card: Callable[[Path], str | None]


FORMATS = {
    'onnx': Format('.onnx', load_onnx, onnx_card),
    'torch.export': Format('.pt2', load_program, program_card),
    'safetensors': Format('.safetensors', load_safetensors, safetensors_card),
}


def format_of(path: str | Path) -> tuple[Format, Path]:
    """The row of ``FORMATS`` by the suffix of a file that exists."""
    path = Path(path)
    for form in FORMATS.values():
        if path.suffix == form.suffix:
            if not path.is_file():
                raise MissingPathError(f'{path}: no such file')
            return form, path
    raise UserError(f'{path}: not an exported file. Legal: {", ".join(form.suffix for form in FORMATS.values())}.')
