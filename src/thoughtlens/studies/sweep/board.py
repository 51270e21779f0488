"""A sweep's settings from best to worst, and which of them the seeds tell apart from the first."""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import scipy

from thoughtlens.core import MismatchError, Record, aligned, number, read_parquet, read_result
from thoughtlens.numerics import Tested, family
from thoughtlens.studies.sweep.choose import LEVEL, Noise, pooled_noise
from thoughtlens.studies.sweep.records import SettingRow, SweepOutcome

NO_DELTA = 1e-12
"""No difference is next to nothing: settings are never called equivalent."""
UNKNOWN = "not known"
"""Verdict where no setting has two seeds."""


class Against(NamedTuple):
    """A setting against the first, on test rows."""

    ratio: float
    p_holm: float | None
    verdict: str


@dataclass(frozen=True, kw_only=True)
class Place(Record):
    """A setting on the board."""

    rank: int
    label: str
    n_seeds: int
    d_sae: int
    validation: float
    """What settings are ranked by, mean over seeds."""
    test: float
    sd: float | None
    """Over seeds, on test rows."""
    l0: float | None
    dead_share: float | None
    ratio: float
    """Its number over that of the first, on test rows (geometric means over seeds)."""
    p_holm: float | None
    verdict: str
    """worse, better or inconclusive on test rows, against the first; adjusted for all settings (Holm)."""


@dataclass(frozen=True, kw_only=True)
class Board(Record):
    """The settings of a sweep by what they were compared by on validation rows, the smallest number first."""

    root: str
    by: str
    recommended: str | None
    places: list[Place]
    not_trained: list[str]
    seed_noise_sd_ln: float | None

    def text(self) -> str:
        """A line for each setting."""
        head = (
            "", "setting", "seeds", "d_sae", f"{self.by} (validation)", f"{self.by} (test)", "L0", "dead",
            "x first", "p", "verdict",
        )  # fmt: skip
        rows = [
            (
                f"{one.rank}", one.label, f"{one.n_seeds}", f"{one.d_sae:,}", number(one.validation),
                number(one.test) + (f" ± {number(one.sd, 2)}" if one.sd is not None else ""),
                number(one.l0, 3),
                number(one.dead_share, 3), number(one.ratio, 4), number(one.p_holm, 2),
                f"{one.verdict}{', recommended' if one.label == self.recommended else ''}",
            )
            for one in self.places
        ]  # fmt: skip
        lines = aligned([head, *rows])
        lines += [f"not trained: {label}" for label in self.not_trained]
        noise = self.seed_noise_sd_ln
        lines.append(
            "every setting has one seed: which differences are more than seed noise is not known"
            if noise is None
            else f"seed noise: SD of ln {self.by} {noise:.3g}, pooled over settings"
        )
        return "\n".join(lines)


def board(root: str | Path) -> Board:
    """The leaderboard of a finished sweep; `root` is its folder, or the one that was given to `--out`.

    Settings are ranked on validation rows. Against the first, each is tested on test rows, on which nothing
    was chosen: the difference of mean logarithms over seeds, with the standard deviation pooled over
    settings.

    Raises:
        NotThereError: no finished sweep.
        MismatchError: another stage.
    """
    root = Path(root)
    root = root / "sweep" if (root / "sweep" / "result.json").is_file() else root
    result = read_result(root)
    if result.get("stage") != "sweep":
        raise MismatchError(
            f"Expected a sweep at {root}, got {result.get('stage')}; its own table is {root}/table.md"
        )
    found = SweepOutcome.from_json(result)
    by = found.recommendation.by
    table = read_parquet(root / "table.parquet", ["setting", f"{by}_validation", f"{by}_test"])
    columns = zip(*(table[name].to_pylist() for name in table.column_names), strict=True)
    seeds: dict[int, list[tuple[float, float]]] = {}
    for setting, validation, test in columns:
        if validation is not None and test is not None:
            seeds.setdefault(setting, []).append((validation, test))
    by_idx = {row.idx: row for row in found.settings}
    ranked = sorted(seeds, key=lambda i: statistics.mean(v for v, _ in seeds[i]))
    noise = pooled_noise([[test for _, test in seeds[i]] for i in ranked])
    said = _said([[test for _, test in seeds[i]] for i in ranked], noise)
    return Board(
        root=str(root),
        by=by,
        recommended=found.recommendation.setting,
        places=[
            _place(rank, by_idx[i], seeds[i], against)
            for rank, (i, against) in enumerate(zip(ranked, said, strict=True), 1)
        ],
        not_trained=[
            f"{row.label}: {'; '.join(row.reasons)}" for row in found.settings if row.idx not in seeds
        ],
        seed_noise_sd_ln=noise.sd,
    )


def _logs(values: Sequence[float]) -> float:
    """Mean logarithm."""
    return statistics.mean(math.log(max(value, sys.float_info.min)) for value in values)


def _said(tests: Sequence[Sequence[float]], noise: Noise) -> list[Against]:
    """Each setting against the first, by their numbers on test rows."""
    gaps = [_logs(tests[0]) - _logs(own) for own in tests]
    if noise.sd is None:
        return [Against(math.exp(-gap), None, UNKNOWN if i else "") for i, gap in enumerate(gaps)]
    reach = float(scipy.special.stdtrit(noise.df, (1 + LEVEL) / 2)) * noise.sd
    halves = [reach * math.sqrt(1 / len(own) + 1 / len(tests[0])) for own in tests]
    tested = [
        Tested((gap - half) / NO_DELTA, (gap + half) / NO_DELTA, noise.df + 1)
        for gap, half in zip(gaps[1:], halves[1:], strict=True)
    ]
    said = [(None, ""), *((one.p_holm, one.verdict) for one in family(tested, delta=1))]
    return [Against(math.exp(-gap), p, word) for gap, (p, word) in zip(gaps, said, strict=True)]


def _place(rank: int, row: SettingRow, seeds: Sequence[tuple[float, float]], against: Against) -> Place:
    validation, test = zip(*seeds, strict=True)
    held = row.test
    return Place(
        rank=rank,
        label=row.label,
        n_seeds=len(test),
        d_sae=held.d_sae if held else 0,
        validation=statistics.mean(validation),
        test=statistics.mean(test),
        sd=statistics.stdev(test) if len(test) > 1 else None,
        l0=held.l0.mean if held and held.l0 else None,
        dead_share=held.dead_share.mean if held and held.dead_share else None,
        ratio=against.ratio,
        p_holm=against.p_holm,
        verdict=against.verdict,
    )
