"""Who thinks, and about what: the model, held-out problems, counterfactual twins, donors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Int

from thoughtlens.core import ConfigError, DataError, say
from thoughtlens.interventions.edits.run import Answers
from thoughtlens.models import ThoughtModel, is_right, parse_number, tiny
from thoughtlens.problems import (
    GeneratedConfig,
    GraphConfig,
    ProblemsConfig,
    TableConfig,
    change_of,
    folded,
    of_members,
    slipped,
    source,
    twins,
)

CLASSES = ("clean", "predicted", "corrupted", "other", "unparsable")
"""Of an answer: the problem's own; what the edit predicts; the donor's or twin's; another; none."""


FIRST_CHANGE = "start"
"""The change that is not asked for by name: of problems that are not generated, the only one."""


@dataclass(frozen=True)
class Problems:
    """Problems, and the answers that an edit could bring instead of their own."""

    table: pa.Table
    corrupted: list[str] | None = None
    """The donor's or the twin's answer of each problem."""
    predicted: list[str] | None = None
    """What each answer becomes if the edit replaces one value and the rest is computed as before."""

    def __post_init__(self) -> None:
        if self.table.num_rows < 2:
            raise DataError(f"Expected at least 2 problems, got {self.table.num_rows}")

    @cached_property
    def questions(self) -> list[str]:
        return self.table["question"].to_pylist()

    @cached_property
    def answers(self) -> list[str]:
        return self.table["answer"].to_pylist()

    @cached_property
    def groups(self) -> Int[np.ndarray, " n"]:
        """The cluster of each problem, as a number: problems of one group are not independent."""
        name = "group_id" if "group_id" in self.table.column_names else "problem_id"
        return np.unique(self.table[name].to_pylist(), return_inverse=True)[1]

    def take(self, rows: Sequence[int] | np.ndarray) -> Problems:
        """Some of the problems."""
        index = [int(i) for i in rows]
        cut = [None if a is None else [a[i] for i in index] for a in (self.corrupted, self.predicted)]
        return Problems(self.table.take(index), *cut)

    def classes(self, answers: Answers) -> np.ndarray:
        """Index into `CLASSES` of each answer; an answer that fits several counts as the first."""
        silent = np.array([not text.strip() for text in answers.text])
        wants_number = np.array([parse_number(answer) is not None for answer in self.answers])
        found = np.where(silent | (wants_number & np.isnan(answers.value)), 4, 3)
        for i, wanted in ((2, self.corrupted), (1, self.predicted), (0, self.answers)):
            if wanted is not None:
                found = np.where(says(answers, wanted), i, found)
        return found


def says(answers: Answers, wanted: Sequence[str]) -> Bool[np.ndarray, " n"]:
    """Whether each answer is the wanted one: equal numbers, or equal texts where that is no number."""
    values = [None if np.isnan(v) else float(v) for v in answers.value]
    rows = zip(answers.text, values, wanted, strict=True)
    return np.array([is_right(*row) for row in rows], dtype=bool)


def held_out(
    cfg: ProblemsConfig,
    model: ThoughtModel,
    *,
    split: str,
    n: int,
    seed: int,
    n_steps: Sequence[int] | None = None,
) -> pa.Table:
    """At most `n` problems of a split; generated ones are those that the model was made for.

    Raises:
        ConfigError: generated problems for a model that does not know their words.
        DataError: fewer than 2 problems of the split.
    """
    made = generator(cfg, model)
    if made is not None and isinstance(cfg, GeneratedConfig):
        module, p = made
        seed = seed if cfg.seed is None else cfg.seed
        return module.problems(n, seed=seed, split=split, p=p, n_steps=cfg.n_steps)
    if isinstance(cfg, GraphConfig) and not cfg.files:
        table = source.generated_graphs(cfg, cfg.n or n, seed, split)
    else:
        table = source.problems(cfg, seed)
    if split != "any":
        table = table.filter(pc.field("split") == split)
    if table.num_rows < 2:
        raise DataError(f"Expected 2 or more problems of split {split!r} in {cfg.source}, got {len(table)}")
    return table.take(np.sort(np.random.default_rng(seed).permutation(table.num_rows)[:n]))


def generator(cfg: ProblemsConfig, model: ThoughtModel) -> tuple[ModuleType, int] | None:
    """The module that makes these problems and its modulus; None where they are a table.

    Raises:
        ConfigError: generated problems, and a model that was not trained on them.
    """
    if not isinstance(cfg, GeneratedConfig):
        return None
    if not isinstance(model, tiny.TinyThoughts):
        raise ConfigError(
            f"{model.name} reads no generated problems, only shipped models do; give problems.source=gsm8k "
            f"or a Parquet table"
        )
    chosen = tiny.own_problems(cfg, model)
    if chosen.source != model.cfg.problems:
        raise ConfigError(f"{model.name} reads problems of {model.cfg.problems!r}, got {chosen.source!r}")
    return source.GENERATORS[chosen.source], model.modulus if chosen.p is None else chosen.p


