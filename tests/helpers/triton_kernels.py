"""Triton kernels without a GPU: a script in the interpreter, and what the compiled code takes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def interpreted(script: str) -> dict[str, Any]:
    """What a script of this folder prints as JSON; in its own process, as Triton reads the variable at its import."""
    environment = {**os.environ, 'TRITON_INTERPRET': '1', 'PYTHONPATH': f'{ROOT}', 'CUDA_VISIBLE_DEVICES': ''}
    run = subprocess.run(
        [sys.executable, Path(__file__).with_name(script)], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def resources(
    kernel: Any,
    capability: int,
    types: dict[str, str],
    constants: dict[str, Any],
    folder: Path,
    num_warps: int = 4,
    maxnreg: int | None = None,
) -> dict[str, int]:
    """Registers of a thread (REG), and the memory it spills others to (STACK, LOCAL), on GPUs of this capability.

    Arguments that have no type are 32-bit integers. Pointers and integers are multiples of 16.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = kernel.arg_names
    signature = {name: 'constexpr' if name in constants else types.get(name, 'i32') for name in names}
    multiples = [i for i, name in enumerate(names) if signature[name] == 'i32' or signature[name][0] == '*']
    source = ASTSource(kernel, signature, constants, {(i,): [['tt.divisibility', 16]] for i in multiples})
    options = {'num_warps': num_warps, **({} if maxnreg is None else {'maxnreg': maxnreg})}
    compiled = triton.compile(source, target=GPUTarget('cuda', capability, 32), options=options)
    code = folder / f'{kernel.__name__}.cubin'
    code.write_bytes(compiled.asm['cubin'])
    dump = Path(triton.__file__).parent / 'backends/nvidia/bin/cuobjdump'
    usage = subprocess.run([dump, '--dump-resource-usage', code], check=True, capture_output=True, text=True).stdout
    return {name: int(value) for name, value in re.findall(r'(REG|STACK|SHARED|LOCAL):(\d+)', usage)}
