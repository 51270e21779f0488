"""Twins of problems that a table already holds: one operand of an annotated chain, or one edge, changed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pyarrow as pa

from thoughtlens.core import DataError
from thoughtlens.problems.config import COLUMNS
from thoughtlens.problems.tasks import graphs, gsm8k, operands, prontoqa, prosqa
from thoughtlens.problems.tasks.arithmetic import as_twin
from thoughtlens.problems.tasks.gsm8k import ANNOTATION, Problem

LOOK = 50
"""Problems that are looked at to see of what kind a table is."""
Fits = Callable[[str, str], bool]
"""Whether a question and its twin may be a pair."""
Written = tuple[str, str, str]
"""Question, solution and answer."""
NOT_OF_GRAPHS = "no other concept in one sentence makes the other one true"


class Twins(NamedTuple):
    """Pairs of problems: line i of both tables."""

    first: pa.Table
    second: pa.Table
    change: str
    """What differs: `operand` or `edge`."""
    left_out: dict[str, int]
    """Problems without a twin, by the reason."""

    @property
    def note(self) -> str:
        """How many problems have a twin, and why others have none."""
        why = "; ".join(f"{n}: {reason}" for reason, n in sorted(self.left_out.items(), key=lambda x: -x[1]))
        n_all = len(self.first) + sum(self.left_out.values())
        return f"{len(self.first)} of {n_all} problems have a twin that differs in one {self.change}" + (
            f" ({why})" if why else ""
        )


def change_of(table: pa.Table) -> str | None:
    """What twins of these problems would differ in; None where no twins can be made of them."""
    some = table.slice(0, LOOK)
    if any(graphs.EITHER.search(q) or graphs.WHETHER.search(q) for q in some["question"].to_pylist()):
        return "edge"
    chains = some["cot"].to_pylist() if "cot" in some.column_names else []
    return "operand" if any(ANNOTATION.search(cot or "") for cot in chains) else None


def twins(table: pa.Table, *, seed: int, n: int | None = None, fits: Fits | None = None) -> Twins:
    """A twin for each problem that has one, or for `n` of them, drawn at random.

    Args:
        table: Problems with annotated chains, or questions along graphs.
        seed: Fixes what changes, and the draw.
        n: Pairs, at most.
        fits: Which pairs may be; None: all.

    Returns:
        Both tables in the order of the problems. The second has the ids of the first, marked, and their
        groups; its labels are those that follow from the changed problem.

    Raises:
        DataError: problems of another kind.
    """
    change = change_of(table)
    if change is None:
        raise DataError(
            "Expected problems with annotated chains (<<3*4=12>>) in the column cot, or questions of "
            "ProsQA or ProntoQA: no twins are made of others"
        )
    rows = table.select(list(COLUMNS)).to_pylist()
    rng, found, left_out = random.Random(f"{seed} twins"), {}, Counter[str]()
    for i in rng.sample(range(len(rows)), len(rows)):
        if n is not None and len(found) == n:
            break
        try:
            found[i] = _first(rows[i], change, rng, fits)
        except operands.NoTwin as error:
            left_out[str(error)] += 1
    kept = sorted(found)
    first = table.take(pa.array(kept, pa.int64()))
    made = [Problem(rows[i]["problem_id"], rows[i]["split"], *_ordered(found[i])) for i in kept]
    return Twins(first, as_twin(_labelled(made, first, change), first), change, dict(left_out))


def _ordered(written: Written) -> tuple[str, str, str]:
    question, solution, answer = written
    return question, answer, solution


def _first(row: dict[str, str], change: str, rng: random.Random, fits: Fits | None) -> Written:
    """The first twin that may be one."""
    any_twin = False
    for one in _changed(row, rng, change):
        any_twin = True
        if fits is None or fits(row["question"], one[0]):
            return one
    raise operands.NoTwin("no other value keeps the number of tokens" if any_twin else NOT_OF_GRAPHS)


def _changed(row: dict[str, str], rng: random.Random, change: str) -> Iterator[Written]:
    if change == "operand":
        yield from operands.twins(row["question"], row["cot"], row["answer"], rng)
        return
    told = prosqa.told if graphs.EITHER.search(row["question"]) else prontoqa.told
    for question in graphs.twins(row["question"], rng):
        asked = graphs.read(question)
        assert asked is not None
        steps, answer = told(asked, question)
        yield question, "\n".join(steps), answer


def _labelled(made: list[Problem], first: pa.Table, change: str) -> pa.Table:
    """The changed problems with the labels of the first table that follow from them."""
    if not made:
        return first.select(list(COLUMNS))
    if change == "operand":
        table = gsm8k.columns(made, "annotations")
    else:
        text = {name: [getattr(one, name) for one in made] for name in COLUMNS if name != "group_id"}
        labels = graphs.label_columns([graphs.read(one.question) for one in made])
        table = pa.table({"group_id": text["problem_id"], **text, **labels})
    own = [name for name in first.column_names if name in table.column_names]
    return table.select([*COLUMNS, *(name for name in own if name not in COLUMNS)])


__all__ = ["Twins", "change_of", "twins"]
