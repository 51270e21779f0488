"""The rows of a store: which row of the files is which thought of which problem, at every hook."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int
from torch import Tensor

from thoughtlens.acts.bring.columns import Read
from thoughtlens.acts.bring.config import ImportConfig
from thoughtlens.core import DataError
from thoughtlens.problems import SPLITS, TextConfig, grouped, split_of

FED_BACK = ("thought_in", "thought_out")
RESERVED = ("row", "problem_id", "thought_idx", "position", "token_id", "outlier")
"""Columns that the store makes itself."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Cells:
    """The store's rows, problem by problem in the order of the files."""

    kind: str
    hook_names: list[str]
    """As the files call them, or as they were resolved."""
    unresolved: list[str]
    at: Int[np.ndarray, "rows hooks"]
    """Row of the array, which is taken as rows, of every row of the store at every hook."""
    given: Int[np.ndarray, " rows"] | None
    """The thought's number, or the position, in the files."""
    columns: dict[str, np.ndarray]
    """Of `rows.parquet`."""
    problems: pa.Table
    splits_made: bool
    notes: list[str]


class Vectors:
    """An array in parts, taken as rows [rows, d]."""

    def __init__(self, parts: Sequence[Any]) -> None:
        self._parts = [_as_rows(part) for part in parts]
        self._ends = np.cumsum([len(part) for part in self._parts])

    def take(self, rows: Int[np.ndarray, " n"]) -> Float[Tensor, "n d"]:
        """Some rows, read from where they lie."""
        part = np.searchsorted(self._ends, rows, side="right")
        if part[0] == part[-1] and (part == part[0]).all():
            return self._of(int(part[0]), rows)
        found = [self._of(int(p), rows[part == p]) for p in np.unique(part)]
        order = np.concatenate([np.flatnonzero(part == p) for p in np.unique(part)])
        return torch.cat(found)[torch.from_numpy(np.argsort(order))]

    def _of(self, part: int, rows: np.ndarray) -> Tensor:
        local, x = rows - (self._ends[part] - len(self._parts[part])), self._parts[part]
        run = len(local) and local[-1] - local[0] == len(local) - 1 and (np.diff(local) == 1).all()
        wanted = slice(int(local[0]), int(local[-1]) + 1) if run else local
        if isinstance(x, Tensor):
            return x[wanted if run else torch.from_numpy(local)]
        return torch.from_numpy(np.array(x[wanted]))


def cells(found: Read, cfg: ImportConfig) -> Cells:
    """Sort the files' rows by problem and thought, every hook of a thought in one row of the store.

    Raises:
        DataError: values that are missing, a row twice, hooks that are not everywhere, a
            problem in two splits.
    """
    place = _places(found)
    ids, problem = _coded(found.roles.get("problem") or range(found.shape[0]), "problem")
    problem = problem[place["problem"]]
    names, hook = _hooks(found, place, cfg)
    kind, inner, given = _inner(found, place, problem, hook, cfg)
    at = _matrix(problem, hook, inner, ids, names)
    first = at[:, 0]
    row_of = place["problem"]
    if unknown := set(cfg.places) - {*names, *names.values()}:
        raise DataError(f"hook: there is no hook {', '.join(unknown)}, only {', '.join(names.values())}")
    resolved = [cfg.places.get(name, cfg.places.get(shown, shown)) for name, shown in names.items()]
    if len(set(resolved)) < len(resolved):
        raise DataError(f"Expected a place of its own for each hook, got {', '.join(resolved)}")
    table, split_made, of_rows, notes = _problems(found, ids, row_of[at], problem[first], cfg)
    columns = {"problem_id": np.array(ids, object)[problem[first]], **of_rows}
    if kind == "thoughts":
        columns["thought_idx"] = inner[first].astype(np.int32)
    else:
        columns["position"] = inner[first].astype(np.int32)
        columns["token_id"] = _whole(found.roles["token_id"], "token_id")[row_of[first]]
    return Cells(
        kind=kind,
        hook_names=resolved,
        unresolved=[name for name in resolved if ":" not in name and name not in FED_BACK],
        at=at,
        given=None if given is None else given[first],
        columns=columns,
        problems=table,
        splits_made=split_made,
        notes=[*found.notes, *notes],
    )


def _as_rows(part: Any) -> Any:
    if part.ndim == 2:
        return part
    return part[()].reshape(-1, part.shape[-1]) if not hasattr(part, "reshape") else part.reshape(
        -1, part.shape[-1]
    )  # fmt: skip


def _places(found: Read) -> dict[str, np.ndarray]:
    """Of every row of the array taken as rows: its index along each axis; without axes, its own number."""
    axes = found.axes or ("problem",)
    index = np.indices(found.shape, np.int64).reshape(len(axes), -1)
    return dict(zip(axes, index, strict=True))


