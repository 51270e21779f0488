"""What every latent of an SAE says, in the words of the task: clauses fitted by exact counts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int

from thoughtlens.core import Number
from thoughtlens.latents.explain.clauses import (
    MOST_CLAUSES,
    Clause,
    Fitter,
    average_precision,
    holds,
    levels_of,
)
from thoughtlens.latents.explain.corpus import Corpus, Part
from thoughtlens.latents.explain.records import UNKNOWN, ExplanationRow
from thoughtlens.latents.explain.scores import FAIR, verdict_of
from thoughtlens.latents.explain.statements import Known, Stated, Statements
from thoughtlens.latents.explain.wording import further, sentence
from thoughtlens.numerics import bootstrap_sums, proportion
from thoughtlens.sae import Crosscoder, RandomSAE

METHOD = "roles"
AT_ONCE = 64
"""Latents whose intervals come from the same resamples."""
RANDOM_ROWS = 20_000
"""Vectors that a random SAE's thresholds and scale are fitted on."""
WELL = 0.8
"""Average precision on held-out problems from which a latent counts as explained."""


@dataclass(frozen=True, eq=False)
class Read:
    """A latent's clauses, and how many vectors and firings of a part are on each level, the rest last."""

    clauses: list[Clause]
    n: Int[np.ndarray, " levels"]
    hits: Int[np.ndarray, " levels"]

    @property
    def auprc(self) -> float:
        """Average precision of the levels."""
        return float(average_precision(self.hits, self.n))


