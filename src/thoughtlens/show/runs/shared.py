"""What two runs measured on the same problems, one number for each problem or step of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from thoughtlens.core import BY_NAME, Record, read_parquet, read_recipe, read_result, read_rows
from thoughtlens.evals import ProblemRow
from thoughtlens.numerics import SHARED_TRAINING
from thoughtlens.tracing import MonitorOutcome

ENOUGH = 0.5
"""Share of the smaller set of problems that both must have for a paired comparison."""


class One(NamedTuple):
    """A problem, or a step of one, as a run scored it."""

    right: float
    group: str
    about: str
    """What the problem is: its text and label. Two of the same id and another text are two problems."""
    of: float = 1.0
    """What `right` is a share of; the number is then sum(right) / sum(of)."""
    part: str = ""
    """Of which SAE; the number is the mean over them."""


Scores = dict[str, One]
"""By problem."""


class Pairs(NamedTuple):
    """What both runs scored; `why` they cannot be paired is empty where they can."""

    a: np.ndarray
    b: np.ndarray
    groups: list[str]
    why: str
    inflation: float

    @property
    def is_right_or_wrong(self) -> bool:
        """Whether every number is 1 or 0."""
        return bool(np.isin(self.a, (0, 1)).all() and np.isin(self.b, (0, 1)).all())


@dataclass(frozen=True, kw_only=True)
class _Predicted(Record):
    arm: str
    pooling: str
    id: str
    group: int | str
    label: str
    predicted: str


@dataclass(frozen=True, kw_only=True)
class _Chain(Record):
    arm: str
    problem_id: str
    found: bool | None = None


@dataclass(frozen=True, kw_only=True)
class _Watched(Record):
    problem_id: str
    split: str
    error: str
    error_idx: int | None
    answer: str
    is_right: bool | None
    contradicts: float | None


@dataclass(frozen=True, kw_only=True)
class _Read(Record):
    lens: str
    column: str
    problem_id: str
    n: int
    hits: int


def scores_of(run: Path) -> dict[str, dict[str, Scores]]:
    """By stage and name of the number what a run kept of each problem."""
    found = {stage: read(run) for stage, read in READERS.items()}
    return {stage: scores for stage, scores in found.items() if scores}


def pair(a: Scores, b: Scores, stage: str) -> Pairs:
    """The problems of two runs, side by side."""
    both = [key for key in a if key in b]
    same = [key for key in both if a[key].about == b[key].about]
    n, least = len(same), min(len(a), len(b))
    why = ""
    names = [" ".join(sorted({one.part for one in scores.values()})) for scores in (a, b)]
    if names[0] != names[1]:
        why = f"their SAEs are {names[0]} and {names[1]}"
    elif not n:
        why = "the ids are the same and the problems are not" if both else "no problem is the same"
    elif n < ENOUGH * least or len({a[key].group for key in same}) < 2:
        why = f"only {n:,} of {least:,} problems are the same"
    first, second = (_values([one[key] for key in same]) for one in (a, b))
    inflation = SHARED_TRAINING if stage == "classify" else 1.0
    return Pairs(first, second, [a[key].group for key in same], why, inflation)


def _values(scores: Sequence[One]) -> np.ndarray:
    """A number for each problem, so that their mean is the number of all of them.

    Of a ratio of sums it is linear in the problem's sums, as in the delta method; of several SAEs, the mean.
    """
    right, of = np.array([(s.right, s.of) for s in scores], float).reshape(-1, 2).T
    if (of == 1).all():
        return right
    names, part, sizes = np.unique([s.part for s in scores], return_inverse=True, return_counts=True)
    whole = np.bincount(part, weights=of)
    share = np.bincount(part, weights=right) / whole
    linear = share[part] + (right - share[part] * of) / (whole / sizes)[part]
    return linear * (len(right) / (len(names) * sizes))[part]


def trained_and_tested(a: Path, b: Path) -> int:
    """Problems of split test of one run that are, by id and text, of split train of the other."""
    first, other = (
        {(key, _text(row)): row.get("split") for key, row in _problems(run).items()} for run in (a, b)
    )
    return sum({split, other.get(key)} == {"train", "test"} for key, split in first.items())


def _problems(run: Path) -> dict[str, dict[str, Any]]:
    """The store's problems by id; empty where it is not there."""
    file = run / BY_NAME["extract"].directory / "problems.parquet"
    if not file.is_file():
        return {}
    names = ("problem_id", "group_id", "question", "text", "split", "correct")
    table = read_parquet(file)
    return {
        row["problem_id"]: row
        for row in table.select([n for n in names if n in table.column_names]).to_pylist()
    }


def _text(problem: dict[str, Any] | None) -> str:
    return str((problem or {}).get("question") or (problem or {}).get("text") or "")


def _answers(run: Path) -> dict[str, Scores]:
    """Which problems the model answers right."""
    told = {key: row for key, row in _problems(run).items() if row.get("correct") is not None}
    scores = {
        key: One(bool(row["correct"]), str(row.get("group_id") or key), _text(row))
        for key, row in told.items()
    }
    return {"right_answers": scores} if scores else {}


