"""How many bits a row takes when a dictionary describes it (after MDL-SAEs, arXiv:2410.11179)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float

from thoughtlens.core import DataError


class DescriptionLength(NamedTuple):
    """Bits a row, on average; sender and receiver have the dictionary."""

    which: float
    """Which latents fire: each latent by itself, at the entropy of how often it does."""
    values: float
    """How strongly: for each firing the rate of a Gaussian with the variance of what its latent writes."""
    residual: float
    """What is left: the rate of a Gaussian with the residual's second moments, along its principal axes."""

    @property
    def total(self) -> float:
        """Bits of a row, described up to the precision."""
        return self.which + self.values + self.residual


def description_length(
    residual: Float[np.ndarray, "rows d"], written: sp.csr_array, precision: float
) -> DescriptionLength:
    """Bits in which rows can be sent with a mean squared error of `precision` in each dimension.

    The rate of a Gaussian of variance v at the error D is max(0, log2(v / D) / 2). Unlike in the paper, which
    quantises to the coarsest step that a loss allows and sends no residual, every dictionary is held to one
    precision, so that a poor reconstruction is paid for in bits and settings can be compared by one number.

    Args:
        residual: What the reconstruction lacks, in units in which all dimensions count alike.
        written: [rows, latents], the length of what each latent writes, in the same units; 0: it is silent.
        precision: The error D.

    Raises:
        DataError: no rows, or another number of them on either side.
    """
    n, codes = len(residual), sp.coo_array(written)
    if not n or codes.shape is None or codes.shape[0] != n:
        raise DataError(f"Expected rows, as many residuals as codes, got {n} and {codes.shape}")
    latent, lengths, d_sae = codes.coords[1][codes.data != 0], codes.data[codes.data != 0], codes.shape[1]
    fires = np.bincount(latent, minlength=d_sae)
    mean = np.bincount(latent, lengths, d_sae) / np.maximum(fires, 1)
    variance = np.bincount(latent, (lengths - mean[latent]) ** 2, d_sae) / np.maximum(fires, 1)
    moments = residual.T.astype(np.float64) @ residual / n
    return DescriptionLength(
        which=float(_entropy(fires / n).sum()),
        values=float((fires / n * _rate(variance, precision)).sum()),
        residual=float(_rate(np.linalg.eigvalsh(moments), precision).sum()),
    )


def _entropy(p: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Bits of whether something of probability p happens."""
    inside = np.clip(p, 1e-300, 1 - 1e-16)
    return -(inside * np.log2(inside) + (1 - inside) * np.log2(1 - inside))


def _rate(variance: Float[np.ndarray, " n"], precision: float) -> Float[np.ndarray, " n"]:
    return np.log2(np.maximum(variance / precision, 1)) / 2
