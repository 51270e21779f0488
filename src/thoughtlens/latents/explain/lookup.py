"""Token lookup: how strongly a latent fires on each token, or in problems with each word.

The simplest explanation, and the baseline of all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from thoughtlens.latents.codes.tokens import quoted
from thoughtlens.latents.explain.corpus import Part

PRIOR = 2.0
"""Fitting vectors at the latent's mean that every token is given on top of its own."""
SHOWN = 8


@dataclass(frozen=True, eq=False)
class TokenLookup:
    """Mean activation on each token (of text), or over the problems with each word (of thoughts).

    Means are shrunk towards the latent's own: (sum + PRIOR * mean) / (n + PRIOR). The prediction is the
    token's value, or the largest of the problem's words, times what the (hook, thought) fires relative to
    the strongest one.
    """

    ids: Int[np.ndarray, " tokens"]
    values: Float[np.ndarray, " tokens"]
    fires: Int[np.ndarray, " tokens"]
    mean: float
    profile: Float[np.ndarray, " cells"]

    @classmethod
    def fit(cls, part: Part, acts: Float[np.ndarray, " n"]) -> TokenLookup:
        """From the activations of one latent on the fitting problems."""
        at = part.at_tokens(acts)
        ids, stretch = part.tokens.ids, part.tokens.stretch
        if part.where is None:  # a word counts once per problem, however often it stands there
            once = np.unique(np.stack([stretch, ids]), axis=1, return_index=True)[1]
            ids, at = ids[once], at[once]
        kinds, code = np.unique(ids, return_inverse=True)
        total, n = np.bincount(code, at), np.bincount(code)
        mean = float(at.mean()) if len(at) else 0.0  # imported problems may have no words
        fires = np.bincount(code, at != 0).astype(np.int64)
        values = (total + PRIOR * mean) / (n + PRIOR)
        return cls(kinds, values, fires, mean, profile(part, acts))

    def predict(self, part: Part) -> Float[np.ndarray, " n"]:
        """One number for every vector of a part."""
        at = np.minimum(np.searchsorted(self.ids, part.tokens.ids), len(self.ids) - 1)
        known = self.ids[at] == part.tokens.ids
        value = np.where(known, self.values[at], self.mean)
        return part.at_vectors(value.astype(np.float32)) * self.profile[part.cell]

    def render(self, names: dict[int, str], text: bool) -> str:
        """The tokens with the largest values, down to a quarter of the first."""
        order = np.lexsort((self.ids, -self.values))
        least = max(self.mean, float(self.values.max(initial=0.0)) / 4)
        best = [i for i in order[:SHOWN].tolist() if self.fires[i] and self.values[i] > least]
        shown = [f"{quoted(names[int(self.ids[i])])} ({self.values[i]:.3g})" for i in best]
        more = int(((self.values > self.mean) & (self.fires > 0)).sum()) - len(shown)
        what = "on the token" if text else "in problems with the word"
        others = f", and more weakly on {more} others" if more else ""
        return f"{what} {', '.join(shown)}{others}" if shown else "on no token more than on others"


def profile(part: Part, acts: Float[np.ndarray, " n"]) -> Float[np.ndarray, " cells"]:
    """Mean activation at each (hook, thought), as a share of the largest."""
    total = np.bincount(part.cell, acts, minlength=part.n_cells)
    mean = total / np.maximum(np.bincount(part.cell, minlength=part.n_cells), 1)
    return (mean / max(float(mean.max()), 1e-12)).astype(np.float32)


def mostly(profile: Float[np.ndarray, " cells"], cells: Sequence[tuple[str, int | None]]) -> str:
    """Where, of several hooks and thoughts, a latent fires at least half as much as at the strongest."""
    strong = [cells[i] for i in np.flatnonzero(profile >= 0.5).tolist()]
    if len(cells) == 1 or len(strong) in (0, len(cells)):
        return ""
    named = [hook if thought is None else f"thought {thought} of {hook}" for hook, thought in strong]
    return f", mostly at {', '.join(named[:SHOWN])}" + (" and others" if len(named) > SHOWN else "")
