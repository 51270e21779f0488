"""The report's section on the monitor says what it found, and the same numbers."""

from __future__ import annotations

import pytest

from thoughtlens.acts.extract.config import ExtractConfig
from thoughtlens.acts.extract.stage import extract
from thoughtlens.core import validate_config
from thoughtlens.show.pages.run import Run
from thoughtlens.show.report.monitor import area, monitored
from thoughtlens.tracing import MonitorOutcome
from thoughtlens.tracing.monitor.config import MonitorConfig
from thoughtlens.tracing.monitor.stage import monitor


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("watched")
    table = {"model": {"name": "codi-tiny"}, "problems": {"source": "generated", "n": 300}, "seed": 3}
    extract(validate_config(ExtractConfig, table), root / "acts")
    cfg = MonitorConfig(acts=root / "acts", n_fit=60, n_resamples=100, errors=("swap",), truths=("broken",))
    monitor(cfg, root / "monitor")
    return Run.open(root)


def test_the_section_has_the_numbers_of_the_result(run):
    section, (truth,) = monitored(run), MonitorOutcome.from_json(run.result("monitor")).truths
    assert section is not None
    text, who, beside, errors = section.blocks
    assert f"{truth.says}." in text.text
    assert [row[0] for row in who.rows] == [one.name for one in truth.detectors]
    assert who.rows[0][2] == area(truth.detectors[0].auroc) != "–"
    assert [row[-1] for row in beside.rows] == [row.difference.verdict for row in truth.against]
    assert len(errors.rows) == 5 and sum(int(row[3]) for row in errors.rows) == truth.n_positive


def test_a_run_without_a_monitor_has_no_section(run, tmp_path):
    (tmp_path / "acts").symlink_to(run.root / "acts")
    assert monitored(Run.open(tmp_path)) is None
