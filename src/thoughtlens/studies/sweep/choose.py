"""Which setting to take, by what was measured on validation rows, and the reason in words.

Differences are judged against the spread between seeds: the logarithm of what settings are compared by (FVU,
bits) is taken to have one standard deviation for all settings, pooled over those with several seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy

LEVEL = 0.95
LEAST_BEND = 0.02
L0_STEP = 1.05
"""L0s within this factor count as the same when the cheaper of two settings is taken."""

MAX_DEAD = 0.1
MARGIN = 0.05
"""By how much a description may be longer than the shortest where its dictionary is wider."""
Rule = Literal["description", "knee", "best"]

DEFINITIONS = {
    "rule description": "of the settings in the budget that describe a held-out row in at most 5 % more bits "
    "than the one with the fewest (means over seeds), the widest, and of several the one with the fewest "
    "bits; no label is seen",
    "knee": "of the front's settings (none other has both a lower L0 and a lower FVU) the one furthest below "
    "the line between the front's ends, log L0 and log FVU scaled to 0..1 (Satopaa et al. 2011)",
    "seed noise": "95 % interval of a difference of mean ln FVU (by description: of mean ln bits), from the "
    "standard deviation over seeds pooled over settings (Student's t)",
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
    bits: tuple[float, ...] = ()
    """Description length of a row, each seed; none where it was not measured."""

    @property
    def mean_fvu(self) -> float:
        """Geometric mean over seeds: seeds differ by factors."""
        return math.exp(float(np.mean(_logs(self.fvu))))

    @property
    def mean_bits(self) -> float:
        """Mean over seeds."""
        return float(np.mean(self.bits))


@dataclass(frozen=True)
class Noise:
    """Spread of the logarithm between seeds, pooled; `sd` is None where no setting has two seeds."""

    sd: float | None
    df: int

    def separates(self, a: Sequence[float], b: Sequence[float]) -> bool | None:
        """Whether two settings' values differ by more than it; None where it is not known."""
        if self.sd is None:
            return None
        width = scipy.special.stdtrit(self.df, (1 + LEVEL) / 2) * self.sd
        gap = abs(float(_logs(a).mean() - _logs(b).mean()))
        return gap > float(width) * math.sqrt(1 / len(a) + 1 / len(b))


@dataclass(frozen=True)
class Choice:
    """The recommended setting; `idx` is None where none keeps the budget."""

    idx: int | None
    rule: str
    reason: str
    front: tuple[int, ...]
    """Settings that no other beats in both L0 and FVU, by L0."""
    within_noise: tuple[int, ...]
    """Settings in the budget that cannot be told from the chosen one by what was compared."""
    noise: Noise


def choose(
    candidates: Sequence[Candidate],
    *,
    rule: Rule,
    max_dead: float | None,
    metric: str,
    precision: float = 0.3,
) -> Choice:
    """The widest of the short descriptions, the knee of the front, or its lowest FVU, inside the budget.

    By knee and best the cheaper of two is taken where noise decides; the description has paid for both.
    """
    described = rule == "description"
    max_dead = max_dead if max_dead is not None else 1.0 if described else MAX_DEAD
    noise = pooled_noise([c.bits if described else c.fvu for c in candidates])
    allowed = [c for c in candidates if c.dead_share <= max_dead and c.l0 <= c.max_l0]
    if described and allowed and not any(c.bits for c in allowed):
        return Choice(
            None, rule, "No setting's rows could be described: every cell hardly varies.", (), (), noise
        )
    if not allowed:
        return Choice(None, rule, _none(candidates, max_dead), (), (), noise)
    if described:
        return _described(allowed, max_dead, noise, precision)
    line = front(allowed)
    bend = knee(line) if rule == "knee" else None
    best = bend or min(line, key=lambda c: c.mean_fvu)
    rivals = [c for c in allowed if c is not best and noise.separates(c.fvu, best.fvu) is False]
    cheaper = [c for c in rivals if _cost(c) < _cost(best)]
    chosen = min([best, *cheaper], key=lambda c: (*_cost(c), c.mean_fvu))
    alike = [c for c in allowed if c is not chosen and noise.separates(c.fvu, chosen.fvu) is False]
    reason = [
        f"The rule: among {_budget(allowed, max_dead)}, "
        + ("the lowest FVU" if bend is None else "the knee of the front of L0 and FVU")
        + (" (the front of L0 and FVU has no knee)" if rule == "knee" and bend is None else "")
        + f". {best.label} has {metric} {best.mean_fvu:.4g} at L0 {best.l0:.3g}."
    ]
    if chosen is not best:
        reason.append(
            f"{chosen.label} is cheaper (L0 {chosen.l0:.3g}, d_sae {chosen.d_sae:,}) and its {metric}, "
            f"{chosen.mean_fvu:.4g}, is not told apart by the seeds: it is taken instead."
        )
    reason.append(_noise_words(noise, alike, len(allowed), "FVU"))
    return Choice(
        chosen.idx, "best" if bend is None else "knee", " ".join(reason), tuple(c.idx for c in line),
        tuple(c.idx for c in alike), noise,
    )  # fmt: skip


