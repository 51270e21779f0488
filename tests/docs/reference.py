"""The pages of every setting and every key, written from the code: `python -m tests.docs.reference`."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from functools import cache
from typing import Any, get_args

from tests.docs.repository import ROOT
from thoughtlens.core import STAGES, Config, Outcome, Record

SETTINGS = """# Settings

Every setting of every stage, from the code. A recipe has a table for each stage (`[train]`), and
`thoughtlens recipe pilot --all` prints one whole; on the command line it is `train.lr=1e-3`, in the stage's
own command `lr=1e-3`, and `null` unsets a value.
"""
KEYS = """# Keys and columns

Every key of `result.json` and every column of the tables, from the code: a record that a stage gives back
is an object in its `result.json`, and a record named a row is a line of a Parquet file. What the files are is
told in [formats.md](formats.md), what the metrics mean in [metrics.md](metrics.md) and in `definitions` of
each result.
"""


@cache
def _source(cls: type) -> dict[str, tuple[str, str]]:
    """By field of the class itself: its type as it is written, and the text under it."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(tree, ast.ClassDef)
    found: dict[str, tuple[str, str]] = {}
    for node, behind in zip(tree.body, [*tree.body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            text = behind.value if isinstance(behind, ast.Expr) else None
            told = text.value if isinstance(text, ast.Constant) and isinstance(text.value, str) else ""
            found[node.target.id] = ast.unparse(node.annotation), " ".join(told.split())
    return found


def _line(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _first(cls: type) -> str:
    return " ".join((inspect.getdoc(cls) or "").partition("\n\n")[0].split())


def _inside(annotation: Any) -> Iterator[type[Config]]:
    """Configs that a type names."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        yield annotation
    for one in get_args(annotation):
        yield from _inside(one)


def settings() -> str:
    """The page of settings."""
    out, told = [SETTINGS], set()
    waiting: list[tuple[str, type[Config]]] = [(stage.name, stage.config) for stage in STAGES]
    while waiting:
        title, cls = waiting.pop(0)
        if cls in told:
            continue
        told.add(cls)
        out += [
            f"## {title}",
            "",
            _first(cls),
            "",
            _line("setting", "default", ""),
            _line("---", "---", "---"),
        ]
        for name, field in cls.model_fields.items():
            default = field.get_default(call_default_factory=True) if not field.is_required() else "needed"
            nested = list(_inside(field.annotation))
            shown = "" if nested or isinstance(default, Config) else f"`{_plain(default)}`"
            out.append(_line(f"`{name}`", shown, " ".join((field.description or "").split())))
            waiting += [(f"{title.partition(':')[0]}: `{name}`, {one.__name__}", one) for one in nested]
        out.append("")
    return "\n".join(out)


def _plain(value: Any) -> str:
    text = "null" if value is None else str(list(value) if isinstance(value, tuple) else value)
    return text if isinstance(value, str) or not isinstance(value, bool) else text.lower()


def keys() -> str:
    """The page of keys and columns."""
    out = [KEYS]
    for module in sorted(_modules()):
        records = [
            cls
            for cls in vars(importlib.import_module(module)).values()
            if isinstance(cls, type) and issubclass(cls, Record) and cls.__module__ == module
        ]
        out += [f"## {module.removeprefix('thoughtlens.').removesuffix('.records')}", ""]
        for cls in records:
            bases = [b.__name__ for b in cls.__bases__ if b not in (Record, Outcome)]
            told = f"{_first(cls)} Also what {' and '.join(bases)} has." if bases else _first(cls)
            out += [f"### {cls.__name__}", "", told, ""]
            if own := _source(cls):
                out += [_line("key", "type", ""), _line("---", "---", "---")]
            keys = {one.name: one.metadata.get("alias") or one.name for one in dataclasses.fields(cls)}
            out += [_line(f"`{keys[n]}`", f"`{kind}`", text) for n, (kind, text) in own.items() if n in keys]
            out.append("")
    return "\n".join(out)


def _modules() -> list[str]:
    """All modules of records that stages give back."""
    files = (ROOT / "src" / "thoughtlens").rglob("records.py")
    return [re.sub(r"/", ".", f.relative_to(ROOT / "src").with_suffix("").as_posix()) for f in files]


PAGES = {"settings.md": settings, "keys.md": keys}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (ROOT / "docs" / name).write_text(page(), "utf-8")
