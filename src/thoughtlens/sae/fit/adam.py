"""Adam over SAEs of one shape, aware of which latents had no part in a batch.

Not `torch.optim.Adam`: to construct one imports torch's compiler, which takes seconds and is not used, and
it knows neither idle latents nor decoder rows of length 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from thoughtlens.numerics import kernels
from thoughtlens.sae.kinds.base import SAE
from thoughtlens.sae.kinds.stack import Stack, join

EPS = 1e-8
MOST = 1 << 26
"""Weights of several members that one call updates: the reference's kernel needs several copies of them."""


@dataclass
class Moments:
    """What Adam keeps of a parameter, with a leading member axis or without."""

    step: Tensor
    """Steps done, a float32 scalar on the CPU."""
    exp_avg: Tensor
    exp_avg_sq: Tensor
    last: Tensor
    """The step at which each latent's moments were last brought up to date; of a parameter that is not one
    slice per latent: one number for each of its rows."""

    def items(self) -> Iterator[tuple[str, Tensor]]:
        """Name and tensor of each, as checkpoints have them."""
        return ((one.name, getattr(self, one.name)) for one in fields(self))


class Matrix:
    """A parameter of all members, and its moments, as matrices over the same memory.

    Args:
        sae: One of the members.
        name: Of the parameter.
        parameter: With a leading member axis, or of a single SAE.
        moments: Its moments, alike.
    """

    def __init__(self, sae: SAE, name: str, parameter: nn.Parameter, moments: Moments):
        self.parameter, self.lr_factor = parameter, sae.lr_factor.get(name, 1.0)
        own = sae.get_parameter(name)
        self._axis, self._lead = sae.latent_axis.get(name), parameter.ndim - own.ndim
        self._of_latents = self._axis is not None and own.ndim > 1
        self.rows = as_rows(parameter.detach(), self._axis, self._lead)
        self.exp_avg = as_rows(moments.exp_avg, self._axis, self._lead)
        self.exp_avg_sq = as_rows(moments.exp_avg_sq, self._axis, self._lead)
        self.last = moments.last.flatten()
        first = sae.unit_from if name == "W_dec" else None
        self.unit_from = len(self.rows) if first is None else first
        self._nobody = torch.zeros(len(self.rows), dtype=torch.bool, device=parameter.device)

    @property
    def grad(self) -> Float[Tensor, "n d"]:
        """The gradient."""
        assert self.parameter.grad is not None
        return as_rows(self.parameter.grad, self._axis, self._lead)

    def idle(self, latents: Bool[Tensor, "members d_sae"] | None) -> Bool[Tensor, " n"]:
        """The rows of those latents; nobody where a row is no latent, however many rows there are."""
        return self._nobody if latents is None or not self._of_latents else latents.flatten()


def as_rows(t: Tensor, axis: int | None, lead: int = 0) -> Float[Tensor, "n d"]:
    """A parameter, or what belongs to it, as a matrix, a row per latent if it can be without a copy.

    Args:
        t: The tensor.
        axis: Of the latents, without the leading axes; None: there are none.
        lead: Number of leading axes.
    """
    if t.ndim == lead + 1:
        return t.reshape(-1, t.shape[-1])
    if axis == 0:
        return t.flatten(lead + 1).flatten(0, lead)
    return (t.mT if axis == 1 and t.ndim == lead + 2 else t).flatten(0, -2)


