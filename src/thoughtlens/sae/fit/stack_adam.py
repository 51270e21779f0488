"""Adam over a stack: the members' own optimizers, on tensors that hold all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from thoughtlens.numerics import kernels
from thoughtlens.sae.fit.adam import EPS, Adam
from thoughtlens.sae.kinds.stack import Stack, join

MOST = 1 << 26
"""Weights: the reference's kernel needs several copies of what it updates."""


class StackAdam:
    """`Adam` of a stack's members, with one call a parameter for all that are at one step and learning rate.

    The state stays the members': it becomes slices of common tensors, as their parameters are.

    Args:
        stack: The members' parameters.
        optimizers: The members', in order.
        most: Weights of several members that one call updates at most.
    """

    def __init__(self, stack: Stack, optimizers: Sequence[Adam], most: int = MOST):
        self.stack, self.optimizers, self.most = stack, list(optimizers), most
        self._kept = {
            name: {key: self._join(name, key) for key in ("exp_avg", "exp_avg_sq", "last")}
            for name in stack.parameters
        }

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.stack.parameters.values():
            parameter.grad = None

    @torch.no_grad()
    def norms(self, idle: Bool[Tensor, "members d_sae"]) -> Float[Tensor, " members"]:
        """As `Adam.norm`, of every member."""
        squares = []
        for name, p, grad in self._with_gradient():
            rows, unit = _rows(name, p), name == "W_dec" and self.stack.unit
            own = kernels.grad_squares(
                rows, _rows(name, grad), _idle(name, rows, idle), 0 if unit else len(rows)
            )
            squares.append(own.view(len(idle), -1).sum(1, dtype=torch.float64))
        return torch.stack(squares).sum(0).sqrt().float()

    @torch.no_grad()
    def step(
        self,
        lrs: Sequence[float | None],
        factors: Sequence[float],
        idle: Bool[Tensor, "members d_sae"],
    ) -> None:
        """As `Adam.step`, with decoder rows of length 1 where the stack's SAEs have them.

        Args:
            lrs: Each member's learning rate; None: it is left as it is.
            factors: Each member's, for its gradients.
            idle: As in `Adam.norm`.
        """
        if any(factor != 1 for factor in factors):
            scale = self.stack.per_member(factors)
            for _, _, grad in self._with_gradient():
                grad *= scale.view(-1, *[1] * (grad.ndim - 1))
        for first, last in self._runs(lrs):
            lr = lrs[first]
            assert lr is not None
            for name, p, grad in self._with_gradient():
                self._update(name, p, grad, slice(first, last), lr, idle)

    def _update(
        self, name: str, p: Tensor, grad: Tensor, run: slice, lr: float, idle: Bool[Tensor, "members d_sae"]
    ) -> None:
        """A parameter of some members that stand together."""
        one = self.optimizers[run.start]
        steps = [o.state[o.parameters[name]]["step"] for o in self.optimizers[run]]
        kept = {key: t[run] for key, t in self._kept[name].items()}
        rows = _rows(name, p[run])
        kernels.adam_rows(
            rows,
            _rows(name, grad[run]),
            kernels.AdamState(
                steps[0].clone(), _rows(name, kept["exp_avg"]), _rows(name, kept["exp_avg_sq"]),
                kept["last"].flatten(),
            ),
            _idle(name, rows, idle[run]),
            lr=lr * one.sae.lr_factor.get(name, 1.0),
            betas=one.betas,
            eps=EPS,
            unit_from=0 if name == "W_dec" and self.stack.unit else None,
            lazy=one.lazy,
        )  # fmt: skip
        for step in steps:
            step.add_(1)

    def _runs(self, lrs: Sequence[float | None]) -> Iterator[tuple[int, int]]:
        """Bounds of members that stand together and are updated alike."""
        weights = sum(p[0].numel() for p in self.stack.parameters.values())
        first = 0
        while first < len(lrs):
            last = first + 1
            if lrs[first] is not None:
                alike, most = self._manner(first, lrs), max(1, self.most // weights)
                while last < min(len(lrs), first + most) and self._manner(last, lrs) == alike:
                    last += 1
                yield first, last
            first = last

    def _manner(self, i: int, lrs: Sequence[float | None]) -> tuple[object, ...]:
        one = self.optimizers[i]
        return lrs[i], one.betas, one.lazy, one.state[one.parameters["W_enc"]]["step"].item()

    def _with_gradient(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        for name, p in self.stack.parameters.items():
            if p.grad is not None:
                yield name, p, p.grad

    def _join(self, name: str, key: str) -> Tensor:
        states = [one.state[one.parameters[name]] for one in self.optimizers]
        whole = join([state[key] for state in states])
        for state, part in zip(states, whole, strict=True):
            state[key] = part
        return whole


def _rows(name: str, t: Float[Tensor, "members ..."]) -> Float[Tensor, "n d"]:
    """A parameter, or what belongs to it, as a matrix over the same memory; a row a latent if it can."""
    return (t.mT if name == "W_enc" else t).flatten(0, -2)


def _idle(name: str, rows: Float[Tensor, "n d"], idle: Bool[Tensor, "members d_sae"]) -> Bool[Tensor, " n"]:
    """`idle` where a row is a latent; nobody elsewhere."""
    if name in ("W_enc", "W_dec"):
        return idle.flatten()
    return torch.zeros(len(rows), dtype=torch.bool, device=idle.device)
