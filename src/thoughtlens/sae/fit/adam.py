"""Adam over an SAE's parameters, aware of which latents had no part in a batch.

Not `torch.optim.Adam`: to construct one imports torch's compiler, which takes seconds and is not used, and
it knows neither idle latents nor decoder rows of length 1.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from thoughtlens.numerics import kernels
from thoughtlens.sae.base import SAE

EPS = 1e-8


class Adam:
    """Adam (Kingma and Ba 2015, arXiv:1412.6980).

    Parameters without a gradient are left alone, their moments too. `state` holds, by parameter, `step`
    (a float32 scalar), `exp_avg`, `exp_avg_sq`, and `last`, the step at which each latent's moments were
    last brought up to date (of a parameter that is not one slice a latent: one number).

    Args:
        sae: Its parameters are updated.
        betas: Decay of the two moments.
        lazy: Leave idle latents as they are, an approximation (`kernels.adam_rows`).
    """

    def __init__(self, sae: SAE, betas: tuple[float, float], lazy: bool = False):
        self.sae, self.betas, self.lazy = sae, betas, lazy
        self.parameters = dict(sae.named_parameters())
        for parameter in self.parameters.values():
            parameter.grad_dtype = None  # as the kernels leave it, which may be narrower
        self.state = {p: _zeros(p, len(self._rows(name, p))) for name, p in self.parameters.items()}

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None

    @torch.no_grad()
    def norm(self, idle: Bool[Tensor, " d_sae"] | None = None) -> Float[Tensor, ""]:
        """Length of all gradients together; W_dec's without its part along rows that keep length 1.

        Args:
            idle: Latents whose parameters all have a gradient of 0, which then is not read.
        """
        squares = []
        for name, p in self.parameters.items():
            if p.grad is not None:
                rows, grad = self._rows(name, p), self._rows(name, p.grad)
                own = kernels.grad_squares(
                    rows, grad, self._idle(name, rows, idle), self._unit_from(name, rows)
                )
                squares.append(own.sum(dtype=torch.float64))
        return torch.stack(squares).sum().sqrt().float()

    @torch.no_grad()
    def step(
        self,
        lr: float,
        *,
        factor: float = 1.0,
        unit: bool = False,
        idle: Bool[Tensor, " d_sae"] | None = None,
    ) -> None:
        """One update with learning rate `lr`, times `SAE.lr_factor` where a parameter has one.

        Args:
            lr: Learning rate.
            factor: Multiplies the gradients.
            unit: Decoder rows that keep length 1 move across themselves alone and are normalised.
            idle: As in `norm`.
        """
        for name, p in self.parameters.items():
            if p.grad is None:
                continue
            state, rows = self.state[p], self._rows(name, p)
            exp_avg, exp_avg_sq = (self._rows(name, state[key]) for key in ("exp_avg", "exp_avg_sq"))
            kernels.adam_rows(
                rows,
                self._rows(name, p.grad),
                kernels.AdamState(state["step"], exp_avg, exp_avg_sq, state["last"]),
                self._idle(name, rows, idle),
                lr=lr * self.sae.lr_factor.get(name, 1.0),
                betas=self.betas,
                eps=EPS,
                factor=factor,
                unit_from=self._unit_from(name, rows) if unit else None,
                lazy=self.lazy,
            )

    def _rows(self, name: str, t: Tensor) -> Float[Tensor, "n d"]:
        """A parameter, or what belongs to it, as a matrix over the same memory; a row a latent if it can."""
        axis = self.sae.latent_axis.get(name)
        if t.ndim == 1:
            return t[None]
        if axis == 1 and t.ndim == 2:
            return t.T
        return t.flatten(1) if axis == 0 else t.flatten(0, -2)

    def _unit_from(self, name: str, rows: Tensor) -> int:
        first = self.sae.unit_from if name == "W_dec" else None
        return len(rows) if first is None else first

    def _idle(self, name: str, rows: Tensor, idle: Bool[Tensor, " d_sae"] | None) -> Bool[Tensor, " n"]:
        """`idle` where a row is a latent; nobody elsewhere, however many rows there are."""
        if idle is not None and name in self.sae.latent_axis and self.parameters[name].ndim > 1:
            return idle
        return torch.zeros(len(rows), dtype=torch.bool, device=rows.device)


def _zeros(p: nn.Parameter, n_rows: int) -> dict[str, Tensor]:
    return {
        "step": torch.zeros((), dtype=torch.float32),
        "exp_avg": torch.zeros_like(p),
        "exp_avg_sq": torch.zeros_like(p),
        "last": torch.zeros(n_rows, dtype=torch.long, device=p.device),
    }
