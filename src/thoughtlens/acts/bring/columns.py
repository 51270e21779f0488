"""Which array and which columns of some files say what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thoughtlens.acts.bring.config import ImportConfig
from thoughtlens.acts.bring.files import Named, as_list, is_vectors
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
STUDY_LABELS = ("operation_types", "operation_type", "labels", "label")
FIRST_STUDY = "the first study of CODI's thoughts"


@dataclass(frozen=True, kw_only=True)
class Read:
    """Arrays of a file or several, and its columns by what they say."""

    arrays: dict[str, list[Any]]
    """Arrays by name, in parts, one a file."""
    roles: dict[str, list]
    """`problem`, `hook`, `thought`, ...: their values."""
    labels: dict[str, list]
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
        first = next(iter(self.arrays.values()))
        return (sum(len(part) for part in first), *first[0].shape[1:-1])


def read(files: Sequence[tuple[Path, Named]], cfg: ImportConfig) -> Read:
    """Join files, and find out what their arrays and columns are.

    Raises:
        DataError: no array, several that do not fit, a column that is not there or has another length.
    """
    holders = [(path, table) for path, table in files if _vectors(table, cfg)]
    if not holders:
        have = "; ".join(f"{path.name}: {', '.join(table)}" for path, table in files)
        raise DataError(
            f"Expected an array of floats [rows, d] or [problems, hooks, thoughts, d], found none in {have}"
        )
    arrays = _joined(holders, cfg)
    columns = _columns(holders, [file for file in files if file not in holders])
    own = FIRST_STUDY if _of_first_study(arrays, columns) else ""
    named = _named(columns, cfg, study=bool(own))
    axes = _axes(arrays, cfg)
    found = Read(
        arrays=arrays,
        roles={role: columns[name] for role, name in named.items()},
        labels=_labels(columns, named, cfg, study=bool(own)),
        named=named,
        layout=own or ("an array of " + (" x ".join(f"{axis}s" for axis in axes) or "rows")),
        first_thought=cfg.first_thought if cfg.first_thought is not None else 1 if own else None,
        axes=axes,
        layers={str(v): _base(n) for n, v in holders[0][1].items() if "layer_indices/" in n} if own else {},
    )
    return _fitting(found, columns, cfg)


def _base(name: str) -> str:
    return name.rpartition("/")[2]


def _vectors(table: Named, cfg: ImportConfig) -> list[str]:
    wanted = cfg.columns.vectors
    return [
        name
        for name, value in table.items()
        if (name in wanted or _base(name) in wanted if wanted else is_vectors(value))
    ]


def _joined(holders: Sequence[tuple[Path, Named]], cfg: ImportConfig) -> dict[str, list[Any]]:
    """The arrays of all files, by name; each file has the same ones."""
    names = _vectors(holders[0][1], cfg)
    first = holders[0][1][names[0]]
    arrays: dict[str, list[Any]] = {name: [] for name in names}
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
            if len(one) != len(table[names[0]]):
                raise DataError(f"{path}: {name} has {len(one)} rows, {names[0]} {len(table[names[0]])}")
            arrays[name].append(one)
    return arrays


def _columns(holders: Sequence[tuple[Path, Named]], tables: Sequence[tuple[Path, Named]]) -> dict[str, list]:
    """Columns of the files with arrays, one after the other, then those of tables beside them."""
    columns: dict[str, list] = {}
    names = [{n: v for n, one in table.items() if (v := as_list(one)) is not None} for _, table in holders]
    for (path, _), own in zip(holders, names, strict=True):
        if own.keys() != names[0].keys():
            raise DataError(
                f"{path} has the columns {', '.join(own) or 'none'}, {holders[0][0]} {', '.join(names[0])}"
            )
        for name, values in own.items():
            columns.setdefault(name, []).extend(values)
    for path, table in tables:
        for name, one in table.items():
            if (values := as_list(one)) is None:
                raise DataError(f"{path}: {name} is no column")
            # A file of one column is called by its name.
            key = path.stem if name == "activations" else name
            if key in columns:
                raise DataError(f"{path}: the column {key} is in another file too")
            columns[key] = values
    return columns


def _of_first_study(arrays: Mapping[str, list], columns: Mapping[str, list]) -> bool:
    """A tensor of rows with the lists problems, layers, tokens and a label."""
    there = {_base(name) for name in columns}
    parts = [{stem, f"{stem}s"} & there for stem in ("problem", "layer", "token")]
    return len(arrays) == 1 and next(iter(arrays.values()))[0].ndim == 2 and all(parts)


def _named(columns: Mapping[str, list], cfg: ImportConfig, *, study: bool) -> dict[str, str]:
    """Which column says what."""
    usual = USUAL | ({"thought": (*USUAL["thought"], "tokens", "token")} if study else {})
    bases = {_base(name): name for name in reversed(list(columns))}
    named = {}
    for role, names in usual.items():
        wanted = getattr(cfg.columns, role)
        if wanted is None:
            found = next((bases[name] for name in names if name in bases), None)
        elif (found := wanted if wanted in columns else bases.get(wanted)) is None:
            raise DataError(
                f"columns.{role}: there is no column {wanted}, only {', '.join(columns) or 'none'}"
            )
        if found is not None:
            named[role] = found
    return named


def _axes(arrays: Mapping[str, list], cfg: ImportConfig) -> tuple[str, ...]:
    ndim = next(iter(arrays.values()))[0].ndim - 1
    axes = cfg.axes or {1: (), 3: ("problem", "hook", "thought")}.get(ndim)
    if axes is None or len(axes or ("row",)) != ndim or (len(arrays) > 1 and "hook" in axes):
        shape = list(next(iter(arrays.values()))[0].shape)
        raise DataError(
            f"{next(iter(arrays))} is {shape}: say what its axes before the last are, as in "
            f"axes=problem,thought (or problem,hook,thought)"
        )
    return axes


def _labels(
    columns: Mapping[str, list], named: Mapping[str, str], cfg: ImportConfig, *, study: bool
) -> dict[str, list]:
    rest = {name: values for name, values in columns.items() if name not in named.values()}
    if cfg.columns.labels is not None:
        bases = {_base(name): name for name in reversed(list(rest))}
        if missing := [name for name in cfg.columns.labels if name not in rest and name not in bases]:
            raise DataError(
                f"columns.labels: there is no column {', '.join(missing)}, only {', '.join(rest)}"
            )
        rest = {name: rest[name if name in rest else bases[name]] for name in cfg.columns.labels}
    names = {name: _base(name) for name in rest}
    if study:
        names |= dict.fromkeys([n for n in rest if _base(n) in STUDY_LABELS][:1], "operation")
    return {names[name]: values for name, values in rest.items()}


def _fitting(found: Read, columns: Mapping[str, list], cfg: ImportConfig) -> Read:
    """See that every column has a value for each row, or problem; what belongs elsewhere is left out."""
    n = found.shape[0]
    near = {name.rpartition("/")[0] for name in (*found.named.values(), *found.arrays)}
    lengths = {name: len(values) for name, values in columns.items()}
    of_axis = found.named.get("hook") if "hook" in found.axes or len(found.arrays) > 1 else None
    wanted = set(cfg.columns.labels or ())
    far = {_base(name) for name in columns if name.rpartition("/")[0] not in near} - wanted
    labels, notes = dict(found.labels), list(found.notes)
    for name, values in found.labels.items():
        if len(values) != n and name in far:
            del labels[name]
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
    return Read(**{**vars(found), "labels": labels, "notes": notes})
