"""Problems for a thought model: generated, published, or a table somebody made."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from thoughtlens.core import ConfigError, DataError, warn
from thoughtlens.problems.config import (
    GeneratedConfig,
    GraphConfig,
    Gsm8kConfig,
    ProblemsConfig,
    SetConfig,
    TableConfig,
    TextConfig,
)
from thoughtlens.problems.tasks import (
    arithmetic,
    graph_files,
    gsm8k,
    prontoqa,
    prosqa,
    published,
    secret,
    tables,
    words,
)
from thoughtlens.problems.text.copies import folded, grouped

GENERATORS = {"arithmetic": arithmetic, "words": words, "secret": secret}
"""Modules with `problems`, `twins`, `CHANGES` and the default modulus `P`."""
GRAPHS = {"prosqa": prosqa, "prontoqa": prontoqa}
"""Modules with `problems`, `told` and the default `HOPS`."""
N_GENERATED, N_GRAPHS = 20_000, 5_000


class Found(NamedTuple):
    """A table of problems, and what its reader has to know of it."""

    table: pa.Table
    notes: list[str]


def problems(cfg: ProblemsConfig, seed: int = 0) -> pa.Table:
    """The table of `find`, its notes said."""
    table, notes = find(cfg, seed)
    for note in notes:
        warn(note)
    return table


def find(cfg: ProblemsConfig, seed: int = 0) -> Found:
    """The table of problems; `seed` stands in where the config has none.

    Questions that are equal up to case, space and punctuation share a group, whatever their ids say.

    Raises:
        NotThereError: no such source or file.
        DataError: not a problems table, a class nobody has, or an id twice.
    """
    notes: list[str] = []
    match cfg:
        case GeneratedConfig():
            table = _generated(cfg, seed)
        case Gsm8kConfig():
            whole = gsm8k.table(cfg.files or None, labels=cfg.labels, seed_protocol=cfg.seed_protocol)
            table = _with_validation(whole, cfg.validation)
        case GraphConfig(files=()):
            table = generated_graphs(cfg, cfg.n or N_GRAPHS, seed)
        case GraphConfig():
            table, notes = graph_files.table(cfg.source, cfg.files)
        case SetConfig():
            table, notes = _published(cfg)
        case TableConfig():
            table, notes = tables.read_table(cfg)
    if cfg.classes:
        require_classes(table, cfg.classes)
        table = table.filter(pa.array([name in cfg.classes for name in table["operation"].to_pylist()]))
    table = _drawn(table, cfg.n, seed)
    if not isinstance(cfg, GeneratedConfig):
        table, copies = _copies_in_one_group(table)
        notes = [*notes, *(f"{cfg.source}: {note}" for note in (*copies, *_torn(table)))]
    table, said = tables.with_members(table, cfg.members)
    return Found(table, [*notes, *said])


def _drawn(table: pa.Table, n: int | None, seed: int) -> pa.Table:
    """n problems at random, in their order: the first ones of a table are often of one split or class."""
    if n is None or n >= len(table):
        return table
    return table.take(np.sort(np.random.default_rng(seed).choice(len(table), n, replace=False)))


def count(cfg: ProblemsConfig) -> int:
    """How many problems there will be, at most; reads no more of a table than its size."""
    match cfg:
        case GeneratedConfig():
            return cfg.n or N_GENERATED
        case Gsm8kConfig():
            whole = len(gsm8k.CLASSES) * gsm8k.PER_CLASS if cfg.seed_protocol else gsm8k.N_PROBLEMS
        case GraphConfig(files=()):
            return cfg.n or N_GRAPHS
        case GraphConfig() | SetConfig():
            whole = len(find(cfg.model_copy(update={"n": None})).table)
        case TableConfig():
            whole = tables.n_rows(cfg)
    return min(whole, cfg.n or whole)


def shares(cfg: ProblemsConfig) -> dict[str, float]:
    """Share of the problems in each split, about."""
    match cfg:
        case GeneratedConfig() | GraphConfig(files=()):
            tenths = arithmetic.SPLITS
            return {name: n / len(tenths) for name, n in Counter(tenths).items()}
        case Gsm8kConfig():
            train = gsm8k.N_TRAIN / gsm8k.N_PROBLEMS
            return {
                "train": train * (1 - cfg.validation), "validation": train * cfg.validation, "test": 1 - train
            }  # fmt: skip
        case GraphConfig() | SetConfig() | TableConfig():
            splits = find(cfg).table["split"].to_pylist()
            return {name: n / len(splits) for name, n in Counter(splits).items()}


def inputs(cfg: ProblemsConfig) -> dict[str, Path]:
    """Files that the problems come from, by a name for each."""
    if isinstance(cfg, TableConfig):
        return {"problems": Path(cfg.source).expanduser()}
    files = () if isinstance(cfg, GeneratedConfig) else cfg.files
    return {f"problems_{i}": file for i, file in enumerate(files)}


def require_classes(table: pa.Table, classes: Sequence[str]) -> None:
    """Refuse a table that lacks an operation that is asked for.

    Raises:
        DataError: says which there are, and how many problems of each.
    """
    if "operation" not in table.column_names:
        raise DataError(
            f"classes: the problems have no column operation, only {', '.join(table.column_names)}"
        )
    counts = {str(e["values"]): e["counts"] for e in table["operation"].value_counts().to_pylist()}
    if missing := [name for name in classes if not counts.get(name)]:
        there = ", ".join(f"{name} ({n})" for name, n in counts.items())
        raise DataError(f"No problem has the operation {', '.join(missing)}; there are: {there}")


def can_make(cfg: ProblemsConfig | TextConfig) -> bool:
    """Whether more problems can be made as these were."""
    return isinstance(cfg, GeneratedConfig) or (isinstance(cfg, GraphConfig) and not cfg.files)


def held_out(cfg: GeneratedConfig | GraphConfig) -> pa.Table:
    """`n` problems of the split `test` alone, or those of them that are of `classes`."""
    if isinstance(cfg, GraphConfig):
        return tables.with_members(generated_graphs(cfg, cfg.n or N_GRAPHS, 0, "test"), cfg.members)[0]
    table = _generated(cfg, 0, "test")
    if not cfg.classes:
        return table
    return table.filter(pa.array([name in cfg.classes for name in table["operation"].to_pylist()]))


def _generated(cfg: GeneratedConfig, seed: int, split: str = "any") -> pa.Table:
    if cfg.source == "generated":
        raise ConfigError(
            f"problems.source: generated takes a shipped thought model to choose by; name one of "
            f"{', '.join(GENERATORS)}, gsm8k, or a Parquet table"
        )
    module = GENERATORS[cfg.source]
    return module.problems(
        cfg.n or N_GENERATED,
        seed=seed if cfg.seed is None else cfg.seed,
        split=split,
        p=module.P if cfg.p is None else cfg.p,
        n_steps=cfg.n_steps,
    )


def generated_graphs(cfg: GraphConfig, n: int, seed: int, split: str = "any") -> pa.Table:
    """Questions along graphs that are made here."""
    module = GRAPHS[cfg.source]
    seed = seed if cfg.seed is None else cfg.seed
    return module.problems(n, seed=seed, split=split, hops=cfg.hops or module.HOPS)


def _with_validation(table: pa.Table, share: float) -> pa.Table:
    """A share of the training problems becomes the split validation, where there is none."""
    if "validation" in table["split"].to_pylist():
        return table
    digests = [hashlib.sha256(name.encode()).digest() for name in table["problem_id"].to_pylist()]
    drawn = np.array([int.from_bytes(d[:8]) / 2**64 < share for d in digests], bool)
    split = table["split"].to_numpy(zero_copy_only=False)
    split = np.where(drawn & (split == "train"), "validation", split)
    return table.set_column(table.column_names.index("split"), "split", pa.array(split, pa.string()))


def _published(cfg: SetConfig) -> Found:
    table, notes = published.table(cfg.source, cfg.files)
    if cfg.splits == "published":
        return Found(_with_validation(table, cfg.validation), notes)
    made = tables.hashed_splits(table["question"].to_pylist(), cfg.validation, cfg.test)
    at = table.column_names.index("split")
    return Found(table.set_column(at, "split", pa.array(made, pa.string())), notes)


def _copies_in_one_group(table: pa.Table) -> Found:
    """The table with one group for near copies, and how many problems have changed theirs."""
    ids = table["group_id"].combine_chunks()
    merged = ids.take(pa.array(grouped(table["question"].to_pylist(), ids.to_pylist())))
    n = int((merged.to_numpy(zero_copy_only=False) != ids.to_numpy(zero_copy_only=False)).sum())
    note = (
        f"{n} questions repeat one of another group, up to case, space and punctuation; they join its group"
    )
    table = table.set_column(table.column_names.index("group_id"), "group_id", merged)
    return Found(table, [*([note] if n else []), *_contradicted(table)])


def _contradicted(table: pa.Table) -> list[str]:
    """Questions that stand there with several right answers."""
    if len(table["group_id"].unique()) == len(table):
        return []
    answers = defaultdict(set)
    for question, answer in zip(table["question"].to_pylist(), table["answer"].to_pylist(), strict=True):
        answers[folded(question)].add(answer)
    several = [question for question, own in answers.items() if len(own) > 1]
    return [
        f"{len(several)} questions stand there several times with different answers, of which one is right "
        f"at most: does each answer stand beside its own question?"
    ] * bool(several)


def _torn(table: pa.Table) -> list[str]:
    """Groups on both sides of a split."""
    sides = table.group_by("group_id").aggregate([("split", "count_distinct")])
    torn = sides.filter(pc.field("split_count_distinct") > 1)["group_id"].to_pylist()
    note = (
        f"{len(torn)} groups have problems in several splits (first {min(torn, default='')}): what is "
        f"learned from some is known of the others, and test numbers will be too good"
    )
    return [note] if torn else []
