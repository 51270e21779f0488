"""Models that a probe fits: outputs linear in a row's features, or in its cells' weighted mean."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from thoughtlens.evals.probing.losses import Loss
from thoughtlens.evals.probing.minimize import minimize

SMALL = 1e-9
"""Curvature of a variable that nothing depends on."""


class Model(ABC):
    """Outputs of n rows for many problems that share the features."""

    tolerance: float = 1e-4
    """Largest entry of the gradient, in the scaled variables, at which a fit ends."""

    @abstractmethod
    def n_variables(self, k: int) -> int:
        """Variables of a problem with k outputs."""

    @abstractmethod
    def start(self, k: int) -> Float[np.ndarray, " m"]:
        """Where to begin."""

    @abstractmethod
    def curvature(self, second: Float[np.ndarray, "n k"]) -> Float[np.ndarray, " m"]:
        """The loss's second derivative by each variable, roughly, from those by the outputs of each row."""

    @abstractmethod
    def penalized(self, k: int) -> Float[np.ndarray, " m"]:
        """1 for variables that the L2 penalty counts, 0 for others."""

    @abstractmethod
    def forward(
        self, theta: Float[np.ndarray, "m q"], k: int, which: Int[np.ndarray, " q"]
    ) -> tuple[Float[np.ndarray, "n q k"], Any]:
        """Outputs, and what `backward` needs."""

    @abstractmethod
    def backward(self, slope: Float[np.ndarray, "n q k"], kept: Any) -> Float[np.ndarray, "m q"]:
        """Gradients by the variables from those by the outputs."""


class Linear(Model):
    """outputs = Z @ W + b, with features Z shared by the problems, or Z of each problem's own."""

    def __init__(self, Z: Float[np.ndarray, "n r"] | Float[np.ndarray, "p n r"]) -> None:
        self.Z, self.r = Z, Z.shape[-1]

    def n_variables(self, k: int) -> int:
        """Weights [r, k], then k intercepts."""
        return (self.r + 1) * k

    def start(self, k: int) -> Float[np.ndarray, " m"]:
        """Zeros."""
        return np.zeros(self.n_variables(k))

    def curvature(self, second: Float[np.ndarray, "n k"]) -> Float[np.ndarray, " m"]:
        """Exact: squares of the features, weighted."""
        Z = self.Z if self.Z.ndim == 2 else self.Z[-1]
        return np.concatenate([((Z * Z).T @ second).ravel(), second.sum(0)])

    def penalized(self, k: int) -> Float[np.ndarray, " m"]:
        """Weights, not intercepts."""
        return np.repeat(np.append(np.ones(self.r), 0.0), k)

    def forward(
        self, theta: Float[np.ndarray, "m q"], k: int, which: Int[np.ndarray, " q"]
    ) -> tuple[Float[np.ndarray, "n q k"], Any]:
        """One product over all problems where they share Z."""
        q = theta.shape[1]
        W = theta[: self.r * k].reshape(self.r, k, q)
        bias = theta[self.r * k :].T
        if self.Z.ndim == 2:
            out = (self.Z @ W.transpose(0, 2, 1).reshape(self.r, q * k)).reshape(-1, q, k)
        else:
            out = np.matmul(self.Z[which], W.transpose(2, 0, 1)).transpose(1, 0, 2)
        return out + bias, which

    def backward(self, slope: Float[np.ndarray, "n q k"], kept: Any) -> Float[np.ndarray, "m q"]:
        """The same the other way."""
        n, q, k = slope.shape
        if self.Z.ndim == 2:
            weights = (self.Z.T @ slope.reshape(n, q * k)).reshape(self.r, q, k).transpose(0, 2, 1)
        else:
            own = self.Z[kept]
            weights = np.matmul(own.transpose(0, 2, 1), slope.transpose(1, 0, 2)).transpose(1, 2, 0)
        return np.concatenate([weights.reshape(self.r * k, q), slope.sum(0).T])


@dataclass(frozen=True, eq=False)
class Fit:
    """One value of C: the problems' variables, their outputs on all rows, and how many did not converge."""

    c: float
    theta: Float[np.ndarray, "m p"]
    outputs: Float[np.ndarray, "n p k"]
    n_late: int


def path(model: Model, loss: Loss, grid: Sequence[float], max_iter: int) -> Iterator[Fit]:
    """Fits of mean loss + |W|^2 / (2 C n) for each C in turn, each begun where the one before ended.

    Variables are divided by the root of their curvature where the fit begins: on principal axes that
    leaves L-BFGS few steps to go.
    """
    k, p = loss.n_outputs, loss.kept.shape[1]
    everyone, penalized = np.arange(p), model.penalized(k)
    theta = np.repeat(model.start(k)[:, None], p, axis=1)
    outputs = model.forward(theta, k, everyone)[0]
    for c in grid:
        strength = penalized[:, None] / (c * loss.n_rows)
        curvature = model.curvature(loss.second(outputs[:, -1]) / len(outputs))
        unit = 1 / np.sqrt(curvature + strength.mean(1) + SMALL)[:, None]

        def evaluate(
            x: np.ndarray, which: np.ndarray, unit: np.ndarray = unit, strength: np.ndarray = strength
        ) -> tuple[np.ndarray, np.ndarray]:
            variables, ridge = x * unit, strength[:, which]
            outputs, kept = model.forward(variables, k, which)
            value, slope = loss(outputs, which)
            value += (ridge * variables**2).sum(0) / 2
            return value, (model.backward(slope, kept) + ridge * variables) * unit

        x, late = minimize(evaluate, theta / unit, tolerance=model.tolerance, max_iter=max_iter)
        theta = x * unit
        outputs = model.forward(theta, k, everyone)[0]
        yield Fit(c, theta, outputs, int(late.sum()))
