"""Muon for hidden matrices (Jordan et al. 2024), AdamW for everything else."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def orthogonalize(g: Float[Tensor, "n rows cols"], steps: int = 5) -> Float[Tensor, "n rows cols"]:
    """Approximately U V^T of each matrix's SVD, by Newton-Schulz iteration in bfloat16."""
    a, b, c = NEWTON_SCHULZ
    tall = g.shape[1] > g.shape[2]
    x = g.bfloat16()
    x = x.mT if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(g.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum, then orthogonalised updates: every matrix moves with the same spectral norm.

    A fused projection of `3 d x d` counts as three matrices. lr is the size of a step in spectral
    norm, times sqrt(rows / cols) for tall matrices. Source: Jordan et al. 2024, "Muon: an optimizer
    for hidden layers in neural networks".
    """

    def __init__(
        self, params: list[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.01
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every matrix that has a gradient; matrices of one shape go together."""
        for group in self.param_groups:
            shapes: dict[tuple[int, int], list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    shapes.setdefault(_unit(p), []).append(p)
            for shape, params in shapes.items():
                self._step(params, shape, group)

    def _step(self, params: list[Tensor], shape: tuple[int, int], group: dict) -> None:
        mu = group["momentum"]
        updates = []
        for p in params:
            assert p.grad is not None
            buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
            buffer.lerp_(p.grad, 1 - mu)
            updates.append(p.grad.lerp(buffer, mu).view(-1, *shape))
        direction = orthogonalize(torch.cat(updates))
        scale = group["lr"] * max(1, shape[0] / shape[1]) ** 0.5
        for p, update in zip(params, direction.split([len(u) for u in updates]), strict=True):
            p.mul_(1 - group["lr"] * group["weight_decay"])
            p.sub_(update.reshape(p.shape), alpha=scale)


def _unit(p: Tensor) -> tuple[int, int]:
    rows, cols = p.shape
    return (cols, cols) if rows == 3 * cols else (rows, cols)


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """(hidden matrices, embedding tables, vectors) of a model."""
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    params = list(model.parameters())
    matrices = [p for p in params if p.ndim == 2 and id(p) not in tables]
    return matrices, [p for p in params if id(p) in tables], [p for p in params if p.ndim != 2]
