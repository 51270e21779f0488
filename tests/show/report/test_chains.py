"""The report's section on chains says what the trace found, and the same numbers."""

from __future__ import annotations

import pytest

from thoughtlens.acts.extract.config import ExtractConfig
from thoughtlens.acts.extract.stage import extract
from thoughtlens.core import validate_config
from thoughtlens.show.pages.run import Run
from thoughtlens.show.report.chains import chains
from thoughtlens.tracing import TraceOutcome
from thoughtlens.tracing.chains.config import TraceConfig
from thoughtlens.tracing.chains.stage import trace


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("chains")
    table = {"model": {"name": "codi-tiny"}, "problems": {"source": "generated", "n": 120}, "seed": 3}
    extract(validate_config(ExtractConfig, table), root / "acts")
    trace(TraceConfig(acts=root / "acts", n=8, n_control=6, controls=("renamed",)), root / "trace")
    return Run.open(root)


def test_the_section_has_the_numbers_of_the_result(run):
    section, outcome = chains(run), TraceOutcome.from_json(run.result("trace"))
    assert section is not None
    text, arms, places, thoughts, problems = section.blocks
    assert f"joined to {outcome.arms[0].n_steps} steps" in text.text and "verifies at most" in text.text
    assert [row[0] for row in arms.rows] == [arm.about for arm in outcome.arms]
    assert len(thoughts.rows) == 7 and len(problems.rows) == 8
    assert all("→" in row[1] for row in problems.rows)
    assert {row[1] for row in places.rows} <= {"2", "4", "6"}


def test_a_run_without_a_trace_has_no_section(run, tmp_path):
    (tmp_path / "acts").symlink_to(run.root / "acts")
    assert chains(Run.open(tmp_path)) is None
