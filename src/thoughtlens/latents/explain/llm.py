"""An LLM's explanation of a latent, and the activations that it foretells from it.

The explainer sees examples of the fitting problems. It is then shown vectors of other problems, and rates
each from 0 to 10 by its explanation alone (Bills et al. 2023, "Language models can explain neurons in
language models", with one number per place instead of one per token). The ratings are predictions like those
of any other method; as only some vectors are rated, each stands for all of its kind, so that scores hold at
the true base rate.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from thoughtlens.core import DataError
from thoughtlens.latents.explain.corpus import Corpus, Part
from thoughtlens.latents.explain.endpoint import Endpoint
from thoughtlens.latents.explain.graphs import examples_of

PER_QUESTION = 10
CONTEXT = 24
"""Tokens shown of a text, the one in question last."""
MAX_WORDS = 60


@dataclass(frozen=True, eq=False)
class Rated:
    """Vectors of a part that were rated; `weight` says how many each stands for."""

    rows: Int[np.ndarray, " n"]
    weight: Float[np.ndarray, " n"]
    prediction: Float[np.ndarray, " n"]

    def tells(self, acts: Float[np.ndarray, " n"]) -> bool:
        """Whether the latent fires on some of them and not on all, so that they can be scored."""
        return 0 < int((acts[self.rows] != 0).sum()) < len(self.rows)


class Explainer:
    """Asks an endpoint about the latents of a corpus; `names` says what each token reads as."""

    def __init__(self, endpoint: Endpoint, corpus: Corpus, names: dict[int, str]) -> None:
        self.endpoint, self.corpus, self.names = endpoint, corpus, names
        self.cfg = endpoint.cfg
        self.unreadable = 0
        """Questions whose replies could not be read."""

    def explain(self, latent: int, acts: Float[np.ndarray, " n"]) -> str:
        """One sentence, from examples of the fitting problems."""
        part, strongest = self.corpus.fit, float(acts.max())
        found = examples_of(part, acts, latent, self.cfg.n_examples, CONTEXT)
        lines = [
            f"{i + 1}. {self._shown(e.tokens, e.cell)} -> {10 * e.activation / strongest:.0f}"
            for i, e in enumerate(found)
        ]
        said = self.endpoint.ask(
            "A unit inside a language model is active at some places and silent at all others. Below are "
            f"places where it is active, with its activation from 0 to 10. {self._about()} Say in one short "
            "sentence, without an introduction, what makes it active.\n\n" + "\n".join(lines)
        )
        return " ".join(said.split()[:MAX_WORDS])

    def rate(
        self,
        explanation: str,
        part: Part,
        acts: Float[np.ndarray, " n"],
        twin: Float[np.ndarray, " n"],
        rng: np.random.Generator,
    ) -> Rated:
        """Its prediction for a sample of a part, without places whose ratings cannot be read."""
        rows, weight = draw(acts, twin, self.cfg.n_scored, rng)
        order = rng.permutation(len(rows))
        rows, weight = rows[order], weight[order]
        cuts = [rows[low : low + PER_QUESTION] for low in range(0, len(rows), PER_QUESTION)]
        found = self.endpoint.each(lambda cut: self._ratings(explanation, part, cut), cuts)
        self.unreadable += sum(ratings is None for ratings in found)
        ratings = [r for cut, own in zip(cuts, found, strict=True) for r in own or [np.nan] * len(cut)]
        there = ~np.isnan(ratings)
        return Rated(rows[there], weight[there], np.array(ratings, np.float32)[there])

    def _ratings(self, explanation: str, part: Part, rows: np.ndarray) -> list[float] | None:
        """None where there is not one for each place, even when asked again."""
        lines = [f"{i + 1}. {self._place(part, v)}" for i, v in enumerate(rows.tolist())]
        prompt = (
            f"A unit inside a language model is said to be active at: {json.dumps(explanation)}\n"
            f"{self._about()} Rate how active it is at each of these {len(rows)} places, from 0 (silent) to "
            f"10. Reply with a JSON list of {len(rows)} numbers and nothing else.\n\n" + "\n".join(lines)
        )
        for time_asked in range(self.cfg.retries + 1):
            try:
                said = self.endpoint.ask(prompt, time_asked)
            except DataError:
                return None
            if (found := parse_ratings(said, len(rows))) is not None:
                return found
        return None

    def _about(self) -> str:
        if self.corpus.member.text:
            return "A place is the last token of a text, set in << >>."
        return "A place is a step of silent reasoning about a problem; the problem's question is shown."

    def _place(self, part: Part, v: int) -> str:
        if part.where is None:
            tokens = part.tokens.ids[part.tokens.stretch == part.unit[v]]
        else:
            tokens = part.tokens.context(int(part.where[v]), CONTEXT)
        return self._shown(tokens, int(part.cell[v]))

    def _shown(self, tokens: np.ndarray, cell: int) -> str:
        words = [self.names[i] for i in tokens.tolist()]
        hook, thought = self.corpus.cells[cell]
        if not self.corpus.member.text:
            return json.dumps(" ".join(words), ensure_ascii=False) + f" (thought {thought}, {hook})"
        return json.dumps(f"{''.join(words[:-1])}<<{words[-1]}>>", ensure_ascii=False)


def draw(
    acts: Float[np.ndarray, " n"], twin: Float[np.ndarray, " n"], n: int, rng: np.random.Generator
) -> tuple[Int[np.ndarray, " rows"], Float[np.ndarray, " rows"]]:
    """About `n` vectors, a third of each kind (fires; its twin fires; neither), and what each stands for."""
    fires, other = acts != 0, twin != 0
    rows, weights = [], []
    for kind in (fires, ~fires & other, ~fires & ~other):
        own = np.flatnonzero(kind)
        kept = own if len(own) <= n // 3 else np.sort(rng.choice(own, n // 3, replace=False))
        rows.append(kept)
        weights.append(np.full(len(kept), len(own) / max(len(kept), 1)))
    return np.concatenate(rows), np.concatenate(weights)


def parse_ratings(text: str, n: int) -> list[float] | None:
    """The list of `n` numbers from 0 to 10 in a reply; None if there is none."""
    for found in re.finditer(r"\[[^\[\]]*\]", text):
        try:
            values = json.loads(found[0])
        except ValueError:
            continue
        if len(values) == n and all(type(v) in (int, float) and 0 <= v <= 10 for v in values):
            return [float(v) for v in values]
    return None
