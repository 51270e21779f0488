"""Where problems have labels: how many of their values each setting's SAE tells. Nothing is chosen by it."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

from thoughtlens.acts import ActivationStore
from thoughtlens.core import DataError
from thoughtlens.evals import Held, Judge, Located, Wanted, codes_of, locate, questions, recover
from thoughtlens.latents import member_thoughts, pick
from thoughtlens.models import Place
from thoughtlens.sae import load_members

MAX_ROWS = 5000
"""Of a split at a place."""
RESAMPLES = 100
DEFINITIONS = {
    "found": "by label column: share of its values that the best latent, or the best union of two, tells "
    "with F1 >= 0.9 on test problems, chosen on validation problems, where a linear probe reads the column "
    "(found_by_two of the recovery stage), of the SAE `pooled`, else the first; labels decide nothing",
    "recovered": "mean of found over the label columns, over all problems",
}


@dataclass(frozen=True, eq=False)
class Labels:
    """The label columns of a store, and where a probe reads each."""

    held: Held
    located: list[Located]

    @classmethod
    def of(cls, store: ActivationStore, seed: int) -> Labels | None:
        """None where there are none."""
        try:
            asked, _ = questions(store.problems, Wanted(), where=str(store.root))
        except DataError:
            return None
        held = Held(store, MAX_ROWS, seed)
        return cls(held, locate(held, asked, [Place(*cell) for cell in store.cells])) if asked else None

    def found(self, directory: Path) -> dict[str, float]:
        """By column (and condition), of the SAE in a directory; columns that it never sees are left out."""
        _, sae = pick(load_members(directory), None)
        thoughts = member_thoughts(self.held.store, sae)
        seen = {Place(hook, thought) for hook in sae.hook_names for thought in thoughts or [None]}
        asked = [one for one in self.located if one.place in seen]
        told = recover(self.held, asked, {"sae": codes_of(sae)}, Judge(n_resamples=RESAMPLES))["sae"]
        names = [
            f"{q.variable}, {q.condition}" if q.condition else q.variable for q in (o.question for o in asked)
        ]
        return {name: one.score.found_by_two.estimate for name, one in zip(names, told, strict=True)}


def mean_found(found: dict[str, float]) -> float | None:
    """Over the columns, conditions left out."""
    whole = [share for name, share in found.items() if ", " not in name]
    return statistics.mean(whole) if whole else None