class Meanings:
    """Explains all latents of a member by clauses."""

    def __init__(self, corpus: Corpus, names: dict[int, str], known: Known) -> None:
        self.corpus, self.statements = corpus, Statements(corpus, names, known)
        self.stated = [self.statements.of(part) for part in corpus.parts]
        self.fitter = Fitter.of(self.stated[0], len(self.statements.contexts))

    def rows(self, latents: Sequence[int]) -> Iterator[ExplanationRow]:
        """A row for each of these latents, its twin explained beside it."""
        rng = self.corpus.rng(0, 5)
        own, twins = self.corpus.parts, [_twin(part, rng) for part in (self.corpus.fit, self.corpus.test)]
        for low in range(0, len(latents), AT_ONCE):
            some = latents[low : low + AT_ONCE]
            found = [self.fitter.fit(own[0].fires(latent)) for latent in some]
            chance = [
                _read(self.fitter.fit(twins[0].fires(i)), twins[1], i, self.stated[2]).auprc for i in some
            ]
            intervals = self._intervals(some, found)
            for latent, clauses, random, ends in zip(some, found, chance, intervals, strict=True):
                yield self._row(latent, clauses, random, ends)

    def nulls(self) -> dict[str, Number]:
        """The share of live latents explained well, of a random SAE and with other problems' labels."""
        corpus, rng = self.corpus, self.corpus.rng(0, 4)
        dealt = [self.statements.of(part, rng) for part in corpus.parts]
        found = {"explained_permuted": self._share(corpus.parts, dealt)}
        if (random := _random_codes(corpus)) is not None:
            found["explained_random"] = self._share(random, self.stated)
        return found

    def _share(self, parts: Sequence[Part], stated: Sequence[Stated]) -> Number:
        fitter = Fitter.of(stated[0], len(self.statements.contexts))
        latents = np.flatnonzero(self.corpus.eligible(parts)).tolist()
        read = (_read(fitter.fit(parts[0].fires(i)), parts[2], i, stated[2]) for i in latents)
        hits = np.zeros(max(n_live(parts), 1))
        hits[: sum(one.auprc >= WELL for one in read)] = 1
        return proportion(hits).number(parts[2].split)

    def _row(
        self, latent: int, clauses: list[Clause], random: float, ends: tuple[float, float]
    ) -> ExplanationRow:
        _, validation, part = self.corpus.parts
        held = _read(clauses, validation, latent, self.stated[1])
        test = _read(clauses, part, latent, self.stated[2])
        thinking = _read(clauses, part, latent, self.stated[2], self.corpus.thinking(part))
        cut = _best_cut(held)
        n, hits, total = test.n.cumsum(), test.hits.cumsum(), max(int(test.hits.sum()), 1)
        base_rate = total / part.n
        known = bool(clauses) and held.auprc >= FAIR
        first = self.statements.statements[clauses[0].statement] if known else None
        return ExplanationRow(
            member=self.corpus.member.name,
            latent=latent,
            method=METHOD,
            text=sentence(clauses, self.statements, self._there) if known else UNKNOWN,
            auprc=test.auprc,
            precision_at_half_recall=float((hits / np.maximum(n, 1))[hits >= total / 2].max()),
            pearson=_pearson(clauses, test.n, part, latent, self.stated[2]),
            precision=float(hits[cut] / max(n[cut], 1)),
            recall=float(hits[cut] / total),
            base_rate=base_rate,
            n=part.n,
            n_units=part.n_units,
            n_fires=int(test.hits.sum()),
            n_fires_thinking=int(thinking.hits.sum()),
            auprc_thinking=thinking.auprc if thinking.hits.any() else None,
            split=part.split,
            auprc_low=ends[0],
            auprc_high=ends[1],
            token_auprc=None,
            random_auprc=random,
            validation_auprc=held.auprc,
            chosen=True,
            verdict=verdict_of(test.auprc, ends[0], max(base_rate, random), None),
            says=first.says if first else None,
            value=first.value if first else None,
            thoughts=self._thoughts(clauses[0]) or None if known else None,
            clauses=json.dumps([self._clause(one, part, latent) for one in clauses], ensure_ascii=False),
        )

    @property
    def _there(self) -> Bool[np.ndarray, "statements contexts"]:
        return self.fitter.n > 0

    def _thoughts(self, clause: Clause) -> list[int]:
        """The thoughts at which a clause may hold, under whatever condition."""
        own = clause.contexts & self._there[clause.statement]
        thoughts = {self.statements.contexts[i].thought for i in np.flatnonzero(own)}
        return sorted(t for t in thoughts if t is not None)

    def _clause(self, clause: Clause, part: Part, latent: int) -> dict[str, object]:
        """One clause with its held-out precision and recall, also at each thought."""
        stated, known = self.stated[2], self.statements
        rows, fires = holds(clause, stated), part.fires(latent)
        hit = np.zeros(part.n, bool)
        hit[fires] = True
        hit = hit[rows]
        statement, there = known.statements[clause.statement], self._there[clause.statement]
        thoughts = np.array([-1 if c.thought is None else c.thought for c in known.contexts])
        thought = thoughts[stated.context[rows]]
        by_thought = {str(t): _share(hit[thought == t]) for t in self._thoughts(clause)}
        return {
            "says": statement.says,
            "value": statement.value,
            "thoughts": self._thoughts(clause),
            "hooks": sorted({known.contexts[i].hook_name for i in np.flatnonzero(clause.contexts & there)}),
            "also": further(clause, known, there),
            "precision": _share(hit),
            "recall": int(hit.sum()) / max(len(fires), 1),
            "precision_by_thought": by_thought,
            "reused": known.known.several(
                statement.says, [int(t) for t, p in by_thought.items() if (p or 0) >= WELL]
            ),
        }

    def _intervals(self, latents: Sequence[int], found: Sequence[list[Clause]]) -> list[tuple[float, float]]:
        """Of each latent's average precision on test problems, whole groups resampled."""
        part, stated, cfg = self.corpus.test, self.stated[2], self.corpus.cfg
        group = np.unique(part.cluster, return_inverse=True)[1][part.unit]
        n_groups, size = int(group.max()) + 1, MOST_CLAUSES + 1
        columns = []
        for latent, clauses in zip(latents, found, strict=True):
            key = group * size + levels_of(clauses, stated)
            for rows in (slice(None), part.fires(latent)):
                columns.append(np.bincount(key[rows], minlength=n_groups * size).reshape(n_groups, size))
        sums = np.concatenate(columns, 1).astype(float)

        def of_resamples(total: Float[np.ndarray, "resamples columns"]) -> np.ndarray:
            n, hits = total.reshape(len(total), len(latents), 2, size).transpose(2, 0, 1, 3)
            return np.where(hits.sum(-1) > 0, average_precision(hits, n), np.nan)

        intervals = bootstrap_sums(sums, of_resamples, n_resamples=cfg.n_resamples, seed=cfg.seed)
        return [(one.low, one.high) for one in intervals]


