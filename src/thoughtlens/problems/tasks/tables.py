"""Tables that somebody made: columns by name, splits and ids where there are none, members of sets."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from thoughtlens.core import ConfigError, DataError, NotThereError
from thoughtlens.problems.config import COLUMNS, SPLITS, TableConfig, sources
from thoughtlens.problems.tasks import numbers
from thoughtlens.problems.tasks.published import SPLIT_WORDS, steps
from thoughtlens.problems.text.copies import folded
from thoughtlens.problems.text.files import objects, read_csv, readable, table_of

SUFFIXES = (".parquet", ".csv", ".jsonl", ".json")
MOST_MEMBERS = 64
"""Members of a set that get a column of their own, at most."""
MOSTLY = 0.9
"""From this share of numbers on, answers that are none are told."""


def read_table(cfg: TableConfig) -> tuple[pa.Table, list[str]]:
    """The problems of a table, with all columns that problems have, and what is to be said of them.

    Raises:
        NotThereError: no such file or column.
        DataError: a column missing, of another kind or with gaps; no problems; ids that occur twice.
    """
    file = Path(cfg.source).expanduser()
    given = {name: column for name, column in cfg.columns.model_dump().items() if column}
    table, notes = _raw(file, given.get("answer")), []
    if given:
        table, notes = _named(table, given, cfg)
    if missing := [name for name in COLUMNS if name not in table.column_names]:
        raise DataError(
            f"{file}: expected the columns {', '.join(COLUMNS)}; {', '.join(missing)} missing, there are "
            f"{', '.join(table.column_names)}. Say which one is what, problems.columns.question=NAME "
            f"problems.columns.answer=NAME, and the rest is made"
        )
    for name in COLUMNS:
        table = _put(table, name, _text(table[name], f"{file}: expected text in column {name}"))
        if table[name].null_count:
            raise DataError(
                f"{file}: column {name} has {table[name].null_count} empty cells; fill or drop the rows"
            )
    if not len(table):
        raise DataError(f"{file} has no problems")
    for name in ("question", *(["answer"] if given else [])):
        if empty := [i for i, text in enumerate(table[name].to_pylist()) if not text.strip()]:
            raise DataError(f"{file} row {empty[0]}: an empty {name}; drop the row")
    if other := set(table["split"].unique().to_pylist()) - set(SPLITS):
        raise DataError(f"{file}: expected splits {', '.join(SPLITS)}, got {', '.join(sorted(other))}")
    require_ids(table, str(file))
    return table, [f"{cfg.source}: {note}" for note in notes]


def n_rows(cfg: TableConfig) -> int:
    """How many problems a table has; reads no more of a Parquet table than its size."""
    file = Path(cfg.source).expanduser()
    return _parquet(file).metadata.num_rows if file.suffix == ".parquet" else len(_raw(file))


def require_ids(table: pa.Table, where: str) -> None:
    """Refuse ids that occur twice.

    Raises:
        DataError: says one.
    """
    twice = [name for name, n in Counter(table["problem_id"].to_pylist()).items() if n > 1]
    if twice:
        n = len(table) - len(table["problem_id"].unique())
        raise DataError(f"{where}: {n} problem ids occur twice, the first {twice[0]!r}; ids must be unique")


def hashed_splits(questions: Sequence[str], validation: float, test: float) -> list[str]:
    """A split for each question by a hash of it, near copies in the same one.

    Raises:
        ConfigError: nothing is left for the split train.
    """
    if validation + test >= 1:
        raise ConfigError(f"problems: validation + test must stay below 1, got {validation} + {test}")
    digests = (hashlib.sha256(folded(question).encode("utf-8", "surrogatepass")) for question in questions)
    places = [int.from_bytes(digest.digest()[:8]) / 2**64 for digest in digests]
    return [
        "test" if place < test else "validation" if place < test + validation else "train" for place in places
    ]


def with_members(table: pa.Table, names: Sequence[str]) -> tuple[pa.Table, list[str]]:
    """The table with a column of yes and no for each member of each set, and what is to be said.

    Raises:
        ConfigError: a column that is not there, or holds no sets.
    """
    notes = []
    for name in names:
        sets = [one for one in table.column_names if is_set(table.schema.field(one).type)]
        if name not in sets:
            there = ", ".join(sets) or "there are none"
            raise ConfigError(f"members: expected columns of sets ({there}), got {name!r}")
        own = [None if one is None else set(one) for one in table[name].to_pylist()]
        count = Counter(member for one in own for member in one or ())
        kept = sorted(member for member, _ in count.most_common(MOST_MEMBERS))
        if len(kept) < len(count):
            notes.append(f"{name}: the {len(kept)} most frequent of its {len(count)} members have a column")
        for member in kept:
            has = pa.array([None if one is None else member in one for one in own], pa.bool_())
            table = _put(table, f"{name}_has_{str(member).replace(' ', '_')}", has)
    return table, notes


def of_members(name: str) -> str:
    """What to do where single values are wanted, and a column holds sets."""
    return f"problems.members='[\"{name}\"]' gives a column of yes and no for each member"


def is_set(kind: pa.DataType) -> bool:
    """Whether a column of this type holds sets of single values."""
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return False
    return not (pa.types.is_nested(kind.value_type) or pa.types.is_floating(kind.value_type))


def _named(table: pa.Table, given: dict[str, str], cfg: TableConfig) -> tuple[pa.Table, list[str]]:
    """The table with its columns called as problems have them, and those that it lacks made."""
    file, notes = cfg.source, []
    for name, column in given.items():
        if column not in table.column_names:
            raise NotThereError(
                f"Expected a column {column!r} in {file}, found {', '.join(table.column_names)}; set "
                f"problems.columns.{name}"
            )
    if twice := [column for column, n in Counter(given.values()).items() if n > 1]:
        raise ConfigError(f"problems.columns: {twice[0]!r} is named twice")
    own = {("cot" if name == "chain" else name): table[column] for name, column in given.items()}
    kept = [name for name in table.column_names if name not in given.values() and name not in own]
    own |= {name: table[name] for name in COLUMNS if name in kept}
    for name in ("question", "answer"):
        if name not in own:
            raise NotThereError(
                f"Expected a column {name!r} in {file}, found {', '.join(table.column_names)}; set "
                f"problems.columns.{name}"
            )
    n = len(table)
    question = own["question"] = _text(own["question"], f"{file}: expected text in the column of questions")
    answers, chains = zip(*map(_answer, own["answer"].to_pylist()), strict=True) if n else ((), ())
    notes += _no_numbers(answers)
    if "cot" in own:
        chains = map(steps, own["cot"].to_pylist())
    own |= {"answer": pa.array(answers, pa.string()), "cot": pa.array(list(chains), pa.string())}
    own.setdefault("problem_id", pa.array([f"row_{i}" for i in range(n)], pa.string()))
    own.setdefault("group_id", own["problem_id"])
    if "split" in own:
        own["split"] = pa.array([split_of_word(one) for one in own["split"].to_pylist()], pa.string())
    else:
        texts = [text or "" for text in question.to_pylist()]
        own["split"] = pa.array(_by_group(own["group_id"], texts, cfg), pa.string())
        notes.append(
            f"no column says the splits, so they are made by a hash of each question: "
            f"{1 - cfg.validation - cfg.test:.0%} train, {cfg.validation:.0%} validation, {cfg.test:.0%} test"
        )
    labels = {name: table[name] for name in kept if name not in own}
    return pa.table({name: own[name] for name in COLUMNS} | labels), notes


def _by_group(groups: Any, texts: list[str], cfg: TableConfig) -> list[str]:
    """The split of each problem: that of the first question of its group."""
    first: dict[Any, str] = {}
    key = [first.setdefault(group, text) for group, text in zip(groups.to_pylist(), texts, strict=True)]
    return hashed_splits(key, cfg.validation, cfg.test)


def split_of_word(value: Any) -> str | None:
    """Our name of a split, whatever its case, where it is train, test, or one of validation's names."""
    text = None if value is None else str(value).strip().lower()
    return text if text is None else SPLIT_WORDS.get(text, "validation" if text == "val" else text)


