"""Selection, sums and products of the rows in use, on a CPU: the loops of `loops.py` over all threads."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from thoughtlens.numerics.kernels import loops
from thoughtlens.numerics.kernels.host import array, share


def select(
    products: Float[Tensor, "batch d_sae"], b: Float[Tensor, "members d_sae"], k: int
) -> tuple[Float[Tensor, "batch k"], Int[Tensor, "batch k"]]:
    """Each row's k largest of `relu(products + b)` without sorting, and their latents.

    Rows are dealt out evenly over the members, in order.
    """
    values = torch.empty(len(products), k)
    indices = torch.empty(len(products), k, dtype=torch.long)
    share(loops.select, len(products), array(products), array(b), k, array(values), array(indices))
    return values, indices


def weighted_rows(
    weights: Float[Tensor, "batch k"], indices: Int[Tensor, "batch k"], rows: Float[Tensor, "n d"]
) -> Float[Tensor, "batch d"]:
    """`sum_k weights[b, k] * rows[indices[b, k]]`."""
    out = torch.empty(len(weights), rows.shape[1])
    arrays = (array(weights), array(indices), array(rows), array(out))
    share(loops.weighted_rows, len(weights), *arrays)
    return out


def row_products(
    x: Float[Tensor, "batch d"], indices: Int[Tensor, "batch k"], rows: Float[Tensor, "n d"]
) -> Float[Tensor, "batch k"]:
    """`x[b] . rows[indices[b, k]]`."""
    out = torch.empty(indices.shape)
    starts = _even(indices)
    arrays = (array(x), array(indices).reshape(-1), starts, array(rows), array(out).reshape(-1))
    share(loops.row_products, len(x), *arrays)
    return out


def reconstruct(
    values: Float[Tensor, "batch k"],
    indices: Int[Tensor, "batch k"],
    W_dec: Float[Tensor, "n d"],
    z: Float[Tensor, "batch d"],
    b_dec: Float[Tensor, "members d"],
) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch d"], Float[Tensor, "batch k"]]:
    """Sum of squares and residual of each row, rows dealt out evenly over the members, in order; and the
    residual's products with the rows of W_dec in use."""
    squares, residual, products = reconstructed(_pairs(values, indices), W_dec, z, b_dec)
    return squares, residual, products.view_as(values)


def latent_rows(
    weights: Float[Tensor, "batch k"],
    values: Float[Tensor, "batch k"],
    indices: Int[Tensor, "batch k"],
    x: Float[Tensor, "batch d"],
    n_latents: int,
) -> Float[Tensor, "n_latents d"]:
    """`sum of weights[b, k] * x[b]` over the pairs with `indices[b, k] = i` and a value other than 0."""
    starts, row, place = loops.by_latent(_pairs(values, indices), n_latents)
    return summed(loops.Pairs(array(weights).reshape(-1)[place], row, starts), x)


def summed(pairs: loops.Pairs, rows: Float[Tensor, "n d"]) -> Float[Tensor, "m d"]:
    """Row i: the sum of `values[p] * rows[used[p]]` over its pairs p."""
    out = torch.empty(len(pairs.starts) - 1, rows.shape[1])
    share(loops.sum_rows, len(out), pairs, array(rows), array(out))
    return out


def reconstructed(
    pairs: loops.Pairs,
    W_dec: Float[Tensor, "n d"],
    z: Float[Tensor, "batch d"],
    b_dec: Float[Tensor, "members d"],
) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch d"], Float[Tensor, " n_pairs"]]:
    """What `loops.reconstruct` finds: sums of squares, residuals, and their products with decoder rows."""
    residual, squares, products = torch.empty_like(z), torch.empty(len(z)), torch.empty(len(pairs.values))
    errors = loops.Errors(array(residual), array(products), array(squares))
    share(loops.reconstruct, len(z), pairs, array(W_dec), array(z), array(b_dec), errors)
    return squares, residual, products


def _pairs(values: Float[Tensor, "batch k"], indices: Int[Tensor, "batch k"]) -> loops.Pairs:
    return loops.Pairs(array(values).reshape(-1), array(indices).reshape(-1), _even(indices))


def _even(indices: Int[Tensor, "batch k"]) -> np.ndarray:
    """Where each row's pairs start, and where the last one's end."""
    return np.arange(len(indices) + 1) * indices.shape[1]
