"""Where a run computes, and in which precision."""

from pathlib import Path

import torch
from composer.utils import dist

from segrecipes.base.errors import UserError

CPU_INFO = Path('/proc/cpuinfo')


def choose_precision(precision: str, device: str) -> tuple[str, torch.dtype | None]:
    """Composer's precision, and the dtype our own autocast runs the network in.

    Composer has no reduced precision on a CPU; there ``bf16`` is torch's CPU autocast.
    """
    bf16 = ('fp32', torch.bfloat16)
    legal = {
        'cpu': {'auto': bf16 if has_bf16_instructions() else ('fp32', None), 'fp32': ('fp32', None), 'bf16': bf16},
        'gpu': {
            'auto': ('amp_bf16' if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else 'amp_fp16', None),
            'fp32': ('fp32', None),
            'amp_fp16': ('amp_fp16', None),
            'amp_bf16': ('amp_bf16', None),
        },
    }.get(device, {'auto': ('fp32', None), 'fp32': ('fp32', None)})
    if precision not in legal:
        needs = ' needs a GPU, and none is visible' if precision.startswith('amp') else f' is not possible on {device}'
        raise UserError(f'precision={precision}{needs}. Legal here: {", ".join(legal)}.')
    return legal[precision]


def has_bf16_instructions() -> bool:
    """Whether this CPU multiplies in bfloat16; others emulate it, more slowly than float32."""
    flags = CPU_INFO.read_text() if CPU_INFO.exists() else ''
    return 'avx512_bf16' in flags or 'amx_bf16' in flags


def choose_microbatch_size(size: int | str | None, device: str) -> int | str | None:
    if size == 'auto' and device != 'gpu':
        say(f"device_train_microbatch_size=auto needs a GPU to try sizes on; on {device} it is each rank's whole batch")
        return None
    return size


def say(line: str) -> None:
    if dist.get_global_rank() == 0:
        print(line, flush=True)