def _coded(values: Sequence[Any], what: str) -> tuple[list[str], np.ndarray]:
    """Different values as text, in their order, and which one each is."""
    if any(v is None or v == "" or (isinstance(v, float) and v != int(v)) for v in _no_nan(values, what)):
        raise DataError(f"The column of {what} has gaps, or numbers that are not whole; each row needs one")
    text = [str(int(v)) if isinstance(v, float) else str(v) for v in values]
    coded = pa.array(text, pa.string()).dictionary_encode()
    return coded.dictionary.to_pylist(), coded.indices.to_numpy()


def _no_nan(values: Sequence[Any], what: str) -> Sequence[Any]:
    if any(isinstance(v, float) and (v != v or abs(v) == float("inf")) for v in values):
        raise DataError(f"The column of {what} has NaN or infinite values; each row needs one")
    return values


def _whole(values: Sequence[Any], what: str) -> np.ndarray:
    try:
        x = np.asarray(_no_nan(values, what), np.float64)
    except (ValueError, TypeError):
        raise DataError(f"The column of {what} has values that are no numbers: {values[:3]}") from None
    if not (x == np.round(x)).all() or x.min(initial=0) < 0:
        raise DataError(f"Expected whole numbers from 0 on in the column of {what}, got {values[:3]}")
    return x.astype(np.int64)


def _hooks(
    found: Read, place: dict[str, np.ndarray], cfg: ImportConfig
) -> tuple[dict[str, str], np.ndarray | None]:
    """Hooks as the files number them -> as they name them; and the hook of every row of the array."""
    del cfg
    if len(found.arrays) > 1:
        bases = [name.rpartition("/")[2] for name in found.arrays]
        return {name: name for name in (bases if len(set(bases)) == len(bases) else found.arrays)}, None
    given = found.roles.get("hook")
    if "hook" in place:
        n = int(place["hook"].max(initial=0)) + 1
        names = [str(i) for i in range(n)] if given is None else [str(name) for name in given]
        if len(names) != n or len(set(names)) < n:
            raise DataError(f"Expected {n} names of hooks, all different, got {names}")
        return {name: name for name in names}, place["hook"]
    if given is None:
        (only,) = found.arrays
        return {only: only.rpartition("/")[2]}, np.zeros(len(place["problem"]), np.int64)
    names, codes = _coded(given, "hook")
    return {name: found.layers.get(name, name) for name in names}, codes[place["problem"]]


def _inner(
    found: Read,
    place: dict[str, np.ndarray],
    problem: np.ndarray,
    hook: np.ndarray | None,
    cfg: ImportConfig,
) -> tuple[str, np.ndarray, np.ndarray | None]:
    """The store's kind, and `thought_idx` or position of every row of the array, here and in the files."""
    of_row = place["problem"]
    if "token_id" in found.roles and "thought" not in {*found.roles, *place}:
        if "position" not in found.roles:
            raise DataError("Rows of tokens need the column of their positions: columns.position=...")
        at = _whole(found.roles["position"], "position")[of_row]
        return "text", at, at
    if "thought" not in {*found.roles, *place}:
        one = np.bincount(problem if hook is None else problem * (int(hook.max(initial=0)) + 1) + hook)
        if one.max(initial=0) > 1:
            raise DataError(
                "Some problems have several rows at one hook, and no column says which is which: name it, "
                "columns.thought=... for thoughts, columns.position=... and columns.token_id=... for tokens"
            )
        return "thoughts", np.zeros(len(of_row), np.int64), None
    given = place.get("thought")
    given = _whole(found.roles["thought"], "thought")[of_row] if given is None else given
    if found.first_thought is None:
        raise DataError(
            f"Which number has the first vector that was fed back, among {_range(given)}? Say "
            f"--first-thought 1 (0, if it is there, is then the begin-of-thought position) or "
            f"--first-thought 0"
        )
    return "thoughts", given + 1 - found.first_thought, given


def _range(values: np.ndarray) -> str:
    return f"{values.min(initial=0)}..{values.max(initial=0)}"


