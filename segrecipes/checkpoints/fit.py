"""Weights into a network: all of them or, if one does not fit, none."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from segrecipes.base.errors import UserError
from segrecipes.checkpoints.card import ModelCard

AUXILIARY = 'auxiliary.'


def load_weights(
    network: nn.Module, weights: Mapping[str, Tensor], where: str, *, card: ModelCard | None = None
) -> None:
    """Copy weights into a network, which keeps its dtype and device: all of them or, if one does not fit, none.

    An auxiliary head may be missing on either side. ``where`` names the file in the message, ``card`` is what it says
    of itself.

    Raises:
        UserError: a tensor is missing, not known, or of another shape.
    """
    own = network.state_dict()
    if faults := list(faults_of(own, weights)):
        spec = card.network.to_dict() if card else {}
        says = ' '.join(f'model.{key}={"null" if value is None else value}' for key, value in spec.items())
        raise UserError(
            f'{where} does not fit the network: {"; ".join(faults)}. '
            'Check model.architecture, model.backbone_arch and model.num_classes.'
            + (f' The file is of {says}.' if card else '')
        )
    with torch.no_grad():
        for name in own.keys() & weights.keys():
            own[name].copy_(weights[name])


def faults_of(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> Iterator[str]:
    """What does not fit: how many tensors, and the first three. An auxiliary head that only one has is no fault."""
    auxiliary = [{name for name in tensors if name.startswith(AUXILIARY)} for tensors in (own, weights)]
    left_out = set() if all(auxiliary) else set.union(*auxiliary)

    def describe(name: str) -> str:
        shapes = [str(tuple(one[name].shape)) if name in one else 'not there' for one in (weights, own)]
        return f'{name}: {shapes[0]} in the file, {shapes[1]} in the network'

    for fault, names in {
        'missing': [name for name in own if name not in weights and not name.endswith('num_batches_tracked')],
        'not known': [name for name in weights if name not in own],
        'of another shape': [name for name in own if name in weights and own[name].shape != weights[name].shape],
    }.items():
        if names := [name for name in names if name not in left_out]:
            count = '1 tensor is' if len(names) == 1 else f'{len(names)} tensors are'
            yield f'{count} {fault} ({", ".join(map(describe, names[:3]))}{", …" if len(names) > 3 else ""})'
