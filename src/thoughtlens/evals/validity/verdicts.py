"""From counts to intervals, and from intervals to gates that hold or do not."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from thoughtlens.core import Number
from thoughtlens.evals.validity.records import (
    Accuracy,
    AtTheValue,
    BestCell,
    BetterThanControls,
    FollowsTheDonor,
    GrowsWithThoughts,
    Mode,
    NeedsItsThoughts,
    Reproduces,
    SurvivesSplicing,
    TextIsBlind,
    ThoughtsHoldValues,
    TwinsMove,
)
from thoughtlens.interventions import Counts
from thoughtlens.numerics import Interval, mcnemar_exact, paired_proportions, verdict, wilson

EPS = 1e-9
MODES = {"words": "cot", "direct": "direct"}
"""Mode -> what it is called among the counts."""

FAIR_ONE_STEP = 0.95
"""A control counts only if it solves one-step problems at least this often."""


def add(tables: list[Counts]) -> Counts:
    """Counts of several seeds as one."""
    keys = dict.fromkeys(key for table in tables for key in table)
    sums = {}
    for key in keys:
        pairs = [table[key] for table in tables if key in table]
        sums[key] = (sum(right for right, _ in pairs), sum(n for _, n in pairs))
    return sums


def share(pair: tuple[int, int] | None) -> Number | None:
    """A count as a share with its Wilson interval of 95 %; None where nothing was measured."""
    return None if pair is None or pair[1] == 0 else wilson(*pair).number()


def accuracy_table(counts: Counts, suffix: str = "") -> Accuracy:
    """The accuracies every thought model is judged by; `suffix` picks a number of steps."""
    names = ("thoughts", "cot", "direct", "no_cot", "pause", "mean_ablated", "zeroed", "resampled")
    by_n = [share(counts[f"by_n_thoughts_{n}{suffix}"]) for n in range(n_exits(counts))]
    return Accuracy(**{name: share(counts.get(name + suffix)) for name in names}, by_n_thoughts=by_n)


def n_exits(counts: Counts) -> int:
    """Numbers of thoughts after which the loop was left, 0 among them."""
    return len({key.partition("|")[0] for key in counts if key.startswith("by_n_thoughts_")})


def rate(counts: Counts, key: str) -> float | None:
    """A share as a number, None where it was not measured."""
    right, n = counts.get(key, (0, 0))
    return right / n if n else None


def better_than_controls(counts: Counts) -> BetterThanControls:
    """G1: thoughts beat no chain of thought by 20 points and pause tokens by 10, fair controls."""
    gaps, fair = {}, {}
    for name in ("no_cot", "pause"):
        control, ours = rate(counts, name), rate(counts, "thoughts")
        gaps[name] = None if control is None or ours is None else ours - control
        one = rate(counts, f"{name}_one_step")
        fair[name] = None if one is None else one >= FAIR_ONE_STEP
    lacking = [name for name, gap in gaps.items() if gap is None]
    holds = None
    if not lacking:
        holds = (
            gaps["no_cot"] >= 0.2 - EPS
            and gaps["pause"] >= 0.1 - EPS
            and all(f is not False for f in fair.values())
        )
    rule = "thoughts - no_cot >= 0.20, thoughts - pause >= 0.10, both controls >= 0.95 on one step"
    paired = {name: _paired(counts, name) for name in gaps}
    return BetterThanControls(
        holds=holds, rule=rule, gaps=gaps, paired=paired, controls_are_fair=fair, lacking=lacking
    )


def _paired(counts: Counts, name: str) -> Number | None:
    """The gap to a control on the problems that both were given."""
    if f"thoughts_not_{name}" not in counts:
        return None
    (only_ours, n), (only_theirs, _) = counts[f"thoughts_not_{name}"], counts[f"{name}_not_thoughts"]
    return paired_proportions(only_ours, only_theirs, n).number()


def modes(counts: Counts) -> dict[str, Mode]:
    """The same model in words and directly, each held against its thoughts on the same problems."""
    found = {}
    for mode, name in MODES.items():
        if f"thoughts_not_{name}" not in counts:
            continue
        (ahead, n), (behind, _) = counts[f"thoughts_not_{name}"], counts[f"{name}_not_thoughts"]
        gap, p = paired_proportions(ahead, behind, n), mcnemar_exact(ahead, behind)
        difference = replace(gap.number(), verdict=verdict(gap.low, gap.high, p=p), p=p)
        found[mode] = Mode(accuracy=wilson(*counts[name]).number(), difference=difference)
    return found


def needs_its_thoughts(counts: Counts, chance: float | None) -> NeedsItsThoughts:
    """G2: mean-ablated and resampled thoughts do no better than no chain of thought + 5 points."""
    floor = rate(counts, "no_cot")
    floor = chance if floor is None else floor
    rates = {name: rate(counts, name) for name in ("mean_ablated", "resampled")}
    holds = None if floor is None else all(r is not None and r <= floor + 0.05 for r in rates.values())
    rule = "mean_ablated and resampled <= no_cot (without one: the commonest answer) + 0.05"
    return NeedsItsThoughts(holds=holds, rule=rule, floor=floor, **rates)


def grows_with_thoughts(counts: Counts) -> GrowsWithThoughts:
    """G3: accuracy rises with the number of thoughts; where steps are known, at the right one."""
    exits = [wilson(*counts[f"by_n_thoughts_{n}"]) for n in range(n_exits(counts))]
    if len(exits) < 2:
        return GrowsWithThoughts(holds=None, rule="no early exit measured")
    rise = exits[-1].estimate - exits[0].estimate
    falls = sum(
        later.high < earlier.low and earlier.estimate - later.estimate > 0.02
        for earlier, later in pairwise(exits)
    )
    rule = "rise >= 0.20 in all, and no fall from one number to the next > 0.02 and beyond both intervals"
    return GrowsWithThoughts(holds=rise >= 0.2 and falls == 0, rule=rule, rise=rise, falls=falls)


def steps_where_value_is_produced(counts: Counts, steps: list[int]) -> AtTheValue:
    """G3b: with fewer than 2 k thoughts a k-step problem is not solved, with 2 k it is.

    Beyond doubt: a number counts against it only if its whole interval does.
    """
    exits = n_exits(counts)
    before = _measured(counts, [f"by_n_thoughts_{n}|{k}" for k in steps for n in range(2 * k)])
    after = _measured(counts, [f"by_n_thoughts_{n}|{k}" for k in steps for n in range(2 * k, exits)])
    if not before or not after:
        return AtTheValue(holds=None, rule="needs problems with n_steps and early exit")
    high = max(before, key=lambda entry: entry.estimate)
    low = min(after, key=lambda entry: entry.estimate)
    rule = "accuracy <= 0.12 with n < 2 k thoughts, >= 0.90 with n >= 2 k, up to the intervals"
    holds = high.low <= 0.12 and low.high >= 0.9
    return AtTheValue(holds=holds, rule=rule, highest_before=high.number(), lowest_after=low.number())


def _measured(counts: Counts, keys: list[str]) -> list[Interval]:
    return [wilson(*counts[key]) for key in keys if counts.get(key, (0, 0))[1]]


def follows_the_donor(counts: Counts) -> FollowsTheDonor:
    """G4: keys and values of another problem bring its answer, beyond a third problem's."""
    donor, null = rate(counts, "tail_swap_donor"), rate(counts, "tail_swap_stranger")
    gap = None if donor is None or null is None else donor - null
    holds = None if gap is None else gap >= 0.5
    rule = "donor's answer - a stranger's answer >= 0.50"
    return FollowsTheDonor(holds=holds, rule=rule, donor=donor, stranger=null)


