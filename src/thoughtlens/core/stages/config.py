"""TOML recipes + `key=value` overrides -> frozen, validated configs, and back.

Nothing here imports torch. `None` in a config means "unset" and is left out of the TOML.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib import resources
from itertools import chain
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, ClassVar, TypeVar, Union, get_args, get_origin

import tomli_w
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from thoughtlens.core.errors import ConfigError, NotThereError
from thoughtlens.core.stages.translate import translate_config

MOST_SAID = 4
"""Complaints about a config that one line says."""
NULL = "null"
"""What stands in files and on the command line for a value that is unset, which TOML has no word for."""


ASKED_LATER = {"circuit.text", "circuit.problem", "textgraph.text", "graph.problem"}
"""Of graphs of one text or problem, which are no part of a run."""


class Config(BaseModel):
    """Base of all configs: frozen, unknown keys and infinities refused, a docstring under every field."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        protected_namespaces=(),
        allow_inf_nan=False,
        coerce_numbers_to_str=True,
    )

    @classmethod
    def without(cls, names: Collection[str]) -> type[Config]:
        """The same config, checks included, but for these fields."""
        gone = {name: None for name in names if name in cls.model_fields}
        hints = {"__annotations__": dict.fromkeys(gone, ClassVar[None])}
        return type(f"{cls.__name__}Options", (cls,), {"__module__": cls.__module__, **hints, **gone})

    def covers(self, asked: Config) -> bool:
        """Whether what was made with these settings is all that is asked for, and more."""
        del asked
        return False

    aliases: ClassVar[Mapping[str, str]] = {}
    """Shorter and former names of settings: key -> dotted key; a dotted one is known to overrides alone."""

    @model_validator(mode="before")
    @classmethod
    def _written_short(cls, table: Any) -> Any:
        """What may be written shorter: a setting by another of its names, a table of a choice is of the
        default's kind unless it names another, one value stands for a list of one, and `null` unsets what
        can be unset."""
        if not isinstance(table, dict):
            return table
        table = {_name_of(cls, key, table): value for key, value in table.items()}
        for name in table.keys() & cls.model_fields.keys():
            field, value = cls.model_fields[name], table[name]
            if value == NULL and _can_be_unset(field):
                table[name] = None
            elif isinstance(value, str | int | float | Path) and _is_list(field):
                table[name] = (value,)
            elif isinstance(value, dict) and (tag := _tag_of_default(field)):
                table[name] = {tag: getattr(field.default, tag), **value}
        return table

    @model_validator(mode="after")
    def _no_absurd_numbers(self) -> Config:
        """Sizes that no machine could work off are refused before work begins."""
        for name in type(self).model_fields:
            most = next((n for ending, n in MOST.items() if name.endswith(ending)), MOST[""])
            values = getattr(self, name)
            for value in values if isinstance(values, tuple | list) else (values,):
                if isinstance(value, int) and abs(value) > most:
                    raise ValueError(f"{name}: expected at most {most:,}, got {str(value)[:40]}")
        return self


MOST = {
    "seed": 2**32 - 1,
    "seeds": 2**32 - 1,
    "resamples": 10**6,
    "permutations": 10**6,
    "bytes": 2**63,
    "": 10**12,
}
"""The largest whole number that a setting may have, by the ending of its name."""
C = TypeVar("C", bound=Config)


def load_config(cls: type[C], source: str | Path | dict, overrides: Sequence[str] = ()) -> C:
    """Build a config from a shipped recipe's name, a TOML file or a dict, then apply overrides.

    Args:
        cls: The config class.
        source: Name of a shipped recipe, path of a TOML file, or the table itself.
        overrides: `dotted.key=value` strings; a value is read as TOML, else as a string. A plain
            value given for a table sets the table's `name` (or `source`): `model=gpt2`.

    Raises:
        NotThereError: no such recipe or file.
        ConfigError: not TOML, an unknown key (the nearest known one is named), or a bad value.
    """
    table = translate_config(source) if isinstance(source, dict) else read_recipe(source)
    return validate_config(cls, apply_overrides(cls, table, overrides), overrides)


def validate_config(cls: type[C], table: dict, overrides: Sequence[str] = ()) -> C:
    """`cls(**table)` with every complaint on one line, in the names that the table, or one of the overrides
    that were applied to it, has for its settings."""
    try:
        return cls.model_validate(table)
    except ValidationError as error:
        told = error.errors()
        errors = [one for one in told if not _follows(one, told)]
        said = [_explain(cls, e, _Written(cls, table, overrides)) for e in errors[:MOST_SAID]]
        said += [f"and {len(errors) - MOST_SAID} more"] if len(errors) > MOST_SAID else []
        raise ConfigError("; ".join(said)) from None


