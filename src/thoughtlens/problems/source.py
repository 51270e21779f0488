"""Problems for a thought model: generated, GSM8K, or a table somebody made."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from thoughtlens.core import Config, ConfigError, DataError, NotThereError, warn
from thoughtlens.problems import arithmetic, gsm8k, words

GENERATORS = {"arithmetic": arithmetic, "words": words}
"""Modules with `problems`, `twins`, `CHANGES` and the default modulus `P`."""
SOURCES = (*GENERATORS, "generated", "gsm8k")
COLUMNS = ("problem_id", "group_id", "split", "question", "answer", "cot")
SPLITS = ("train", "validation", "test")
N_GENERATED = 20_000


class ProblemsConfig(Config):
    """Which problems a thought model thinks about."""

    kind: Literal["problems"] = "problems"
    """Questions with answers, labels and splits."""
    source: str = "arithmetic"
    """`arithmetic` or `words` (generated here), `generated` (the one of them that a shipped model was
    trained on), `gsm8k` (files, or the hub), or a Parquet table with the columns problem_id, group_id, split,
    question, answer, cot, and any labels."""
    n: int | None = Field(None, gt=0)
    """How many problems; unset: 20,000 generated ones, or all of a table."""
    files: tuple[Path, ...] = ()
    """GSM8K's test.jsonl and train.jsonl; none: the hub."""
    labels: Literal["annotations", "regex"] | None = None
    """GSM8K: where `operation` comes from; unset: annotations, with `seed_protocol` regex."""
    seed_protocol: bool = False
    """GSM8K: only the 600 problems of the first study of CODI's thoughts."""
    validation: float = Field(0.1, ge=0, lt=1)
    """GSM8K: share of the training problems that become the split `validation`, by a hash of their id."""
    classes: tuple[str, ...] = ()
    """Keep only problems with these operations; each must occur. None: keep all, also unlabelled ones."""
    p: int | None = None
    """Generated: the modulus; unset: 23 for arithmetic, 11 for words, as in the shipped models."""
    n_steps: tuple[int, ...] = (2, 3)
    """Generated: numbers of steps, equally often."""
    seed: int | None = None
    """Fixes generated problems; unset: the seed of the run."""


def problems(cfg: ProblemsConfig, seed: int = 0) -> pa.Table:
    """The table of problems; `seed` stands in where the config has none.

    Raises:
        NotThereError: no such source or file.
        DataError: not a problems table, a class nobody has, or an id twice.
    """
    if generator := GENERATORS.get(cfg.source):
        seed = seed if cfg.seed is None else cfg.seed
        p = generator.P if cfg.p is None else cfg.p
        table = generator.problems(cfg.n or N_GENERATED, seed=seed, p=p, n_steps=cfg.n_steps)
    elif cfg.source == "generated":
        raise ConfigError(
            f"problems.source: generated takes a shipped thought model to choose by; name one of "
            f"{', '.join(GENERATORS)}, gsm8k, or a Parquet table"
        )
    elif cfg.source == "gsm8k":
        table = gsm8k.table(cfg.files or None, labels=cfg.labels, seed_protocol=cfg.seed_protocol)
        table = _with_validation(table, cfg.validation)
    else:
        table = _read(Path(cfg.source).expanduser())
    if cfg.classes:
        require_classes(table, cfg.classes)
        table = table.filter(pa.array([name in cfg.classes for name in table["operation"].to_pylist()]))
    return table.slice(0, cfg.n)


def count(cfg: ProblemsConfig) -> int:
    """How many problems there will be, at most; reads no more of a table than its size."""
    if cfg.source in (*GENERATORS, "generated"):
        return cfg.n or N_GENERATED
    if cfg.source == "gsm8k":
        whole = len(gsm8k.CLASSES) * gsm8k.PER_CLASS if cfg.seed_protocol else gsm8k.N_PROBLEMS
    else:
        whole = _open(Path(cfg.source).expanduser()).metadata.num_rows
    return min(whole, cfg.n or whole)


def inputs(cfg: ProblemsConfig) -> dict[str, Path]:
    """Files that the problems come from, by a name for each."""
    if cfg.source == "gsm8k":
        return {f"problems_{i}": file for i, file in enumerate(cfg.files)}
    return {} if cfg.source in SOURCES else {"problems": Path(cfg.source).expanduser()}


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


def _with_validation(table: pa.Table, share: float) -> pa.Table:
    digests = [hashlib.sha256(name.encode()).digest() for name in table["problem_id"].to_pylist()]
    drawn = np.array([int.from_bytes(d[:8]) / 2**64 < share for d in digests], bool)
    split = table["split"].to_numpy(zero_copy_only=False)
    split = np.where(drawn & (split == "train"), "validation", split)
    return table.set_column(table.column_names.index("split"), "split", pa.array(split, pa.string()))


def _open(file: Path) -> pq.ParquetFile:
    if not file.is_file():
        raise NotThereError(
            f"problems: expected {', '.join(SOURCES)} or a Parquet table, found nothing at {file}"
        )
    try:
        return pq.ParquetFile(file)
    except pa.ArrowInvalid as error:
        raise DataError(f"{file} is not a Parquet table: {str(error).splitlines()[0]}") from None


def _read(file: Path) -> pa.Table:
    table = _open(file).read()
    if missing := [name for name in COLUMNS if name not in table.column_names]:
        raise DataError(
            f"{file}: expected the columns {', '.join(COLUMNS)}; {', '.join(missing)} missing "
            f"(`thoughtlens problems` writes such tables)"
        )
    for name in COLUMNS:
        table = table.set_column(table.column_names.index(name), name, table[name].cast(pa.string()))
        if table[name].null_count:
            raise DataError(
                f"{file}: column {name} has {table[name].null_count} empty cells; fill or drop the rows"
            )
    if not len(table):
        raise DataError(f"{file} has no problems")
    if other := set(table["split"].unique().to_pylist()) - set(SPLITS):
        raise DataError(f"{file}: expected splits {', '.join(SPLITS)}, got {', '.join(sorted(other))}")
    if (n := len(table["problem_id"].unique())) < len(table):
        raise DataError(f"{file}: {len(table) - n} problem ids occur twice; ids must be unique")
    sides = table.group_by("group_id").aggregate([("split", "count_distinct")])
    if torn := sides.filter(pc.field("split_count_distinct") > 1)["group_id"].to_pylist():
        warn(
            f"{file}: {len(torn)} groups have problems in several splits (first {min(torn)}): what is "
            f"learned from some is known of the others, and test numbers will be too good"
        )
    return table