def twins_move(counts: Counts, storing: dict[str, list[int]]) -> TwinsMove:
    """G5: the thought that stores a value moves the answer to the twin's, others do not.

    `storing` names, per change, the thoughts that should carry it.
    """
    cells = {key: rate(counts, key) or 0.0 for key in counts if key.startswith("twin_")}
    if not cells:
        return TwinsMove(holds=None, rule="needs counterfactual twins")
    places = {key: key.removeprefix("twin_").rsplit("_z", 1) for key in cells}
    if not any(change in storing for change, _ in places.values()):
        return TwinsMove(holds=None, rule="needs to know which thoughts store what changes", others=cells)
    inside: dict[str, float] = {}
    outside: dict[str, float] = {}
    for key, value in cells.items():
        change, thought = places[key]
        side = inside if int(thought) in storing.get(change, []) else outside
        side[key] = value
    start = {k: v for k, v in outside.items() if k.startswith("twin_start")}
    holds = min(inside.values()) >= 0.95 and max(start.values()) <= 0.5 * min(inside.values())
    rule = "storing thoughts >= 0.95; any other thought at most half of that"
    return TwinsMove(holds=holds, rule=rule, storing=inside, others=outside)


def thoughts_hold_values(probes: dict[str, Counts]) -> ThoughtsHoldValues:
    """G6: some thought's state tells an intermediate value 20 points better than pass 0 does."""
    if not probes:
        return ThoughtsHoldValues(holds=None, rule="needs columns v1, v2 ..")
    best = {}
    for value, counts in probes.items():
        rates = {cell: right / n for cell, (right, n) in counts.items()}
        begin = max(r for cell, r in rates.items() if cell.endswith("p=0"))
        cell = max(rates, key=lambda c: rates[c])
        best[value] = BestCell(cell=cell, accuracy=rates[cell], begin_of_thought=begin)
    holds = all(b.accuracy - b.begin_of_thought >= 0.2 for b in best.values())
    rule = "best thought state - best begin-of-thought state >= 0.20 for each value"
    return ThoughtsHoldValues(holds=holds, rule=rule, **best)


def reproduces(counts: Counts, published: float | None) -> Reproduces:
    """G0: a published accuracy lies in the interval measured here, or within 1.5 points."""
    ours = wilson(*counts["thoughts"])
    if published is None:
        return Reproduces(holds=None, rule="no published accuracy to reproduce", ours=ours.number())
    holds = ours.low <= published <= ours.high or abs(ours.estimate - published) <= 0.015
    rule = "published accuracy within the interval or 0.015"
    return Reproduces(holds=holds, rule=rule, ours=ours.number(), published=published)


def text_is_blind(counts: Counts) -> TextIsBlind:
    """A bag of words reads the operation at chance: at most 36 % of three classes."""
    read = rate(counts, "bag_of_words")
    holds = None if read is None else read <= 0.36
    return TextIsBlind(holds=holds, rule="bag of words <= 0.36", accuracy=share(counts.get("bag_of_words")))


def survives_splicing(counts: Counts) -> SurvivesSplicing:
    """G7: answers through the SAEs cost at most 2 points; shuffled latents and PCA stand beside."""
    plain, spliced = rate(counts, "thoughts"), rate(counts, "spliced")
    if plain is None or spliced is None:
        return SurvivesSplicing(holds=None, rule="needs sae=DIRECTORY")
    lost = plain - spliced
    return SurvivesSplicing(
        holds=lost <= 0.02,
        rule="accuracy lost by splicing <= 0.02",
        spliced=spliced,
        lost=lost,
        shuffled=rate(counts, "spliced_shuffled"),
        pca=rate(counts, "spliced_pca"),
    )
