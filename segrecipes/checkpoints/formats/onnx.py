"""ONNX, for ONNX Runtime, TensorRT and OpenVINO: a graph and its weights."""

import copy
import importlib
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segrecipes.base.errors import UserError
from segrecipes.checkpoints.card import CARD, ModelCard
from segrecipes.checkpoints.formats.function import DYNAMIC_AXES, Run, readable, traced_with
from segrecipes.models.network import SegmentationNetwork

OPSET = 17  # the exporter's own default; TensorRT, OpenVINO and ONNX Runtime have long read it


def save(network: SegmentationNetwork, card: ModelCard, path: Path) -> None:
    onnx = _package('onnx')
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'You are using the legacy', DeprecationWarning)  # torch 2.9 and later
        torch.onnx.export(
            with_exportable_pools(network),
            (traced_with(card),),
            str(path),
            input_names=['images'],
            output_names=['logits'],
            dynamic_axes={'images': DYNAMIC_AXES, 'logits': DYNAMIC_AXES},
            opset_version=OPSET,
            dynamo=False,  # the other exporter needs onnxscript
        )
    model = onnx.load(path)
    # The exporter does not know how many classes a resized tensor has.
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = card.num_classes
    onnx.helper.set_model_props(model, {CARD: json.dumps(card.to_dict())})
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


class AdaptivePool(nn.Module):
    """``nn.AdaptiveAvgPool2d(bins)`` as two matrix products, which ONNX has for any size.

    (B, C, H, W) → (B, C, bins, bins): the mean over rows is a matrix (bins, H), that over columns one (bins, W).
    """

    def __init__(self, bins: int):
        super().__init__()
        self.bins = bins

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (self.weights(side, x) for side in x.shape[2:])
        return rows @ x @ columns.T

    def weights(self, side: int, x: Tensor) -> Tensor:
        """(bins, side): each row averages the pixels ⌊i·side/bins⌋ … ⌈(i+1)·side/bins⌉ − 1 of its bin i."""
        index = torch.arange(self.bins, device=x.device).unsqueeze(1)
        first, end = index * side // self.bins, ((index + 1) * side + self.bins - 1) // self.bins
        pixel = torch.arange(side, device=x.device)
        return ((pixel >= first) & (pixel < end)).to(x.dtype) / (end - first).to(x.dtype)


def with_exportable_pools(network: SegmentationNetwork) -> SegmentationNetwork:
    """A copy that pools with :class:`AdaptivePool`, except to one pixel: for that ONNX has an operator."""
    network = copy.deepcopy(network)
    for module in list(network.modules()):
        for name, pool in module.named_children():
            if isinstance(pool, nn.AdaptiveAvgPool2d) and pool.output_size != 1:
                assert isinstance(pool.output_size, int)
                setattr(module, name, AdaptivePool(pool.output_size))
    return network


def load(path: Path) -> Run:
    session = _session(path, optimize=True)
    name = session.get_inputs()[0].name

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {name: images.numpy(force=True)})[0]).to(images.device)

    return run


def read_card(path: Path) -> str | None:
    return _session(path, optimize=False).get_modelmeta().custom_metadata_map.get(CARD)


def _session(path: Path, optimize: bool) -> Any:
    runtime = _package('onnxruntime')
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    if not optimize:
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    with readable(path):
        return runtime.InferenceSession(path, options, providers=['CPUExecutionProvider'])


def _package(name: str) -> Any:
    """A package that only ONNX needs."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f'ONNX needs the package {name} ({error}): pip install -r requirements.txt') from error
