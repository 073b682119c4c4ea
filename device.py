"""How exactly a GPU computes, and batches that are on it before they are asked for."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map


@contextmanager
def full_float32() -> Iterator[None]:
    """float32 means float32: no TF32, which Composer turns on for every GPU, and no kernels chosen by trying them.

    For what is quoted or summed over millions of pixels. Networks in bfloat16 or float16 are not touched.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    try:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = False, False, False
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before


def copied_ahead(batches: Iterable[Any]) -> Iterator[Any]:
    """Pinned batches, on the current GPU: each is copied there while the step before it runs."""
    copying, device = torch.cuda.Stream(), torch.device('cuda', torch.cuda.current_device())
    ready: tuple[Any, torch.cuda.Event] | None = None
    for batch in batches:
        with torch.cuda.stream(copying):
            moved = tree_map(
                lambda part: part.to(device, non_blocking=True) if isinstance(part, Tensor) else part, batch
            )
            copied = copying.record_event()
        if ready is not None:
            yield _awaited(*ready)
        ready = moved, copied
    if ready is not None:
        yield _awaited(*ready)


def _awaited(batch: Any, copied: torch.cuda.Event) -> Any:
    """The batch, for the current stream: which waits for the copy, and the memory is not taken from it meanwhile."""
    step = torch.cuda.current_stream()
    step.wait_event(copied)
    for part in tree_leaves(batch):
        if isinstance(part, Tensor):
            part.record_stream(step)
    return batch
