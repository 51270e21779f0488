"""Which array and which columns of some files say what."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Int

from thoughtlens.acts.bring.arrays import Part, is_vectors
from thoughtlens.acts.bring.config import ImportConfig
from thoughtlens.acts.bring.files import Named
from thoughtlens.core import DataError

USUAL = {
    "problem": (
        "problem_id", "problem", "problems", "problem_idx", "document_id", "document", "documents",
        "doc_id", "doc", "example_id", "id",
    ),
    "hook": ("hook_name", "hook_names", "hook", "hooks", "layer", "layers"),
    "thought": ("thought_idx", "thought", "thoughts"),
    "position": ("position", "positions"),
    "token_id": ("token_id", "token_ids"),
    "group": ("group_id", "group", "groups"),
    "split": ("split", "splits"),
    "question": ("question", "questions", "text", "texts", "prompt", "prompts"),
    "answer": ("answer", "answers"),
}  # fmt: skip
"""Usual names of columns, without what stands before the last `/`, by what they say."""
KEYS = ("problem", "hook", "thought", "position")
"""What says of a line in a table beside the arrays which rows it belongs to."""
OF_PROBLEM = re.compile(r"(problem|document|doc|example|sample|question|prompt|text|id|row)[_ -]?\d+")
"""Names of arrays that are one for each problem, not one for each hook."""
STUDY_LABELS = ("operation_types", "operation_type", "labels", "label")
FIRST_STUDY = "the first study of CODI's thoughts"


class Coded(NamedTuple):
    """A column as its different values and which one each is."""

    values: list[Any]
    codes: Int[np.ndarray, " n"]


def coded(column: pa.Array) -> Coded:
    """Different values in the order in which they appear; a gap is None."""
    found = column.dictionary_encode(null_encoding="encode")
    return Coded(found.dictionary.to_pylist(), found.indices.to_numpy().astype(np.int64))


@dataclass(frozen=True, kw_only=True)
class Read:
    """Arrays of a file or several, and its columns by what they say."""

    arrays: dict[str, list[Part]]
    """Arrays by name, in parts, one per file."""
    roles: dict[str, pa.Array]
    """`problem`, `hook`, `thought`, ...: their values."""
    labels: dict[str, pa.Array]
    """Any other columns."""
    named: dict[str, str]
    """Which column gave each role."""
    layout: str
    first_thought: int | None
    axes: tuple[str, ...]
    """What the axes of each array before the last one are; none: rows."""
    layers: dict[str, str]
    """Names of layers by their numbers, where the first study gives them."""
    notes: list[str] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of every array before its last axis, all parts together."""
        return _shape(self.arrays)

    @property
    def n(self) -> int:
        """Values of a column: one for each row, or for each problem along its axis."""
        return self.shape[self.axes.index("problem") if self.axes else 0]

    @property
    def d_in(self) -> int:
        """Width of every array."""
        return int(next(iter(self.arrays.values()))[0].x.shape[-1])


def read(files: Sequence[tuple[Path, Named]], cfg: ImportConfig) -> Read:
    """Join files, and find out what their arrays and columns are.

    Raises:
        DataError: no array, several that do not fit, a column that is not there, has another length, or one
            of several that may be meant.
    """
    holders = [(path, table) for path, table in files if _vectors(table, cfg)]
    if not holders:
        raise DataError(_no_vectors(files, cfg))
    arrays, notes = _joined(holders, cfg), []
    axes = _axes(arrays, cfg)
    n = _shape(arrays)[axes.index("problem") if axes else 0]
    if not math.prod((*_shape(arrays), next(iter(arrays.values()))[0].x.shape[-1])):
        raise DataError(f"{holders[0][0]}: {next(iter(arrays))} has no rows, or rows of no numbers")
    columns = _columns_beside(holders, notes)
    for path, table in files:
        if all(path is not holder for holder, _ in holders):
            columns |= _matched(path, table, columns, n, cfg=cfg, notes=notes)
    own = FIRST_STUDY if _of_first_study(arrays, columns) else ""
    named = _named(columns, cfg, study=bool(own))
    found = Read(
        arrays=arrays,
        roles={role: columns[name] for role, name in named.items()},
        labels=_labels(columns, named, cfg, study=bool(own)),
        named=named,
        layout=own or ("an array of " + (" x ".join(f"{axis}s" for axis in axes) or "rows")),
        first_thought=cfg.first_thought if cfg.first_thought is not None else 1 if own else None,
        axes=axes,
        layers={str(v): _base(n) for n, v in holders[0][1].items() if "layer_indices/" in n} if own else {},
        notes=notes,
    )
    return _fitting(found, columns, cfg)


