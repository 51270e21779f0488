"""What a probe minimises: mean log-loss of classes, or mean squared error of a number, each on some rows."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import scipy.special
from jaxtyping import Bool, Float, Int

SMALLEST = 1e-12
"""Probability below which a log-loss counts no further."""


class Loss(ABC):
    """The mean loss of p problems on the same n rows; problem j counts the rows `kept[:, j]` only."""

    n_outputs: int

    def __init__(self, kept: Bool[np.ndarray, "n p"]) -> None:
        self.kept = kept
        self.n_rows = kept.sum(0).astype(float)
        self.weight = kept / self.n_rows

    @abstractmethod
    def __call__(
        self, outputs: Float[np.ndarray, "n q k"], which: Int[np.ndarray, " q"]
    ) -> tuple[Float[np.ndarray, " q"], Float[np.ndarray, "n q k"]]:
        """Losses of the problems `which` at these outputs, and their derivatives by the outputs."""

    @abstractmethod
    def second(self, outputs: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
        """Second derivatives of every row's loss by each of its outputs."""

    @abstractmethod
    def rows(self, outputs: Float[np.ndarray, "n k"]) -> Float[np.ndarray, " n"]:
        """Every row's loss, as it is reported."""


class LogLoss(Loss):
    """-ln p(true class), p the softmax of the outputs; nats."""

    def __init__(self, y: Int[np.ndarray, " n"], kept: Bool[np.ndarray, "n p"], n_classes: int) -> None:
        super().__init__(kept)
        self.y, self.n_outputs = y, n_classes

    def __call__(
        self, outputs: Float[np.ndarray, "n q k"], which: Int[np.ndarray, " q"]
    ) -> tuple[Float[np.ndarray, " q"], Float[np.ndarray, "n q k"]]:
        """As `Loss`; `outputs` is overwritten."""
        units = np.arange(len(self.y))
        weight = self.weight[:, which]
        outputs -= outputs.max(2, keepdims=True)
        right = outputs[units, :, self.y].copy()
        np.exp(outputs, out=outputs)
        total = outputs.sum(2)
        value = (weight * (np.log(total) - right)).sum(0)
        outputs *= (weight / total)[:, :, None]
        outputs[units, :, self.y] -= weight
        return value, outputs

    def second(self, outputs: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
        """p (1 - p)."""
        proba = scipy.special.softmax(outputs, axis=1)
        return proba * (1 - proba)

    def rows(self, outputs: Float[np.ndarray, "n k"]) -> Float[np.ndarray, " n"]:
        """-ln p(true class) of every row."""
        proba = scipy.special.softmax(outputs, axis=1)
        return -np.log(np.maximum(proba[np.arange(len(self.y)), self.y], SMALLEST))


class SquaredLoss(Loss):
    """(y - output)^2 / 2, y in units of its standard deviation."""

    n_outputs = 1

    def __init__(self, y: Float[np.ndarray, " n"], kept: Bool[np.ndarray, "n p"]) -> None:
        super().__init__(kept)
        self.y = y

    def __call__(
        self, outputs: Float[np.ndarray, "n q k"], which: Int[np.ndarray, " q"]
    ) -> tuple[Float[np.ndarray, " q"], Float[np.ndarray, "n q k"]]:
        """As `Loss`."""
        miss = outputs[:, :, 0] - self.y[:, None]
        slope = self.weight[:, which] * miss
        return (slope * miss).sum(0) / 2, slope[:, :, None]

    def second(self, outputs: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
        """1."""
        return np.ones_like(outputs)

    def rows(self, outputs: Float[np.ndarray, "n k"]) -> Float[np.ndarray, " n"]:
        """Half the squared error of every row."""
        return (outputs[:, 0] - self.y) ** 2 / 2
