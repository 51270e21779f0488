"""The definition of every kernel, in plain torch. Faster ones must give the same numbers.

Weights are right-multiplied: `W_enc [d_in, d_sae]`, `W_dec [d_sae, d_out]`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def linear(
    x: Float[Tensor, "batch d_in"],
    W: Float[Tensor, "d_in d_sae"],
    b: Float[Tensor, " d_sae"],
    dtype: torch.dtype,
) -> Float[Tensor, "batch d_sae"]:
    """`x @ W + b`, the product taken in `dtype`, the result in the dtype of `W`."""
    if dtype == W.dtype:
        return torch.addmm(b, x, W)
    return (x.to(dtype) @ W.to(dtype)).to(W.dtype) + b


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
    z: Float[Tensor, "batch d_in"],
    W: Float[Tensor, "d_in d_sae"],
    b: Float[Tensor, " d_sae"],
    k: int,
    dtype: torch.dtype,
) -> tuple[Float[Tensor, "batch k"], Int[Tensor, "batch k"], Float[Tensor, "batch d_sae"]]:
    """`topk(linear(z, W, b, dtype), k)`, and the products before the bias, in `dtype`.

    Gradients flow through the values alone: the products are for `pick`, which has its own.
    """
    products = z.to(dtype) @ W.to(dtype)
    values, indices = topk(products.to(W.dtype) + b, k)
    return values, indices, products.detach()


def pick(
    products: Float[Tensor, "batch d_sae"],
    z: Float[Tensor, "batch d_in"],
    W: Float[Tensor, "d_in d_sae"],
    b: Float[Tensor, " d_sae"],
    latents: Int[Tensor, " n"],
) -> Float[Tensor, "batch n"]:
    """Some latents' pre-activations from the products of `encode_topk`, differentiable in z, W and b.

    Gradients are products in the dtype of `products`, as those of `linear` are.
    """
    dtype = products.dtype
    return (z.to(dtype) @ W[:, latents].to(dtype)).to(W.dtype) + b[latents]


def decode(
    values: Float[Tensor, "batch k"], indices: Int[Tensor, "batch k"], W_dec: Float[Tensor, "d_sae d_out"]
) -> Float[Tensor, "batch d_out"]:
    """`sum_k values[b, k] * W_dec[indices[b, k]]`: the dense product without its zeros."""
    return F.embedding_bag(indices, W_dec, per_sample_weights=values, mode="sum")
