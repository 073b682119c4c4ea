"""Small networks, and one of them in each format of export."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from segrecipes.checkpoints.card import ModelCard
from segrecipes.checkpoints.export import export
from segrecipes.models.network import SegmentationNetwork, build_network

SUFFIXES = {'onnx': '.onnx', 'torch.export': '.pt2', 'safetensors': '.safetensors'}


def card_of(architecture: str = 'deeplabv3', **values: Any) -> ModelCard:
    given: dict[str, Any] = {
        'num_classes': 5,
        'backbone_arch': 'resnet18',
        'head_channels': 16,
        'class_names': ('sky', 'Gebäude', 'tree', 'a "boat"', 'water'),
        'dataset': 'synthetic',
        'label_offset': 0,
        'image_size': 48,
        'mean': (123.675, 116.28, 103.53),
    }
    return ModelCard(architecture=architecture, **(given | values))


def network_of(card: ModelCard, seed: int = 0) -> SegmentationNetwork:
    """With running statistics too that differ from channel to channel."""
    torch.manual_seed(seed)
    network = build_network(**card.network_arguments())
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.running_mean is not None and norm.running_var is not None
            norm.running_mean.normal_(0, 0.5)
            norm.running_var.uniform_(0.5, 2)
            nn.init.normal_(norm.bias)
            nn.init.uniform_(norm.weight, 0.5, 1.5)
    return network.eval()


@pytest.fixture(scope='module', name='files')
def exported_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One network in each format, for reading only."""
    folder, card = tmp_path_factory.mktemp('files'), card_of()
    paths = {to: folder / f'net{suffix}' for to, suffix in SUFFIXES.items()}
    for to, path in paths.items():
        export(network_of(card), card, path, to)
    return paths