class _Written:
    """What the settings are called where they were written."""

    def __init__(self, cls: type[Config], table: dict, overrides: Sequence[str]) -> None:
        self.cls, self.table = cls, table
        keys = [item.partition("=")[0].strip() for item in overrides]
        self.names = {cls.aliases[key]: key for key in keys if key in cls.aliases}

    def name(self, dotted: str) -> str:
        """The same key in those words."""
        for key in sorted(self.names, key=len, reverse=True):
            if f"{dotted}.".startswith(f"{key}."):
                return self.names[key] + dotted[len(key) :]
        parts, table = dotted.split("."), self.table
        for i, part in enumerate(parts):
            if not isinstance(table, dict):
                break
            models = _model_at(self.cls, dotted.split(".")[:i])
            own = {key for model in models for key, to in model.aliases.items() if to == part}
            parts[i] = part if part in table else next((key for key in table if key in own), part)
            table = table.get(parts[i])
        return ".".join(parts)

    def message(self, text: str, dotted: str) -> str:
        """A message that begins with the name of a setting below `dotted`."""
        name, colon, rest = text.partition(":")
        if not colon or not name.isidentifier():
            return text
        whole = f"{dotted}.{name}" if dotted else name
        told = self.name(whole)
        return text if told == whole else f"{told.removeprefix(f'{self.name(dotted)}.')}:{rest}"


def _name_of(cls: type[Config], key: str, table: dict) -> str:
    """The field that a key of a table means."""
    name = cls.aliases.get(key, key)
    return name if name in cls.model_fields and not {key, name} <= table.keys() else key


def _follows(one: ErrorDetails, told: Sequence[ErrorDetails]) -> bool:
    """Whether it only says that too few items are left of those that another one refuses."""
    within = (other["loc"][: len(one["loc"])] for other in told if other is not one)
    return one["type"] == "too_short" and one["loc"] in within


