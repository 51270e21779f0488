"""Sparse logistic regression over token windows, position, hook, thought, number size and labels."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int

from thoughtlens.latents.explain.columns import Columns, Table
from thoughtlens.latents.explain.fitting import rows_of, sample, screen
from thoughtlens.latents.explain.scores import auprc

N_COLUMNS = 200
"""Columns that enter the fit, by `screen`."""
STRENGTHS = (0.03, 0.3, 3.0)
"""scikit-learn's C; the one that foretells the validation problems best is kept."""
SHOWN = 8
LASSO: dict[str, Any] = (
    {"l1_ratio": 1.0}
    if tuple(map(int, metadata.version("scikit-learn").split(".")[:2])) >= (1, 8)
    else {"penalty": "l1"}
)
"""How the installed scikit-learn is asked for an L1 penalty."""


@dataclass(frozen=True, eq=False)
class SparseLogistic:
    """P(fires) from a few columns; `numbers` are standardised by the fitting vectors."""

    columns: Int[np.ndarray, " columns"]
    coefficients: Float[np.ndarray, " columns"]
    number_coefficients: Float[np.ndarray, " numbers"]
    mean: Float[np.ndarray, " numbers"]
    scale: Float[np.ndarray, " numbers"]
    intercept: float

    def predict(self, table: Table) -> Float[np.ndarray, " n"]:
        """P(fires) of every vector."""
        assert table.binary.shape is not None
        coefficients = np.zeros(table.binary.shape[1])
        coefficients[self.columns] = self.coefficients
        z = (table.numbers - self.mean) / self.scale
        logit = table.binary @ coefficients + z @ self.number_coefficients + self.intercept
        return 1 / (1 + np.exp(-np.clip(logit, -500, 500)))

    def render(self, columns: Columns) -> str:
        """The strongest terms, in log-odds; those of number columns per standard deviation."""
        terms = [(columns.names[c], w) for c, w in zip(self.columns.tolist(), self.coefficients, strict=True)]
        terms += [
            (f"{name} (per standard deviation)", w)
            for name, w in zip(columns.number_names, self.number_coefficients, strict=True)
        ]
        found = sorted((t for t in terms if t[1] != 0), key=lambda t: (-abs(t[1]), t[0]))
        shown = sorted(found[:SHOWN], key=lambda t: (-t[1], t[0]))
        more = f"; and {len(found) - SHOWN} weaker ones" if len(found) > SHOWN else ""
        return "; ".join(f"{name} ({w:+.2f})" for name, w in shown) + more or "nothing foretells it"


def fit(
    table: Table,
    fires: Bool[np.ndarray, " n"],
    validation: Table,
    validation_fires: Bool[np.ndarray, " m"],
    rng: np.random.Generator,
) -> SparseLogistic:
    """L1-penalised logistic regression (Tibshirani 1996), its strength chosen on the validation vectors."""
    columns = screen(table, fires, N_COLUMNS)
    chosen = sample(table, fires, columns, rng)
    numbers = table.numbers[chosen.rows]
    mean = np.average(numbers, axis=0, weights=chosen.weight)
    scale = np.sqrt(np.average((numbers - mean) ** 2, axis=0, weights=chosen.weight))
    scale = np.where(scale > 1e-9, scale, 1.0)
    x = sp.csr_array(sp.hstack([rows_of(table, chosen.rows, columns), (numbers - mean) / scale]))
    x.indices, x.indptr = x.indices.astype(np.int32), x.indptr.astype(np.int32)  # all that liblinear takes
    from sklearn.linear_model import LogisticRegression  # here: it takes a second to load

    best: tuple[float, SparseLogistic] | None = None
    for strength in STRENGTHS:
        model = LogisticRegression(
            C=strength, solver="liblinear", intercept_scaling=10, tol=1e-3, random_state=0, **LASSO
        )
        model.fit(x, chosen.fires, sample_weight=chosen.weight)
        split = np.split(model.coef_[0], [len(columns)])
        kept = split[0] != 0
        one = SparseLogistic(
            columns[kept], split[0][kept], split[1], mean, scale, float(np.ravel(model.intercept_)[0])
        )
        value = auprc(validation_fires, one.predict(validation))
        if best is None or value > best[0]:
            best = value, one
    assert best is not None
    return best[1]
