"""Arithmetic of the formats' own rules, in float64 and a block of latents at a time.

Each format states its forward pass with these, from the tensors as its files hold them, so that a
conversion is checked against code that shares nothing with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from jaxtyping import Float
from torch import Tensor

from thoughtlens.sae.formats.portable import Pursuit

BLOCK = 1024
"""Latents converted to float64 at once: a whole SAE need not fit into memory twice."""
LN_EPS = 1e-5


@dataclass(frozen=True)
class Forward:
    """What an SAE makes of some rows."""

    acts: Float[Tensor, "n d_sae"]
    x_hat: Float[Tensor, "n d_out"]


def held(tensors: Mapping[str, Tensor]) -> SimpleNamespace:
    """A file's tensors, `encoder.weight` as `encoder_weight`: matrices as they are, all else in float64."""
    pairs = tensors.items()
    return SimpleNamespace(**{name.replace(".", "_"): t.double() if t.ndim < 2 else t for name, t in pairs})


def onto(x: Float[Tensor, "n d"], weight: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """`x @ weight.T`."""
    return torch.cat([x @ block.double().T for block in weight.split(BLOCK)], dim=1)


def onto_columns(x: Float[Tensor, "n d"], weight: Float[Tensor, "d m"]) -> Float[Tensor, "n m"]:
    """`x @ weight`."""
    return torch.cat([x @ block.double() for block in weight.split(BLOCK, dim=1)], dim=1)


def weighted_rows(acts: Float[Tensor, "n m"], weight: Float[Tensor, "m d"]) -> Float[Tensor, "n d"]:
    """`acts @ weight`."""
    total = acts.new_zeros(len(acts), weight.shape[1])
    for part, block in zip(acts.split(BLOCK, dim=1), weight.split(BLOCK), strict=True):
        total += part @ block.double()
    return total


def weighted_columns(acts: Float[Tensor, "n m"], weight: Float[Tensor, "d m"]) -> Float[Tensor, "n d"]:
    """`acts @ weight.T`."""
    total = acts.new_zeros(len(acts), weight.shape[0])
    for part, block in zip(acts.split(BLOCK, dim=1), weight.split(BLOCK, dim=1), strict=True):
        total += part @ block.double().T
    return total


def largest(scores: Float[Tensor, "n m"], k: int) -> Float[Tensor, "n m"]:
    """1 at each row's k largest, 0 elsewhere."""
    return torch.zeros_like(scores).scatter(1, scores.topk(k, dim=1).indices, 1.0)


def layer_norm(
    x: Float[Tensor, "n d"],
) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n 1"], Float[Tensor, "n 1"]]:
    """`(x - mean) / (std + 1e-5)` of each row, with the unbiased std; and mean and std."""
    mean = x.mean(1, keepdim=True)
    std = (x - mean).std(1, keepdim=True)
    return (x - mean) / (std + LN_EPS), mean, std


def pursue(x: Float[Tensor, "n d"], weight: Float[Tensor, "m d"], settings: Pursuit) -> Float[Tensor, "n m"]:
    """Matching pursuit as SAELens runs it: the latent nearest to the residual takes what it explains.

    A row stops when its residual is shorter than `residual_threshold` (default 0.01), or when a step
    brings no new latent; after `max_iterations` (default d) all do.
    """
    residual_threshold, max_iterations, stop_on_duplicate_support = settings
    shortest = 1e-2 if residual_threshold is None else residual_threshold
    acts = x.new_zeros(len(x), len(weight))
    going = torch.ones(len(x), 1, dtype=torch.bool)
    for _ in range(x.shape[1] if max_iterations is None else max_iterations):
        best = onto(x, weight).relu().argmax(1)
        rows = weight[best].double()
        value = (x * rows).sum(1, keepdim=True).relu() * going
        known = acts.gather(1, best[:, None]) != 0
        acts.scatter_add_(1, best[:, None], value)
        x = x - value * rows
        if stop_on_duplicate_support is not False:
            going &= ~known & (acts.gather(1, best[:, None]) != 0)
        if shortest > 0:
            going &= x.norm(dim=1, keepdim=True) >= shortest
        if not going.any():
            break
    return acts
