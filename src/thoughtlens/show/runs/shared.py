"""What two runs measured on the same problems, one number for each problem or step of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from thoughtlens.core import BY_NAME, Record, read_parquet, read_recipe, read_result, read_rows
from thoughtlens.numerics import SHARED_TRAINING

ENOUGH = 0.5
"""Share of the smaller set of problems that both must have for a paired comparison."""


class One(NamedTuple):
    """A problem, or a step of one, as a run scored it."""

    right: bool
    group: str
    about: str
    """What the problem is: its text and label. Two of the same id and another text are two problems."""


Scores = dict[str, One]
"""By problem."""


class Pairs(NamedTuple):
    """What both runs scored; `why` they cannot be paired is empty where they can."""

    a: np.ndarray
    b: np.ndarray
    groups: list[str]
    why: str
    inflation: float


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
    if not n:
        why = "the ids are the same and the problems are not" if both else "no problem is the same"
    elif n < ENOUGH * least or len({a[key].group for key in same}) < 2:
        why = f"only {n:,} of {least:,} problems are the same"
    first, second = (np.array([one[key].right for key in same], float) for one in (a, b))
    inflation = SHARED_TRAINING if stage == "classify" else 1.0
    return Pairs(first, second, [a[key].group for key in same], why, inflation)


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


READERS: dict[str, Callable[[Path], dict[str, Scores]]] = {
    "extract": _answers,
    "classify": _classified,
    "trace": _traced,
}
"""Stages that keep a number for each problem."""
