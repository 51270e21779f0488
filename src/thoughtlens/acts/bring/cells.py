"""The rows of a store: which row of the files is which thought of which problem, at every hook."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Int

from thoughtlens.acts.bring.arrays import is_vectors
from thoughtlens.acts.bring.columns import Coded, Read, coded
from thoughtlens.acts.bring.config import ImportConfig
from thoughtlens.core import DataError
from thoughtlens.problems import SPLITS, TextConfig, grouped, split_of, split_of_word

FED_BACK = ("thought_in", "thought_out")
TAKEN = ("row", "thought_idx", "position", "token_id", "outlier", "cot")
"""Columns that the store makes itself, or that would mean something here."""


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


def cells(found: Read, cfg: ImportConfig) -> Cells:
    """Sort the files' rows by problem and thought, every hook of a thought in one row of the store.

    Raises:
        DataError: values that are missing, a row twice, hooks that are not everywhere, a
            problem in two splits.
    """
    place = _places(found)
    ids, problem = _ids(found.roles.get("problem", pa.array(range(found.n))), "problem")
    problem = problem[place["problem"]]
    names, hook = _hooks(found, place)
    kind, inner, given = _inner(found, place, problem, hook)
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


def _places(found: Read) -> dict[str, np.ndarray]:
    """Of every row of the array taken as rows: its index along each axis; without axes, its own number."""
    axes = found.axes or ("problem",)
    index = np.indices(found.shape, np.int64).reshape(len(axes), -1)
    return dict(zip(axes, index, strict=True))


def _ids(column: pa.Array, what: str) -> Coded:
    """Different values as text, and which one each is."""
    values, codes = coded(column)
    if any(isinstance(v, float) and not math.isfinite(v) for v in values):
        raise DataError(f"The column of {what} has NaN or infinite values; each row needs one")
    if any(v is None or v == "" or (isinstance(v, float) and v != int(v)) for v in values):
        raise DataError(f"The column of {what} has gaps, or numbers that are not whole; each row needs one")
    if not all(isinstance(v, str | int | float) for v in values):
        raise DataError(f"The column of {what} has values that are neither text nor numbers")
    return Coded([str(int(v)) if isinstance(v, float) else str(v) for v in values], codes)


def _whole(column: pa.Array, what: str) -> np.ndarray:
    try:
        x = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowException:
        shown = column[:3].to_pylist()
        raise DataError(f"The column of {what} has values that are no numbers: {shown}") from None
    if not (x == np.round(x)).all() or x.min(initial=0) < 0 or x.max(initial=0) >= 2**31:
        shown = column[:3].to_pylist()
        raise DataError(f"Expected whole numbers from 0 on in the column of {what}, got {shown}")
    return x.astype(np.int64)


def _hooks(found: Read, place: dict[str, np.ndarray]) -> tuple[dict[str, str], np.ndarray | None]:
    """Hooks as the files number them -> as they name them; and the hook of every row of the array."""
    if len(found.arrays) > 1:
        bases = [name.rpartition("/")[2] for name in found.arrays]
        return {name: name for name in (bases if len(set(bases)) == len(bases) else found.arrays)}, None
    given = found.roles.get("hook")
    if "hook" in place:
        n = int(place["hook"].max(initial=0)) + 1
        names = [str(i) for i in range(n)] if given is None else [str(name) for name in given.to_pylist()]
        if len(names) != n or len(set(names)) < n:
            raise DataError(f"Expected {n} names of hooks, all different, got {names}")
        return {name: name for name in names}, place["hook"]
    if given is None:
        (only,) = found.arrays
        return {only: only.rpartition("/")[2]}, np.zeros(len(place["problem"]), np.int64)
    names, codes = _ids(given, "hook")
    if "__metadata__" in names:
        raise DataError("A hook cannot be called __metadata__, which means something else in a store")
    return {str(name): found.layers.get(name) or str(name) for name in names}, codes[place["problem"]]


def _inner(
    found: Read,
    place: dict[str, np.ndarray],
    problem: np.ndarray,
    hook: np.ndarray | None,
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
            have = f", among {', '.join(found.labels)}" if found.labels else ""
            raise DataError(
                f"Some problems have several rows at one hook, and nothing says which is which: name the "
                f"column{have}: columns.thought=... of thoughts, columns.position=... and "
                f"columns.token_id=... of tokens, or columns.hook=... if each row is another place"
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
    notes: list[str] = []
    one = pa.array(rows[np.unique(problem, return_index=True)[1], 0])
    table: dict[str, Any] = {"problem_id": ids}
    of_rows: dict[str, np.ndarray] = {}

    def of_problem(values: pa.Array) -> pa.Array | None:
        """One value for each problem; None where they differ within one."""
        codes = coded(values).codes
        return values.take(one) if (codes[rows] == codes[one][problem][:, None]).all() else None

    for role in ("group", "split", "question", "answer"):
        if role not in found.roles:
            continue
        if (values := of_problem(found.roles[role])) is None:
            raise DataError(
                f"A problem has two values in the column {found.named[role]}"
                f"{_torn(found.roles[role], rows, problem, ids)}; each one has a single {role}"
            )
        table[role] = values
    groups = _groups(table.pop("group", None), ids, table.get("question"))
    made = "split" not in table
    split = (
        _made_splits(groups, cfg)
        if made
        else [split_of_word(s) or "none" for s in table.pop("split").to_pylist()]
    )
    if other := sorted(set(split) - set(SPLITS)):
        raise DataError(f"Expected the splits {', '.join(SPLITS)}, got {', '.join(other)}; rename them")
    table = {"problem_id": ids, "group_id": groups, "split": split, **table}
    if torn := len(set(zip(groups, split, strict=True))) - len(set(groups)):
        notes.append(f"{torn} groups have problems in several splits: test numbers will be too good")
    for name, values in found.labels.items():
        own = f"{name}_given" if name in TAKEN or name in table else name
        if not _plain(values.type):
            notes.append(f"{name} is left out: it has values that are neither text nor numbers")
        elif (constant := of_problem(values)) is not None:
            table[own] = constant
        elif (coded(values).codes[rows] == coded(values).codes[rows[:, :1]]).all():
            of_rows[own] = _row_column(values.take(pa.array(rows[:, 0])))
        else:
            notes.append(f"{name} is left out: it differs between the hooks of a thought")
    for name in ("question", "answer", "cot"):
        if name in table:
            table[name] = table[name].cast(pa.string()).fill_null("")
    return pa.table(table), made, of_rows, notes


def _torn(values: pa.Array, rows: np.ndarray, problem: np.ndarray, ids: list[str]) -> str:
    """The first problem with two values, and these."""
    codes = coded(values).codes[rows]
    first = codes[np.unique(problem, return_index=True)[1], 0]
    row, hook = np.argwhere(codes != first[problem][:, None])[0]
    one = next(i for i in rows.flat if coded(values).codes[i] == first[problem[row]])
    return f", {ids[problem[row]]!r} has {values[int(one)]} and {values[int(rows[row, hook])]}"


def _plain(kind: pa.DataType) -> bool:
    """Whether values are text, numbers or yes and no, or not there at all."""
    types = pa.types
    return any(
        of(kind)
        for of in (types.is_string, types.is_boolean, types.is_integer, types.is_floating, types.is_null)
    )


def _groups(given: pa.Array | None, ids: list[str], texts: pa.Array | None) -> list[str]:
    """The group of every problem: problems of equal texts are in one."""
    groups = ids if given is None else [None if g is None else str(g) for g in given.to_pylist()]
    own = [i if g is None else g for i, g in zip(ids, groups, strict=True)]
    if texts is None:
        return own
    said = [t or None for t in texts.cast(pa.string()).to_pylist()]
    return np.array(own, object)[grouped(said, groups)].tolist()


def _row_column(values: pa.Array) -> np.ndarray:
    """A column of the store's rows; gaps are NaN or empty."""
    if pa.types.is_string(values.type) or (values.null_count and not pa.types.is_floating(values.type)):
        return values.cast(pa.string()).fill_null("").to_numpy(zero_copy_only=False)
    return values.to_numpy(zero_copy_only=False)


def _made_splits(groups: Sequence[str], cfg: ImportConfig) -> list[str]:
    rule = TextConfig(validation=cfg.validation, test=cfg.test, seed=cfg.seed)
    of = {group: split_of(rule, group) for group in set(groups)}
    return [of[group] for group in groups]


def digest_of(arrays: Mapping[str, Any]) -> str:
    """sha256 of arrays and columns in memory, with their names."""
    total = hashlib.sha256()
    for name, value in sorted(arrays.items()):
        total.update(f"{name}\0".encode())
        if is_vectors(value):
            x = torch.as_tensor(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value
            x = x.detach().cpu().contiguous()
            total.update(f"{x.dtype}{tuple(x.shape)}".encode() + x.view(torch.uint8).numpy().tobytes())
        else:
            total.update(repr(value.to_pylist() if isinstance(value, pa.Array) else value).encode())
    return total.hexdigest()
