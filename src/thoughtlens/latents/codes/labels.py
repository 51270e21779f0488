"""Labels of problems as numbers: classes, numbers, and groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float, Int

from thoughtlens.acts import PROBLEM_KEYS
from thoughtlens.core import ConfigError, DataError
from thoughtlens.latents.codes.doubts import doubtful_values
from thoughtlens.problems import is_set, of_members

PROBLEM_COLUMNS = {*PROBLEM_KEYS, "question", "text", "answer", "cot"}
MOST_LEVELS = 64
"""Values of a column that are told apart at most."""
OTHERS = "any other"
"""The level of values that are not told apart."""


def number_columns(problems: pa.Table, names: tuple[str, ...] | None, max_levels: int) -> list[str]:
    """Columns of numbers with more than `max_levels` different values, of those named or of all labels."""
    own = [name for name in own_columns(problems, names) if is_number(problems.schema.field(name).type)]
    return [name for name in own if _n_values(encode_numbers(problems[name])) > max_levels]


def encode_numbers(column: pa.ChunkedArray) -> Float[np.ndarray, " n"]:
    """Numbers as float64; NaN where missing."""
    return column.cast(pa.float64()).to_numpy(zero_copy_only=False)


@dataclass(frozen=True, eq=False)
class Label:
    """A label column as classes of problems."""

    name: str
    codes: Int[np.ndarray, " problems"]
    """-1: missing."""
    levels: list[str]
    n_values: int
    """Different values of the column."""
    n_bins: int = 0
    """Of numbers: bins that hold about equally many problems."""
    sets: bool = False
    """The column holds sets, which are told apart only by their members."""

    @property
    def whole(self) -> bool:
        """Whether every value is a class of its own."""
        return len(self.levels) == self.n_values


def read_labels(
    problems: pa.Table,
    names: tuple[str, ...] | None,
    *,
    max_levels: int,
    min_count: int,
    most: int = MOST_LEVELS,
) -> list[Label]:
    """The label columns, those named or all, as classes.

    A column of up to `max_levels` values has a class for each. Of one with more, the values of at least
    `min_count` problems have one, the `most` most frequent of them, and all others share the last; numbers
    of which some would share it are put into `max_levels` bins. A column without two classes has none.
    """
    return [
        _label(name, problems[name], max_levels, min_count, most) for name in own_columns(problems, names)
    ]


def not_told_apart(labels: Sequence[Label]) -> list[str]:
    """What is to be said of columns whose values are not all told apart, a line for each."""
    said = []
    for label in labels:
        if not label.levels and label.n_values > 1:
            said.append(
                f"label {label.name}: {label.n_values:,} values, none of them frequent enough; it is not used"
            )
        elif label.sets:
            said.append(f"label {label.name}: sets, not single values; {of_members(label.name)}")
        elif not label.n_values:
            said.append(f"label {label.name}: no single values; it is not used")
        elif label.levels and not label.whole and not label.n_bins:
            said.append(
                f"label {label.name}: {len(label.levels) - 1} of its {label.n_values:,} values are told "
                f"apart, those of too few problems share one level"
            )
        said += doubtful_values(label.name, label.levels)
    return said


def alike(labels: Sequence[Label]) -> list[str]:
    """What is to be said of columns that divide the problems in the same way under other names."""
    found: dict[bytes, list[str]] = {}
    for label in labels:
        if label.levels:
            _, first, of = np.unique(label.codes, return_index=True, return_inverse=True)
            order = np.argsort(np.argsort(first))[of]
            order[label.codes < 0] = -1
            found.setdefault(order.tobytes(), []).append(label.name)
    return [
        f"labels {', '.join(names)} divide the problems in the same way: what is found for one is "
        f"found for all"
        for names in found.values()
        if len(names) > 1
    ]


def _label(name: str, column: pa.ChunkedArray, max_levels: int, min_count: int, most: int) -> Label:
    missing = np.full(len(column), -1, np.int64)
    if pa.types.is_nested(column.type):
        return Label(name, missing, [], 0, sets=is_set(column.type))
    codes, values = encode_labels(column)
    n = len(values)
    if n <= max_levels:
        return Label(name, codes if n > 1 else missing, values if n > 1 else [], n)
    count = np.bincount(codes[codes >= 0], minlength=n)
    if is_number(column.type) and (n > most or count.min() < min_count):
        number = encode_numbers(column)
        edges = np.unique(np.nanquantile(number, np.linspace(0, 1, max_levels + 1)[1:-1], method="lower"))
        bins = np.where(np.isnan(number), -1, np.searchsorted(edges, number, side="left"))
        return Label(name, bins, _bin_names(edges), n, len(edges) + 1)
    kept = np.lexsort((np.arange(n), -count))[:most]
    kept = np.sort(kept[count[kept] >= min_count])
    if len(kept) < min(2, n):
        return Label(name, missing, [], n)
    level = np.full(n + 1, len(kept))
    level[kept], level[-1] = np.arange(len(kept)), -1
    names = [values[i] for i in kept.tolist()]
    return Label(name, level[codes], names if len(kept) == n else [*names, OTHERS], n)


def _bin_names(edges: np.ndarray) -> list[str]:
    said = [f"{edge:.6g}" for edge in edges]
    between = [f"above {a}, up to {b}" for a, b in pairwise(said)]
    return [f"up to {said[0]}", *between, f"above {said[-1]}"]


def is_number(kind: pa.DataType) -> bool:
    """Whether a column of this type holds numbers."""
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _n_values(numbers: np.ndarray) -> int:
    return len(np.unique(numbers[~np.isnan(numbers)]))


def encode_labels(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """Codes of a label column (-1: missing) and its values as text, sorted."""
    if pa.types.is_nested(column.type):
        raise DataError(f"Expected one value for each label, got a column of the type {column.type}")
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column)  # type: ignore[attr-defined]
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    encoded: Any = column.combine_chunks().dictionary_encode()
    found = encoded.dictionary.to_pylist()
    values = sorted({*found} - {None})
    place = {value: i for i, value in enumerate(values)}
    own = np.array([*(place.get(value, -1) for value in found), -1])
    codes = encoded.indices.fill_null(len(found)).to_numpy()
    return own[codes], [str(v) for v in values]


def encode_groups(problems: pa.Table) -> Int[np.ndarray, " problems"]:
    """The group of each problem, numbered: problems of one, such as copies, are not independent."""
    encoded: Any = problems["group_id"].combine_chunks().dictionary_encode()
    return encoded.indices.to_numpy().astype(np.int64)


def own_columns(problems: pa.Table, names: tuple[str, ...] | None) -> list[str]:
    """The label columns of problems: those named, or all.

    Raises:
        ConfigError: one that is not there.
    """
    own = [name for name in problems.column_names if name not in PROBLEM_COLUMNS]
    for name in names or ():
        if name not in own:
            raise ConfigError(f"labels: expected some of {', '.join(own) or 'no labels'}, got {name!r}")
    return list(own if names is None else names)
