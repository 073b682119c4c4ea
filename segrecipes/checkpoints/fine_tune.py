"""Weights of one dataset's network as the beginning of another's, whose last layers are new."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from segrecipes.checkpoints.card import ModelCard
from segrecipes.checkpoints.fit import AUXILIARY, load_weights
from segrecipes.checkpoints.read import Checkpoint
from segrecipes.models.network import build_network
from segrecipes.models.spec import NetworkSpec

NAMED = 3  # classes of a dataset that are named in a line


@dataclass(frozen=True)
class NewLayers:
    """Tensors of a network that are not taken from a file, with their shapes there and here, and why not."""

    reason: str
    shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]

    def __str__(self) -> str:
        lines = (f'  {name} {there} → {here}' for name, (there, here) in self.shapes.items())
        return f'{self.reason}; its last layers are new:\n' + '\n'.join(lines)


def load_to_fine_tune(network: nn.Module, checkpoint: Checkpoint, card: ModelCard, where: str) -> list[str]:
    """Copy a checkpoint's raw weights into a network, but for the layers of other classes: :func:`new_layers`.

    ``card`` says what the network is to be, ``where`` names the file. Returns what is to be said: what stays new, with
    its shapes, as it was initialised.

    Raises:
        UserError: anything else is missing, not known, or of another shape; then nothing is copied.
    """
    own, new = network.state_dict(), new_layers(network.state_dict(), checkpoint, card)
    kept = {**checkpoint.weights, **({name: own[name] for name in new.shapes} if new else {})}
    load_weights(network, kept, where, card=checkpoint.card)
    said = [f'{where}: {new}'] if new else []
    if any(name.startswith(AUXILIARY) for name in own) and not any(name.startswith(AUXILIARY) for name in kept):
        said.append(f'{where}: has no auxiliary head; that of this run is new')
    return said


def new_layers(own: Mapping[str, Tensor], checkpoint: Checkpoint, card: ModelCard) -> NewLayers | None:
    """The layers that a checkpoint of other classes has no weights for, None where all of them can be taken over.

    Classes are others where the shapes say so, or where both cards name them and the names or their order differ.
    """
    weights = checkpoint.weights
    last = [name for name in per_class(card.network, card.auxiliary) if name in own and name in weights]
    shapes = {name: (tuple(weights[name].shape), tuple(own[name].shape)) for name in last}
    theirs = checkpoint.card.class_names if checkpoint.card and checkpoint.card.has_names else ()
    if any(there != here for there, here in shapes.values()):
        reason = (
            f'has {_named(theirs)}, this run {_named(card.class_names)}'
            if theirs
            else 'is of another number of classes'
        )
    elif theirs and card.has_names and theirs != card.class_names:
        reason = f'is of other classes: {_named(theirs)} there, {_named(card.class_names)} in this run'
    else:
        return None
    return NewLayers(reason, shapes)


def per_class(spec: NetworkSpec, auxiliary: bool) -> list[str]:
    """The tensors of a network whose shape goes by the number of its classes."""
    with torch.device('meta'):
        first, second = (
            build_network(replace(spec, num_classes=count), auxiliary=auxiliary).state_dict() for count in (3, 4)
        )
    return [name for name in first if first[name].shape != second[name].shape]


def _named(classes: tuple[str, ...]) -> str:
    return f'{len(classes)} classes ({", ".join(classes[:NAMED])}{", …" if len(classes) > NAMED else ""})'
