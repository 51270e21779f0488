"""What a linear probe reads: the operation from the words, the values from the thoughts."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from jaxtyping import Float
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from thoughtlens.models import ThoughtBatch


def bag_of_words(train: pa.Table, test: pa.Table, column: str = "operation") -> tuple[int, int]:
    """(right, n) of a label read from word counts alone; logistic regression, C = 0.3."""
    words = CountVectorizer(token_pattern=r"\S+", lowercase=False)
    probe = LogisticRegression(C=0.3, max_iter=500)
    probe.fit(words.fit_transform(train["question"].to_pylist()), np.array(train[column]))
    said = probe.predict(words.transform(test["question"].to_pylist()))
    return int(np.sum(said == np.array(test[column]))), test.num_rows


def cells(batch: ThoughtBatch) -> dict[str, Float[np.ndarray, "n d"]]:
    """Every (layer, pass) of collected thoughts, by name; zeros where a problem had stopped before."""
    x = batch.x.float().nan_to_num(0.0).numpy()
    return {
        f"layers.{layer}:out p={p}": x[:, p, i]
        for i, layer in enumerate(batch.layers)
        for p in range(x.shape[1])
    }


def read_values(
    states: dict[str, Float[np.ndarray, "n d"]], labels: np.ndarray, n_train: int
) -> dict[str, tuple[int, int]]:
    """(right, n) per cell of a ridge classifier fitted on the first `n_train` rows."""
    out = {}
    for name, x in states.items():
        probe = make_pipeline(StandardScaler(), RidgeClassifier(alpha=1.0))
        probe.fit(x[:n_train], labels[:n_train])
        out[name] = (int((probe.predict(x[n_train:]) == labels[n_train:]).sum()), len(labels) - n_train)
    return out