def _shape(arrays: Mapping[str, list[Part]]) -> tuple[int, ...]:
    parts = next(iter(arrays.values()))
    return (sum(len(part.x) for part in parts), *parts[0].x.shape[1:-1])


def _base(name: str) -> str:
    return name.rpartition("/")[2]


def _vectors(table: Named, cfg: ImportConfig) -> list[str]:
    wanted = cfg.columns.vectors
    return [
        name
        for name, value in table.items()
        if (name in wanted or _base(name) in wanted if wanted else is_vectors(value))
    ]


def _no_vectors(files: Sequence[tuple[Path, Named]], cfg: ImportConfig) -> str:
    """Why there is nothing to import."""
    if cfg.columns.vectors:
        have = ", ".join(name for _, table in files for name, value in table.items() if is_vectors(value))
        wanted = ", ".join(cfg.columns.vectors)
        return f"columns.vectors: there is no array {wanted}, only {have or 'none'}"
    others = {
        f"{path.name}: {name}": f"{value.dtype} {list(value.shape)}"
        for path, table in files
        for name, value in table.items()
        if getattr(value, "ndim", 0) > 1
    }
    wanted = "Expected an array of floats [rows, d] or [problems, hooks, thoughts, d]"
    if others:
        found = "; ".join(f"{name} is {what}" for name, what in others.items())
        return (
            f"{wanted}, and {found}: save it as float32 (whole numbers times the scale they were made with)"
        )
    for path, table in files:
        for name, value in table.items():
            if kind := _list_of(value):
                return f"{path}: {name} is {kind}"
    have = "; ".join(f"{path.name}: {', '.join(table) or 'nothing'}" for path, table in files)
    return f"{wanted}, found none in {have}"


def _list_of(value: Any) -> str | None:
    """What a list that is no column holds, and what to make of it."""
    depth = 0
    while isinstance(value, list | tuple) and value:
        value, depth = value[0], depth + 1
    if depth and getattr(value, "shape", 0):
        within = "a list of lists" if depth > 1 else "a list"
        return (
            f"{within} of arrays: make one of them, torch.stack or np.stack{' at each level' * (depth > 1)}"
        )
    if depth and isinstance(value, Mapping):
        return (
            f"a list of tables ({', '.join(map(str, value))}): make one table of columns, and one array of "
            f"the vectors, torch.stack([one[...] for one in rows])"
        )
    return None


def _joined(holders: Sequence[tuple[Path, Named]], cfg: ImportConfig) -> dict[str, list[Part]]:
    """The arrays of all files, by name; each file has the same ones."""
    names = _vectors(holders[0][1], cfg)
    first = holders[0][1][names[0]]
    if len(names) > 2 and not cfg.columns.vectors and all(OF_PROBLEM.fullmatch(_base(n)) for n in names):
        raise DataError(
            f"{holders[0][0]}: {names[0]}, {names[1]}, .. look like an array for each problem, and several "
            f"arrays are hooks: stack them, axes=problem,thought; if they are hooks, name them, "
            f"columns.vectors={','.join(names[:2])},.."
        )
    arrays: dict[str, list[Part]] = {name: [] for name in names}
    for path, table in holders:
        if (here := _vectors(table, cfg)) != names:
            raise DataError(f"{path} has the arrays {', '.join(here)}, {holders[0][0]} {', '.join(names)}")
        for name in names:
            one = table[name]
            if not is_vectors(one):
                raise DataError(f"{path}: {name} is no array of floats with two axes or more")
            if one.shape[1:] != first.shape[1:]:
                raise DataError(
                    f"{path}: {name} is {list(one.shape)}, {names[0]} {list(first.shape)}: hooks of one "
                    f"import have one width; name those to import, columns.vectors={names[0]}"
                )
            if one.dtype != first.dtype:
                raise DataError(
                    f"{path}: {name} is {one.dtype}, {names[0]} of {holders[0][0]} {first.dtype}: save all "
                    f"in one number format"
                )
            if len(one) != len(table[names[0]]):
                raise DataError(f"{path}: {name} has {len(one)} rows, {names[0]} {len(table[names[0]])}")
            arrays[name].append(Part(one, path))
    return arrays


