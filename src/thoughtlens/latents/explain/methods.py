"""The ways to explain a latent: each is fitted on the first part and predicts the second and the third."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from thoughtlens.core import DataError
from thoughtlens.latents.explain import rules, windows
from thoughtlens.latents.explain.columns import Columns
from thoughtlens.latents.explain.corpus import Corpus, Part
from thoughtlens.latents.explain.graphs import token_graphs
from thoughtlens.latents.explain.llm import Explainer
from thoughtlens.latents.explain.lookup import TokenLookup, mostly
from thoughtlens.latents.explain.patterns import TokenGraph
from thoughtlens.latents.explain.probes import ModelProbe
from thoughtlens.latents.explain.scores import auprc, twin
from thoughtlens.latents.explain.tokens import Neighbours


@dataclass(frozen=True, eq=False)
class Acts:
    """Activations of one latent, or of its twin, on the three parts."""

    latent: int
    fit: Float[np.ndarray, " n_fit"]
    validation: Float[np.ndarray, " n_validation"]
    test: Float[np.ndarray, " n_test"]

    @classmethod
    def of(cls, corpus: Corpus, latent: int) -> Acts:
        """A latent's activations."""
        return cls(latent, *(part.column(latent) for part in corpus.parts))

    def twin(self, corpus: Corpus) -> Acts:
        """Those of its random twin."""
        rng, parts = corpus.rng(self.latent, 0), zip(corpus.parts, self.on_parts, strict=True)
        return Acts(self.latent, *(twin(own, part.unit, rng) for part, own in parts))

    @property
    def on_parts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """In the order of `Corpus.parts`."""
        return self.fit, self.validation, self.test


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
class Fitted:
    """A method's predictions, and its text."""

    text: str
    validation: Prediction
    test: Prediction

    @classmethod
    def over(cls, corpus: Corpus, text: str, predict: Callable[[Part], np.ndarray]) -> Fitted:
        """Of a model that predicts a whole part."""
        return cls(text, Prediction(predict(corpus.validation)), Prediction(predict(corpus.test)))


class Method(ABC):
    """A way to explain latents."""

    explains_twins = True
    """Whether a random twin is explained in its own right; else a latent's predictions are scored on it."""

    def prepare(self, latents: Sequence[int]) -> None:  # noqa: B027  (most have nothing to share)
        """What is done for a batch of latents at once, before `explain` is asked about each."""

    @abstractmethod
    def explain(self, own: Acts, other: Acts) -> Fitted | None:
        """A latent, whose random twin is `other`; None where this latent is not explained in this way."""


class Lookup(Method):
    """Mean activation on each token or word."""

    def __init__(self, corpus: Corpus, names: dict[int, str]) -> None:
        self.corpus, self.names = corpus, names

    def explain(self, own: Acts, other: Acts) -> Fitted:
        c = self.corpus
        found = TokenLookup.fit(c.fit, own.fit)
        text = found.render(self.names, c.member.text) + mostly(found.profile, c.cells)
        return Fitted.over(c, text, found.predict)


class OverColumns(Method):
    """Sparse logistic regression, or rules, over the columns of `Columns`."""

    def __init__(self, name: str, columns: Columns) -> None:
        self.name, self.columns = name, columns
        self.fit, self.validation, self.test = columns.tables

    def explain(self, own: Acts, other: Acts) -> Fitted:
        model = self._fitted(own)
        predictions = (Prediction(model.predict(table)) for table in (self.validation, self.test))
        return Fitted(model.render(self.columns), *predictions)

    def _fitted(self, own: Acts) -> rules.Rules | windows.SparseLogistic:
        fires, corpus = own.fit != 0, self.columns.corpus
        if self.name == "rules":
            return rules.fit(self.fit, fires, corpus.rng(own.latent, 2))
        return windows.fit(self.fit, fires, self.validation, own.validation != 0, corpus.rng(own.latent, 1))


class Graphs(Method):
    """Token graphs, found by running the model on edited examples."""

    explains_twins = False

    def __init__(self, corpus: Corpus, names: dict[int, str], probe: ModelProbe) -> None:
        self.corpus, self.names, self.probe = corpus, names, probe
        self.neighbours = Neighbours(corpus.fit.tokens, names)
        self.graphs: dict[int, TokenGraph] = {}

    def prepare(self, latents: Sequence[int]) -> None:
        """The graphs of a batch, so that the model runs on full batches."""
        fit, cfg = self.corpus.fit, self.corpus.cfg
        acts = {latent: fit.column(latent) for latent in latents}
        self.graphs = token_graphs(fit, acts, self.probe.bound, self.neighbours, cfg)

    def explain(self, own: Acts, other: Acts) -> Fitted:
        graph = self.graphs[own.latent]
        text = graph.render(self.names) + mostly(graph.profile, self.corpus.cells)
        return Fitted.over(self.corpus, text, graph.predict)


class LLM(Method):
    """What an endpoint says and rates, of some latents."""

    explains_twins = False

    def __init__(self, explainer: Explainer, latents: Collection[int]) -> None:
        self.explainer, self.latents = explainer, frozenset(latents)

    def explain(self, own: Acts, other: Acts) -> Fitted | None:
        if own.latent not in self.latents:
            return None
        corpus = self.explainer.corpus
        try:
            text, rng = self.explainer.explain(own.latent, own.fit), corpus.rng(own.latent, 3)
        except DataError:
            self.explainer.unreadable += 1
            return None
        parts = list(zip(corpus.parts, own.on_parts, other.on_parts, strict=True))[1:]
        rated = [self.explainer.rate(text, part, acts, random, rng) for part, acts, random in parts]
        if not all(one.tells(x) for one, part in zip(rated, parts, strict=True) for x in part[1:]):
            return None
        return Fitted(text, *(Prediction(one.prediction, one.rows, one.weight) for one in rated))

    def take_unreadable(self) -> int:
        """Questions whose replies could not be read since this was last asked."""
        n, self.explainer.unreadable = self.explainer.unreadable, 0
        return n
