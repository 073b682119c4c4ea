"""What network a checkpoint of mmsegmentation's zoo is of."""

from collections.abc import Mapping
from itertools import product
from typing import Any

import torch
from torch import Tensor

from segrecipes.checkpoints.card import ModelCard
from segrecipes.checkpoints.fit import faults_of
from segrecipes.datasets.table import DATASETS
from segrecipes.models.architectures import ARCHITECTURES
from segrecipes.models.backbones.table import BACKBONES
from segrecipes.models.network import build_network
from segrecipes.models.spec import NetworkSpec


def infer_card(weights: Mapping[str, Tensor], meta: Mapping[str, Any]) -> ModelCard | None:
    """The network that these weights of mmsegmentation's fit, with its deep-stem ResNets; None where there is none."""
    parts = {name.split('.')[1] for name in weights if name.startswith('classifier.')}
    known_parts = {name: row.parts for name, row in ARCHITECTURES.items() if row.parts and row.parts <= parts}
    architecture = max(known_parts, key=lambda name: len(known_parts[name]), default=None)
    logits = weights.get('classifier.conv_seg.weight')  # num_classes, head_channels, 1, 1
    if architecture is None or logits is None or logits.ndim != 4:
        return None
    # mmengine has them in ``dataset_meta`` and small letters, mmcv before it had CLASSES and PALETTE.
    known = {str(key).lower(): value for key, value in {**meta, **(meta.get('dataset_meta') or {})}.items()}
    classes = tuple(str(name).strip() for name in known.get('classes') or ())
    dataset = next((name for name, row in DATASETS.items() if row.classes == classes), '')
    config = str(known.get('config', known.get('cfg')))
    has_auxiliary = any(name.startswith('auxiliary.') for name in weights)
    backbones = [name for name in BACKBONES if name.startswith('resnetv1c')]
    for backbone_arch, auxiliary in product(backbones, (True, False) if has_auxiliary else (False,)):
        card = ModelCard(
            NetworkSpec(architecture, logits.shape[0], backbone_arch, head_channels=logits.shape[1]),
            auxiliary=auxiliary,
            class_names=classes,
            palette=_colors(known.get('palette')),
            dataset=dataset,
            label_offset=DATASETS[dataset].label_offset if dataset else int('reduce_zero_label=True' in config),
        )
        with torch.device('meta'):
            network = build_network(card.network, auxiliary=card.auxiliary)
        if not list(faults_of(network.state_dict(), weights)):
            return card
    return None


def _colors(palette: Any) -> tuple[Any, ...]:
    try:
        return tuple((int(red), int(green), int(blue)) for red, green, blue in palette)
    except (TypeError, ValueError):  # there is none, or it is 'random'
        return ()
