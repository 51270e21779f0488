"""What scores are worth: areas, thresholds set on clean problems, and differences with verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from thoughtlens.core import Number
from thoughtlens.numerics import NO_INFORMATION, Aucs, Tested, family, proportion
from thoughtlens.tracing.monitor.records import Against, Alarm

FEW = 10
"""Groups of problems of either kind below which no area is given."""


@dataclass(frozen=True, eq=False)
class Sample:
    """The problems of a split that count: those with something to notice, and clean ones."""

    split: str
    positive: Bool[np.ndarray, " n"]
    clean: Bool[np.ndarray, " n"]
    groups: Int[np.ndarray, " n"]

    @property
    def rows(self) -> Bool[np.ndarray, " n"]:
        """Those that count."""
        return self.positive | self.clean

    @property
    def few(self) -> bool:
        """Whether there are too few for an area."""
        return min(len(np.unique(self.groups[one])) for one in (self.positive, self.clean)) < FEW

    def only(self, positive: Bool[np.ndarray, " n"]) -> Sample:
        """With some of what there is to notice."""
        return replace(self, positive=self.positive & positive)

    def areas(
        self, scores: Mapping[str, Float[np.ndarray, " n"]], *, n_resamples: int, seed: int
    ) -> Aucs | None:
        """Of scores over these problems; None where there are too few."""
        if self.few:
            return None
        own = {name: one[self.rows] for name, one in scores.items()}
        return Aucs(self.positive[self.rows], own, self.groups[self.rows], n_resamples=n_resamples, seed=seed)

    def area(self, areas: Aucs | None, name: str) -> Number | None:
        """One score's."""
        if areas is None:
            return None
        return replace(areas.of(name).number(self.split), n=int(self.rows.sum()), n_groups=areas.n)


def alarms(
    score: Float[np.ndarray, " n"], rates: Sequence[float], usual: Float[np.ndarray, " k"], sample: Sample
) -> list[Alarm]:
    """A score at the thresholds that clean problems give it.

    Of k clean problems, the threshold is the floor(rate (k + 1))-th largest score: one more such problem is
    above it with at most that probability (Vovk et al. 2005, conformal prediction).
    """
    found = []
    for rate in rates:
        k = int(np.floor(rate * (len(usual) + 1) + 1e-9))
        if k < 1:
            found.append(Alarm(rate=rate))
            continue
        threshold = float(np.sort(usual)[-k])
        flagged = score > threshold
        found.append(
            Alarm(
                rate=rate,
                threshold=threshold,
                recall=_share(flagged, sample.positive, sample),
                false_alarms=_share(flagged, sample.clean, sample),
            )
        )
    return found


def against(areas: Aucs, pairs: Sequence[tuple[str, str]], sample: Sample, *, delta: float) -> list[Against]:
    """Differences of areas with verdicts, adjusted for their number (Holm).

    `no information`: no side, and the area of neither lies above one half.
    """
    gaps = [areas.difference(*pair) for pair in pairs]
    said = family([Tested(gap.low, gap.high, areas.n) for gap in gaps], delta=delta)
    rows = []
    for (score, rival), gap, one in zip(pairs, gaps, said, strict=True):
        knows = max(areas.of(score).low, areas.of(rival).low) > 0.5
        silent = one.verdict in ("inconclusive", "equivalent") and not knows
        number = replace(
            gap.number(sample.split),
            n=int(sample.rows.sum()),
            n_groups=areas.n,
            verdict=NO_INFORMATION if silent else one.verdict,
            p_holm=one.p_holm,
        )
        rows.append(Against(score=score, rival=rival, difference=number))
    return rows


def _share(flagged: np.ndarray, where: np.ndarray, sample: Sample) -> Number | None:
    if not where.any():
        return None
    found = proportion(flagged[where], sample.groups[where])
    return replace(found.number(sample.split), n=int(where.sum()))
