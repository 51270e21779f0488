"""The SAE as it was, finetuned, and trained as much on squared error alone, on the same held-out rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

from thoughtlens.core import Number
from thoughtlens.evals.finetune.records import BEFORE, FINETUNED, RIVAL, FinetuneArm, FinetuneGain
from thoughtlens.evals.heldout.fidelity import Splicer, Sums
from thoughtlens.evals.heldout.measure import Total, measure_sae
from thoughtlens.evals.heldout.subject import Subject
from thoughtlens.evals.heldout.thoughts import ThoughtSplicer
from thoughtlens.interventions import says
from thoughtlens.numerics import Tested, compare, family, ratio_over_groups
from thoughtlens.sae import SAE

ALIKE = 0.05
"""Differences of the divergence, or of the cross-entropy, below this share of what the SAE added before count
as equivalent."""
POINTS = 0.03
"""The same of the share of right answers."""


@dataclass(frozen=True, eq=False)
class Measured:
    """A number of each arm by document or problem."""

    name: str
    values: Mapping[str, Float[np.ndarray, " n"]]
    """Sums by arm."""
    counts: Shaped[np.ndarray, " n"]
    """What they are sums over."""
    groups: Shaped[np.ndarray, " n"]
    split: str
    seed: int
    less_is_better: bool = True

    def of(self, arm: str) -> Number:
        """An arm's own mean."""
        return self._number(self.values[arm])[0]

    def gain(self, rival: str) -> FinetuneGain:
        """The finetuned SAE beside another; its verdict is that of a comparison that stands alone."""
        mine, theirs = self.values[FINETUNED], self.values[rival]
        if not self.less_is_better:
            found = compare(mine, theirs, self.groups)
            one = Number(
                value=found.difference.estimate, low=found.difference.low, high=found.difference.high,
                n=found.n_rows, split=self.split, p=found.p, n_groups=found.n_clusters, verdict=found.verdict,
            )  # fmt: skip
            return FinetuneGain(rival=rival, measure=self.name, difference=one, delta=POINTS)
        delta = ALIKE * abs(float(self.values[BEFORE].sum() / self.counts.sum()))
        one, doubt = self._number(theirs - mine)
        return FinetuneGain(rival=rival, measure=self.name, difference=one, delta=delta, doubt=doubt)

    def _number(self, sums: Float[np.ndarray, " n"]) -> tuple[Number, str | None]:
        found = ratio_over_groups(sums, self.counts, self.groups, seed=self.seed)
        n, value = int(self.counts.sum()), float(sums.sum() / self.counts.sum())
        if found is None:
            return Number(value=value, n=n, split=self.split), "alone in one group"
        number = Number(
            value=value,
            low=found.low,
            high=found.high,
            n=n,
            split=self.split,
            n_groups=found.support.n_groups,
        )
        return number, found.doubt


class Judged(NamedTuple):
    """All that is held beside each other."""

    arms: list[FinetuneArm]
    gains: list[FinetuneGain]


def judge(subject: Subject, splicer: Splicer | ThoughtSplicer, saes: Mapping[str, SAE]) -> Judged:
    """Every arm on the same rows and the same text or problems; each difference with its verdict.

    Raises:
        MismatchError: the model does not give the activations of the store.
    """
    of = _of_text if isinstance(splicer, Splicer) else _of_thoughts
    measured = of(subject, splicer, saes)  # type: ignore[arg-type]
    total, arms = Total(subject), []
    for name, sae in saes.items():
        tally, firing = measure_sae(Subject(subject.store, subject.label, sae, subject.split), total)
        arms.append(
            FinetuneArm(
                arm=name,
                **{one.name: one.of(name) for one in measured},
                fvu=tally.over().fvu,
                l0=tally.over().l0,
                n_dead=firing.sparsity().n_dead,
            )
        )
    return Judged(arms, [gain for one in measured for gain in _as_a_family(one)])


def _of_text(subject: Subject, splicer: Splicer, saes: Mapping[str, SAE]) -> list[Measured]:
    """KL and cross-entropy added by document."""
    (hook,) = subject.sae.hook_names
    tallies, read = splicer.tallies(subject, saes)
    sums = {name: Sums(*tallies[hook, name].per_group().T) for name in saes}
    n, groups = sums[BEFORE].n, read.group_idx[sorted(tallies[hook, BEFORE].sums)]
    about = {"counts": n, "groups": groups, "split": subject.split, "seed": splicer.seed}
    return [
        Measured("kl", {name: one.kl for name, one in sums.items()}, **about),
        Measured("delta_ce", {name: one.ce - one.ce_clean for name, one in sums.items()}, **about),
    ]


def _of_thoughts(subject: Subject, splicer: ThoughtSplicer, saes: Mapping[str, SAE]) -> list[Measured]:
    """KL of the answer's first token, and right answers, by problem; all the SAE's places at once."""
    found = splicer.answered(subject, saes, ("all",))
    answers = dict(zip(saes, found.answers, strict=True))
    right = {name: says(one, found.problems.answers).astype(float) for name, one in answers.items()}
    groups = np.asarray(found.problems.groups)
    about = {"counts": np.ones(len(groups)), "groups": groups, "split": subject.split, "seed": splicer.seed}
    return [
        Measured("kl", {name: one.kl for name, one in answers.items()}, **about),
        Measured("accuracy", right, **about, less_is_better=False),
    ]


def _as_a_family(measured: Measured) -> Sequence[FinetuneGain]:
    """Both gains of a measure, with verdicts that know of each other."""
    gains = [measured.gain(rival) for rival in (BEFORE, RIVAL)]
    tested = [
        Tested(one.low, one.high, one.n_groups or 0, one.p)
        for one in (gain.difference for gain in gains)
        if one.low is not None and one.high is not None
    ]
    if len(tested) < len(gains):
        return [replace(g, difference=replace(g.difference, verdict="inconclusive")) for g in gains]
    said = family(tested, delta=gains[0].delta)
    return [
        replace(gain, difference=replace(gain.difference, verdict=own.verdict, p_holm=own.p_holm))
        for gain, own in zip(gains, said, strict=True)
    ]
