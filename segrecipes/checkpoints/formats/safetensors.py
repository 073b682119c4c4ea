"""safetensors: weights alone, as data, beside the card that says what network they are of."""

import json
from pathlib import Path

import safetensors.torch

from segrecipes.checkpoints.card import CARD, ModelCard
from segrecipes.checkpoints.formats.function import Run, on_cpu
from segrecipes.checkpoints.network import load_network
from segrecipes.models.network import SegmentationNetwork


def save(network: SegmentationNetwork, card: ModelCard, path: Path) -> None:
    weights = {name: value.contiguous() for name, value in network.state_dict().items()}
    path.write_bytes(safetensors.torch.save(weights, {'format': 'pt', CARD: json.dumps(card.to_dict())}))


def load(path: Path) -> Run:
    return on_cpu(load_network(path)[1])


def read_card(path: Path) -> str | None:
    with safetensors.safe_open(path, framework='pt') as file:
        return (file.metadata() or {}).get(CARD)
