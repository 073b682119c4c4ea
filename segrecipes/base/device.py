"""What a GPU runs and how exactly, and batches that are on it before they are asked for."""

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, version
from torch.utils._pytree import tree_leaves, tree_map


@cache
def why_no_triton() -> str | None:
    """What kernels written in Triton lack here, or None; it builds their launchers with a C compiler."""
    if not torch.cuda.is_available() or version.cuda is None:
        return 'no NVIDIA GPU'
    if torch.cuda.get_device_capability() < (7, 0):
        return 'a GPU from before Volta'
    if find_spec('triton') is None:
        return 'no Triton'
    compilers = os.environ.get('CC', ''), 'gcc', 'clang'
    return None if any(map(shutil.which, compilers)) else 'no C compiler (on Debian and Ubuntu: apt install gcc)'


def has_triton() -> bool:
    return why_no_triton() is None


@contextmanager
def full_float32() -> Iterator[None]:
    """float32 means float32: no TF32, which Composer turns on for every GPU, and no kernels chosen by trying them.

    For what is quoted or summed over millions of pixels. Networks in bfloat16 or float16 are not touched.
    """
    matmul: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    try:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = False, False, False
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before


def copied_ahead(batches: Iterable[Any]) -> Iterator[Any]:
    """Pinned batches, on the current GPU: each is copied there while the step before it runs."""
    copying: Any = torch.cuda.Stream()
    device = torch.device('cuda', torch.cuda.current_device())
    ready: tuple[Any, Any] | None = None
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


def _awaited(batch: Any, copied: Any) -> Any:
    """The batch, for the current stream: which waits for the copy, and the memory is not taken from it meanwhile."""
    step = torch.cuda.current_stream()
    step.wait_event(copied)
    for part in tree_leaves(batch):
        if isinstance(part, Tensor):
            part.record_stream(step)
    return batch
