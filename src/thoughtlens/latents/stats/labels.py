"""Labels of problems as numbers: classes, and numbers that are tested by their rank."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int

from thoughtlens.acts import PROBLEM_KEYS
from thoughtlens.core import ConfigError

PROBLEM_COLUMNS = {*PROBLEM_KEYS, "question", "text", "answer", "cot"}


def number_columns(problems: pa.Table, names: tuple[str, ...] | None, max_levels: int) -> list[str]:
    """Columns of numbers with more than `max_levels` different values, of those named or of all labels."""
    found = []
    for name in _own_columns(problems, names):
        kind = problems.schema.field(name).type
        if pa.types.is_integer(kind) or pa.types.is_floating(kind):
            values = encode_numbers(problems[name])
            if len(np.unique(values[~np.isnan(values)])) > max_levels:
                found.append(name)
    return found


def encode_numbers(column: pa.ChunkedArray) -> Float[np.ndarray, " n"]:
    """Numbers as float64; NaN where missing."""
    return column.cast(pa.float64()).to_numpy(zero_copy_only=False)


def label_columns(problems: pa.Table, names: tuple[str, ...] | None, max_levels: int) -> list[str]:
    """Label columns to test: those named, or all with 2 to `max_levels` different values."""
    own = _own_columns(problems, names)
    flat = [name for name in own if not pa.types.is_nested(problems.schema.field(name).type)]
    counts = {name: len(problems[name].drop_null().unique()) for name in flat}
    return [name for name, n in counts.items() if 2 <= n <= max_levels]


def encode_labels(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """Codes of a label column (-1: missing) and its values as text, sorted."""
    values = sorted(column.drop_null().unique().to_pylist())
    code = {value: i for i, value in enumerate(values)}
    codes = np.array([code.get(value, -1) for value in column.to_pylist()], np.int64)
    return codes, [str(v) for v in values]


def encode_groups(problems: pa.Table) -> Int[np.ndarray, " problems"]:
    """The group of each problem, numbered: problems of one, such as copies, are not independent."""
    encoded: Any = problems["group_id"].combine_chunks().dictionary_encode()
    return encoded.indices.to_numpy().astype(np.int64)


def _own_columns(problems: pa.Table, names: tuple[str, ...] | None) -> list[str]:
    own = [name for name in problems.column_names if name not in PROBLEM_COLUMNS]
    for name in names or ():
        if name not in own:
            raise ConfigError(f"labels: expected some of {', '.join(own) or 'no labels'}, got {name!r}")
    return list(own if names is None else names)
