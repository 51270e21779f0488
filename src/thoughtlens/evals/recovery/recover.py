"""Which latents of a dictionary speak for which values, where each variable is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float, Int
from torch import Tensor

from thoughtlens.core import progress
from thoughtlens.evals.recovery.places import Held, Located, by_place
from thoughtlens.evals.recovery.scores import Choice, Fired, Score, choose, found_by_two, score, where
from thoughtlens.models import Place
from thoughtlens.numerics import Interval, bootstrap_sums
from thoughtlens.sae import SAE, Baseline

CHUNK = 4096

Codes = Callable[[Float[Tensor, "n d_in"], Place], sp.csr_array]
"""Vectors of a place to which latents fire on them, [n, latents]."""


@dataclass(frozen=True, eq=False)
class Told:
    """What the latents chosen on validation problems tell of test problems."""

    choice: Choice
    score: Score
    seen: Fired
    """On validation rows that are asked about."""
    fired: Fired
    """On such test rows."""
    groups: Int[np.ndarray, " rows"]
    """Of the test rows."""


@dataclass(frozen=True)
class Judge:
    """How choices are scored."""

    found_at: float = 0.9
    n_resamples: int = 500
    seed: int = 0

    def told(self, seen: Fired, fired: Fired, groups: np.ndarray, n_values: int) -> Told:
        """Choose on validation rows, score on test rows."""
        choice = choose(seen, n_values)
        found = score(
            fired, choice, groups, found_at=self.found_at, n_resamples=self.n_resamples, seed=self.seed
        )
        return Told(choice, found, seen, fired, groups)

    def difference(self, a: Told, b: Told) -> Interval:
        """By how much more of the values two latents of a find than two of b, on the same test rows."""
        width = 5 * len(a.choice.one)

        def statistics(total: np.ndarray) -> np.ndarray:
            ahead, behind = (found_by_two(own, self.found_at) for own in (total[:, :width], total[:, width:]))
            return (ahead - behind)[:, None]

        both = sp.csr_array(sp.hstack([a.score.counts, b.score.counts]))
        return bootstrap_sums(both, statistics, n_resamples=self.n_resamples, seed=self.seed)[0]


def codes_of(dictionary: SAE | Baseline) -> Codes:
    """Of an SAE, or what stands in for one: a latent fires where it is not 0."""
    dtype = next(iter(dictionary.state_dict().values())).dtype

    @torch.no_grad()
    def codes(x: Float[Tensor, "n d_in"], place: Place) -> sp.csr_array:
        cell = dictionary.cell_index([(place.hook_name, place.thought)], np.zeros(len(x), np.int64))
        parts = []
        for start in range(0, len(x), CHUNK):
            at = None if cell is None else cell[start : start + CHUNK]
            fires = dictionary.encode(x[start : start + CHUNK].to(dtype), at) != 0
            parts.append(where(fires.numpy()))
        return sp.csr_array(sp.vstack(parts))

    return codes


def recover(
    held: Held, located: Sequence[Located], arms: Mapping[str, Codes], judge: Judge = Judge()
) -> dict[str, list[Told]]:
    """What dictionaries of one store tell of each variable at the place where it is read; see `scores`.

    The latent, or two, of each value are chosen on validation problems and scored on test problems.
    """
    found: dict[tuple[str, int], Told] = {}
    places = by_place(located)
    with progress("recovery", len(places), "places") as bar:
        for place, here in places.items():
            seen, test = (held.rows(place, split) for split in ("validation", "test"))
            fires = {arm: (codes(seen.x, place), codes(test.x, place)) for arm, codes in arms.items()}
            for one in here:
                own, own_test = one.question.own(seen), one.question.own(test)
                groups = held.group[test.problem[own_test != -2]]
                for arm, (before, after) in fires.items():
                    choose_on, score_on = Fired.asked(before, own), Fired.asked(after, own_test)
                    found[arm, id(one)] = judge.told(choose_on, score_on, groups, len(one.question.values))
            bar.advance(1)
    return {arm: [found[arm, id(one)] for one in located] for arm in arms}
