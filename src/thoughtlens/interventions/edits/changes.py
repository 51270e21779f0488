"""What a state can be changed to: all of these are written once, for vectors [batch, width]."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from thoughtlens.core import ConfigError
from thoughtlens.interventions.edits.places import Change
from thoughtlens.models import Place
from thoughtlens.sae import SAE, Baseline


def present(states: Float[Tensor, "n width"]) -> Float[Tensor, "k width"]:
    """Those of the problems that had this thought."""
    return states[~states.isnan().any(1)]


def mean_of(states: Float[Tensor, "n width"]) -> Change:
    """Every problem gets the mean of these states; where no problem had one, it keeps its own."""
    own = present(states)
    if not len(own):
        return Change(lambda x: x)
    mean = own.mean(0)
    return Change(lambda x: mean.to(x).expand_as(x))


def zero() -> Change:
    """Zeros, which no thought ever is: what breaks may break because of that."""
    return Change(torch.zeros_like)


def given(states: Float[Tensor, "n width"]) -> Change:
    """Problem i gets line i: another problem's state, or its twin's."""
    return Change(lambda x, new: new, (states,))


def add(vector: Float[Tensor, " width"]) -> Change:
    """x + vector."""
    return Change(lambda x: x + vector.to(x))


def along(
    unit: Float[Tensor, " width"], offset: float, *, value: float | None, scale: float | None
) -> Change:
    """The projection c = x . unit - offset becomes `value`, or `scale` times itself; all else of x stays."""

    def change(x: Tensor) -> Tensor:
        own = unit.to(x)
        c = x @ own - offset
        new = torch.full_like(c, value) if value is not None else c * (scale or 0.0)
        return x + (new - c)[..., None] * own

    return Change(change)


def reconstruct(model: SAE | Baseline, place: Place) -> Change:
    """x_hat, the model's reconstruction of x."""
    here = model.at(*place)
    return Change(lambda x: here(_to(model, x)))


def edit_latents(
    sae: SAE, place: Place, latents: Sequence[int], *, value: float | None, scale: float | None
) -> Change:
    """Latents set to `value`, or multiplied by `scale`; what the SAE leaves unexplained stays as it is.

    x' = x + decode(acts') - decode(acts): the residual x - x_hat is kept, so that latents which
    keep their activations change nothing at all.
    """

    here, chosen = sae.at(*place), list(latents)

    def change(x: Tensor) -> Tensor:
        x = _to(sae, x)
        acts = here.encode(x)
        new = acts.clone()
        old = acts[:, chosen]
        new[:, chosen] = torch.full_like(old, value) if value is not None else old * (scale or 0.0)
        difference = here.decode(new, x) - here.decode(acts, x)
        return torch.where((new == acts).all(1, keepdim=True), x, x + difference)

    return Change(change)


def random_like(change: Change, n: int, width: int, generator: torch.Generator) -> Change:
    """As large as `change` in every problem, in a random direction of each problem's own.

    What remains of an effect under this control belongs to the size of the edit, not to its direction.
    """
    directions = torch.randn(n, width, generator=generator)
    directions /= directions.norm(dim=1, keepdim=True)

    def fn(x: Tensor, direction: Tensor, *rows: Tensor) -> Tensor:
        size = (change.fn(x, *rows).to(x) - x).norm(dim=-1, keepdim=True)
        return x + size * direction.to(x)

    return Change(fn, (directions, *change.rows))


def spread(states: Float[Tensor, "n width"]) -> float:
    """The length of a typical deviation: sqrt(mean |x - mean|^2)."""
    wide = present(states).double()
    return float((wide - wide.mean(0)).square().sum(1).mean().sqrt())


def require_finite(states: Float[Tensor, "n width"], vector: Float[Tensor, " width"], dose: float) -> None:
    """Refuse a dose whose square is more than the model's number format holds: norms would overflow.

    Raises:
        ConfigError: says the largest dose that fits.
    """
    limit = torch.finfo(states.dtype).max ** 0.5 / 2
    length = float(vector.double().norm())
    largest = float(present(states).double().norm(dim=1).max())
    if not np.isfinite(length) or not np.isfinite(dose):
        raise ConfigError(f"Expected a finite direction and dose, got length {length} and dose {dose}")
    if length > limit - largest:
        room = abs(dose) * (limit - largest) / length
        raise ConfigError(
            f"Dose {dose:g} moves a state by {length:.3g}, whose square overflows {states.dtype}; "
            f"the largest dose that fits is {room:.3g}"
        )


def derangement(n: int, rng: np.random.Generator) -> Int[np.ndarray, " n"]:
    """A random other row for every row."""
    order = rng.permutation(n)
    out = np.empty(n, dtype=int)
    out[order] = np.roll(order, 1)
    return out


def _to(model: SAE | Baseline, x: Tensor) -> Tensor:
    """x where the model is, as it wants it."""
    tensors = itertools.chain(model.parameters(), model.buffers())
    return x.to(next((t.device for t in tensors), x.device), torch.float32)
