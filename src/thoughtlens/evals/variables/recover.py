"""Which latents of a dictionary speak for which values, where each variable is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float
from torch import Tensor

from thoughtlens.evals.variables.places import Held, Located, by_place
from thoughtlens.evals.variables.scores import Choice, Fired, Score, choose, score
from thoughtlens.models import Place
from thoughtlens.sae import SAE, Baseline

CHUNK = 4096

Codes = Callable[[Float[Tensor, "n d_in"], Place], sp.csr_array]
"""Vectors of a place to which latents fire on them, [n, latents]."""


@dataclass(frozen=True, eq=False)
class Told:
    """What the latents chosen on validation problems tell of test problems."""

    choice: Choice
    score: Score
    fired: Fired
    """On test rows that are asked about."""


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
            parts.append(sp.csr_array(fires.numpy().astype(np.float32)))
        return sp.csr_array(sp.vstack(parts))

    return codes


def recover(
    held: Held, located: Sequence[Located], codes: Codes, *, found_at: float = 0.9, n_resamples: int = 500
) -> list[Told]:
    """What one dictionary tells of each variable at the place where it is read; see `scores`.

    The latent, or two, of each value are chosen on validation problems and scored on test problems. Several
    dictionaries of one store are compared by calling this for each, with the same `located`.
    """
    found: dict[int, Told] = {}
    for place, here in by_place(located).items():
        rows = {split: held.rows(place, split) for split in ("validation", "test")}
        fires = {split: codes(one.x, place) for split, one in rows.items()}
        for one in here:
            fired = {
                split: Fired.asked(fires[split], one.question.codes[rows[split].problem]) for split in rows
            }
            choice = choose(fired["validation"], len(one.question.values))
            problem = rows["test"].problem
            groups = held.group[problem[one.question.codes[problem] != -2]]
            scored = score(
                fired["test"], choice, groups, found_at=found_at, n_resamples=n_resamples, seed=held.seed
            )
            found[id(one)] = Told(choice, scored, fired["test"])
    return [found[id(one)] for one in located]
