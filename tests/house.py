"""The package as wings and rooms: `python tests/house.py` prints the arrows between rooms.

A wing is a folder of the package, a room a folder or file inside a wing, an arrow an import, lazy or not, of
one room in another.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

SRC = Path(__file__).parents[1] / "src" / "thoughtlens"
LADDER = (
    ("core",),
    ("numerics",),
    ("problems",),
    ("models",),
    ("acts",),
    ("sae",),
    ("latents", "interventions"),
    ("evals",),
    ("tracing",),
    ("show",),
    ("studies",),
    ("ops",),
    ("cli",),
)
"""The wings from the ground up; those that stand together do not meet."""
LEVEL = {wing: level for level, wings in enumerate(LADDER) for wing in wings}


@cache
def files() -> list[Path]:
    """Every module of a wing."""
    return [file for file in sorted(SRC.rglob("*.py")) if file.parent != SRC]


def module_of(file: Path) -> tuple[str, ...]:
    """`(wing, room, ...)` of a file."""
    parts = file.relative_to(SRC).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


@cache
def imported(file: Path) -> tuple[tuple[str, ...], ...]:
    """Modules of the package that a file imports anywhere, lazily or not."""
    return tuple(_imports(ast.parse(file.read_text("utf-8"))))


def _imports(tree: ast.Module) -> Iterator[tuple[str, ...]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (_module(a.name.split(".")[1:]) for a in node.names if _ours(a.name))
        elif isinstance(node, ast.ImportFrom) and node.module and _ours(node.module):
            base = node.module.split(".")[1:]
            yield from (_module([*base, alias.name]) for alias in node.names)


@cache
def stage_rooms() -> set[tuple[str, ...]]:
    """Folders that hold a `stage.py`."""
    return {
        module_of(file)[:-1] for file in files() if file.name == "stage.py" and file.parent.name != "core"
    }


def room(module: tuple[str, ...]) -> tuple[str, ...]:
    """The folder or file of the second level that a module belongs to; a wing's own face is the wing."""
    return module[:2]


def arrows() -> set[tuple[tuple[str, ...], tuple[str, ...]]]:
    """(importing room, imported room) of all that differ."""
    return {
        (room(module_of(file)), room(other))
        for file in files()
        for other in imported(file)
        if other and room(other) != room(module_of(file))
    }


def circles() -> list[set[tuple[str, ...]]]:
    """Groups of modules that reach one another through imports; those for types alone do not count."""
    edges = {module_of(f): {m for m in _at_run_time(f) if m and m != module_of(f)} for f in files()}
    return [group for group in _strong(edges) if len(group) > 1]


def _ours(name: str) -> bool:
    return name == "thoughtlens" or name.startswith("thoughtlens.")


def _module(parts: list[str]) -> tuple[str, ...]:
    """The longest beginning that is a file or a folder."""
    while parts and not (SRC.joinpath(*parts).is_dir() or SRC.joinpath(*parts).with_suffix(".py").is_file()):
        parts = parts[:-1]
    return tuple(parts)


def _at_run_time(file: Path) -> set[tuple[str, ...]]:
    tree = ast.parse(file.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and _ours(node.module):
            found |= {_module([*node.module.split(".")[1:], alias.name]) for alias in node.names}
    return found


def _strong(edges: dict[tuple[str, ...], set[tuple[str, ...]]]) -> list[set[tuple[str, ...]]]:
    """Strongly connected components."""
    reach = {node: _reached(edges, node) for node in edges}
    groups, seen = [], set()
    for node in edges:
        if node not in seen:
            group = {other for other in reach[node] if node in reach.get(other, ())} | {node}
            seen |= group
            groups.append(group)
    return groups


def _reached(edges: dict[tuple[str, ...], set[tuple[str, ...]]], start: tuple[str, ...]) -> set:
    found: set[tuple[str, ...]] = set()
    todo = [start]
    while todo:
        for other in edges.get(todo.pop(), ()):
            if other not in found:
                found.add(other)
                todo.append(other)
    return found


if __name__ == "__main__":
    pairs = sorted(arrows())
    print("\n".join(f"{'.'.join(a)} -> {'.'.join(b)}" for a, b in pairs))
    print(f"{len(pairs)} arrows, circles: {circles() or 'none'}")