def _columns_beside(holders: Sequence[tuple[Path, Named]], notes: list[str]) -> dict[str, pa.Array]:
    """Columns of the files with arrays, one after the other."""
    own = [{n: v for n, v in table.items() if isinstance(v, pa.Array)} for _, table in holders]
    for (path, _), columns in zip(holders, own, strict=True):
        if columns.keys() != own[0].keys():
            raise DataError(
                f"{path} has the columns {', '.join(columns) or 'none'}, {holders[0][0]} {', '.join(own[0])}"
            )
    notes += [
        f"{name} is left out: it is {list(value.shape)}, and a column has one axis"
        for name, value in holders[0][1].items()
        if getattr(value, "ndim", 0) > 1 and not is_vectors(value)
    ]
    notes += [
        f"{name} is left out: its values are neither text nor numbers"
        for name, value in holders[0][1].items()
        if isinstance(value, list | tuple)
    ]
    return {name: _concatenated(name, [one[name] for one in own]) for name in own[0]}


def _concatenated(name: str, parts: Sequence[pa.Array]) -> pa.Array:
    try:
        return pa.concat_tables([pa.table({name: p}) for p in parts], promote_options="permissive")[
            name
        ].combine_chunks()
    except pa.ArrowException:
        raise DataError(f"The column {name} has values of several types in several files; mend it") from None


def _matched(
    path: Path, table: Named, columns: Mapping[str, pa.Array], n: int, *, cfg: ImportConfig, notes: list[str]
) -> dict[str, pa.Array]:
    """Columns of a table beside the arrays, a value for each row: by the problem (and hook, thought,
    position) where both say it, else line by line."""
    # A file of one column is called by its name.
    own = {
        path.stem if name == "activations" else name: v
        for name, v in table.items()
        if isinstance(v, pa.Array)
    }
    if not own:
        raise DataError(f"{path} has neither vectors nor columns")
    here, there = _named(own, cfg, only=KEYS), _named(columns, cfg, only=KEYS)
    keys = [role for role in KEYS if role in here and role in there and len(columns[there[role]]) == n]
    new = {name: v for name, v in own.items() if name not in [here[role] for role in keys]}
    if "problem" in keys:
        lines = _lines([own[here[r]] for r in keys], [columns[there[r]] for r in keys], path)
        notes.append(f"{path.name} was joined by {' and '.join(here[role] for role in keys)}")
        new = {name: v.take(pa.array(lines)) for name, v in new.items()}
    if twice := sorted(new.keys() & columns.keys()):
        raise DataError(f"{path}: the column {twice[0]} is in another file too")
    return new


def _lines(mine: Sequence[pa.Array], rows: Sequence[pa.Array], path: Path) -> np.ndarray:
    """For each row the line of a table with the same keys."""
    n, keys = len(mine[0]), np.zeros(len(mine[0]) + len(rows[0]), np.int64)
    for a, b in zip(mine, rows, strict=True):
        values, codes = coded(pa.concat_arrays([_texts(a), _texts(b)]))
        keys = np.unique(keys * len(values) + codes, return_inverse=True)[1]
    own, wanted = keys[:n], keys[n:]
    first = np.full(int(keys.max(initial=-1)) + 1, -1)
    first[own[::-1]] = np.arange(n)[::-1]
    if len(np.unique(own)) < n:
        if len(own) == len(wanted) and (own == wanted).all():
            return np.arange(n)
        i = int(np.flatnonzero(first[own] != np.arange(n))[0])
        raise DataError(f"{path}: line {i} says the same problem as line {first[own[i]]}; each one once")
    lines = first[wanted]
    if (lines < 0).any():
        i = int(np.flatnonzero(lines < 0)[0])
        raise DataError(f"{path}: no line for {', '.join(str(b[i]) for b in rows)}, which the arrays have")
    return lines


