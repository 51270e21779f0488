"""Runs side by side: settings that differ, and headline numbers with what their differences allow to say."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
import scipy

from thoughtlens.core import ConfigError, NotThereError, Record, aligned, number, read_result
from thoughtlens.numerics import DELTA, Tested, compare, compare_values, family, proportion
from thoughtlens.show.runs.listing import is_run, line_of, runs_below, study_of
from thoughtlens.show.runs.settings import Differs, differing, made
from thoughtlens.show.runs.shared import Pairs, Scores, pair, scores_of, trained_and_tested

CONTROL = re.compile(
    r"^(random|token|n)_|^base_rate|_(pca|pca_l0|random|cell_mean|permuted|majority|text|text_counts|pause|shuffled|"
    r"renamed|untouched|begin_of_thought|sae_reconstruction)$"
)
"""Names of baselines, controls and counts: they are shown, and no difference of them is asked about."""
LOWER = (
    "fvu",
    "delta_ce",
    "spliced_kl",
    "kl",
    "dead_share",
    "dead_validation",
    "fvu_within",
    "fvu_validation",
)
HIGHER = (
    "right_answers", "chains_found", "accuracy_sae", "accuracy_raw", "r2_sae", "r2_raw", "auprc", "precision",
    "recall", "verified", "explained_variance", "explained_variance_within", "spliced_accuracy",
    "ce_loss_score", "spliced_difference",
)  # fmt: skip
"""Numbers of which it is known which way is better; of others a verdict says higher or lower."""
SHARES = ("accuracy", "right_answers", "chains_found", "precision", "recall", "verified", "spliced_accuracy")
"""Beginnings of the names of shares of problems, of which `DELTA` is next to nothing."""
NO_DELTA = 1e-12
KEPT_NONE = "values of single problems are not kept"
Z = float(scipy.special.ndtri(0.975))


@dataclass(frozen=True, kw_only=True)
class Against(Record):
    """A number of a run minus that of the first run."""

    difference: float
    low: float
    high: float
    p_holm: float
    """Adjusted for all comparisons of the table (Holm)."""
    verdict: str
    """better, worse, higher, lower, equivalent or inconclusive."""
    paired: bool
    n: int
    """Independent problems behind it: those that both have, or of the run with fewer."""
    why_not_paired: str | None = None


@dataclass(frozen=True, kw_only=True)
class Measured(Record):
    """A headline number of one run; `against` is unset where nothing can be said."""

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None
    split: str | None = None
    against: Against | None = None


@dataclass(frozen=True, kw_only=True)
class NumberRow(Record):
    """A headline number of all runs."""

    stage: str
    name: str
    definition: str
    runs: list[Measured | None]
    """None: this run does not have it."""


@dataclass(frozen=True, kw_only=True)
class Compared(Record):
    """Runs side by side, the first being what the others are held against."""

    runs: list[str]
    names: list[str]
    settings: list[Differs]
    numbers: list[NumberRow]
    n_compared: int
    notes: list[str]

    def text(self) -> str:
        """The tables, for people: settings, numbers, and the differences that can be told."""
        heads = [f"[{i}] {name}" for i, name in enumerate(self.names)]
        settings = [(row.setting, *(v or "-" for v in row.values)) for row in self.settings]
        numbers = [(f"{row.stage}.{row.name}", *map(_cell, row.runs)) for row in self.numbers]
        lines = aligned([("settings that differ", *heads), *settings]) if settings else ["no setting differs"]
        lines += ["", *aligned([("95 % intervals", *heads), *numbers]), ""]
        told = [text for row in self.numbers for text in _told(row, self.names)]
        rest = self.n_compared - len(told)
        asked = "1 comparison" if self.n_compared == 1 else f"{self.n_compared} comparisons"
        lines += [f"against [0] {self.names[0]}, {asked}, p adjusted for all of them (Holm):"]
        lines += [*told, f"{rest} inconclusive" if rest else "none inconclusive"]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


class _Held:
    """What is known of one run."""

    def __init__(self, path: Path) -> None:
        self.path, self.scores = path, scores_of(path)
        self.results = {stage: read_result(place) for stage, place in made(path).items()}

    def numbers(self) -> dict[tuple[str, str], Measured]:
        """By stage and name, its numbers; those of single problems come first."""
        found = {}
        for stage, result in self.results.items():
            told = result.get("headline") or {}
            for name, scores in self.scores.get(stage, {}).items():
                if name not in told and {one.of for one in scores.values()} == {1}:
                    own = list(scores.values())
                    share = proportion(
                        np.array([one.right for one in own], float), [one.group for one in own]
                    )
                    found[stage, name] = Measured(
                        value=share.estimate, low=share.low, high=share.high, n=share.n
                    )
            found |= {
                (stage, name): one for name, entry in told.items() if (one := _measured(entry)) is not None
            }
        return found


def expand(paths: Sequence[Path]) -> list[Path]:
    """The runs that are meant: those named, or those in the one folder that is named.

    Raises:
        NotThereError: a path that holds none.
        ConfigError: fewer than two, or one twice.
    """
    found = []
    for path in paths:
        if is_run(path) and study_of(path) is None:
            found.append(path)
        elif path.is_dir() and (below := [one for one in sorted(runs_below(path)) if is_run(one)]):
            found += [one for one in below if not {*one.parents} & {*below}]  # not a run's own directions
        else:
            what, alone = study_of(path), f"thoughtlens compare {quote(str(path))}"
            raise NotThereError(
                f"Expected a run, or a folder of runs, at {path}, found "
                f"{f'a {what}, which is compared alone: {alone}' if what else 'none'}"
            )
    places = [path.resolve() for path in found]
    if twice := [path for i, path in enumerate(found) if places[i] in places[:i]]:
        raise ConfigError(f"{twice[0]} is named twice; a run is compared with other ones")
    if len(found) < 2:
        raise ConfigError(f"Expected two runs or more to compare, got {', '.join(map(str, found))} alone")
    return found


def compare_runs(paths: Sequence[Path]) -> Compared:
    """Runs side by side, the first against each other one.

    Where two runs scored the same problems (id and text), their difference is that of pairs; else it is that
    of two independent numbers (Newcombe 1998), and the reason is said. All are one family (`family`).

    Raises:
        StoreError: a damaged result or table.
    """
    held = [_Held(path) for path in paths]
    numbers = [one.numbers() for one in held]
    keys = list(dict.fromkeys(key for table in numbers for key in table))
    tested: dict[tuple[tuple[str, str], int], tuple[Tested, Against]] = {}
    for key in keys:
        for i in range(1, len(held)):
            if (
                found := _against(held[0], held[i], numbers[0].get(key), numbers[i].get(key), key)
            ) is not None:
                tested[key, i] = found
    said = dict(
        zip(
            tested,
            family([_scaled(key[1], one) for (key, _), (one, _) in tested.items()], delta=1),
            strict=True,
        )
    )

    of = [(line.model, line.what) for line in (line_of(path) for path in paths)]

    def cell(key: tuple[str, str], i: int) -> Measured | None:
        own = numbers[i].get(key)
        if own is None or (key, i) not in tested:
            return own
        p, word = said[key, i]
        against = tested[key, i][1]
        alike = against.paired or of[i] == of[0]
        return replace(own, against=replace(against, p_holm=p, verdict=_word(key[1], word, alike)))

    rows = [
        NumberRow(
            stage=stage,
            name=name,
            definition=_definition(held, stage, name),
            runs=[cell((stage, name), i) for i in range(len(held))],
        )
        for stage, name in keys
    ]
    return Compared(
        runs=[str(path) for path in paths],
        names=_names(paths),
        settings=differing(paths),
        numbers=rows,
        n_compared=len(tested),
        notes=_notes(rows, held),
    )


def _against(
    a: _Held, b: _Held, first: Measured | None, other: Measured | None, key: tuple[str, str]
) -> tuple[Tested, Against] | None:
    """The difference of one number, not yet judged; None where there is none or nothing to judge by."""
    stage, name = key
    if first is None or other is None or CONTROL.search(name):
        return None
    scores = [one.scores.get(stage, {}).get(name) for one in (a, b)]
    pairs = _pairs(scores[0], scores[1], stage)
    if pairs is not None and not pairs.why:
        judge = compare if pairs.is_right_or_wrong else compare_values
        found = judge(pairs.b, pairs.a, pairs.groups, inflation=pairs.inflation)
        gap = found.difference
        tested = Tested(gap.low, gap.high, found.n_clusters, found.p)
        against = Against(
            difference=gap.estimate, low=gap.low, high=gap.high, p_holm=1.0, verdict="", paired=True, n=gap.n
        )
        return tested, against
    if (
        None in (first.low, first.high, other.low, other.high)
        or first.low == first.high
        or other.low == other.high
    ):
        return None  # an interval without a width says nothing of how sure a number is
    gap, low, high = _newcombe(other, first)
    n = min(first.n or 1, other.n or 1)
    # The side towards 0 decides whether it is 0.
    half = (gap - low) if gap > 0 else (high - gap)
    p = float(2 * scipy.special.ndtr(-abs(gap) / (half / Z))) if half > 0 else float(gap == 0)
    why = pairs.why if pairs is not None else KEPT_NONE
    against = Against(
        difference=gap, low=low, high=high, p_holm=1.0, verdict="", paired=False, n=n, why_not_paired=why
    )
    return Tested(low, high, n, p), against


def _pairs(a: Scores | None, b: Scores | None, stage: str) -> Pairs | None:
    return None if a is None or b is None else pair(a, b, stage)


def _newcombe(a: Measured, b: Measured) -> tuple[float, float, float]:
    """a - b with the interval of two independent ones (Newcombe 1998, method 10; Zou and Donner 2008)."""
    assert a.low is not None and a.high is not None and b.low is not None and b.high is not None
    gap = a.value - b.value
    return (
        gap,
        gap - math.hypot(a.value - a.low, b.high - b.value),
        gap + math.hypot(a.high - a.value, b.value - b.low),
    )


def _scaled(name: str, one: Tested) -> Tested:
    """In units of what is next to nothing, so that one family holds numbers of all kinds."""
    delta = DELTA if name.startswith(SHARES) else NO_DELTA
    return one._replace(low=one.low / delta, high=one.high / delta)


def _word(name: str, verdict: str, alike: bool = True) -> str:
    """The verdict in words that fit a number of which more may be less, or the states of another model."""
    if (alike and name in HIGHER) or verdict not in ("better", "worse"):
        return verdict
    if alike and name in LOWER:
        return "worse" if verdict == "better" else "better"
    return "higher" if verdict == "better" else "lower"


def _measured(entry: Any) -> Measured | None:
    table = entry if isinstance(entry, Mapping) else {"value": entry}
    value = table.get("value")
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    own = {key: table[key] for key in ("low", "high", "n", "split") if table.get(key) is not None}
    return Measured(value=value, **own)


def _definition(held: Sequence[_Held], stage: str, name: str) -> str:
    own = {
        "right_answers": "share of the store's problems, of all splits, that the model answers right",
        "chains_found": "share of problems of which every step of the labels was verified",
    }
    told = (one.results[stage].get("definitions") or {} for one in held if stage in one.results)
    return own.get(name) or next((str(table[name]) for table in told if name in table), "")


def _names(paths: Sequence[Path]) -> list[str]:
    """Folder names; where two are the same, whole paths."""
    names = [path.resolve().name for path in paths]
    return names if len({*names}) == len(names) else [str(path) for path in paths]


def _notes(rows: Sequence[NumberRow], held: Sequence[_Held]) -> list[str]:
    """Why differences are not of pairs, and which runs are of other models or of controls."""
    notes = []
    whys: dict[str, list[str]] = {}
    for row in rows:
        for one in row.runs:
            if one and one.against and one.against.why_not_paired:
                whys.setdefault(one.against.why_not_paired, []).append(row.stage)
    for why, stages in whys.items():
        notes.append(f"unpaired, as {why}: {', '.join(dict.fromkeys(stages))}")
    models = {line_of(one.path).model for one in held}
    if len(models) > 1:
        notes.append(f"the runs are of different models: {', '.join(sorted(map(str, models)))}")
    splits = [row for row in rows if len({one.split for one in row.runs if one}) > 1]
    if splits:
        names = ", ".join(f"{row.stage}.{row.name}" for row in splits)
        notes.append(f"measured on different splits: {names}")
    names = _names([one.path for one in held])
    for i, other in enumerate(held[1:], 1):
        if n := trained_and_tested(held[0].path, other.path):
            notes.append(
                f"{n:,} problems that one of {names[0]} and {names[i]} tests on, the other trains on: their "
                f"numbers are not of the same task"
            )
    return notes


def _cell(one: Measured | None) -> str:
    if one is None:
        return "-"
    between = "" if one.low is None or one.high is None else f" [{number(one.low, 3)}, {number(one.high, 3)}]"
    return number(one.value, 3) + between


def _told(row: NumberRow, names: Sequence[str]) -> list[str]:
    """The verdicts on one number that are not inconclusive."""
    return [
        f"  {row.stage}.{row.name}: [{i}] {names[i]} is {gap.verdict}, {gap.difference:+.3g} "
        f"[{gap.low:+.3g}, {gap.high:+.3g}], p {gap.p_holm:.2g}, {'paired' if gap.paired else 'unpaired'}, "
        f"n = {gap.n:,}"
        for i, one in enumerate(row.runs)
        if one is not None and (gap := one.against) is not None and gap.verdict != "inconclusive"
    ]