def _described(allowed: Sequence[Candidate], max_dead: float, noise: Noise, precision: float) -> Choice:
    """The widest of the short descriptions: what a latent costs is counted, so that idle ones are free."""
    known = [c for c in allowed if c.bits]
    shortest = min(known, key=lambda c: (c.mean_bits, c.l0))
    short = [c for c in known if c.mean_bits <= (1 + MARGIN) * shortest.mean_bits]
    best = max(short, key=lambda c: (c.d_sae, -c.mean_bits))
    alike = [c for c in known if c is not best and noise.separates(c.bits, best.bits) is False]
    taken = (
        f"of the {_count(len(short))} within {MARGIN:.0%} of it {best.label} is taken: d_sae {best.d_sae:,}, "
        f"{best.mean_bits:.4g} bits at L0 {best.l0:.3g}"
        if len(short) > 1
        else f"it has L0 {best.l0:.3g}, and no other is within {MARGIN:.0%} of it"
    )
    reason = (
        f"The rule: among {_budget(allowed, max_dead)}, those in which a held-out row takes the fewest "
        f"bits (which latents fire, how strongly, and what is left, up to {precision:.0%} of the variance in "
        f"a cell), and of these the widest. {shortest.label} takes the fewest, {shortest.mean_bits:.4g}; "
        f"{taken}. "
    )
    return Choice(
        best.idx, "description", reason + _noise_words(noise, alike, len(known), "description length"),
        tuple(c.idx for c in front(allowed)), tuple(c.idx for c in alike), noise,
    )  # fmt: skip


def pooled_noise(settings: Sequence[Sequence[float]]) -> Noise:
    """Standard deviation of the logarithm around each setting's mean.

    Args:
        settings: For each setting what its seeds measured.
    """
    many = [_logs(values) for values in settings if len(values) > 1]
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


def _logs(values: Sequence[float]) -> np.ndarray:
    return np.log(np.maximum(values, np.finfo(float).tiny))


def _cost(c: Candidate) -> tuple[int, int]:
    return round(math.log(max(c.l0, np.finfo(float).tiny), L0_STEP)), c.d_sae


def _count(n: int) -> str:
    return "1 setting" if n == 1 else f"{n} settings"


def _budget(allowed: Sequence[Candidate], max_dead: float) -> str:
    dead = "" if max_dead >= 1 else f"at most {max_dead:.0%} dead latents and "
    return f"the {_count(len(allowed))} with {dead}an L0 of at most {_limits(allowed)}"


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


def _noise_words(noise: Noise, alike: Sequence[Candidate], n: int, what: str) -> str:
    if noise.sd is None:
        return "Every setting has one seed: whether these differences are more than seed noise is not known."
    measured = f"(95 %, SD of ln {what} between seeds {noise.sd:.3g}, {noise.df} degrees of freedom)"
    if n == 1:
        return "No other setting is within the budget."
    if not alike:
        return f"Its {what} differs from every other setting's by more than seed noise {measured}."
    return f"Inside seed noise of it {measured}: {'; '.join(c.label for c in alike)}."
