"""What labels can buy at a place: the two ceilings, and a dictionary whose latents are fitted with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from thoughtlens.evals.recovery.ceilings import Ceiling
from thoughtlens.evals.recovery.places import Held, Located, by_place, teach
from thoughtlens.evals.recovery.recover import Judge, Told
from thoughtlens.evals.recovery.scores import Fired, where


@dataclass(frozen=True, eq=False)
class AtBest:
    """A question at its place, on test problems."""

    ceiling: Ceiling
    groups: Int[np.ndarray, " rows"]
    """Of the rows of the ceiling."""
    supervised: Told
    """A latent per value: it fires where the probe's score of its value is the largest of all, and above the
    threshold that has the best F1 on validation problems."""


def at_best(held: Held, located: Sequence[Located], judge: Judge) -> list[AtBest]:
    """Of each question; what is fitted is fitted on training problems."""
    found: dict[int, AtBest] = {}
    for place, here in by_place(located).items():
        seen, test = (held.rows(place, split) for split in ("validation", "test"))
        x_seen, x_test = (rows.x.numpy().astype(np.float64) for rows in (seen, test))
        for i, reader, y in teach(held.rows(place, "train"), [one.question for one in here]):
            question = here[i].question
            own, own_test, n = question.own(seen), question.own(test), len(question.values)
            known, groups = own_test >= 0, held.group[test.problem]
            says = winners(reader.says(y, n, x_seen[own != -2]))
            limits = thresholds(says, own[own != -2])
            above = winners(reader.says(y, n, x_test[own_test != -2])) >= limits
            found[id(here[i])] = AtBest(
                reader.ceiling(y, x_test[known], own_test[known]),
                groups[known],
                judge.told(
                    Fired(where(says >= limits), own[own != -2]),
                    Fired(where(above), own_test[own_test != -2]),
                    groups[own_test != -2],
                    n,
                ),
            )
    return [found[id(one)] for one in located]


def winners(says: Float[np.ndarray, "m v"]) -> Float[np.ndarray, "m v"]:
    """Only the largest score of each row; -inf elsewhere."""
    return np.where(says == says.max(1, keepdims=True), says, -np.inf)


def thresholds(says: Float[np.ndarray, "m v"], own: Int[np.ndarray, " m"]) -> Float[np.ndarray, " v"]:
    """Of each value, the score from which on rows are called it, so that F1 is largest."""
    order = np.argsort(-says, axis=0, kind="stable")
    right = np.cumsum(own[order] == np.arange(says.shape[1]), axis=0)
    called = np.arange(1, len(says) + 1)[:, None]
    best = (2 * right / (called + right[-1])).argmax(0)
    return np.take_along_axis(np.take_along_axis(says, order, 0), best[None], 0)[0]
