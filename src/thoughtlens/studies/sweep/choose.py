"""Which setting to take, by what was measured on validation rows, and the reason in words.

Differences are judged against the spread between seeds: the logarithm of FVU is taken to have one
standard deviation for all settings, pooled over those with several seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

LEVEL = 0.95
LEAST_BEND = 0.02
L0_STEP = 1.05
"""L0s within this factor count as the same when the cheaper of two settings is taken."""

DEFINITIONS = {
    "knee": "of the front's settings (none other has both a lower L0 and a lower FVU) the one furthest below "
    "the line between the front's ends, log L0 and log FVU scaled to 0..1 (Satopaa et al. 2011)",
    "seed noise": "95 % interval of a difference of mean ln FVU, from the standard deviation over seeds "
    "pooled over settings (Student's t)",
}


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A setting as validation rows see it."""

    idx: int
    label: str
    fvu: tuple[float, ...]
    """FVU of each seed."""
    l0: float
    dead_share: float
    d_sae: int
    max_l0: float

    @property
    def mean_fvu(self) -> float:
        """Geometric mean over seeds: seeds differ by factors."""
        return math.exp(float(np.mean(_logs(self))))


@dataclass(frozen=True)
class Noise:
    """Spread of ln FVU between seeds, pooled; `sd` is None where no setting has two seeds."""

    sd: float | None
    df: int

    def separates(self, a: Candidate, b: Candidate) -> bool | None:
        """Whether two settings differ by more than it; None where it is not known."""
        if self.sd is None:
            return None
        width = stats.t.ppf((1 + LEVEL) / 2, self.df) * self.sd
        gap = abs(math.log(a.mean_fvu / b.mean_fvu))
        return gap > float(width) * math.sqrt(1 / len(a.fvu) + 1 / len(b.fvu))


@dataclass(frozen=True)
class Choice:
    """The recommended setting; `idx` is None where none keeps the budget."""

    idx: int | None
    rule: str
    reason: str
    front: tuple[int, ...]
    """Settings that no other beats in both L0 and FVU, by L0."""
    within_noise: tuple[int, ...]
    """Settings in the budget whose FVU cannot be told from the chosen one's."""
    noise: Noise


def choose(
    candidates: Sequence[Candidate], *, rule: Literal["knee", "best"], max_dead: float, metric: str
) -> Choice:
    """The knee of the front, or its lowest FVU, inside the budget; the cheaper one where noise decides."""
    noise = pooled_noise(candidates)
    allowed = [c for c in candidates if c.dead_share <= max_dead and c.l0 <= c.max_l0]
    if not allowed:
        return Choice(None, rule, _none(candidates, max_dead), (), (), noise)
    line = front(allowed)
    bend = knee(line) if rule == "knee" else None
    best = bend or min(line, key=lambda c: c.mean_fvu)
    rivals = [c for c in allowed if c is not best and noise.separates(c, best) is False]
    cheaper = [c for c in rivals if _cost(c) < _cost(best)]
    chosen = min([best, *cheaper], key=lambda c: (*_cost(c), c.mean_fvu))
    alike = [c for c in allowed if c is not chosen and noise.separates(c, chosen) is False]
    reason = [
        f"The rule: among the {_count(len(allowed))} with at most {max_dead:.0%} dead latents and an L0 of "
        f"at most {_limits(allowed)}, "
        + ("the lowest FVU" if bend is None else "the knee of the front of L0 and FVU")
        + (" (the front of L0 and FVU has no knee)" if rule == "knee" and bend is None else "")
        + f". {best.label} has {metric} {best.mean_fvu:.4g} at L0 {best.l0:.3g}."
    ]
    if chosen is not best:
        reason.append(
            f"{chosen.label} is cheaper (L0 {chosen.l0:.3g}, d_sae {chosen.d_sae:,}) and its {metric}, "
            f"{chosen.mean_fvu:.4g}, is not told apart by the seeds: it is taken instead."
        )
    reason.append(_noise_words(noise, alike, len(allowed)))
    return Choice(
        chosen.idx, "best" if bend is None else "knee", " ".join(reason), tuple(c.idx for c in line),
        tuple(c.idx for c in alike), noise,
    )  # fmt: skip


def pooled_noise(candidates: Sequence[Candidate]) -> Noise:
    """Standard deviation of ln FVU around each setting's mean."""
    many = [_logs(c) for c in candidates if len(c.fvu) > 1]
    df = sum(len(logs) - 1 for logs in many)
    if df == 0:
        return Noise(None, 0)
    return Noise(math.sqrt(sum(((logs - logs.mean()) ** 2).sum() for logs in many) / df), df)


def front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that no other beats, or equals, in both L0 and FVU; by ascending L0."""
    kept: list[Candidate] = []
    for c in sorted(candidates, key=lambda c: (c.l0, c.mean_fvu, c.idx)):
        if not kept or c.mean_fvu < kept[-1].mean_fvu:
            kept.append(c)
    return kept


def knee(line: Sequence[Candidate]) -> Candidate | None:
    """The point of a front furthest below the line between its ends, both axes logarithmic in 0..1.

    None where no point lies below it by `LEAST_BEND`, as with fewer than three points.
    """
    if len(line) < 3:
        return None
    x = np.log([max(c.l0, np.finfo(float).tiny) for c in line])
    y = np.log([c.mean_fvu for c in line])
    along, down = (x - x[0]) / (x[-1] - x[0]), (y[0] - y) / (y[0] - y[-1])
    bend = down - along
    return line[int(np.argmax(bend))] if bend.max() >= LEAST_BEND else None


def _logs(c: Candidate) -> np.ndarray:
    return np.log(np.maximum(c.fvu, np.finfo(float).tiny))


def _cost(c: Candidate) -> tuple[int, int]:
    return round(math.log(max(c.l0, np.finfo(float).tiny), L0_STEP)), c.d_sae


def _count(n: int) -> str:
    return "1 setting" if n == 1 else f"{n} settings"


def _limits(allowed: Sequence[Candidate]) -> str:
    limits = sorted({c.max_l0 for c in allowed})
    return f"{limits[0]:g}" if len(limits) == 1 else f"{limits[0]:g} to {limits[-1]:g}"


def _none(candidates: Sequence[Candidate], max_dead: float) -> str:
    if not candidates:
        return "No setting was trained."
    near = min(candidates, key=lambda c: max(0.0, c.l0 / c.max_l0 - 1) + max(0.0, c.dead_share - max_dead))
    return (
        f"No setting has at most {max_dead:.0%} dead latents and an L0 within its limit; the nearest, "
        f"{near.label}, has {near.dead_share:.1%} dead and L0 {near.l0:.3g} (limit {near.max_l0:g}). Raise "
        f"max_l0 or max_dead, or sweep other settings."
    )


def _noise_words(noise: Noise, alike: Sequence[Candidate], n: int) -> str:
    if noise.sd is None:
        return "Every setting has one seed: whether these differences are more than seed noise is not known."
    measured = f"(95 %, SD of ln FVU between seeds {noise.sd:.3g}, {noise.df} degrees of freedom)"
    if n == 1:
        return "No other setting is within the budget."
    if not alike:
        return f"Its FVU differs from every other setting's by more than seed noise {measured}."
    return f"Inside seed noise of it {measured}: {'; '.join(c.label for c in alike)}."
