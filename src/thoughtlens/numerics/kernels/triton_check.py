"""Whether the Triton kernels work on a GPU: each once beside the reference, on a few rows."""

from __future__ import annotations

import subprocess
from typing import Any

import torch
from torch import Tensor
from triton.errors import TritonError

from thoughtlens.numerics.kernels import reference, triton

FAULTS = (TritonError, RuntimeError, OSError, subprocess.SubprocessError)
"""What comes where Triton finds no assembler, no C compiler or Python headers, or does not know the GPU."""
D_IN, D_SAE, BATCH, K = 24, 1100, 6, 5
"""Small, but with rows that are divided into groups."""
NEAR = 1e-2
"""Allowed length of a difference, relative; products on a GPU may be taken in a narrower format."""


def fault(device: torch.device, d_sae: int = D_SAE) -> str | None:
    """Why the kernels cannot be used on that device, in one line; None: they can."""
    try:
        mine, theirs = (_results(module, device, d_sae) for module in (triton, reference))
        different = [name for name in mine if not _near(mine[name], theirs[name])]
    except FAULTS as error:
        text = str(error).strip().splitlines()
        return f"{type(error).__name__}: {text[0][:200] if text else 'no reason given'}"
    return f"{', '.join(different)} gave other numbers than the reference" if different else None


def _results(ops: Any, device: torch.device, d_sae: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((BATCH, D_IN), (d_sae, D_IN), (d_sae,), (d_sae, D_IN), (D_IN,))
    z, W, b, W_dec, b_dec = (torch.randn(*shape, generator=generator).to(device) for shape in shapes)
    inputs = [t.requires_grad_() for t in (W.T, b, W_dec, b_dec)]
    values, indices = ops.encode_topk(z, inputs[0], b, K, torch.bfloat16, b_dec)
    errors, residual = ops.decode_error(values, indices, W_dec, z, b_dec)
    acts, sums, counts = ops.encode_relu(z, b_dec, inputs[0], b, torch.bfloat16)
    total = errors + ops.decode(values, indices, W_dec).square().sum() + acts.float().square().sum()
    grads = torch.autograd.grad(total + sums.sum(), inputs)
    names = ("encoder gradient", "bias gradient", "decoder gradient", "centre gradient")
    found = dict(zip(names, grads, strict=True)) | {"top k": values.sort(1).values, "residual": residual}
    found |= {"ReLU": acts, "sums": sums, "counts": counts.float()}
    return found | _adam(ops, W.detach(), W_dec.detach())


def _adam(ops: Any, p: Tensor, grad: Tensor) -> dict[str, Tensor]:
    idle = torch.arange(len(p), device=p.device) % 3 == 0
    moments = (torch.zeros_like(p), torch.zeros_like(p))
    state = reference.AdamState(torch.zeros(()), *moments, idle.new_zeros(len(p), dtype=torch.long))
    p, length = p.clone(), ops.grad_squares(p, grad, idle, len(p) // 2)
    settings = {"lr": 0.1, "betas": (0.9, 0.999), "eps": 1e-8, "unit_from": len(p) // 2}
    ops.adam_rows(p, grad, state, idle, **settings)
    return {"gradient length": length, "Adam": p, "Adam's moments": torch.cat(moments)}


def _near(mine: Tensor, theirs: Tensor) -> bool:
    return bool((mine.detach() - theirs).norm() <= NEAR * theirs.norm())
