"""The definition of every kernel, in plain torch. Faster ones must give the same numbers.

Weights are right-multiplied: `W_enc [d_in, d_sae]`, `W_dec [d_sae, d_out]`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thoughtlens.numerics.kernels.ragged import RaggedActs


@dataclass(frozen=True)
class AdamState:
    """What Adam keeps of a matrix; everything is changed in place."""

    step: Float[Tensor, ""]
    """Steps done, on the CPU."""
    exp_avg: Float[Tensor, "n d"]
    exp_avg_sq: Float[Tensor, "n d"]
    last: Int[Tensor, " n"]
    """The step at which each row's moments were last brought up to date; 0: they are still 0."""


def linear(
    x: Float[Tensor, "batch d_in"],
    W: Float[Tensor, "d_in d_sae"],
    b: Float[Tensor, " d_sae"],
    dtype: torch.dtype,
) -> Float[Tensor, "batch d_sae"]:
    """`x @ W + b`, the product taken in `dtype`, the result in the dtype of `W`."""
    if dtype == W.dtype:
        return torch.addmm(b, x, W)
    return product(x, W, dtype) + b


def product(
    x: Float[Tensor, "*batch a"], W: Float[Tensor, "*members a b"], dtype: torch.dtype
) -> Float[Tensor, "*batch b"]:
    """`x @ W` taken in `dtype`, in the dtype of `W`."""
    return (x.to(dtype) @ W.to(dtype)).to(W.dtype)


def topk(
    pre_acts: Float[Tensor, "batch d_sae"], k: int
) -> tuple[Float[Tensor, "batch k"], Int[Tensor, "batch k"]]:
    """Each row's k largest pre-activations after a ReLU, and their latents, in no order.

    Where fewer than k are positive the values are padded with 0, on any latents. Which of several equal
    ones are kept is left open.
    """
    values, indices = pre_acts.topk(k, dim=-1, sorted=False)
    return values.relu(), indices


def encode_topk(
    z: Float[Tensor, "*members batch d_in"],
    W: Float[Tensor, "*members d_in d_sae"],
    b: Float[Tensor, "*members d_sae"],
    k: int,
    dtype: torch.dtype,
    centre: Float[Tensor, "*members d_in"] | None = None,
) -> tuple[Float[Tensor, "*members batch k"], Int[Tensor, "*members batch k"]]:
    """`topk(linear(z - centre, W, b, dtype), k)`.

    With a leading dimension of members each has its own rows and weights; their latents are counted through,
    as rows of `W_dec.flatten(0, 1)`.
    """
    centred = z if centre is None else z - centre[..., None, :]
    products = centred.to(dtype) @ W.to(dtype)
    values, indices = topk((products.to(W.dtype) + b[..., None, :]).flatten(0, -2), k)
    return counted_through(values, indices, products.shape)


def counted_through(
    values: Float[Tensor, "rows k"], indices: Int[Tensor, "rows k"], shape: Sequence[int]
) -> tuple[Float[Tensor, "*members batch k"], Int[Tensor, "*members batch k"]]:
    """What was selected from `[*members, batch, d_sae]`, in that shape, latents counted through."""
    *members, batch, d_sae = shape
    if members:
        firsts = d_sae * torch.arange(math.prod(members), device=indices.device).repeat_interleave(batch)
        indices = indices + firsts[:, None]
    return values.view(*shape[:-1], -1), indices.view(*shape[:-1], -1)


def encode_relu(
    z: Float[Tensor, "batch d_in"],
    centre: Float[Tensor, " d_in"] | None,
    W: Float[Tensor, "d_in d_sae"],
    b: Float[Tensor, " d_sae"],
    dtype: torch.dtype,
) -> tuple[Float[Tensor, "batch d_sae"] | RaggedActs, Float[Tensor, " d_sae"], Int[Tensor, " d_sae"]]:
    """`relu(linear(z - centre, W, b, dtype))` in `dtype`, its sum over rows, and how many rows fire.

    The input is taken as fixed: gradients reach `centre`, W and b. A kernel may return the activations as
    `RaggedActs`, in the dtype of W: what is done with them then must be the same for all that are 0.
    """
    centred = z.detach() if centre is None else z.detach() - centre
    acts = linear(centred, W, b, dtype).relu().to(dtype)
    return acts, acts.sum(0, dtype=W.dtype), (acts != 0).sum(0)


