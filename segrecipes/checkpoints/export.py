"""A network in a file for use without this package, which is proved to compute the same."""

import copy
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from segrecipes.base.errors import UserError, unknown_name
from segrecipes.base.files import replaced
from segrecipes.checkpoints.card import ModelCard
from segrecipes.checkpoints.formats.function import Run
from segrecipes.checkpoints.formats.table import FORMATS
from segrecipes.models.network import SegmentationNetwork

CHECKED = ((1, 3, 257, 190), (3, 3, 65, 97), (2, 3, 32, 150))
TOLERANCE = 1e-3  # of the logits' largest magnitude


@dataclass(frozen=True)
class Difference:
    """How far the logits of an exported network are from the eager network's, for one batch of images."""

    shape: tuple[int, ...]  # of the images
    largest: float
    magnitude: float  # of the eager logits
    share_of_pixels: float  # whose class differs

    def __str__(self) -> str:
        return (
            f'{"×".join(map(str, self.shape))}: logits up to {self.magnitude:.4g} differ by at most '
            f'{self.largest:.2g}, the class by {self.share_of_pixels:.4%} of pixels'
        )


def export(network: SegmentationNetwork, card: ModelCard, path: str | Path, to: str) -> list[Difference]:
    """Write ``network`` without its auxiliary head, and ``card`` with it, as a row of ``FORMATS``.

    Batch, height and width stay dynamic. The file is read back and run beside ``network`` on batches of other shapes
    than it was traced with, and is published only if the logits agree; returns by how much.

    Raises:
        UserError: a name that is not legal, a file that cannot be written, or logits that differ.
    """
    if to not in FORMATS:
        raise unknown_name('--to', to, FORMATS)
    path, form = Path(path), FORMATS[to]
    if path.suffix != form.suffix:
        raise UserError(f'--out={path}: a file of {to} is named …{form.suffix}')
    network, card = without_auxiliary(network), replace(card, auxiliary=False)
    try:
        with replaced(path) as partial:
            form.save(network, card, partial)
            return compare(network, form.load(partial), str(path), card.network.in_channels)
    except OSError as error:
        raise UserError(f'--out={path}: cannot be written ({error})') from error


def without_auxiliary(network: SegmentationNetwork) -> SegmentationNetwork:
    """A copy for inference on the CPU."""
    network = copy.deepcopy(network).cpu().eval().requires_grad_(False)
    network.auxiliary = None
    return network


@torch.no_grad()
def compare(network: SegmentationNetwork, run: Run, name: str, channels: int = 3) -> list[Difference]:
    """By how much the logits of ``run`` differ from those of ``network``, for each shape of ``CHECKED``.

    Raises:
        UserError: by more than ``TOLERANCE``, or it does not run at all.
    """
    differences = []
    generator = torch.Generator().manual_seed(0)
    for batch, _, *size in CHECKED:
        shape = (batch, channels, *size)
        images = torch.randn(shape, generator=generator)
        expected = network(images)
        try:
            logits = run(images)
        except Exception as error:  # whatever the runtime raises
            raise UserError(f'{name} was not written: it does not run on images of {shape}: {error}') from error
        if logits.shape != expected.shape:
            raise UserError(f'{name} was not written: logits of {(*logits.shape,)} for images of {shape}')
        difference = Difference(
            shape,
            largest=float((logits - expected).abs().max()),
            magnitude=float(expected.abs().max()),
            share_of_pixels=float((logits.argmax(dim=1) != expected.argmax(dim=1)).float().mean()),
        )
        if not difference.largest <= TOLERANCE * difference.magnitude:  # NaN is no agreement
            raise UserError(f'{name} was not written: it differs from the network. {difference}')
        differences.append(difference)
    return differences
