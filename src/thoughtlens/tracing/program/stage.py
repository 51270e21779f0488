"""The program stage: what the thoughts compute, as a short Python program that is graded by interchange."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from thoughtlens.acts import ActivationStore, StoreSize, thought_model
from thoughtlens.core import DataError, Plan, Result, progress, run_stage, write_rows
from thoughtlens.models import ThoughtModel, is_right, parse_number
from thoughtlens.numerics import proportion
from thoughtlens.problems import Written
from thoughtlens.tracing.program.asked import Asked, Mind
from thoughtlens.tracing.program.config import ProgramConfig
from thoughtlens.tracing.program.grading import (
    EXIT,
    NOISE,
    SWAP,
    UNTOUCHED,
    Grader,
    Held,
    grades,
    is_interchange,
    is_known_error,
    rivals,
    share,
)
from thoughtlens.tracing.program.inference import Inferred, infer
from thoughtlens.tracing.program.records import CellRow, GradedRow, HeldRow, ProgramOutcome, Rival
from thoughtlens.tracing.program.values import LETTERS
from thoughtlens.tracing.program.writing import FILE
from thoughtlens.tracing.read.rules import rule_for
from thoughtlens.tracing.read.subject import problems_of

TENTH = 0.1
LEAST = 4
"""Training problems without which nothing is inferred."""

DEFINITIONS = {
    "interchange": "held-out problems x values between question and answer: share in which the model, with "
    "that value's place taken from another held-out problem, answers what the program does with the variable "
    "taken from it; unknown cells count as wrong",
    "coverage": "share of held-out problems to which the program gives an answer",
    "agreement": "share of held-out problems to which it gives the untouched model's answer",
    "accuracy": "share of held-out problems to which it gives the right answer",
    "errors_predicted": "of the wrong answers that followed from a swapped value, an early exit or noise "
    "as long as a state, where the untouched answer was right: share that the program gives. After noise it "
    "goes on from the value that is read at the next place (nearest mean). Its parts: `errors_by_swap`, "
    "`errors_by_exit`, `errors_by_noise`",
    "interval": "95 %, Wilson's, whole groups counted",
    "value": "the value after a step: a place holds it where twins in the start value and in every operation "
    "so far bring their answer, and twins in later operations leave it",
    "cell": "more than half of the interventions say the same; otherwise, and where there was none, unknown",
    "named_by": "what values are called after; names decide only which steps may share a table",
}


def plan(cfg: ProgramConfig) -> Plan:
    """Runs of the model, memory and time; zeros where the store does not exist yet."""
    if StoreSize.of(cfg.acts) is None:
        return Plan(rows=0, memory_bytes=0.0, disk_bytes=0.0, seconds=0.0)
    rows = 25 * cfg.n + 30 * cfg.n_fit + 60 * cfg.n_twins + 12_000 * cfg.repeats
    return Plan(rows=rows, memory_bytes=1e9, disk_bytes=5e5, seconds=5 + rows * 1e-3)


def program(cfg: ProgramConfig, out: str | Path) -> Result:
    """Write `program.py`, if thoughts are used; `graded.parquet` holds every question that it was graded on.

    Raises:
        MismatchError: other weights than those that made the store.
        DataError: problems whose words do not say a start value and operations, or too few of them.
    """
    return run_stage("program", cfg, out, lambda tmp: _work(cfg, tmp), inputs={"acts": Path(cfg.acts)})


def _work(cfg: ProgramConfig, tmp: Path) -> ProgramOutcome:
    store = ActivationStore.open(cfg.acts)
    model = thought_model(store)
    if not model.spec.n_thoughts:
        raise DataError("program: this model has no thoughts that could run one")
    rule = _rule(model, store)
    held = problems_of(store, cfg.split, store.problems.num_rows, cfg.seed, "program")
    asked = [Asked.of(rule, question) for question in held["question"].to_pylist()]
    n_steps = cfg.n_steps or _n_steps(asked)
    rows = [i for i, one in enumerate(asked) if one is not None and len(one.words) == n_steps + 1][: cfg.n]
    held, chosen = held.take(pa.array(rows, pa.int64())), [one for i in rows if (one := asked[i]) is not None]
    train = _train(cfg, store, rule, n_steps, {one.words for one in chosen})
    if len(train) < LEAST or len(chosen) < 2:
        raise DataError(
            f"program: expected {LEAST} or more problems of {n_steps} steps in split train of {cfg.acts} and "
            f"2 in split {cfg.split}, got {len(train)} and {len(chosen)}; extract more problems, or name "
            f"another number of steps with n_steps"
        )
    mind = Mind(model, cfg.batch_size)
    held_out = _paths(store, rule) | {one.words for one in chosen}
    with progress("program", 2, "parts") as bar:
        found = infer(cfg, mind, rule, train, held_out=held_out, out=tmp)
        bar.advance(1)
        graded = None if found.file is None else _held(mind, held, chosen)
        marks = [] if graded is None else _grader(cfg, mind, found, graded).rows()
        bar.advance(1)
    write_rows(tmp / "places.parquet", HeldRow, found.places.rows)
    write_rows(tmp / "cells.parquet", CellRow, found.cells)
    write_rows(tmp / "graded.parquet", GradedRow, marks)
    others = [] if graded is None else rivals(marks, found.fit, found.answers, graded)
    return ProgramOutcome(
        split=cfg.split,
        model=store.meta.model,
        model_digest=store.meta.model_digest,
        n=len(chosen),
        n_fit=len(found.fit),
        n_steps=n_steps,
        program=None if found.file is None else FILE,
        reason=found.reason,
        variables=found.variables,
        steps=found.steps,
        leaves=found.leaves,
        grades=[] if graded is None else grades(marks, graded, cfg.split),
        rivals=others,
        headline={} if graded is None else _headline(cfg, marks, held, graded),
        definitions=DEFINITIONS,
        warnings=_doubts(found, marks, others),
    )


def _rule(model: ThoughtModel, store: ActivationStore) -> Written:
    """How the problems write their start value and operations."""
    if "question" not in store.problems.column_names:
        raise DataError(
            f"{store.root} keeps no questions, which program asks again; extract it from problems"
        )
    rule = rule_for(model, store.problems)
    if not isinstance(rule, Written):
        raise DataError(
            "program: no variables: the words of these problems do not say a start value and operations "
            "plainly, so no twins can be made that differ in one, and no table has rows; it needs generated "
            "problems (arithmetic, words, secret)"
        )
    return rule


def _n_steps(asked: list[Asked | None]) -> int:
    """The most steps that a tenth of the problems ask for."""
    count = Counter(len(one.words) - 1 for one in asked if one is not None)
    return max((k for k, n in count.items() if n >= TENTH * len(asked)), default=1)


def _train(
    cfg: ProgramConfig, store: ActivationStore, rule: Written, n_steps: int, graded: set[tuple[str, ...]]
) -> list[Asked]:  # fmt: skip
    """Training problems of so many steps on paths that are not graded, in a drawn order."""
    table = store.problems.filter(pc.field("split") == "train")
    order = np.random.default_rng((cfg.seed, 98)).permutation(len(table))
    found = (Asked.of(rule, question) for question in table["question"].take(pa.array(order)).to_pylist())
    return [
        one for one in found if one is not None and len(one.words) == n_steps + 1 and one.words not in graded
    ]


def _paths(store: ActivationStore, rule: Written) -> set[tuple[str, ...]]:
    """Paths that no twin may take: those of all other splits."""
    table = store.problems.filter(pc.field("split") != "train")
    found = (Asked.of(rule, question) for question in table["question"].to_pylist())
    return {one.words for one in found if one is not None}


def _held(mind: Mind, table: pa.Table, asked: list[Asked]) -> Held:
    answers = mind.answers([one.question for one in asked])[0]
    right = None
    if "answer" in table.column_names:
        gold = [str(answer) for answer in table["answer"].to_pylist()]
        right = [is_right(own, parse_number(own), one) for own, one in zip(answers, gold, strict=True)]
    ids, groups = (table[name].to_pylist() for name in ("problem_id", "group_id"))
    return Held(ids, groups, asked, right, answers)


def _grader(cfg: ProgramConfig, mind: Mind, found: Inferred, held: Held) -> Grader:
    assert found.file is not None
    rng = np.random.default_rng((cfg.seed, 99))
    return Grader(mind, found.file, held, found.spots, found.values, rng)


def _headline(cfg: ProgramConfig, rows: list[GradedRow], table: pa.Table, held: Held) -> dict:
    group = dict(zip(held.ids, held.groups, strict=True))
    own = [row for row in rows if row.kind == UNTOUCHED]
    wrong = [row for row in rows if is_known_error(row)]
    known = np.array([row.program is not None for row in own], float)
    coverage = proportion(known, held.groups).number(cfg.split)
    found = {
        "interchange": share([row for row in rows if is_interchange(row.kind)], group, cfg.split),
        "coverage": replace(coverage, n=len(own)),
        "agreement": share(own, group, cfg.split),
    }
    if "answer" in table.column_names:
        gold = [str(answer) for answer in table["answer"].to_pylist()]
        right = [
            row.program is not None and is_right(row.program, parse_number(row.program), one)
            for row, one in zip(own, gold, strict=True)
        ]
        found["accuracy"] = replace(
            proportion(np.array(right, float), held.groups).number(cfg.split), n=len(own)
        )
    parts = {"errors_predicted": wrong} | {
        f"errors_by_{kind}": [row for row in wrong if row.kind.startswith(kind)]
        for kind in (SWAP, EXIT, NOISE)
    }
    return found | {name: share(part, group, cfg.split) for name, part in parts.items() if part}


def _doubts(found: Inferred, rows: list[GradedRow], others: list[Rival]) -> list[str]:
    if found.reason is not None:
        return [f"no program: {found.reason}"]
    notes = []
    own = [row.agrees for row in rows if is_interchange(row.kind)]
    best = max(others, key=lambda one: one.interchange)
    if own and np.mean(own) <= best.interchange:
        notes.append(
            f"the program says no more of what follows from a swapped value than {best.name!r} does "
            f"({best.about}): {np.mean(own):.0%} and {best.interchange:.0%}"
        )
    if any(one.named_by == LETTERS for one in found.variables):
        notes.append("nothing says what the values of some place are called: letters stand for them")
    return notes
