"""Where a variable is read: rows of a place by split, and the place that a probe reads best."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int

from thoughtlens.acts import ActivationStore
from thoughtlens.core import progress
from thoughtlens.evals.recovery.ceilings import Reader
from thoughtlens.evals.recovery.made import Made
from thoughtlens.evals.recovery.questions import Question, Rows
from thoughtlens.models import Place

NEAR_BEST = 0.02
"""A place reads a variable as well as the best one up to this accuracy."""


@dataclass(frozen=True, eq=False)
class Held:
    """The rows of a store that variables are looked for in: at most `max_rows` of a split at a place."""

    store: ActivationStore
    max_rows: int = 20_000
    seed: int = 0
    made: Made | None = None
    """Further test problems."""

    @cached_property
    def problems(self) -> pa.Table:
        """Those of the store, then those that were made; cells of columns that these lack are null."""
        return self.store.problems if self.made is None else self.made.after(self.store.problems)

    @cached_property
    def group(self) -> Int[np.ndarray, " problems"]:
        """Problems of one group are not independent."""
        own = self.store.group_idx
        if self.made is None:
            return own
        number = dict(zip(self.store.problems["group_id"].to_pylist(), own.tolist(), strict=True))
        first = int(own.max()) + 1
        names = self.made.problems["group_id"].to_pylist()
        return np.r_[own, [number.setdefault(name, first + i) for i, name in enumerate(names)]]

    def rows(self, place: Place, split: str) -> Rows:
        """Of a place in a split, drawn at random where there are more; then those that were made."""
        row = self._drawn(place.thought, split)
        own = Rows(self.store.read(place.hook_name, row), self.store.problem_idx[row], row)
        if self.made is None or split != "test":
            return own
        more, n = self.made.at(place), self.store.problems.num_rows
        had = np.flatnonzero(~more.isnan().any(1).numpy())  # a problem can stop before this thought
        return Rows(
            torch.cat([own.x, more[had]]),
            np.r_[own.problem, n + had],
            np.r_[own.row, np.full(len(had), -1)],
        )

    def _drawn(self, thought: int | None, split: str) -> Int[np.ndarray, " n"]:
        if (thought, split) not in self._known:
            view = self.store.view(self.store.hook_names[:1], split=split, thoughts=thought)
            idx = np.random.default_rng((self.seed, 5)).permutation(view.n)[: self.max_rows]
            self._known[thought, split] = view.rows_of(np.sort(idx))
        return self._known[thought, split]

    @cached_property
    def _known(self) -> dict[tuple[int | None, str], np.ndarray]:
        return {}


@dataclass(frozen=True, eq=False)
class Located:
    """A question, and what each place tells of it on validation problems."""

    question: Question
    places: list[Place]
    probe: Float[np.ndarray, " places"]
    """Accuracy of a linear probe."""
    variance_share: Float[np.ndarray, " places"]

    @property
    def at(self) -> int:
        """Where the probe is within 0.02 of its best, the place that the variable organises most."""
        near = self.probe >= self.probe.max() - NEAR_BEST
        return int(np.argmax(np.where(near, self.variance_share, -np.inf)))

    @property
    def place(self) -> Place:
        """Where it is read."""
        return self.places[self.at]


def locate(held: Held, asked: Sequence[Question], places: Sequence[Place]) -> list[Located]:
    """Where each variable is read: chosen on validation problems by a probe fitted on training problems."""
    probe, between = np.zeros((2, len(asked), len(places)))
    with progress("where variables are read", len(places), "places") as bar:
        for at, place in enumerate(places):
            seen = held.rows(place, "validation")
            x = seen.x.numpy().astype(np.float64)
            for i, reader, y in teach(held.rows(place, "train"), asked):
                own = asked[i].own(seen)
                if (known := own >= 0).any():
                    ceiling = reader.ceiling(y, x[known], own[known])
                    probe[i, at], between[i, at] = ceiling.right.mean(), ceiling.variance_share
            bar.advance(1)
    return [Located(one, list(places), probe[i], between[i]) for i, one in enumerate(asked)]


class Taught(NamedTuple):
    """What the training rows of a place teach about a question."""

    at: int
    """Number of the question."""
    reader: Reader
    y: Int[np.ndarray, " n"]
    """Values of the reader's rows."""


def teach(train: Rows, asked: Sequence[Question]) -> Iterator[Taught]:
    """By question; those about the same training rows share a reader. None where there are no such rows."""
    x, own = train.x.numpy().astype(np.float64), [question.own(train) for question in asked]
    alike: dict[bytes, list[int]] = {}
    for i, codes in enumerate(own):
        alike.setdefault((codes >= 0).tobytes(), []).append(i)
    for key, which in alike.items():
        known = np.frombuffer(key, bool)
        if known.any():
            reader = Reader(x[known])
            yield from (Taught(i, reader, own[i][known]) for i in which)


def by_place(located: Iterable[Located]) -> dict[Place, list[Located]]:
    """Those that are read at the same place."""
    found: dict[Place, list[Located]] = {}
    for one in located:
        found.setdefault(one.place, []).append(one)
    return found