def _matrix(
    problem: np.ndarray,
    hook: np.ndarray | None,
    inner: np.ndarray,
    ids: Sequence[str],
    names: dict[str, str],
) -> np.ndarray:
    """Rows of the array by row of the store and hook; one column where every hook has an array of its own."""
    n_hooks, width = 1 if hook is None else len(names), int(inner.max(initial=0)) + 1
    key = problem.astype(np.int64) * width + inner
    keys, row = np.unique(key, return_inverse=True)
    at = np.full((len(keys), n_hooks), -1, np.int64)
    column = np.zeros(len(key), np.int64) if hook is None else hook
    at[row, column] = np.arange(len(key))

    def says(key: Any, hook: Any) -> str:
        named = list(names.values())[int(hook)]
        return f"problem {ids[int(key) // width]!r}, number {int(key) % width}, hook {named}"

    if len(key) > (at >= 0).sum():
        lost = np.ones(len(key), bool)
        lost[at[at >= 0]] = False
        i = int(np.flatnonzero(lost)[0])
        raise DataError(f"Expected each row once, got {says(key[i], column[i])} more often")
    if (at < 0).any():
        r, h = np.argwhere(at < 0)[0]
        raise DataError(f"Expected every hook of every thought, no row for {says(keys[r], h)}")
    return at


def _problems(
    found: Read, ids: list[str], rows: np.ndarray, problem: np.ndarray, cfg: ImportConfig
) -> tuple[pa.Table, bool, dict[str, np.ndarray], list[str]]:
    """The problems' table, whether splits were made, columns that differ within problems, and notes."""
    n, notes = len(ids), []
    source = rows[:, 0]
    _, one = np.unique(problem, return_index=True)
    table: dict[str, Any] = {"problem_id": ids}
    of_rows: dict[str, np.ndarray] = {}

    def of_problem(values: Sequence[Any]) -> list | None:
        """One value for each problem; None where they differ within one."""
        codes = np.unique([repr(v) for v in values], return_inverse=True)[1]
        same = codes[source[one]]
        return [values[i] for i in source[one]] if (codes[rows] == same[problem][:, None]).all() else None

    for role in ("group", "split", "question", "answer"):
        if role not in found.roles:
            continue
        if (values := of_problem(found.roles[role])) is None:
            raise DataError(f"The same problem has two values in the column {found.named[role]}; mend it")
        table[role] = values
    groups = [str(g) for g in table.pop("group", ids)]
    texts = table.get("question", [None] * n)
    groups = np.array(groups, object)[grouped(texts, groups)].tolist()
    made = "split" not in table
    split = _made_splits(groups, cfg) if made else [str(s) for s in table.pop("split")]
    if other := sorted(set(split) - set(SPLITS)):
        raise DataError(f"Expected the splits {', '.join(SPLITS)}, got {', '.join(other)}; rename them")
    table = {"problem_id": ids, "group_id": groups, "split": split, **table}
    if torn := len(set(zip(groups, split, strict=True))) - len(set(groups)):
        notes.append(f"{torn} groups have problems in several splits: test numbers will be too good")
    for name, values in found.labels.items():
        own = (
            f"{name}_given"
            if name in (*table, "row", "problem_id", "thought_idx", "outlier", "cot")
            else name
        )
        if not all(v is None or isinstance(v, str | bool | int | float) for v in values):
            notes.append(f"{name} is left out: it has values that are neither text nor numbers")
        elif (constant := of_problem(values)) is not None:
            table[own] = constant
        elif all(np.array_equal(_codes(values)[rows[:, 0]], _codes(values)[r]) for r in rows.T):
            of_rows[own] = _row_column(values, rows[:, 0])
        else:
            notes.append(f"{name} is left out: it differs between the hooks of a thought")
    for name in ("question", "answer", "cot"):
        if name in table:
            table[name] = ["" if v is None else str(v) for v in table[name]]
    try:
        return pa.table(table), made, of_rows, notes
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(f"A column has values of several types: {' '.join(str(error).split())}") from None


def _codes(values: Sequence[Any]) -> np.ndarray:
    return np.unique([repr(v) for v in values], return_inverse=True)[1]


def _row_column(values: Sequence[Any], rows: np.ndarray) -> np.ndarray:
    if any(v is None or isinstance(v, str) for v in values):
        return np.array(["" if v is None else str(v) for v in values], object)[rows]
    return np.asarray(values)[rows]


def _made_splits(groups: Sequence[str], cfg: ImportConfig) -> list[str]:
    rule = TextConfig(validation=cfg.validation, test=cfg.test, seed=cfg.seed)
    return [split_of(rule, group) for group in groups]


def digest_of(arrays: dict[str, Any]) -> str:
    """sha256 of arrays and lists in memory, with their names."""
    total = hashlib.sha256()
    for name, value in sorted(arrays.items()):
        total.update(f"{name}\0".encode())
        if isinstance(value, Tensor):
            x = value.detach().cpu().contiguous()
            total.update(f"{x.dtype}{tuple(x.shape)}".encode() + x.view(torch.uint8).numpy().tobytes())
        elif isinstance(value, np.ndarray):
            total.update(f"{value.dtype}{value.shape}".encode() + np.ascontiguousarray(value).tobytes())
        else:
            total.update(repr(value).encode())
    return total.hexdigest()
