"""What a run's losses are given, from its config and its training masks."""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, replace
from typing import Any

import numpy as np
import torch
from composer.core import DataSpec
from composer.utils import dist, get_device

from segrecipes.config.schema import Config, ModelConfig
from segrecipes.data.frequency import WEIGHTINGS, Frequencies, count_classes, sample
from segrecipes.training.device import say


def loss_options(model: ModelConfig) -> dict[str, Any]:
    """Of ``segmentation_loss``, but for those that MosaicML's example has too."""
    weights = model.loss_weights
    return {
        'focal_weight': weights['focal'],
        'lovasz_weight': weights['lovasz'],
        'focal_gamma': model.focal_gamma,
        'class_weights': None if model.class_weights is None else tuple(model.class_weights),
        'ohem': None if model.ohem is None else astuple(model.ohem),
    }


def with_class_weights(
    cfg: Config, sources: Mapping[str, str], dataspec: DataSpec | None, class_names: Sequence[str]
) -> tuple[Config, Mapping[str, str]]:
    """The config with ``model.class_weights`` as numbers, counted in the training masks where it names how.

    Each rank counts its share of the masks, at most ``frequency.MOST_MASKS`` in all. The same masks give the same
    numbers, so a resumed run has them again; the run's config.yaml keeps them.
    """
    how = cfg.model.class_weights
    if not isinstance(how, str):
        return cfg, sources
    if dataspec is None:  # nothing is trained
        return replace(cfg, model=replace(cfg.model, class_weights=None)), sources
    dataset: Any = dataspec.dataloader.dataset  # type: ignore[union-attr]
    indices = sample(dataset.size)
    own = indices[dist.get_global_rank() :: dist.get_world_size()]
    counted = count_classes(dataset, own, dataset.make_sample.label_map, len(class_names))
    counts = get_device(None).tensor_to_device(torch.from_numpy(np.stack(counted)))
    dist.all_reduce(counts)
    frequencies = Frequencies(*counts.cpu().numpy())
    weights = [float(f'{weight:.6g}') for weight in WEIGHTINGS[how](frequencies)]
    shown = ', '.join(f'{name} {weight:.3g}' for name, weight in zip(class_names, weights))
    masks = f'{len(indices)} training masks'
    say(f'model.class_weights={how} of {masks}: {shown}')
    if absent := [name for name, occurs in zip(class_names, frequencies.occurs) if not occurs]:
        say(f'never seen in {masks}, weight 1: {", ".join(absent)}')
    cfg = replace(cfg, model=replace(cfg.model, class_weights=weights))
    return cfg, {**sources, 'model.class_weights': f'{how} of {masks}'}
