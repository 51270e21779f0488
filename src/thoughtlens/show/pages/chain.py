"""The model's chain of thoughts beside the true one: what a lens reads in each, and what it should be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from thoughtlens.acts import ActivationStore
from thoughtlens.core import Record, of_table, read_parquet, read_rows
from thoughtlens.show.pages.run import Run


@dataclass(frozen=True, kw_only=True)
class Rate(Record):
    """How often a lens reads a column's word at a place."""

    lens: str
    hook_name: str
    thought_idx: int | None
    column: str
    subset: str
    rate: float
    null_high: float | None


@dataclass(frozen=True, kw_only=True)
class Token(Record):
    """A token that a state of a problem reads as."""

    thought_idx: int | None
    problem_id: str
    rank: int
    token: str
    probability: float


@dataclass(frozen=True, kw_only=True)
class Step(Record):
    """One thought of one problem."""

    thought: int
    column: str | None
    """The column whose word a lens reads here most often over all problems, among those that this one has."""
    value: str | None
    """What that column says of this problem."""
    tokens: list[tuple[str, float]]
    """What the lens reads, with probabilities, likeliest first."""
    right: bool | None
    """Whether it reads this value (True) or another one of the column (False); None: no value of it."""


class Chains(NamedTuple):
    """Where the thoughts were read, and every problem's steps."""

    lens: str
    hook_name: str
    steps: dict[str, list[Step]]


def chains(run: Run, ids: Sequence[str], tokens: int = 3) -> Chains | None:
    """The steps of some problems, read by the lens at the layer that reads most; None where nothing is read.

    Args:
        run: A run whose lens stage is finished.
        ids: The problems; those that were not read are left out.
        tokens: Tokens of each reading.
    """
    folder = run.root / "lens"
    if run.kind == "text" or not (folder / "readings.parquet").is_file():
        return None
    known = ActivationStore.open(run.root / "acts").problems
    rates = [
        row
        for row in read_rows(folder / "summary.parquet", Rate)
        if row.subset == "all" and row.rate > (row.null_high or 0) and row.column in known.column_names
    ]
    if not rates:
        return None
    lens, hook = _place(rates)
    rates.sort(key=lambda row: -row.rate)
    at: dict[int | None, list[str]] = {}
    for row in rates:
        if (row.lens, row.hook_name) == (lens, hook):
            at.setdefault(row.thought_idx, []).append(row.column)
    named = pa.array(list(ids), pa.string())
    own = known.filter(pc.is_in(known["problem_id"].cast(pa.string()), named)).to_pylist()  # type: ignore[attr-defined]
    words = {
        name: {_word(v) for v in known[name].unique().to_pylist()} for some in at.values() for name in some
    }
    read = tokens_of(run, lens, hook, ids)
    return Chains(
        lens,
        hook,
        {
            row["problem_id"]: [
                _step(thought, row, at.get(thought, []), words, found[:tokens])
                for thought, found in sorted(read[row["problem_id"]].items())
            ]
            for row in own
            if row["problem_id"] in read
        },
    )


def _place(rates: Sequence[Rate]) -> tuple[str, str]:
    """The lens and the layer that read most, over the thoughts; of equal ones the plainer, then the later."""
    best: dict[tuple[str, str], dict[int | None, float]] = {}
    for row in rates:
        thoughts = best.setdefault((row.lens, row.hook_name), {})
        thoughts[row.thought_idx] = max(row.rate, thoughts.get(row.thought_idx, 0.0))
    return max(best, key=lambda at: (round(sum(best[at].values()), 2), at[0] == "logit", at[1]))


def tokens_of(run: Run, lens: str, hook: str, ids: Sequence[str]) -> dict[str, dict[int, list[Token]]]:
    """What a lens reads at a hook in some problems: by problem and thought its tokens, likeliest first."""
    file = run.root / "lens" / "readings.parquet"
    if not file.is_file():
        return {}
    where = (pc.field("lens") == lens) & (pc.field("hook_name") == hook) & pc.field("problem_id").isin(ids)
    found: dict[str, dict[int, list[Token]]] = {}
    for row in sorted(of_table(Token, read_parquet(file, filters=where)), key=lambda row: row.rank):
        if row.thought_idx is not None:
            found.setdefault(row.problem_id, {}).setdefault(row.thought_idx, []).append(row)
    return found


def _step(
    thought: int, row: dict, columns: Sequence[str], words: dict[str, set[str]], found: Sequence[Token]
) -> Step:
    column = next((name for name in columns if row[name] is not None), None)
    value = None if column is None else _word(row[column])
    said = found[0].token.strip()
    known = column is not None and said in words[column]
    return Step(
        thought=thought,
        column=column,
        value=value,
        tokens=[(token.token, token.probability) for token in found],
        right=said == value if known else None,
    )


def _word(value: object) -> str:
    return "" if value is None else str(value)