class Pairs(NamedTuple):
    """Problems and their twins: line i of both tables."""

    first: pa.Table
    second: pa.Table
    change: str
    """What differs."""


def twin_tables(
    cfg: ProblemsConfig, file: str | None, model: ThoughtModel, *, change: str, split: str, n: int, seed: int
) -> Pairs:
    """Pairs of problems that differ in one operand, or one edge.

    Raises:
        DataError: a table of twins that does not have a line for each problem, or problems of which no
            twins are made.
        ConfigError: a change that these problems do not have.
    """
    if file is None:
        return _made_twins(cfg, model, change=change, split=split, n=n, seed=seed)
    first = source.problems(cfg, seed)
    second = source.problems(TableConfig(source=file), seed)
    if len(first) != len(second):
        raise DataError(f"{file} has {len(second)} lines for {len(first)} problems; line i must be i's twin")
    texts = [*first["question"].to_pylist(), *second["question"].to_pylist()]
    if slip := slipped(texts, [(i, len(first) + i) for i in range(len(first))]):
        raise DataError(
            f"{file}: its line i is less alike to line i of the problems than line i{slip.lines:+d} is, by "
            f"{slip.more:.0%} of their words; line i must be i's twin"
        )
    same = [i for i in range(len(first)) if folded(texts[i]) == folded(texts[len(first) + i])]
    if same:
        raise DataError(
            f"{file}: {len(same)} of {len(first)} twins ask what their problem asks, up to case, space and "
            f"punctuation (first line {same[0] + 1}): nothing would change; leave them out of both tables"
        )
    rows = np.arange(len(first))
    if split != "any":
        rows = np.flatnonzero(np.array(first["split"].to_pylist()) == split)
    if len(rows) < 2:
        raise DataError(f"Expected 2 or more problems of split {split!r} in {cfg.source}, got {len(rows)}")
    return Pairs(first.take(rows[:n]), second.take(rows[:n]), "twin")


def _made_twins(
    cfg: ProblemsConfig, model: ThoughtModel, *, change: str, split: str, n: int, seed: int
) -> Pairs:
    """Twins that are generated for a shipped model, or that follow from annotated chains or graphs."""
    table = None if isinstance(cfg, GeneratedConfig) else source.find(cfg, seed).table
    if table is None or change_of(table) is None:
        if not isinstance(model, tiny.TinyThoughts):
            raise ConfigError(
                f"Counterfactual twins are generated for shipped models only, or made of annotated chains "
                f"and of graphs; for {cfg.source} give twins=FILE, a Parquet table whose line i is the twin "
                f"of line i of the problems"
            )
        module = source.GENERATORS[model.cfg.problems]
        first, second = module.twins(n, seed=seed, split=split, change=change, p=model.modulus)
        return Pairs(first, second, change)
    if change != FIRST_CHANGE:
        raise ConfigError(
            f"change: {change!r} is of generated problems; twins of {cfg.source} differ in one "
            f"{change_of(table)} (change={FIRST_CHANGE})"
        )
    if split != "any":
        table = table.filter(pc.field("split") == split)
    found = twins(table, seed=seed, n=n, fits=same_tokens(model))
    if len(found.first) < 2:
        raise DataError(f"Expected 2 or more pairs of split {split!r} in {cfg.source}: {found.note}")
    say(found.note)
    return Pairs(found.first, found.second, found.change)


def same_tokens(model: ThoughtModel) -> Callable[[str, str], bool]:
    """Whether two questions have as many tokens; where the tokenizer is not known, as many words."""
    encode = getattr(model.tokenizer, "encode", str.split)
    return lambda first, second: len(encode(first)) == len(encode(second))


def value_donors(
    table: pa.Table, column: str, seed: int
) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"], Int[np.ndarray, " k"]]:
    """(rows, a donor with the same value of `column`, one with another value); rows without are left out.

    Raises:
        DataError: no such column, or fewer than two problems with both donors.
    """
    if column not in table.column_names:
        raise DataError(
            f"swap: the problems have no column {column!r}; there are {', '.join(table.column_names)}"
        )
    if pa.types.is_nested(table[column].type):
        raise DataError(
            f"swap: column {column!r} holds sets, and single values are swapped; {of_members(column)}"
        )
    indices = pc.dictionary_encode(table[column].combine_chunks()).indices  # type: ignore[attr-defined]
    code = indices.fill_null(-1).to_numpy(zero_copy_only=False)
    rng = np.random.default_rng((seed, 78))
    rows, same, different = [], [], []
    known = rng.permutation(np.flatnonzero(code >= 0))
    for i in np.flatnonzero(code >= 0):
        others = np.roll(known, -int(rng.integers(len(known))))
        alike = next((j for j in others if code[j] == code[i] and j != i), None)
        unlike = next((j for j in others if code[j] != code[i]), None)
        if alike is not None and unlike is not None:
            rows.append(i)
            same.append(alike)
            different.append(unlike)
    if len(rows) < 2:
        raise DataError(f"swap: no two problems share a value of {column!r}, or all do; use another column")
    return np.array(rows), np.array(same), np.array(different)