def _classified(run: Path) -> dict[str, Scores]:
    """By arm, at the pooling of the headline, which labels are told."""
    folder = run / BY_NAME["classify"].directory
    file = folder / "predictions.parquet"
    if not file.is_file() or (result := read_result(folder)).get("metric") != "accuracy":
        return {}
    problems, found = _problems(run), dict[str, Scores]()
    own = read_recipe(folder).get("data") or result.get("target")
    for row in read_rows(file, _Predicted):
        if row.pooling in (result.get("primary_pooling"), "none"):
            about = f"{own}={row.label}: {_text(problems.get(row.id))}"
            one = One(row.label == row.predicted, str(row.group), about)
            found.setdefault(f"accuracy_{row.arm}", {})[row.id] = one
    return found


def _traced(run: Path) -> dict[str, Scores]:
    """By arm, the share of problems of which the whole chain was verified."""
    file = run / BY_NAME["trace"].directory / "problems.parquet"
    if not file.is_file():
        return {}
    problems, found = _problems(run), dict[str, Scores]()
    for row in read_rows(file, _Chain):
        if row.found is not None:
            arm = "chains_found" if row.arm == "thoughts" else f"chains_found_{row.arm}"
            problem = problems.get(row.problem_id)
            group = str((problem or {}).get("group_id") or row.problem_id)
            found.setdefault(arm, {})[row.problem_id] = One(row.found, group, _text(problem))
    return found


def _reconstructed(run: Path) -> dict[str, Scores]:
    """What the SAEs leave of each problem's or document's rows, and what they explain."""
    file = run / BY_NAME["validate"].directory / "problems.parquet"
    if not file.is_file() or not (problems := _problems(run)):
        return {}
    fvu, explained, rows = Scores(), Scores(), read_rows(file, ProblemRow)
    several = len({row.member for row in rows}) > 1
    for row in rows:
        if not row.spread:
            continue  # nothing to explain
        problem, part = problems.get(row.problem_id), row.member if several else ""
        key = f"{part} {row.problem_id}"
        group = str((problem or {}).get("group_id") or row.problem_id)
        fvu[key] = One(row.error, group, _text(problem), row.spread, part)
        explained[key] = fvu[key]._replace(right=row.spread - row.error)
    return {"fvu": fvu, "explained_variance": explained}


def _watched(run: Path) -> dict[str, Scores]:
    """Of each wrong or broken answer whether the thoughts raise an alarm."""
    folder = run / BY_NAME["monitor"].directory
    if not (folder / "problems.parquet").is_file():
        return {}
    outcome, problems = MonitorOutcome.from_json(read_result(folder)), _problems(run)
    rows = [r for r in read_rows(folder / "problems.parquet", _Watched) if r.split == outcome.split]
    found = dict[str, Scores]()
    for truth in outcome.truths:
        own = truth.detector(truth.score)
        for alarm in own.alarms if own and truth.name in ("wrong", "broken") else ():
            if alarm.threshold is None:
                continue
            name = f"{truth.name}_recall_at_{alarm.rate:g}"
            for row in _to_notice(rows, truth.name):
                problem = problems.get(row.problem_id)
                group = str((problem or {}).get("group_id") or row.problem_id)
                caught = (row.contradicts or 0.0) > alarm.threshold
                key = f"{row.problem_id} {row.error} {row.error_idx}"
                found.setdefault(name, {})[key] = One(caught, group, _text(problem))
    return found


def _to_notice(rows: Sequence[_Watched], truth: str) -> list[_Watched]:
    """The wrong, or the broken answers: right before, or, where nobody says what is right, others."""
    usual = {row.problem_id: row for row in rows if row.error == "none"}
    if truth == "wrong":
        return [row for row in usual.values() if row.is_right is False]
    told = all(row.is_right is not None for row in rows)
    pairs = [(row, usual[row.problem_id]) for row in rows if row.error != "none"]
    return [a for a, b in pairs if (b.is_right and not a.is_right if told else a.answer != b.answer)]


def _read(run: Path) -> dict[str, Scores]:
    """What lenses read at their best place."""
    file = run / BY_NAME["lens"].directory / "hits.parquet"
    if not file.is_file():
        return {}
    problems, found = _problems(run), dict[str, Scores]()
    for row in read_rows(file, _Read):
        problem = problems.get(row.problem_id)
        group = str((problem or {}).get("group_id") or row.problem_id)
        one = One(row.hits, group, _text(problem), row.n)
        found.setdefault(f"{row.lens}_{row.column}", {})[row.problem_id] = one
    return found


READERS: dict[str, Callable[[Path], dict[str, Scores]]] = {
    "extract": _answers,
    "validate": _reconstructed,
    "classify": _classified,
    "trace": _traced,
    "monitor": _watched,
    "lens": _read,
}
"""Stages that keep a number for each problem."""
