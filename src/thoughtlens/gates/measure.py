"""Counts under edits: how often a thought model answers right when its thoughts are changed.

Everything is a count `(right, n)` under a flat key, so that seeds add up. Any `ThoughtModel` and any
problems table will do; what needs more labels is measured where the columns are there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from thoughtlens.errors import DataError
from thoughtlens.models.thoughts import Answer, Hook, ThoughtBatch, ThoughtModel, collect, parse_number, run

Counts = dict[str, tuple[int, int]]


@dataclass
class Bench:
    """One model on one table: its untouched thoughts and answers, and what edits make of them."""

    model: ThoughtModel
    problems: pa.Table
    seed: int = 0
    batch_size: int = 512
    max_new_tokens: int = 256
    counts: Counts = field(default_factory=dict)
    changed: dict[str, float] = field(default_factory=dict)
    """Share of problems whose answer logits an edit moved: an edit that never bit shows 0."""

    def __post_init__(self) -> None:
        if self.problems.num_rows < 2:
            raise DataError(f"Expected at least 2 problems, got {self.problems.num_rows}")
        self.questions = self.problems["question"].to_pylist()
        self.wanted = np.array([wanted_value(a) for a in self.problems["answer"].to_pylist()])
        columns = self.problems.column_names
        self.steps = np.array(self.problems["n_steps"]) if "n_steps" in columns else None
        rng = np.random.default_rng((self.seed, 77))
        self.donor = derangement(len(self.questions), rng)

    @property
    def thoughts(self) -> range:
        """The fed-back thoughts, p = 1..n_steps."""
        return range(1, self.model.spec.n_steps + 1)

    def untouched(self) -> ThoughtBatch:
        """Think and answer without edits; the reference of every edit."""
        sites = ("thought_in", "resid", "kv") if "kv" in self.model.spec.sites else ("thought_in", "resid")
        self.batch = collect(
            self.model,
            self.questions,
            sites=sites,
            answers=True,
            max_new_tokens=self.max_new_tokens,
            batch_size=self.batch_size,
        )
        self.plain = self.batch.answers
        self.count("thoughts", self.plain)
        return self.batch

    def count(self, name: str, answer: Answer, wanted: np.ndarray | None = None) -> Bool[np.ndarray, " n"]:
        """Count answers that equal `wanted` (the table's by default), in all and by steps."""
        right = values_of(answer) == (self.wanted if wanted is None else wanted)
        self.counts[name] = (int(right.sum()), len(right))
        if self.steps is not None:
            for k in np.unique(self.steps).tolist():
                rows = right[self.steps == k]
                self.counts[f"{name}|{k}"] = (int(rows.sum()), len(rows))
        return right

    def edit(self, name: str, hooks: Sequence[Hook]) -> Answer:
        """Answer under hooks, and note how often they moved the logits."""
        answer = run(
            self.model,
            self.questions,
            hooks,
            max_new_tokens=self.max_new_tokens,
            batch_size=self.batch_size,
        )
        self.changed[name] = moved(answer, self.plain)
        return answer

    def ablations(self) -> None:
        """All thoughts replaced: by their mean, by zeros, by those of another problem."""
        z = self.batch.thought_in
        mean = [Hook("thought_in", p, None, _constant(z[:, p].mean(0))) for p in self.thoughts]
        zero = [Hook("thought_in", p, None, torch.zeros_like) for p in self.thoughts]
        other = [Hook("thought_in", p, None, _given, z[self.donor, p]) for p in self.thoughts]
        self.count("mean_ablated", self.edit("mean_ablated", mean))
        self.count("zeroed", self.edit("zeroed", zero))
        swapped = self.edit("resampled", other)
        self.count("resampled", swapped)
        self.count("resampled_donor", swapped, self.wanted[self.donor])

    def single_ablations(self) -> None:
        """One thought at a time replaced by its mean."""
        for p in self.thoughts:
            mean = Hook("thought_in", p, None, _constant(self.batch.thought_in[:, p].mean(0)))
            self.count(f"mean_ablated_z{p}", self.edit(f"mean_ablated_z{p}", [mean]))

    def early_exit(self) -> None:
        """Leave after n thoughts; where the table has v1, v2 .., also compare with running values."""
        for n in self.model.spec.passes:
            answer = run(
                self.model,
                self.questions,
                n_steps=n,
                max_new_tokens=self.max_new_tokens,
                batch_size=self.batch_size,
            )
            self.count(f"by_n_thoughts_{n}", answer)
            if "v1" in self.problems.column_names and n and n % 2 == 0:
                column = f"v{n // 2}"
                values = np.array(self.problems[column].to_pylist(), dtype=float)
                rows = ~np.isnan(values)
                right = (values_of(answer) == values)[rows]
                self.counts[f"exit_{n}_says_{column}"] = (int(right.sum()), int(rows.sum()))

    def tail_swap(self) -> None:
        """Keys and values of every pass taken from another problem, the own question still in sight."""
        hooks = []
        for p in self.model.spec.passes:
            for i, layer in enumerate(self.batch.layers):
                pair = tuple(
                    t[self.donor, p, :, i].transpose(1, 2) for t in (self.batch.keys, self.batch.values)
                )
                hooks.append(Hook("kv", p, layer, _given, pair))
        answer = self.edit("tail_swap", hooks)
        self.count("tail_swap_own", answer)
        self.count("tail_swap_donor", answer, self.wanted[self.donor])
        stranger = self.wanted[self.donor[self.donor]]
        self.count("tail_swap_stranger", answer, stranger)


def patch_twins(
    model: ThoughtModel, first: pa.Table, second: pa.Table, batch_size: int
) -> dict[int, tuple[int, int, int]]:
    """Per thought p: (answers of the twin, own answers, n) when only z_p comes from the twin.

    Only pairs of which both are solved count.
    """
    questions = first["question"].to_pylist()
    mine = collect(model, questions, sites=("thought_in",), answers=True, batch_size=batch_size)
    theirs = collect(
        model, second["question"].to_pylist(), sites=("thought_in",), answers=True, batch_size=batch_size
    )
    own, other = (np.array([wanted_value(a) for a in t["answer"].to_pylist()]) for t in (first, second))
    solved = (values_of(mine.answers) == own) & (values_of(theirs.answers) == other)
    out = {}
    for p in range(1, model.spec.n_steps + 1):
        hook = Hook("thought_in", p, None, _given, theirs.thought_in[:, p])
        said = values_of(run(model, questions, [hook], batch_size=batch_size))[solved]
        out[p] = (int((said == other[solved]).sum()), int((said == own[solved]).sum()), int(solved.sum()))
    return out


def values_of(answer: Answer) -> np.ndarray:
    """Numbers answered, NaN where there is none."""
    return np.array([np.nan if v is None else v for v in answer.value], dtype=float)


def wanted_value(answer: str) -> float:
    """The number of an answer column."""
    value = parse_number(answer)
    if value is None:
        raise DataError(f"Expected a number in every answer, got {answer!r}")
    return value


def moved(answer: Answer, plain: Answer) -> float:
    """Share of problems whose first answer logits differ from the untouched run's."""
    difference = (answer.logits[:, 0] - plain.logits[:, 0]).abs().amax(-1)
    return float((difference > 1e-5).float().mean())


def derangement(n: int, rng: np.random.Generator) -> Int[np.ndarray, " n"]:
    """A random other row for every row."""
    order = rng.permutation(n)
    out = np.empty(n, dtype=int)
    out[order] = np.roll(order, 1)
    return out


def _constant(value: Tensor):
    return lambda x: value.to(x).expand_as(x)


def _given(x, new):
    return new
