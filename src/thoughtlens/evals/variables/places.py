"""Where a variable is read: rows of a place by split, and the place that a probe reads best."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from thoughtlens.acts import ActivationStore
from thoughtlens.core import progress
from thoughtlens.evals.variables.ceilings import Ceiling, Reader
from thoughtlens.evals.variables.questions import SPLITS, Question
from thoughtlens.models import Place

NEAR_BEST = 0.02
"""A place reads a variable as well as the best one up to this accuracy."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Vectors of a place."""

    x: Float[Tensor, "n d_in"]
    problem: Int[np.ndarray, " n"]


@dataclass(frozen=True, eq=False)
class Held:
    """The rows of a store that variables are looked for in: at most `max_rows` of a split at a place."""

    store: ActivationStore
    max_rows: int = 20_000
    seed: int = 0

    @property
    def group(self) -> Int[np.ndarray, " problems"]:
        """Problems of one group are not independent."""
        return self.store.group_idx

    def rows(self, place: Place, split: str) -> Rows:
        """Of a place in a split, drawn at random where there are more."""
        view = self.store.view([place.hook_name], split=split, thoughts=place.thought)
        idx = np.sort(np.random.default_rng((self.seed, 5)).permutation(view.n)[: self.max_rows])
        return Rows(view.read(idx), self.store.problem_idx[view.rows_of(idx)])


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
            rows = {split: held.rows(place, split) for split in SPLITS[:2]}
            for i, ceiling in ceilings(rows["train"], rows["validation"], asked):
                probe[i, at], between[i, at] = ceiling.right.mean(), ceiling.variance_share
            bar.advance(1)
    return [Located(one, list(places), probe[i], between[i]) for i, one in enumerate(asked)]


def ceilings(train: Rows, held_out: Rows, asked: Sequence[Question]) -> Iterator[tuple[int, Ceiling]]:
    """By question, on the held-out rows that have one of its values; none where there are no such rows.

    Questions about the same training rows share a reader.
    """
    x, held = (rows.x.numpy().astype(np.float64) for rows in (train, held_out))
    alike: dict[bytes, list[int]] = {}
    for i, question in enumerate(asked):
        alike.setdefault((question.codes[train.problem] >= 0).tobytes(), []).append(i)
    for key, which in alike.items():
        known = np.frombuffer(key, bool)
        if not known.any():
            continue
        reader = Reader(x[known])
        for i in which:
            y, own = (asked[i].codes[rows.problem] for rows in (train, held_out))
            if (own >= 0).any():
                yield i, reader.ceiling(y[known], held[own >= 0], own[own >= 0])


def by_place(located: Iterable[Located]) -> dict[Place, list[Located]]:
    """Those that are read at the same place."""
    found: dict[Place, list[Located]] = {}
    for one in located:
        found.setdefault(one.place, []).append(one)
    return found