def _answer(value: Any) -> tuple[str | None, str]:
    """An answer as text, and the solution that stands before its mark."""
    if value is None:
        return None, ""
    chain, _, answer = str(_as_text(value)).rpartition("####")
    return answer.strip(), chain.strip()


def _as_text(value: Any) -> str | None:
    """A cell as text; numbers as answers are written, so 5.0 as 5."""
    number = numbers.answer(value) if isinstance(value, int | float) else None
    return value if value is None else str(value) if number is None else numbers.plain(number)


def _no_numbers(answers: Sequence[str | None]) -> list[str]:
    """What is to be said where nearly all answers are numbers, and some are none."""
    none = [i for i, one in enumerate(answers) if one is not None and numbers.answer(one) is None]
    if not none or len(none) > (1 - MOSTLY) * len(answers):
        return []
    return [
        f"{len(none)} of {len(answers)} answers are no numbers, the first {answers[none[0]]!r} in row "
        f"{none[0]}; they are compared as text"
    ]


def _text(column: Any, expected: str) -> pa.ChunkedArray:
    try:
        return column.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise DataError(f"{expected}, got {column.type}") from None


def _put(table: pa.Table, name: str, column: Any) -> pa.Table:
    """The table with a column in its place, or at the end."""
    if name in table.column_names:
        return table.set_column(table.column_names.index(name), name, column)
    return table.append_column(name, column)


def _raw(file: Path, answer: str | None = None) -> pa.Table:
    """The table as the file has it; JSON may have answers of several types, numbers and texts."""
    if file.suffix == ".parquet" or not file.is_file() or file.suffix not in SUFFIXES:
        opened = _parquet(file)
        with readable(file):
            table = opened.read()
            table.validate(full=True)
        return table
    if not file.stat().st_size:
        raise DataError(f"{file} is empty; expected a table of problems")
    if file.suffix == ".csv":
        with readable(file):
            return read_csv(file)
    rows = [row for _, row in objects(file)]
    if not rows:
        raise DataError(f"{file} is empty; expected a table of problems")
    names = dict.fromkeys(name for row in rows for name in row)
    table = [{name: row.get(name) for name in names} for row in rows]
    if answer is not None and len({type(row.get(answer)) for row in rows}) > 1:
        table = [row | {answer: _as_text(row.get(answer))} for row in table]
    return table_of(table, str(file))


def _parquet(file: Path) -> pq.ParquetFile:
    if not file.is_file():
        raise NotThereError(
            f"problems: expected {', '.join(sources())} or a Parquet table, found nothing at {file}"
        )
    with readable(file):
        return pq.ParquetFile(file)
