"""Small networks, and one of them in each format of export."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from segrecipes.checkpoints.card import ModelCard
from segrecipes.checkpoints.export import export
from segrecipes.checkpoints.formats.table import FORMATS
from segrecipes.models.network import SegmentationNetwork, build_network
from segrecipes.models.spec import NetworkSpec

SUFFIXES = {to: form.suffix for to, form in FORMATS.items()}


def card_of(
    architecture: str = 'deeplabv3', backbone_arch: str = 'resnet18', output_stride: int | None = None, **values: Any
) -> ModelCard:
    given: dict[str, Any] = {
        'class_names': ('sky', 'Gebäude', 'tree', 'a "boat"', 'water'),
        'dataset': 'synthetic',
        'label_offset': 0,
        'image_size': 48,
        'mean': (123.675, 116.28, 103.53),
    }
    return ModelCard(NetworkSpec(architecture, 5, backbone_arch, output_stride, head_channels=16), **(given | values))


def network_of(card: ModelCard, seed: int = 0) -> SegmentationNetwork:
    """With running statistics too that differ from channel to channel."""
    torch.manual_seed(seed)
    network = build_network(card.network, auxiliary=card.auxiliary)
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
