"""Problems for a thought model: generated, GSM8K, or a table somebody made."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from thoughtlens.core import ConfigError, DataError, NotThereError, warn
from thoughtlens.problems.config import (
    COLUMNS,
    SPLITS,
    GeneratedConfig,
    Gsm8kConfig,
    ProblemsConfig,
    TableConfig,
    sources,
)
from thoughtlens.problems.tasks import arithmetic, gsm8k, words
from thoughtlens.problems.text.copies import grouped
from thoughtlens.problems.text.files import readable

GENERATORS = {"arithmetic": arithmetic, "words": words}
"""Modules with `problems`, `twins`, `CHANGES` and the default modulus `P`."""
N_GENERATED = 20_000


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
    match cfg:
        case GeneratedConfig():
            table = _generated(cfg, seed)
        case Gsm8kConfig():
            whole = gsm8k.table(cfg.files or None, labels=cfg.labels, seed_protocol=cfg.seed_protocol)
            table = _with_validation(whole, cfg.validation)
        case TableConfig():
            table = _read(Path(cfg.source).expanduser())
    if cfg.classes:
        require_classes(table, cfg.classes)
        table = table.filter(pa.array([name in cfg.classes for name in table["operation"].to_pylist()]))
    table, notes = _drawn(table, cfg.n, seed), []
    if not isinstance(cfg, GeneratedConfig):
        table, copies = _copies_in_one_group(table)
        notes = [f"{cfg.source}: {note}" for note in (*copies, *_torn(table))]
    return Found(table, notes)


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
        case TableConfig():
            whole = _open(Path(cfg.source).expanduser()).metadata.num_rows
    return min(whole, cfg.n or whole)


def shares(cfg: ProblemsConfig) -> dict[str, float]:
    """Share of the problems in each split, about."""
    match cfg:
        case GeneratedConfig():
            tenths = arithmetic.SPLITS
            return {name: n / len(tenths) for name, n in Counter(tenths).items()}
        case Gsm8kConfig():
            train = gsm8k.N_TRAIN / gsm8k.N_PROBLEMS
            return {
                "train": train * (1 - cfg.validation), "validation": train * cfg.validation, "test": 1 - train
            }  # fmt: skip
        case TableConfig():
            splits = _open(Path(cfg.source).expanduser()).read(["split"])["split"].to_pylist()
            return {name: n / len(splits) for name, n in Counter(splits).items()}


def inputs(cfg: ProblemsConfig) -> dict[str, Path]:
    """Files that the problems come from, by a name for each."""
    if isinstance(cfg, Gsm8kConfig):
        return {f"problems_{i}": file for i, file in enumerate(cfg.files)}
    return {"problems": Path(cfg.source).expanduser()} if isinstance(cfg, TableConfig) else {}


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


def held_out(cfg: GeneratedConfig) -> pa.Table:
    """`n` problems of the split `test` alone, or those of them that are of `classes`."""
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


def _with_validation(table: pa.Table, share: float) -> pa.Table:
    digests = [hashlib.sha256(name.encode()).digest() for name in table["problem_id"].to_pylist()]
    drawn = np.array([int.from_bytes(d[:8]) / 2**64 < share for d in digests], bool)
    split = table["split"].to_numpy(zero_copy_only=False)
    split = np.where(drawn & (split == "train"), "validation", split)
    return table.set_column(table.column_names.index("split"), "split", pa.array(split, pa.string()))


def _open(file: Path) -> pq.ParquetFile:
    if not file.is_file():
        raise NotThereError(
            f"problems: expected {', '.join(sources())} or a Parquet table, found nothing at {file}"
        )
    with readable(file):
        return pq.ParquetFile(file)


def _read(file: Path) -> pa.Table:
    opened = _open(file)
    with readable(file):
        table = opened.read()
        table.validate(full=True)
    if missing := [name for name in COLUMNS if name not in table.column_names]:
        raise DataError(
            f"{file}: expected the columns {', '.join(COLUMNS)}; {', '.join(missing)} missing "
            f"(`thoughtlens problems` writes such tables)"
        )
    for name in COLUMNS:
        try:
            column = table[name].cast(pa.string())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            raise DataError(f"{file}: expected text in column {name}, got {table[name].type}") from None
        table = table.set_column(table.column_names.index(name), name, column)
        if table[name].null_count:
            raise DataError(
                f"{file}: column {name} has {table[name].null_count} empty cells; fill or drop the rows"
            )
    if not len(table):
        raise DataError(f"{file} has no problems")
    if not all(text.strip() for text in table["question"].to_pylist()):
        row = next(i for i, text in enumerate(table["question"].to_pylist()) if not text.strip())
        raise DataError(f"{file} row {row}: an empty question; drop the row")
    if other := set(table["split"].unique().to_pylist()) - set(SPLITS):
        raise DataError(f"{file}: expected splits {', '.join(SPLITS)}, got {', '.join(sorted(other))}")
    if (n := len(table["problem_id"].unique())) < len(table):
        raise DataError(f"{file}: {len(table) - n} problem ids occur twice; ids must be unique")
    return table


def _copies_in_one_group(table: pa.Table) -> Found:
    """The table with one group for near copies, and how many problems have changed theirs."""
    ids = table["group_id"].combine_chunks()
    merged = ids.take(pa.array(grouped(table["question"].to_pylist(), ids.to_pylist())))
    n = int((merged.to_numpy(zero_copy_only=False) != ids.to_numpy(zero_copy_only=False)).sum())
    note = (
        f"{n} questions repeat one of another group, up to case, space and punctuation; they join its group"
    )
    at = table.column_names.index("group_id")
    return Found(table.set_column(at, "group_id", merged), [note] if n else [])


def _torn(table: pa.Table) -> list[str]:
    """Groups on both sides of a split."""
    sides = table.group_by("group_id").aggregate([("split", "count_distinct")])
    torn = sides.filter(pc.field("split_count_distinct") > 1)["group_id"].to_pylist()
    note = (
        f"{len(torn)} groups have problems in several splits (first {min(torn, default='')}): what is "
        f"learned from some is known of the others, and test numbers will be too good"
    )
    return [note] if torn else []
