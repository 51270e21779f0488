"""Numerical kernels, chosen per call by device and dtype; `reference` defines them."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thoughtlens.numerics.kernels.choose import backend, name
from thoughtlens.numerics.kernels.ragged import RaggedActs
from thoughtlens.numerics.kernels.reference import AdamState, batch_topk, linear, product, squared_error

__all__ = [
    "AdamState",
    "RaggedActs",
    "acts_error",
    "adam_rows",
    "batch_topk",
    "decode",
    "decode_acts",
    "decode_dense",
    "decode_error",
    "encode_batchtopk",
    "encode_relu",
    "encode_topk",
    "grad_squares",
    "linear",
    "name",
    "product",
    "squared_error",
    "topk",
]


def topk(
    pre_acts: Float[Tensor, "batch d_sae"], k: int
) -> tuple[Float[Tensor, "batch k"], Int[Tensor, "batch k"]]:
    """See `reference.topk`."""
    return backend(pre_acts).topk(pre_acts, k)


def encode_topk(
    z: Float[Tensor, "*members batch d_in"],
    W: Float[Tensor, "*members d_in d_sae"],
    b: Float[Tensor, "*members d_sae"],
    k: int,
    dtype: torch.dtype,
    centre: Float[Tensor, "*members d_in"] | None = None,
) -> tuple[Float[Tensor, "*members batch k"], Int[Tensor, "*members batch k"]]:
    """See `reference.encode_topk`."""
    return backend(W).encode_topk(z, W, b, k, dtype, centre)


def encode_relu(
    z: Float[Tensor, "batch d_in"],
    centre: Float[Tensor, " d_in"] | None,
    W: Float[Tensor, "d_in d_sae"],
    b: Float[Tensor, " d_sae"],
    dtype: torch.dtype,
) -> tuple[Float[Tensor, "batch d_sae"] | RaggedActs, Float[Tensor, " d_sae"], Int[Tensor, " d_sae"]]:
    """See `reference.encode_relu`."""
    return backend(W).encode_relu(z, centre, W, b, dtype)


def encode_batchtopk(
    z: Float[Tensor, "batch d_in"],
    centre: Float[Tensor, " d_in"] | None,
    W: Float[Tensor, "d_in d_sae"],
    b: Float[Tensor, " d_sae"],
    k: int,
    dtype: torch.dtype,
) -> Float[Tensor, "batch d_sae"] | RaggedActs:
    """See `reference.encode_batchtopk`."""
    return backend(W).encode_batchtopk(z, centre, W, b, k, dtype)


def decode_dense(
    acts: Float[Tensor, "*batch d_sae"], W_dec: Float[Tensor, "d_sae d_out"]
) -> Float[Tensor, "*batch d_out"]:
    """See `reference.decode_dense`."""
    return backend(W_dec).decode_dense(acts, W_dec)


def decode_acts(
    acts: Float[Tensor, "batch d_sae"] | RaggedActs,
    W_dec: Float[Tensor, "d_sae d_out"],
    dtype: torch.dtype,
) -> Float[Tensor, "batch d_out"]:
    """`acts @ W_dec` of what an encoding kernel returned; a dense product is taken in `dtype`."""
    if isinstance(acts, RaggedActs):
        return backend(W_dec).decode_ragged(acts, W_dec)
    return product(acts, W_dec, dtype)


def decode_error(
    values: Float[Tensor, "*members batch k"],
    indices: Int[Tensor, "*members batch k"],
    W_dec: Float[Tensor, "*members d_sae d_out"],
    z: Float[Tensor, "*members batch d_out"],
    b_dec: Float[Tensor, "*members d_out"],
) -> tuple[Float[Tensor, "*members"], Float[Tensor, "*members batch d_out"]]:
    """See `reference.decode_error`."""
    return backend(W_dec).decode_error(values, indices, W_dec, z, b_dec)


def acts_error(
    acts: Float[Tensor, "batch d_sae"] | RaggedActs,
    W_dec: Float[Tensor, "d_sae d_out"],
    z: Float[Tensor, "batch d_out"],
    b_dec: Float[Tensor, " d_out"],
    dtype: torch.dtype,
) -> tuple[Float[Tensor, ""], Float[Tensor, "batch d_out"]]:
    """`reference.squared_error` of what an encoding kernel returned; a dense product is taken in `dtype`."""
    if isinstance(acts, RaggedActs):
        return backend(W_dec).ragged_error(acts, W_dec, z, b_dec)
    return backend(W_dec).dense_error(acts, W_dec, z, b_dec, dtype)


def decode(
    values: Float[Tensor, "batch k"], indices: Int[Tensor, "batch k"], W_dec: Float[Tensor, "d_sae d_out"]
) -> Float[Tensor, "batch d_out"]:
    """See `reference.decode`."""
    return backend(W_dec).decode(values, indices, W_dec)


def grad_squares(
    p: Float[Tensor, "n d"], grad: Float[Tensor, "n d"], idle: Bool[Tensor, " n"], unit_from: int
) -> Float[Tensor, " n"]:
    """See `reference.grad_squares`."""
    return backend(p).grad_squares(p, grad, idle, unit_from)


def adam_rows(
    p: Float[Tensor, "n d"],
    grad: Float[Tensor, "n d"],
    state: AdamState,
    idle: Bool[Tensor, " n"],
    **settings: Any,
) -> None:
    """See `reference.adam_rows`."""
    backend(p).adam_rows(p, grad, state, idle, **settings)