def encode_batchtopk(
    z: Float[Tensor, "batch d_in"],
    centre: Float[Tensor, " d_in"] | None,
    W: Float[Tensor, "d_in d_sae"],
    b: Float[Tensor, " d_sae"],
    k: int,
    dtype: torch.dtype,
) -> Float[Tensor, "batch d_sae"] | RaggedActs:
    """`batch_topk(linear(z - centre, W, b, dtype), k)`; gradients and what may come back as `encode_relu`.

    A kernel may return them in `dtype`.
    """
    centred = z.detach() if centre is None else z.detach() - centre
    return batch_topk(linear(centred, W, b, dtype), k)


def batch_topk(pre_acts: Float[Tensor, "batch d_sae"], k: int) -> Float[Tensor, "batch d_sae"]:
    """All but the batch's `k * batch` largest set to 0, then a ReLU.

    Which of several equal ones are kept is left open.
    """
    values, indices = pre_acts.flatten().topk(k * len(pre_acts), sorted=False)
    kept = torch.zeros_like(pre_acts).flatten().scatter(0, indices, values.relu())
    return kept.view_as(pre_acts)


def decode(
    values: Float[Tensor, "batch k"], indices: Int[Tensor, "batch k"], W_dec: Float[Tensor, "d_sae d_out"]
) -> Float[Tensor, "batch d_out"]:
    """`sum_k values[b, k] * W_dec[indices[b, k]]`: the dense product without its zeros."""
    return F.embedding_bag(indices, W_dec, per_sample_weights=values, mode="sum")


def decode_dense(
    acts: Float[Tensor, "*batch d_sae"], W_dec: Float[Tensor, "d_sae d_out"]
) -> Float[Tensor, "*batch d_out"]:
    """`acts @ W_dec`. A kernel may leave out what is 0 where nothing is differentiated."""
    return acts @ W_dec


def decode_ragged(acts: RaggedActs, W_dec: Float[Tensor, "d_sae d_out"]) -> Float[Tensor, "batch d_out"]:
    """`acts.to_dense(d_sae) @ W_dec`; its gradient in the activations is that in those that are not 0."""
    return acts.to_dense(len(W_dec)) @ W_dec


def decode_error(
    values: Float[Tensor, "*members batch k"],
    indices: Int[Tensor, "*members batch k"],
    W_dec: Float[Tensor, "*members d_sae d_out"],
    z: Float[Tensor, "*members batch d_out"],
    b_dec: Float[Tensor, "*members d_out"],
) -> tuple[Float[Tensor, "*members"], Float[Tensor, "*members batch d_out"]]:
    """`squared_error` of `decode`; members as in `encode_topk`, whose latents are counted through."""
    decoded = decode(values.flatten(0, -2), indices.flatten(0, -2), W_dec.flatten(0, -2))
    return squared_error(z, decoded.view_as(z), b_dec)


def ragged_error(
    acts: RaggedActs,
    W_dec: Float[Tensor, "d_sae d_out"],
    z: Float[Tensor, "batch d_out"],
    b_dec: Float[Tensor, " d_out"],
) -> tuple[Float[Tensor, ""], Float[Tensor, "batch d_out"]]:
    """`squared_error` of `decode_ragged`."""
    return squared_error(z, decode_ragged(acts, W_dec), b_dec)


def dense_error(
    acts: Float[Tensor, "batch d_sae"],
    W_dec: Float[Tensor, "d_sae d_out"],
    z: Float[Tensor, "batch d_out"],
    b_dec: Float[Tensor, " d_out"],
    dtype: torch.dtype,
) -> tuple[Float[Tensor, ""], Float[Tensor, "batch d_out"]]:
    """`squared_error` of the dense product in `dtype`."""
    return squared_error(z, product(acts, W_dec, dtype), b_dec)


