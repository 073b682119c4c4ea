"""What the formats share: a network as a function of images, and the shapes that it is traced with."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from segrecipes.base.errors import UserError
from segrecipes.checkpoints.card import ModelCard

DYNAMIC_AXES = {0: 'batch', 2: 'height', 3: 'width'}
TRACED = (2, 3, 64, 96)  # not a batch of 1, which torch.export would take for a constant

Run = Callable[[Tensor], Tensor]  # (B, 3, H, W) float32 normalised images → (B, num_classes, H, W) float32 logits


def traced_with(card: ModelCard) -> Tensor:
    batch, _, *size = TRACED
    return torch.randn(batch, card.network.in_channels, *size)


def on_cpu(module: nn.Module) -> Run:
    @torch.no_grad()
    def run(images: Tensor) -> Tensor:
        return module(images.cpu()).to(images.device)

    return run


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """What a library raises on a damaged file, which is anything, becomes one message."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = str(error).strip().split('\n')[0]
        raise UserError(f'{path}: not readable as {path.suffix} ({type(error).__name__}: {reason})') from error
