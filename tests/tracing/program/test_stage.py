"""The stage on shipped models, and what it refuses."""

from __future__ import annotations

import pytest

from thoughtlens.acts.extract.config import ExtractConfig
from thoughtlens.acts.extract.stage import extract
from thoughtlens.core import read_rows, validate_config
from thoughtlens.show.pages.run import Run
from thoughtlens.show.report.program import program as section_of
from thoughtlens.tracing.program.config import ProgramConfig
from thoughtlens.tracing.program.records import CellRow, GradedRow, ProgramOutcome
from thoughtlens.tracing.program.stage import program


def store_of(root, model, n):
    table = {"model": {"name": model}, "problems": {"source": "generated", "n": n}, "seed": 3}
    extract(validate_config(ExtractConfig, table), root / "acts")
    return root / "acts"


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    root = tmp_path_factory.mktemp("program")
    acts = store_of(root, "codi-words", 500)
    outcome = ProgramOutcome.from_json(
        program(ProgramConfig(acts=acts, n=40, n_fit=80, n_twins=16, repeats=1), root / "program")
    )
    return root, outcome


@pytest.mark.slow
def test_the_values_of_codi_words_are_found_and_swapped_as_the_program_says(found):
    root, outcome = found
    held = {one.name: (one.route, one.thought_idx) for one in outcome.variables if "value" in one.name}
    assert held == {"value1": ("state", 2), "value2": ("state", 4)}
    assert outcome.headline["interchange"].value > 0.9 and outcome.headline["coverage"].value > 0.9
    assert all(one.interchange < 0.4 for one in outcome.rivals)
    text = (root / "program" / "program.py").read_text("utf-8")
    assert "import json" in text and "thoughtlens." not in text


@pytest.mark.slow
def test_tables_hold_what_the_result_counts(found):
    root, outcome = found
    cells = read_rows(root / "program" / "cells.parquet", CellRow)
    assert len(cells) == sum(step.n_cells for step in outcome.steps)
    rows = read_rows(root / "program" / "graded.parquet", GradedRow)
    own = [row.agrees for row in rows if row.kind == "untouched"]
    assert len(own) == outcome.n and outcome.headline["agreement"].value == sum(own) / len(own)


@pytest.mark.slow
def test_the_report_says_what_the_result_says(found):
    root, outcome = found
    section = section_of(Run.open(root))
    assert section is not None
    _, variables, grades, rivals = section.blocks
    assert [row[0] for row in variables.rows] == [one.name for one in outcome.variables]
    assert len(grades.rows) == len(outcome.grades) and len(rivals.rows) == 4


@pytest.mark.slow
def test_pause_tokens_run_no_program(tmp_path):
    acts = store_of(tmp_path, "codi-tiny/pause", 300)
    outcome = ProgramOutcome.from_json(program(ProgramConfig(acts=acts, n=10), tmp_path / "program"))
    assert outcome.program is None and outcome.reason and not outcome.headline
    assert f"no program: {outcome.reason}" in outcome.warnings
    assert not (tmp_path / "program" / "program.py").exists()
    section = section_of(Run.open(tmp_path))
    assert section is not None and "No program" in section.blocks[0].text