def n_live(parts: Sequence[Part], among: Sequence[np.ndarray] | None = None) -> int:
    """Latents that fire on any vector, or on any of those `among` which one looks in each part."""
    masks = among or [np.ones(part.n, bool) for part in parts]
    fires = [abs(part.acts).T @ mask > 0 for part, mask in zip(parts, masks, strict=True)]
    return int(np.any(fires, axis=0).sum())


def _random_codes(corpus: Corpus) -> list[Part] | None:
    """The parts with a random SAE's codes of the same width, rule and sparsity; None for a crosscoder."""
    member = corpus.member
    if isinstance(member.sae, Crosscoder):
        return None
    sample = member.view.sample(RANDOM_ROWS, corpus.cfg.seed)
    cell = member.sae.cell_index(member.store.cells, sample.cell)
    l0 = corpus.fit.acts.nnz / max(corpus.fit.n, 1)
    random = RandomSAE.like(member.sae, sample.x, cell, l0=max(l0, 1e-3), seed=corpus.cfg.seed)
    return [
        replace(part, acts=sp.csc_array(member.codes_at(part.place[:: corpus.n_hooks], random)))
        for part in corpus.parts
    ]


def _read(
    clauses: list[Clause],
    part: Part,
    latent: int,
    stated: Stated,
    among: Bool[np.ndarray, " n"] | None = None,
) -> Read:
    """Vectors and firings by level, of all vectors or of some."""
    levels, fires = levels_of(clauses, stated), part.fires(latent)
    among = np.ones(part.n, bool) if among is None else among
    n, hits = (np.bincount(levels[rows], minlength=len(clauses) + 1) for rows in (among, fires[among[fires]]))
    return Read(clauses, n, hits)


def _twin(part: Part, rng: np.random.Generator) -> Part:
    """The part with each problem's vectors in another order, so that every latent is its random twin."""
    order = np.lexsort((rng.random(part.n), part.unit))
    return replace(part, acts=sp.csc_array(sp.csr_array(part.acts)[order]))


def _best_cut(held: Read) -> int:
    """The last of the levels that together have the best F1; all but the rest, where there are any."""
    n, hits = held.n.cumsum(), held.hits.cumsum()
    f1 = 2 * hits / np.maximum(n + hits[-1], 1)
    return int(f1[:-1].argmax()) if len(f1) > 1 else 0


def _score(clauses: Sequence[Clause]) -> Float[np.ndarray, " levels"]:
    """Fitting precision of each level; of the rest 0."""
    return np.array([*(clause.precision for clause in clauses), 0.0])


def _pearson(
    clauses: Sequence[Clause], n: np.ndarray, part: Part, latent: int, stated: Stated
) -> float | None:
    """Correlation of score and size of the activation over all vectors; None where one is constant."""
    size, score = part.column(latent).astype(float), _score(clauses)
    total = np.bincount(levels_of(clauses, stated), size, minlength=len(score))
    mean = float(score @ n) / part.n
    spread = float((score - mean) ** 2 @ n) * float(((size - size.mean()) ** 2).sum())
    return float((score - mean) @ total) / np.sqrt(spread) if spread > 1e-12 else None


def _share(hit: Bool[np.ndarray, " n"]) -> float | None:
    return float(hit.mean()) if len(hit) else None
