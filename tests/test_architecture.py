"""The direction of imports, and what importing costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests import house


def label(file):
    return ".".join(house.module_of(file))


def test_imports_run_down_the_ladder():
    for file in house.files():
        wing = house.module_of(file)[0]
        assert wing in house.LEVEL, f"{wing} has no place on the ladder"
        for other in {module[0] for module in house.imported(file) if module} - {wing}:
            assert house.LEVEL[other] != house.LEVEL[wing], f"siblings {wing} and {other} must not meet"
            assert house.LEVEL[other] < house.LEVEL[wing], (
                f"{file} imports {other}, which stands above {wing}"
            )


LENT = ("config", "records")
"""What a room that holds a `stage.py` lends out."""
INSIDE = ("ops.bench",)
"""Measures the insides of rooms."""


def test_no_stage_imports_a_stage():
    for file in house.files():
        module = house.module_of(file)
        if module[0] == "cli" or label(file).startswith(INSIDE):
            continue
        for other in house.imported(file):
            for stage in house.stage_rooms():
                inside = other[: len(stage)] == stage and len(other) > len(stage)
                assert not inside or module[: len(stage)] == stage or other[len(stage)] in LENT, (
                    f"{file} imports {'.'.join(other)}, the inside of a stage's room"
                )


def test_no_circles():
    assert house.circles() == []


def imported_by(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement", ["import thoughtlens", "import thoughtlens.cli", "import thoughtlens.core.stages.config"]
)
def test_importing_costs_no_torch(statement):
    assert not {"torch", "transformers", "sklearn", "matplotlib", "pandas"} & imported_by(statement)


def test_unknown_public_name():
    import thoughtlens

    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = thoughtlens.nonsense
    assert "metrics" in dir(thoughtlens)


def test_every_wing_is_a_public_name():
    import thoughtlens

    wings = {path.name for path in house.SRC.iterdir() if (path / "__init__.py").is_file()}
    assert wings < set(dir(thoughtlens)) and wings <= set(house.LEVEL) and len(house.LEVEL) <= 14