def _texts(column: pa.Array) -> pa.Array:
    """Ids as text, whole numbers without a point."""
    whole = pa.types.is_floating(column.type)
    values, codes = coded(column)
    values = [str(int(v)) if whole and v is not None and v == v // 1 else v for v in values]
    return pa.array([None if v is None else str(v) for v in values], pa.string()).take(pa.array(codes))


def _of_first_study(arrays: Mapping[str, list[Part]], columns: Mapping[str, pa.Array]) -> bool:
    """A tensor of rows with the lists problems, layers, tokens and a label."""
    there = {_base(name) for name in columns}
    parts = [{stem, f"{stem}s"} & there for stem in ("problem", "layer", "token")]
    return len(arrays) == 1 and next(iter(arrays.values()))[0].x.ndim == 2 and all(parts)


def _named(
    columns: Mapping[str, pa.Array], cfg: ImportConfig, *, study: bool = False, only: Sequence[str] = ()
) -> dict[str, str]:
    """Which column says what; of one table of several, where only some roles are asked for."""
    usual = USUAL | ({"thought": (*USUAL["thought"], "tokens", "token")} if study else {})
    bases = {_base(name): name for name in reversed(list(columns))}
    named = {}
    for role in only or usual:
        wanted = getattr(cfg.columns, role)
        if wanted is None:
            found = _only([bases[name] for name in usual[role] if name in bases], columns, role)
        else:
            found = wanted if wanted in columns else bases.get(wanted)
            if found is None and not only:
                raise DataError(
                    f"columns.{role}: there is no column {wanted}, only {', '.join(columns) or 'none'}"
                )
        if found is not None:
            named[role] = found
    return named


def _only(names: Sequence[str], columns: Mapping[str, pa.Array], role: str) -> str | None:
    """The one of some columns that is meant: they all say the same, or it tells more hooks apart.

    Raises:
        DataError: they do not, so that somebody has to say which.
    """
    found = names[0] if names else None
    for other in names[1:] if found != "id" else ():
        first, second = columns[names[0]], columns[other]
        if other == "id" or len(first) != len(second):  # any table may have a column of that name
            continue
        a, b = coded(first), coded(second)
        n_pairs, n_a, n_b = len(np.unique(a.codes * len(b.values) + b.codes)), len(a.values), len(b.values)
        if role == "hook" and n_pairs == max(n_a, n_b):
            found = other if n_b > n_a else found
        elif n_pairs > min(n_a, n_b) or (role in ("thought", "position") and not first.equals(second)):
            raise DataError(
                f"Both {names[0]} and {other} may say the {role.replace('_', ' ')} of a row, and they "
                f"differ: say which, columns.{role}={names[0]} or columns.{role}={other}"
            )
    return found


def _axes(arrays: Mapping[str, list[Part]], cfg: ImportConfig) -> tuple[str, ...]:
    x = next(iter(arrays.values()))[0].x
    ndim = x.ndim - 1
    axes = cfg.axes or {1: (), 3: ("problem", "hook", "thought")}.get(ndim)
    if axes is None or len(axes or ("row",)) != ndim or (len(arrays) > 1 and "hook" in axes):
        raise DataError(
            f"{next(iter(arrays))} is {list(x.shape)}: say what its axes before the last are, as in "
            f"axes=problem,thought (or problem,hook,thought)"
        )
    if axes and axes[0] != "problem" and len(next(iter(arrays.values()))) > 1:
        raise DataError(f"axes={','.join(axes)}: several files are parts only along an axis of problems")
    return axes


def _labels(
    columns: Mapping[str, pa.Array], named: Mapping[str, str], cfg: ImportConfig, *, study: bool
) -> dict[str, pa.Array]:
    rest = {name: values for name, values in columns.items() if name not in named.values()}
    if cfg.columns.labels is not None:
        bases = {_base(name): name for name in reversed(list(rest))}
        if missing := [name for name in cfg.columns.labels if name not in rest and name not in bases]:
            raise DataError(
                f"columns.labels: there is no column {', '.join(missing)}, only {', '.join(rest)}"
            )
        rest = {name: rest[name if name in rest else bases[name]] for name in cfg.columns.labels}
    bases = [_base(name) for name in rest]
    names = {name: base if bases.count(base) == 1 else name for name, base in zip(rest, bases, strict=True)}
    if study and "operation" not in names.values():
        names |= dict.fromkeys([n for n in rest if _base(n) in STUDY_LABELS][:1], "operation")
    return {names[name]: values for name, values in rest.items()}


def _fitting(found: Read, columns: Mapping[str, pa.Array], cfg: ImportConfig) -> Read:
    """See that every column has a value for each row, or problem; what belongs elsewhere is left out."""
    n = found.n
    near = {name.rpartition("/")[0] for name in (*found.named.values(), *found.arrays)}
    lengths = {name: len(values) for name, values in columns.items()}
    of_axis = found.named.get("hook") if "hook" in found.axes or len(found.arrays) > 1 else None
    wanted = set(cfg.columns.labels or ())
    far = {_base(name) for name in columns if name.rpartition("/")[0] not in near} - wanted
    labels, notes = dict(found.labels), list(found.notes)
    for name, values in found.labels.items():
        if len(values) != n and name in far:
            del labels[name]
            if name in ("layer_names", "layer_indices") and found.layers:
                continue  # the hooks' names come from there
            notes.append(f"{name} is left out: it has {len(values)} values, not {n}")
    roles = {role: name for role, name in found.named.items() if name != of_axis}
    short = {name: lengths[name] for name in roles.values() if lengths[name] != n}
    short |= {name: len(values) for name, values in labels.items() if len(values) != n}
    if short:
        name, length = next(iter(short.items()))
        what = "problems" if found.axes else "rows"
        raise DataError(
            f"Expected {n} values in the column {name}, one for each of the {what}, got {length}; mend it, "
            f"or name the labels to keep: columns.labels=..."
        )
    return replace(found, labels=labels, notes=notes)