class Adam:
    """Adam (Kingma and Ba 2015, arXiv:1412.6980) over a single SAE: a stack of one.

    Parameters without a gradient are left alone, their moments too. Decoder rows that keep length 1 move
    across themselves alone and are normalised. Parameters and moments must stay where they are in memory.

    Args:
        sae: Its parameters are updated.
        betas: Decay of the two moments.
        lazy: Leave idle latents as they are, an approximation (`kernels.adam_rows`).
    """

    def __init__(self, sae: SAE, betas: tuple[float, float], lazy: bool = False):
        self.sae, self.betas, self.lazy = sae, betas, lazy
        self.parameters = dict(sae.named_parameters())
        self.state: dict[str, Moments] = {}
        for name, p in self.parameters.items():
            p.grad_dtype = None  # as the kernels leave it, which may be narrower
            n_rows = len(as_rows(p, sae.latent_axis.get(name)))
            last = torch.zeros(n_rows, dtype=torch.long, device=p.device)
            step = torch.zeros((), dtype=torch.float32)
            self.state[name] = Moments(step, torch.zeros_like(p), torch.zeros_like(p), last)
        self.members: list[Adam] = [self]
        self.matrices = {n: Matrix(sae, n, p, self.state[n]) for n, p in self.parameters.items()}
        self.most = MOST

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None

    @torch.no_grad()
    def norms(self, idle: Bool[Tensor, "members d_sae"] | None = None) -> Float[Tensor, " members"]:
        """Length of all of a member's gradients together; W_dec's without its part along rows of length 1.

        Args:
            idle: Latents whose parameters all have a gradient of 0, which then is not read.
        """
        squares = []
        for matrix in self._with_gradient().values():
            own = kernels.grad_squares(matrix.rows, matrix.grad, matrix.idle(idle), matrix.unit_from)
            squares.append(own.view(len(self.members), -1).sum(1, dtype=torch.float64))
        return torch.stack(squares).sum(0).sqrt().float()

    @torch.no_grad()
    def step(
        self,
        lrs: Sequence[float | None],
        factors: Sequence[float],
        idle: Bool[Tensor, "members d_sae"] | None = None,
    ) -> None:
        """One update of each member, with one call per parameter for all that are updated alike.

        Args:
            lrs: Each member's learning rate, which `SAE.lr_factor` multiplies; None: it is left as it is.
            factors: What each one's gradients are multiplied by.
            idle: As in `norms`.
        """
        for first, last in self._runs(lrs, factors):
            lr, one = lrs[first], self.members[first]
            assert lr is not None
            for name, matrix in self._with_gradient().items():
                each = len(matrix.rows) // len(self.members)
                some = slice(first * each, last * each)
                step, *others = (member.state[name].step for member in self.members[first:last])
                kernels.adam_rows(
                    matrix.rows[some],
                    matrix.grad[some],
                    kernels.AdamState(step, matrix.exp_avg[some], matrix.exp_avg_sq[some], matrix.last[some]),
                    matrix.idle(idle)[some],
                    lr=lr * matrix.lr_factor,
                    betas=one.betas,
                    eps=EPS,
                    factor=factors[first],
                    unit_from=matrix.unit_from,
                    lazy=one.lazy,
                )
                for other in others:
                    other.add_(1)

    def _with_gradient(self) -> dict[str, Matrix]:
        return {name: m for name, m in self.matrices.items() if m.parameter.grad is not None}

    def _runs(self, lrs: Sequence[float | None], factors: Sequence[float]) -> Iterator[tuple[int, int]]:
        """Bounds of members that stand together and are updated alike."""
        weights = sum(m.rows.numel() for m in self.matrices.values()) // len(self.members)
        most, first = max(1, self.most // weights), 0
        manners = [
            (lr, factor, one.betas, one.lazy, one.state["W_enc"].step.item())
            for one, lr, factor in zip(self.members, lrs, factors, strict=True)
        ]
        while first < len(lrs):
            last = first + 1
            while last < min(len(lrs), first + most) and manners[last] == manners[first]:
                last += 1
            if lrs[first] is not None:
                yield first, last
            first = last


class StackAdam(Adam):
    """`Adam` of a stack's members, whose moments become slices of common tensors, as their parameters are.

    Gradients are multiplied by their factors before the update, not in it: factors differ, and with a member
    less the others' sums must stay the same.

    Args:
        stack: The members' parameters.
        optimizers: The members', in order.
        most: Weights of several members that one call updates at most.
    """

    def __init__(self, stack: Stack, optimizers: Sequence[Adam], most: int = MOST):
        self.stack, self.members, self.most = stack, list(optimizers), most
        self.parameters = stack.parameters
        self.state = {name: self._join(name) for name in stack.parameters}
        one = stack.members[0]
        self.matrices = {n: Matrix(one, n, p, self.state[n]) for n, p in stack.parameters.items()}

    @torch.no_grad()
    def step(
        self,
        lrs: Sequence[float | None],
        factors: Sequence[float],
        idle: Bool[Tensor, "members d_sae"] | None = None,
    ) -> None:
        """As `Adam.step`."""
        if any(factor != 1 for factor in factors):
            scale = self.stack.per_member(factors)
            for p in self.parameters.values():
                if p.grad is not None:
                    p.grad *= scale.view(-1, *[1] * (p.ndim - 1))
        super().step(lrs, [1.0] * len(factors), idle)

    def _join(self, name: str) -> Moments:
        own = [one.state[name] for one in self.members]
        avg, avg_sq = join([one.exp_avg for one in own]), join([one.exp_avg_sq for one in own])
        last = torch.stack([one.last for one in own])
        for one, *parts in zip(own, avg, avg_sq, last, strict=True):
            one.exp_avg, one.exp_avg_sq, one.last = parts
        return Moments(own[0].step, avg, avg_sq, last)
