"""A checkpoint's file → the network that it is of."""

from pathlib import Path

from segrecipes.base.errors import UserError
from segrecipes.checkpoints.card import ModelCard
from segrecipes.checkpoints.fit import load_weights
from segrecipes.checkpoints.read import read_checkpoint
from segrecipes.models.network import SegmentationNetwork, build_network


def load_network(path: str | Path, weights: str = 'best', trust: bool = False) -> tuple[ModelCard, SegmentationNetwork]:
    """The card and the network of a checkpoint, in evaluation mode, on the CPU.

    Args:
        path: a checkpoint with a model card, mmsegmentation's of the usual networks, or a .safetensors file.
        weights: ``best`` (averaged ones where the file has them), ``ema`` or ``raw``.
        trust: run the code in a file that cannot be read without.

    Raises:
        UserError: the file cannot be read, or does not say what network it is of.
    """
    checkpoint = read_checkpoint(path, trust)
    if checkpoint.card is None:
        raise UserError(
            f'{path} has no model card, so its architecture and classes are not known: it was written before '
            'checkpoints kept one, or by another tool'
        )
    network = build_network(checkpoint.card.network, auxiliary=checkpoint.card.auxiliary)
    load_weights(network, checkpoint.choose(weights), str(path))
    return checkpoint.card, network.eval()
