"""The direction of imports, and what importing costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "thoughtlens"
LAYERS = [
    {"errors"},
    {"config", "progress", "devices", "metrics", "kernels", "result"},
    {"stage"},
    {"models", "store", "sae", "problems"},
    {"baselines", "training", "explain"},
    {"extract", "train", "validate", "interpret", "classify", "replay"}
    | {"intervene", "fire", "gates", "distill", "lens", "geometry", "explanations"},
    {"plots", "report", "pipeline", "sweep", "grid", "bench", "explorer", "serve"}
    | {"suites", "neuronpedia"},
    {"tracking", "hub", "doctor"},
    {"cli"},
]
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
SEPARATE = ("models", "store", "sae", "problems")


def rooms_imported(file: Path) -> set[str]:
    """Top-level modules of the package that a file imports anywhere, lazily or not."""
    rooms = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("thoughtlens"):
            parts = node.module.split(".")
            rooms |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            rooms |= {a.name.split(".")[1] for a in node.names if a.name.startswith("thoughtlens.")}
    return {room for room in rooms if (SRC / room).is_dir() or (SRC / f"{room}.py").is_file()}


def files() -> list[Path]:
    return [f for f in sorted(SRC.rglob("*.py")) if f.parent != SRC or f.stem not in ("__init__", "__main__")]


@pytest.mark.parametrize("file", files(), ids=lambda f: str(f.relative_to(SRC)))
def test_imports_run_one_way(file):
    room = file.relative_to(SRC).parts[0].removesuffix(".py")
    if room == "recipes":
        return
    assert room in LEVEL, f"{room} has no place in the order of imports: add it to LAYERS"
    for other in rooms_imported(file) - {room}:
        assert LEVEL[other] <= LEVEL[room], f"{file} imports {other}, which lies above {room}"
        assert not (room in SEPARATE and other in SEPARATE), f"siblings {room} and {other} must not meet"


def imported_by(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement", ["import thoughtlens", "import thoughtlens.cli", "import thoughtlens.config"]
)
def test_importing_costs_no_torch(statement):
    assert not {"torch", "transformers", "sklearn", "matplotlib", "pandas"} & imported_by(statement)


def test_unknown_public_name():
    import thoughtlens

    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = thoughtlens.nonsense
    assert "metrics" in dir(thoughtlens)


def test_every_room_is_a_public_name():
    import thoughtlens

    inner = {"cli", "devices", "progress", "result"}
    assert set().union(*LAYERS) - inner == set(thoughtlens.MODULES)
