"""CPU kernels for activations with a number of latents of its own on every row."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from thoughtlens.numerics.kernels import loops
from thoughtlens.numerics.kernels.cpu_rows import reconstructed, summed
from thoughtlens.numerics.kernels.host import array, share
from thoughtlens.numerics.kernels.ragged import RaggedActs

LANES_PER_K = 4
"""Lanes a row is dealt out over where the batch's largest are looked for, per latent kept on a row."""


def row_counts(
    products: Float[Tensor, "batch d_sae"], b: Float[Tensor, " d_sae"], least: float = 0.0
) -> np.ndarray:
    """On how many latents of each row `products + b` is above 0 and not below `least`."""
    counts = np.empty(len(products), np.int64)
    share(loops.count_above, len(products), array(products), array(b), np.float32(least), counts)
    return counts


def gathered(
    products: Float[Tensor, "batch d_sae"],
    b: Float[Tensor, " d_sae"],
    counts: np.ndarray,
    least: float = 0.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where each row's latents start, the latents that `row_counts` counted, and their pre-activations."""
    starts = np.concatenate([[0], np.cumsum(counts)])
    latents, values = np.empty(starts[-1], np.int64), np.empty(starts[-1], np.float32)
    pairs = (array(products), array(b), np.float32(least), starts, latents, values)
    share(loops.gather_above, len(products), *pairs)
    return starts, latents, values


def batch_largest(
    products: Float[Tensor, "batch d_sae"], b: Float[Tensor, " d_sae"], k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `gathered`, for the `k * batch` largest positive pre-activations of the batch.

    The maxima of lanes are as many different pre-activations, so that the `k * batch`th largest of them
    bounds that of all from below: only what reaches it is gathered and ranked.
    """
    n_kept, lanes = k * len(products), min(products.shape[1], LANES_PER_K * k)
    tops = np.empty((len(products), lanes), np.float32)
    share(loops.lane_maxima, len(products), array(products), array(b), tops)
    least = max(0.0, float(_nth_largest(tops.reshape(-1), n_kept)))
    starts, latents, values = gathered(products, b, row_counts(products, b, least), least)
    if len(values) <= n_kept:
        return starts, latents, values
    bound = _nth_largest(values, n_kept)
    kept = ~(values <= bound)
    kept[np.flatnonzero(values == bound)[: n_kept - kept.sum()]] = True
    return np.concatenate([[0], np.cumsum(kept)])[starts], latents[kept], values[kept]


def ragged(starts: np.ndarray, latents: np.ndarray, values: np.ndarray, d_sae: int) -> RaggedActs:
    """What `gathered` found, in both orders."""
    latent_starts, rows, places = loops.by_latent(loops.Pairs(values, latents, starts), d_sae)
    return RaggedActs(*(torch.from_numpy(a) for a in (values, latents, starts, rows, places, latent_starts)))


class EncodeRagged(torch.autograd.Function):
    """Gradients of activations that were found already, on the rows and latents where they are not 0."""

    @staticmethod
    def forward(
        ctx: Any, centred: Tensor, centre: Tensor | None, W: Tensor, b: Tensor, acts: RaggedActs
    ) -> tuple[Tensor, Tensor]:
        """The values, and each latent's sum over rows."""
        ctx.acts = acts
        ctx.save_for_backward(centred, W)
        ctx.set_materialize_grads(False)
        return acts.values.clone(), _totals(acts.values, acts)

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any, grad: Tensor | None, totals_grad: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        """Gradients in the centre, W and b."""
        centred, W = ctx.saved_tensors
        acts = ctx.acts
        grad = torch.zeros_like(acts.values) if grad is None else grad
        if totals_grad is not None:
            grad = grad + totals_grad[acts.latents]
        b_grad = _totals(grad, acts)
        centre_grad = -(W @ b_grad) if ctx.needs_input_grad[1] else None
        return None, centre_grad, _latent_sums(grad, acts, centred).T, b_grad, None


class DecodeRagged(torch.autograd.Function):
    """`x_hat[b] = sum of acts[b, i] * W_dec[i]` over the latents that fire, and its gradients."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, W_dec: Tensor, acts: RaggedActs) -> Tensor:
        """x_hat without its bias."""
        ctx.acts = acts
        ctx.save_for_backward(values, W_dec)
        return summed(loops.Pairs(array(values), array(acts.latents), array(acts.row_starts)), W_dec)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Gradients in the values and W_dec."""
        values, W_dec = ctx.saved_tensors
        acts, values_grad, W_grad = ctx.acts, None, None
        if ctx.needs_input_grad[0]:
            values_grad = torch.empty_like(values)
            pairs = (array(grad), array(acts.latents), array(acts.row_starts))
            share(loops.row_products, len(grad), *pairs, array(W_dec), array(values_grad))
        if ctx.needs_input_grad[1]:
            W_grad = _latent_sums(values, acts, grad)
        return values_grad, W_grad, None


class RaggedError(torch.autograd.Function):
    """The squared error of `DecodeRagged`: the gradient in the values is known, up to a factor, with it."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, W_dec: Tensor, z: Tensor, b_dec: Tensor, acts: RaggedActs
    ) -> tuple[Tensor, Tensor]:
        """The sum, and the residual."""
        pairs = loops.Pairs(array(values), array(acts.latents), array(acts.row_starts))
        squares, residual, products = reconstructed(pairs, W_dec, z, b_dec[None])
        ctx.acts = acts
        ctx.save_for_backward(values, residual, products)
        ctx.mark_non_differentiable(residual)
        return squares.sum(), residual

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Gradients in the values, W_dec and b_dec."""
        values, residual, products = ctx.saved_tensors
        factor = -2 * grad
        W_grad = _latent_sums(values * factor, ctx.acts, residual)
        return products * factor, W_grad, None, residual.sum(0) * factor, None


def _totals(values: Float[Tensor, " n"], acts: RaggedActs) -> Float[Tensor, " d_sae"]:
    """Each latent's sum."""
    out = torch.zeros(len(acts.latent_starts) - 1)
    return out.index_add_(0, acts.latents, values)


def _latent_sums(
    weights: Float[Tensor, " n"], acts: RaggedActs, x: Float[Tensor, "batch d"]
) -> Float[Tensor, "d_sae d"]:
    """Each latent's sum of `weights * x` over the rows it fires on."""
    places, rows, starts = (array(t) for t in (acts.places, acts.rows, acts.latent_starts))
    return summed(loops.Pairs(array(weights)[places], rows, starts), x)


def _nth_largest(values: np.ndarray, n: int) -> np.floating:
    return np.partition(values, len(values) - n)[len(values) - n]