def read_recipe(source: str | Path) -> dict:
    """The table of a shipped recipe, of a TOML file, or of a directory with a `config.toml`."""
    path = Path(source)
    if path.suffix != ".toml" and path.name == str(source) and str(source) in recipe_names():
        text = (resources.files("thoughtlens.studies.recipes") / f"{source}.toml").read_text("utf-8")
    elif path.is_file() or (path.is_dir() and (path / "config.toml").is_file()):
        try:
            text = (path / "config.toml" if path.is_dir() else path).read_text("utf-8")
        except (ValueError, OSError) as error:
            raise ConfigError(f"{path} is not a readable TOML file: {error}") from None
    elif path.is_dir():
        raise NotThereError(f"Expected a run or a recipe in {path}, found no config.toml there")
    else:
        near = difflib.get_close_matches(str(source), recipe_names(), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise NotThereError(
            f"Expected a recipe name ({', '.join(recipe_names())}) or a TOML file, "
            f"got {str(source)!r}, which is neither{hint}"
        )
    try:
        return translate_config(tomllib.loads(text))
    except (ValueError, RecursionError) as error:  # also of numbers of 4,301 digits, and 1,000 levels
        raise ConfigError(f"{source} is not valid TOML: {error}") from None


def recipe_names() -> list[str]:
    """Names of the recipes shipped with the package."""
    files = resources.files("thoughtlens.studies.recipes").iterdir()
    return sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml"))


def apply_overrides(cls: type[Config], table: dict, overrides: Sequence[str]) -> dict:
    """A copy of `table` with `dotted.key=value` overrides applied in order."""
    table = json.loads(json.dumps(table, default=str))
    for item in overrides:
        key, eq, raw = item.partition("=")
        if not eq or not key.strip():
            raise ConfigError(f"Expected an override like sae.k=32, got {item!r}")
        for name, value in _todays(key.strip(), _parse(raw.strip())):
            path = cls.aliases.get(name, name).split(".")
            model = _model_at(cls, path[:-1])
            _require_field(cls, model, path)
            _set(model, table, path, value)
    return table


def _todays(key: str, value: Any) -> list[tuple[str, Any]]:
    """An override with today's keys, of which an old one may have become several."""
    *outer, leaf = key.split(".")
    new = translate_config({leaf: value})
    return [(key, value)] if leaf in new else [(".".join((*outer, name)), v) for name, v in new.items()]


def to_toml(cfg: Config, *, comments: bool = False, only: Collection[str] | None = None) -> str:
    """A config as TOML.

    Args:
        cfg: The config.
        comments: Put each key under its documentation.
        only: Dotted keys that are written; unset: all.
    """
    return "\n".join(_lines(cfg, (), comments, only)).strip() + "\n"


def dotted(table: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The dotted keys of a table."""
    inside = (
        dotted(value, f"{prefix}{key}.") if isinstance(value, dict) else [prefix + key]
        for key, value in table.items()
    )
    return list(chain.from_iterable(inside))


def identity(cfg: Config) -> str:
    """Digest of everything in a config that is not a path: equal iff the work is the same."""
    table = json.dumps(_without_paths(cfg), sort_keys=True, default=str)
    return hashlib.sha256(table.encode()).hexdigest()[:16]


def differences(mine: dict, other: dict, prefix: str = "") -> list[str]:
    """Dotted keys in which two tables differ, with both values."""
    found = []
    for key in sorted(mine.keys() | other.keys()):
        a, b = mine.get(key), other.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key} ({b!r} there, {a!r} here)")
    return found


def field_paths(cls: type[Config], prefix: str = "") -> list[str]:
    """Every dotted key a config knows."""
    paths = []
    for name, field in cls.model_fields.items():
        paths.append(prefix + name)
        for sub in _submodels(field.annotation):
            paths += field_paths(sub, f"{prefix}{name}.")
    return list(dict.fromkeys(paths))


def _without_paths(cfg: BaseModel) -> dict:
    out = {}
    for name in type(cfg).model_fields:
        value = getattr(cfg, name)
        if isinstance(value, BaseModel):
            out[name] = _without_paths(value)
        elif not isinstance(value, Path):
            out[name] = value
    return out


def _lines(
    cfg: BaseModel, path: tuple[str, ...], comments: bool, only: Collection[str] | None = None
) -> Iterator[str]:
    tables = []
    for name, field in type(cfg).model_fields.items():
        value, key = getattr(cfg, name), ".".join((*path, name))
        if only is not None and not any(f"{one}.".startswith(f"{key}.") for one in only):
            continue
        if isinstance(value, BaseModel | dict):
            tables.append((name, field, value))
            continue
        if comments and field.description:
            yield from (f"# {line}" for line in field.description.splitlines())
        if value is None and field.default is None:
            if comments:
                yield f"# {name} is unset"
        else:
            yield tomli_w.dumps({name: _plain(value)}).rstrip()
    for name, field, value in tables:
        yield ""
        if comments and field.description:
            yield from (f"# {line}" for line in field.description.splitlines())
        if isinstance(value, dict):
            yield tomli_w.dumps(_nested((*path, name), _plain(value))).rstrip()
            continue
        yield f"[{'.'.join((*path, name))}]"
        yield from _lines(value, (*path, name), comments, only)


def _nested(path: Sequence[str], table: dict) -> dict:
    for name in reversed(path):
        table = {name: table}
    return table


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, Path):
        return NULL if value is None else str(value)
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, tuple | list) else value


def _parse(raw: str) -> Any:
    """A value as TOML, else a list of bare words as a shell leaves it, else the text itself."""
    try:
        return tomllib.loads(f"v = {raw}")["v"]
    except (ValueError, RecursionError):
        words = re.fullmatch(r"\[([^][{}\"']*)\]", raw)
        return _words(words[1]) if words else raw


def _words(raw: str) -> list[Any]:
    return [_parse(word.strip()) for word in raw.split(",") if word.strip()]


def _alternatives(field: FieldInfo) -> tuple[Any, ...]:
    of = field.annotation
    return get_args(of) if get_origin(of) in (Union, UnionType) else (of,)


def _can_be_unset(field: FieldInfo) -> bool:
    return NoneType in _alternatives(field)


def _is_list(field: FieldInfo) -> bool:
    """Whether a field takes any number of values, and nothing that stands alone."""
    kinds = [get_args(one)[-1:] for one in _alternatives(field) if one is not NoneType]
    return kinds == [(...,)]


def _tag_of_default(field: FieldInfo) -> str:
    tag = field.discriminator
    return tag if isinstance(tag, str) and hasattr(field.default, tag) else ""


def _submodels(annotation: Any) -> list[type[Config]]:
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return [annotation]
    return [m for arg in get_args(annotation) for m in _submodels(arg)]


def _model_at(cls: type[Config], path: Sequence[str]) -> list[type[Config]]:
    models = [cls]
    for name in path:
        models = [
            sub
            for m in models
            if name in m.model_fields
            for sub in _submodels(m.model_fields[name].annotation)
        ]
    return models


def _require_field(cls: type[Config], models: list[type[Config]], path: Sequence[str]) -> None:
    if not any(path[-1] in m.model_fields for m in models):
        raise ConfigError(_unknown(cls, ".".join(path)))


def _set(models: list[type[Config]], table: dict, path: Sequence[str], value: Any) -> None:
    for name in path[:-1]:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise ConfigError(f"{'.'.join(path)}: {name} is a value here, not a table")
    leaf = path[-1]
    fields = [m.model_fields[leaf] for m in models if leaf in m.model_fields]
    subs = [sub for field in fields for sub in _submodels(field.annotation)]
    unset = value == NULL and any(map(_can_be_unset, fields))
    if subs and not (isinstance(value, dict) or unset):
        primary = next((p for p in ("name", "source", "kind") if p in subs[0].model_fields), None)
        if primary is None:
            raise ConfigError(f"{leaf} is a table; set one of its keys: {', '.join(subs[0].model_fields)}")
        if not isinstance(table.get(leaf), dict):
            table[leaf] = {}
        _set(subs, table[leaf], [primary], value)
        return
    if leaf in ("kind", "source") and len(models) > 1:
        _keep_known(models, table, leaf, value)
    if isinstance(value, str) and "," in value and any(map(_is_list, fields)):
        value = _words(value)
    table[leaf] = value


def _keep_known(models: list[type[Config]], table: dict, leaf: str, value: Any) -> None:
    """Switching `kind` or `source` drops the recipe's settings that the new kind does not have."""
    named = [m for m in models if value in _choices(m, leaf)]
    known = {name for m in named or [m for m in models if not _choices(m, leaf)] for name in m.model_fields}
    for name in set(table) - known if known else ():
        del table[name]


def _choices(model: type[Config], leaf: str) -> tuple[Any, ...]:
    return get_args(model.model_fields[leaf].annotation) if leaf in model.model_fields else ()


def _explain(cls: type[Config], error: ErrorDetails, written: _Written) -> str:
    where = [str(part) for part in error["loc"] if isinstance(part, str | int)]
    known = set(field_paths(cls))
    dotted = ".".join(where)
    if dotted not in known:  # pydantic puts the tag of a union into the location
        short = [p for i, p in enumerate(where) if i == len(where) - 1 or not _is_tag(cls, where, i)]
        dotted = ".".join(short)
    if error["type"] == "extra_forbidden":
        others = sorted(set(where) - set(dotted.split(".")))
        if dotted in known and others:
            return f"{written.name(dotted)}: {others[0]} has no such setting"
        return _unknown(cls, dotted)
    message = written.message(error["msg"].removeprefix("Value error, "), dotted)
    dotted = written.name(dotted)
    if error["type"] == "missing":
        return f"{dotted}: required and not given"
    if error["type"] == "union_tag_invalid":
        said = error.get("ctx", {})
        return f"{dotted}: expected one of {said['expected_tags']}, got {said['tag']!r}"
    return (
        f"{dotted or cls.__name__}: {message} (got {error['input']!r})"
        if not isinstance(error["input"], dict | BaseModel)
        else f"{dotted or cls.__name__}: {message}"
    )


def _is_tag(cls: type[Config], where: Sequence[str], i: int) -> bool:
    subs = _model_at(cls, [w for w in where[:i]])
    return len(subs) > 1 and not any(where[i] in s.model_fields for s in subs)


def _unknown(cls: type[Config], dotted: str) -> str:
    if dotted in ASKED_LATER:
        return f"unknown key {dotted!r}: a run does not make this graph; ask it once the run is there: " + (
            f"thoughtlens circuit RUN --{dotted.rpartition('.')[2]} '..'"
        )
    paths = field_paths(cls)
    leaf = dotted.rsplit(".", 1)[-1]
    known = paths + [key for key, name in cls.aliases.items() if name in cls.model_fields]
    near = difflib.get_close_matches(dotted, known, n=1, cutoff=0.75)
    near = near or [p for p in paths if p.rsplit(".", 1)[-1] == leaf]
    near = near or difflib.get_close_matches(dotted, paths, n=1, cutoff=0.5)
    inside = dotted.rpartition(".")[0]
    known = [path for path in paths if path.rpartition(".")[0] == inside] or list(cls.model_fields)
    hint = f"; did you mean {near[0]!r}?" if near else f"; known keys: {', '.join(known)}"
    return f"unknown key {dotted!r}{hint}"
