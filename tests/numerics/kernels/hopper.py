"""Compile for a Hopper GPU whatever the Triton kernels would start there; none is needed for that.

    python -m tests.numerics.kernels.hopper

Takes every launch on CPU tensors up to the point where the GPU would be asked for, with the argument types
and alignments of that launch. Writes one JSON object: what each kernel takes of registers, stack and shared
memory.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


class Hopper:
    """What the compiler asks a driver for."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def compiled_only(found: dict[str, dict[str, int]]) -> None:
    """From here on a launch compiles and notes what the machine code takes."""
    driver.set_active(Hopper())
    run = JITFunction.run

    def compile_it(self: Any, *args: Any, grid: Any, warmup: bool, **shape: Any) -> Any:
        kernel = run(self, *args, grid=grid, warmup=True, **shape)
        name = f"{self.__name__} {kernel.hash[:6]}"
        if name not in found:
            settings = {key: value for key, value in shape.items() if key != "num_warps"}
            found[name] = resources(kernel.asm["cubin"]) | {"warps": kernel.metadata.num_warps, **settings}
        return kernel

    JITFunction.run = compile_it


def resources(binary: bytes) -> dict[str, int]:
    """Registers a thread, bytes of stack (spilled registers) and of shared memory."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        dump = [CUOBJDUMP, "--dump-resource-usage", file.name]
        text = subprocess.run(dump, check=True, capture_output=True, text=True).stdout
    numbers = {name: int(n) for name, n in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", text)}
    return {"registers": numbers["REG"], "stack": numbers["STACK"], "shared": numbers["SHARED"]}


def launches(d_in: int, d_sae: int, k: int, dtype: torch.dtype) -> None:
    """A training step's kernels."""
    from thoughtlens.numerics.kernels import triton
    from thoughtlens.numerics.kernels.reference import AdamState

    x, W, b = torch.zeros(4, d_in), torch.zeros(d_sae, d_in), torch.zeros(d_sae, requires_grad=True)
    W_enc, W_dec = W.T.requires_grad_(), torch.zeros(d_sae, d_in, requires_grad=True)
    b_dec = torch.zeros(d_in, requires_grad=True)
    values, indices = triton.encode_topk(x, W_enc, b, k, dtype, b_dec)
    indices = indices % d_sae  # nothing has run: they hold whatever was in memory
    triton.decode_error(values, indices, W_dec, x, b_dec)[0].backward()
    triton.decode(values.detach().requires_grad_(), indices, W_dec).sum().backward()
    acts, totals, _ = triton.encode_relu(x, b_dec, W_enc, b, dtype)
    (acts.sum() + totals.sum()).backward()
    state = AdamState(
        torch.zeros(()), torch.zeros_like(W), torch.zeros_like(W), torch.zeros(d_sae, dtype=torch.long)
    )
    idle = torch.zeros(d_sae, dtype=torch.bool)
    triton.grad_squares(W, W, idle, 0)
    triton.adam_rows(W, W, state, idle, lr=1e-3, betas=(0.9, 0.999), eps=1e-8)


def main() -> None:
    found: dict[str, dict[str, int]] = {}
    compiled_only(found)
    launches(2048, 16_384, 64, torch.bfloat16)
    if "--all" in sys.argv:
        launches(2048, 65_536, 64, torch.bfloat16)
        launches(2048, 2048, 20, torch.bfloat16)
        launches(576, 4608, 32, torch.float32)
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
