"""All methods on one latent: fitted on the first part, chosen on the second, scored on the third."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from thoughtlens.latents.explain import rules, windows
from thoughtlens.latents.explain.columns import Columns, Table
from thoughtlens.latents.explain.corpus import Corpus, Part
from thoughtlens.latents.explain.llm import Explainer
from thoughtlens.latents.explain.lookup import TokenLookup, mostly
from thoughtlens.latents.explain.patterns import TokenGraph
from thoughtlens.latents.explain.scores import auprc, best_threshold, interval, score, twin

TIE = 0.01
"""Validation AUPRC within which the shorter text is shown."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """One number for some vectors of a part; `rows` and `weight` are None where it is all of them."""

    values: Float[np.ndarray, " n"]
    rows: Int[np.ndarray, " n"] | None = None
    weight: Float[np.ndarray, " n"] | None = None

    def of(self, values: np.ndarray) -> np.ndarray:
        """A column of the part on these vectors."""
        return values if self.rows is None else values[self.rows]

    def auprc(self, acts: np.ndarray) -> float:
        """Average precision against a latent's activations on the whole part."""
        return auprc(self.of(acts) != 0, self.values, self.weight)


@dataclass(frozen=True, eq=False)
class Acts:
    """Activations of one latent, or of its twin, on the three parts."""

    fit: Float[np.ndarray, " n_fit"]
    validation: Float[np.ndarray, " n_validation"]
    test: Float[np.ndarray, " n_test"]


@dataclass(frozen=True, eq=False)
class Fitted:
    """A method's predictions, and its text."""

    text: str
    validation: Prediction
    test: Prediction


class Explaining:
    """The methods on the latents of one corpus."""

    def __init__(self, corpus: Corpus, names: dict[int, str], explainer: Explainer | None) -> None:
        self.corpus, self.cfg, self.names, self.explainer = corpus, corpus.cfg, names, explainer
        self.columns: Columns | None = None
        self.tables: list[Table] = []
        if {"windows", "rules"} & set(self.cfg.methods):
            self.columns = Columns(corpus, names)
            self.tables = [self.columns.table(p) for p in (corpus.fit, corpus.validation, corpus.test)]

    def acts(self, latent: int) -> Acts:
        """A latent's activations."""
        c = self.corpus
        return Acts(c.fit.column(latent), c.validation.column(latent), c.test.column(latent))

    def twin(self, latent: int, acts: Acts) -> Acts:
        """Those of its random twin."""
        c, rng = self.corpus, self._rng(latent, 0)
        return Acts(
            twin(acts.fit, c.fit.unit, rng),
            twin(acts.validation, c.validation.unit, rng),
            twin(acts.test, c.test.unit, rng),
        )

    def rows(self, latent: int, graph: TokenGraph | None, use_llm: bool) -> list[dict[str, Any]]:
        """A row of the table for each method; `graph` where one was made."""
        acts = self.acts(latent)
        other = self.twin(latent, acts)
        lookup = self._token(acts)
        found: dict[str, tuple[Fitted, float | None]] = {}
        for method in self.cfg.methods:
            if method in ("token", "windows", "rules"):
                own = lookup if method == "token" else self._fit(method, acts, latent)
                found[method] = own, self._fit(method, other, latent).test.auprc(other.test)
        if graph is not None:
            own = self._graph(graph)
            found["token_graph"] = own, own.test.auprc(other.test)
        if use_llm and self.explainer is not None:
            own = self._llm(self.explainer, latent, acts, other)
            found["llm"] = own, own.test.auprc(other.test)
        rows = [self._row(latent, method, *pair, acts, lookup) for method, pair in found.items()]
        return self._choose(rows)

    def _row(
        self, latent: int, method: str, fitted: Fitted, random: float | None, acts: Acts, lookup: Fitted
    ) -> dict[str, Any]:
        part, held = self.corpus.test, fitted.validation
        threshold = best_threshold(held.of(acts.validation) != 0, held.values, held.weight)
        test = fitted.test
        own = test.of(acts.test)
        measured = score(own, test.values, test.of(part.unit), threshold, test.weight)
        spread = interval(
            own != 0, test.values, test.of(part.cluster[part.unit]), weight=test.weight,
            n_resamples=self.cfg.n_resamples, seed=self.cfg.seed,
        )  # fmt: skip
        return {
            "latent": latent,
            "method": method,
            "text": fitted.text,
            **vars(measured),
            "split": part.split,
            "auprc_low": spread.low,
            "auprc_high": spread.high,
            "token_auprc": lookup.test.auprc(acts.test),
            "random_auprc": random,
            "validation_auprc": held.auprc(acts.validation),
            "chosen": False,
        }

    def _choose(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Mark the best one by the validation problems; of those that tie, the shortest."""
        best = max((row["validation_auprc"] for row in rows), default=0.0)
        tied = [i for i, row in enumerate(rows) if row["validation_auprc"] >= best - TIE]
        for i in sorted(tied, key=lambda i: (len(rows[i]["text"]), i))[:1]:
            rows[i]["chosen"] = True
        return rows

    def _fit(self, method: str, acts: Acts, latent: int) -> Fitted:
        """One of the methods that need neither a model nor an endpoint."""
        if method == "token":
            return self._token(acts)
        assert self.columns is not None
        fit, validation, test = self.tables
        if method == "windows":
            rng = self._rng(latent, 1)
            model = windows.fit(fit, acts.fit != 0, validation, acts.validation != 0, rng)
        else:
            model = rules.fit(fit, acts.fit != 0, self._rng(latent, 2))
        text = model.render(self.columns)
        return Fitted(text, Prediction(model.predict(validation)), Prediction(model.predict(test)))

    def _token(self, acts: Acts) -> Fitted:
        c = self.corpus
        lookup = TokenLookup.fit(c.fit, acts.fit, len(c.cells))
        text = lookup.render(self.names, c.member.text) + mostly(lookup.profile, c.cells)
        return self._over_parts(text, lookup.predict)

    def _graph(self, graph: TokenGraph) -> Fitted:
        text = graph.render(self.names) + mostly(graph.profile, self.corpus.cells)
        return self._over_parts(text, graph.predict)

    def _llm(self, explainer: Explainer, latent: int, acts: Acts, other: Acts) -> Fitted:
        text = explainer.explain(latent, acts.fit)
        rng, found = self._rng(latent, 3), []
        parts = (self.corpus.validation, acts.validation, other.validation), (
            self.corpus.test, acts.test, other.test,
        )  # fmt: skip
        for part, own, random in parts:
            rated = explainer.rate(text, part, own, random, rng)
            found.append(Prediction(rated.prediction, rated.rows, rated.weight))
        return Fitted(text, *found)

    def _over_parts(self, text: str, predict: Callable[[Part], np.ndarray]) -> Fitted:
        validation, test = self.corpus.validation, self.corpus.test
        return Fitted(text, Prediction(predict(validation)), Prediction(predict(test)))

    def _rng(self, latent: int, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.cfg.seed, latent, purpose])
