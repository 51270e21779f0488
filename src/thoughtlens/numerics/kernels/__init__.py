"""Numerical kernels, chosen per call by device and dtype; `reference` defines them, signatures included."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor

from thoughtlens.numerics.kernels import reference
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

P = ParamSpec("P")
T = TypeVar("T")
WEIGHTS = ("W", "W_dec", "p", "pre_acts")
"""The argument whose device and dtype decide; it is given by position."""


def dispatched(definition: Callable[P, T]) -> Callable[P, T]:
    """The function of `reference`, computed by the kernel of that name which fits its weights."""
    names, kernel = list(inspect.signature(definition).parameters), definition.__name__
    place = next(i for i, name in enumerate(names) if name in WEIGHTS)

    @wraps(definition)
    def chosen(*args: P.args, **settings: P.kwargs) -> T:
        return getattr(backend(cast(Tensor, args[place])), kernel)(*args, **settings)

    return chosen


topk = dispatched(reference.topk)
encode_topk = dispatched(reference.encode_topk)
encode_relu = dispatched(reference.encode_relu)
encode_batchtopk = dispatched(reference.encode_batchtopk)
decode = dispatched(reference.decode)
decode_dense = dispatched(reference.decode_dense)
decode_error = dispatched(reference.decode_error)
grad_squares = dispatched(reference.grad_squares)
adam_rows = dispatched(reference.adam_rows)


def decode_acts(
    acts: Float[Tensor, "batch d_sae"] | RaggedActs,
    W_dec: Float[Tensor, "d_sae d_out"],
    dtype: torch.dtype,
) -> Float[Tensor, "batch d_out"]:
    """`acts @ W_dec` of what an encoding kernel returned; a dense product is taken in `dtype`."""
    if isinstance(acts, RaggedActs):
        return backend(W_dec).decode_ragged(acts, W_dec)
    return product(acts, W_dec, dtype)


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
