"""Counts under edits: how often a thought model answers right when its thoughts are changed.

Everything is a count `(right, n)` under a flat key, so that seeds add up. Any `ThoughtModel` and any
problems table will do; what needs more labels is measured where the columns are there. The edits are
those of `thoughtlens.interventions`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa
from jaxtyping import Bool

from thoughtlens.interventions.edits import changes
from thoughtlens.interventions.edits.places import places_of
from thoughtlens.interventions.edits.run import Answers, Edit, run_edits
from thoughtlens.interventions.effects.subject import Problems, says
from thoughtlens.interventions.intervene.records import About
from thoughtlens.models import Place, ThoughtBatch, ThoughtModel, collect

Counts = dict[str, tuple[int, int]]


@dataclass
class Bench:
    """One model on one table: its untouched answers, and what edits make of them."""

    model: ThoughtModel
    problems: pa.Table
    seed: int = 0
    batch_size: int = 512
    max_new_tokens: int = 256
    counts: Counts = field(default_factory=dict)
    changed: dict[str, float] = field(default_factory=dict)
    """Share of problems whose answer logits an edit moved: an edit that never bit shows 0."""

    def __post_init__(self) -> None:
        own = Problems(self.problems)
        self.questions, self.wanted = own.questions, own.answers
        columns = self.problems.column_names
        self.steps = np.array(self.problems["n_steps"]) if "n_steps" in columns else None
        self.right = np.zeros(len(self.questions), dtype=bool)
        """Which problems the untouched model solves, once it has run."""
        self.donor = changes.derangement(len(self.questions), np.random.default_rng((self.seed, 77)))

    @property
    def thoughts(self) -> range:
        """The fed-back thoughts, p = 1..n_thoughts."""
        return range(1, self.model.spec.n_thoughts + 1)

    @cached_property
    def batch(self) -> ThoughtBatch:
        """The untouched states."""
        sites = [site for site in ("thought_in", "resid", "kv") if site in self.model.spec.sites]
        return collect(self.model, self.questions, sites=sites, batch_size=self.batch_size)

    def run(self, edits: Sequence[Edit]) -> list[Answers]:
        """Answers under each edit; counts the untouched `thoughts`, and how often logits moved."""
        plain, outcomes = run_edits(
            self.model,
            self.questions,
            edits,
            batch_size=self.batch_size,
            max_new_tokens=self.max_new_tokens,
        )
        self.right = self.count("thoughts", plain)
        for edit, outcome in zip(edits, outcomes, strict=True):
            if edit.changes:
                n = max(int(outcome.reached.sum()), 1)
                self.changed[edit.name] = float(outcome.moved[outcome.reached].sum()) / n
        return outcomes

    def count(
        self, name: str, outcome: Answers, wanted: Sequence[str] | None = None
    ) -> Bool[np.ndarray, " n"]:
        """Count answers that equal `wanted` (the table's by default), in all and by steps."""
        right = says(outcome, self.wanted if wanted is None else wanted)
        self.counts[name] = (int(right.sum()), len(right))
        if self.steps is not None:
            for k in np.unique(self.steps).tolist():
                rows = right[self.steps == k]
                self.counts[f"{name}|{k}"] = (int(rows.sum()), len(rows))
        return right

    def ablations(self) -> None:
        """All thoughts replaced: by their mean, by zeros, by those of another problem; and one by one."""
        places = [Place("thought_in", p) for p in self.thoughts]
        states = {place: self.batch[place] for place in places}
        means = {place: changes.mean_of(x) for place, x in states.items()}
        edits = [
            Edit.at("mean_ablated", places, lambda place: means[place]),
            Edit.at("zeroed", places, lambda place: changes.zero()),
            Edit.at("resampled", places, lambda place: changes.given(states[place][self.donor])),
            *(Edit.at(f"mean_ablated_z{p.thought}", [p], lambda place: means[place]) for p in places),
        ]
        for edit, outcome in zip(edits, self.run(edits), strict=True):
            self.count(edit.name, outcome)
            if edit.name == "resampled":
                self.count("resampled_donor", outcome, self._of(self.donor))

    def early_exit(self) -> None:
        """Leave after n thoughts; where the table has v1, v2 .., also compare with running values."""
        thoughts = self.model.spec.thoughts
        outcomes = self.run([Edit(About(edit=f"by_n_thoughts_{n}"), n_thoughts=n) for n in thoughts])
        for n, outcome in zip(thoughts, outcomes, strict=True):
            self.count(f"by_n_thoughts_{n}", outcome)
            column = f"v{n // 2}"
            if n and n % 2 == 0 and column in self.problems.column_names:
                values = self.problems[column].to_pylist()
                known = np.array([v is not None for v in values])
                right = says(outcome, [str(v) for v in values])[known]
                self.counts[f"exit_{n}_says_{column}"] = (int(right.sum()), int(known.sum()))

    def tail_swap(self) -> None:
        """Keys and values of every thought taken from another problem, the own question still in sight."""
        places = places_of(self.model.spec, "kv", tuple(self.model.spec.thoughts), None)
        swap = Edit.at("tail_swap", places, lambda place: changes.given(self.batch[place][self.donor]))
        (outcome,) = self.run([swap])
        self.count("tail_swap_own", outcome)
        self.count("tail_swap_donor", outcome, self._of(self.donor))
        self.count("tail_swap_stranger", outcome, self._of(self.donor[self.donor]))

    def _of(self, rows: np.ndarray) -> list[str]:
        """The right answers of other problems."""
        return [self.wanted[i] for i in rows]


def patch_twins(
    model: ThoughtModel, first: pa.Table, second: pa.Table, batch_size: int
) -> dict[int, tuple[int, int, int]]:
    """Per thought p: (answers of the twin, own answers, n) when only z_p comes from the twin.

    Only pairs of which both are solved count.
    """
    mine, twins = Problems(first), Problems(second)
    theirs = collect(model, twins.questions, sites=("thought_in",), batch_size=batch_size)
    places = [Place("thought_in", p) for p in range(1, model.spec.n_thoughts + 1)]
    edits = [Edit.at(str(p), [p], lambda place: changes.given(theirs[place])) for p in places]
    plain, outcomes = run_edits(model, mine.questions, edits, batch_size=batch_size)
    other, _ = run_edits(model, twins.questions, [], batch_size=batch_size)
    solved = says(plain, mine.answers) & says(other, twins.answers)
    n, out = int(solved.sum()), {}
    for p, outcome in enumerate(outcomes, 1):
        moved, own = (says(outcome, side.answers)[solved].sum() for side in (twins, mine))
        out[p] = (int(moved), int(own), n)
    return out