def squared_error(
    z: Float[Tensor, "*members batch d_out"],
    decoded: Float[Tensor, "*members batch d_out"],
    b_dec: Float[Tensor, "*members d_out"],
) -> tuple[Float[Tensor, "*members"], Float[Tensor, "*members batch d_out"]]:
    """Sum of squares of the residual `z - (decoded + b_dec)`, and the residual, as a constant.

    The target z is taken as fixed: gradients reach `decoded` and `b_dec`.
    """
    residual = z.detach() - (decoded + b_dec[..., None, :])
    return residual.square().sum((-2, -1)), residual.detach()


def grad_squares(
    p: Float[Tensor, "n d"], grad: Float[Tensor, "n d"], idle: Bool[Tensor, " n"], unit_from: int
) -> Float[Tensor, " n"]:
    """Sum of squares of each row of a gradient; from row `unit_from` on, of what `across` leaves of it.

    It may be in a narrower dtype than p, as dense products leave it. Rows that are `idle` have a gradient of
    0, and are not read.
    """
    return torch.where(idle[:, None], 0, across(p, grad, unit_from)).square().sum(1)


def adam_rows(
    p: Float[Tensor, "n d"],
    grad: Float[Tensor, "n d"],
    state: AdamState,
    idle: Bool[Tensor, " n"],
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    factor: float = 1.0,
    unit_from: int | None = None,
    lazy: bool = False,
) -> None:
    """One step of Adam (Kingma and Ba 2015, arXiv:1412.6980) in place on a matrix, row by row.

    The gradient is multiplied by `factor`. Rows from `unit_from` on move across themselves alone, and have
    length 1 afterwards; None: no row. Rows that are `idle` have a gradient of 0, which is not read; those
    that never had another are left as they are, as Adam would leave them.

    With `lazy` all idle rows are left as they are: an approximation. Their moments decay by the steps missed
    when the row is next updated, but the moves in between are left out, in all at most
    `lr / (1 - beta1^t) * |exp_avg| / exp_avg_sq^0.5 * r / (1 - r)` an entry, where `r = beta1 / beta2^0.5`
    (0.9 and 0.999: 9.05) and t and the moments are those of the last step done.
    """
    unit_from = len(p) if unit_from is None else unit_from
    state.step.add_(1)
    step = int(state.step)
    moved = ~idle if lazy else ~idle | (state.last > 0)
    missed = (step - 1 - state.last)[:, None].to(p.dtype)
    grad = factor * torch.where(idle[:, None], 0, across(p, grad, unit_from))
    exp_avg = betas[0] ** (1 + missed) * state.exp_avg + (1 - betas[0]) * grad
    exp_avg_sq = betas[1] ** (1 + missed) * state.exp_avg_sq + (1 - betas[1]) * grad.square()
    root = exp_avg_sq.sqrt() / (1 - betas[1] ** step) ** 0.5
    new = p - lr / (1 - betas[0] ** step) * exp_avg / (root + eps)
    new[unit_from:] /= new[unit_from:].norm(dim=1, keepdim=True).clamp_min(1e-12)
    for old, value in ((p, new), (state.exp_avg, exp_avg), (state.exp_avg_sq, exp_avg_sq)):
        old.copy_(torch.where(moved[:, None], value, old))
    state.last.masked_fill_(moved, step)


def across(p: Float[Tensor, "n d"], grad: Float[Tensor, "n d"], unit_from: int) -> Float[Tensor, "n d"]:
    """A gradient without its part along each row from `unit_from` on (Bricken et al. 2023, appendix)."""
    grad = grad.to(p.dtype)
    along = (grad[unit_from:] * p[unit_from:]).sum(1, keepdim=True)
    return torch.cat([grad[:unit_from], grad[unit_from:] - along * p[unit_from:]])
