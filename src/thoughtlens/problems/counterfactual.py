"""What the answer to a generated problem would be, had one of its values been another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from thoughtlens.problems.arithmetic import N_STEPS, Symbols


def answers_after(table: pa.Table, column: str, values: Sequence[int], *, p: int = 23) -> list[str] | None:
    """Each answer if `column` (start, v1, v2, v3) had this value, and all later operations were the same.

    None for problems that are not of this task, or a column that holds no value.
    """
    steps = {"start": 0} | {f"v{i + 1}": i + 1 for i in range(N_STEPS)}
    operations = [f"op{i + 1}" for i in range(N_STEPS)]
    if column not in steps or not {"n_steps", *operations} <= set(table.column_names):
        return None
    symbols = Symbols(p)
    code = {word: i - p for i, word in enumerate(symbols.words)}
    x, n_steps = np.asarray(values, dtype=int), np.array(table["n_steps"])
    for i in range(steps[column], N_STEPS):
        words = table[operations[i]].to_pylist()
        if any(word is not None and word not in code for word in words):
            return None
        ops = np.array([0 if word is None else code[word] for word in words])
        x = np.where(i < n_steps, symbols.apply(x, ops), x)
    return [str(v) for v in x]
