"""Directions of a run through the stages that show latents."""

from __future__ import annotations

import re
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from matplotlib.text import Text

from thoughtlens.acts import import_activations
from thoughtlens.core import BY_NAME, OccupiedError, read_json, read_rows
from thoughtlens.latents import ExplanationRow
from thoughtlens.show import Run, list_runs
from thoughtlens.show.report.blocks import Picture
from thoughtlens.show.report.config import ReportConfig
from thoughtlens.show.report.page import sections_of
from thoughtlens.studies.directions import _link, read

pytestmark = pytest.mark.slow
D, KINDS = 12, ("addition", "division", "mixed")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Imported thoughts, of which a coordinate is large by the label."""
    root, rng = tmp_path_factory.mktemp("directions") / "run", np.random.default_rng(0)
    label = rng.integers(len(KINDS), size=600)
    x = rng.normal(size=(600, 1, 2, D)).astype(np.float32)
    x[np.arange(600), :, :, label] += 8
    import_activations({"x": x, "operation": np.array(KINDS)[label]}, root / "acts", first_thought=1)
    return root


@pytest.fixture(scope="module")
def told():
    """What is said while the directions are read."""
    return StringIO()


@pytest.fixture(scope="module")
def done(run, told):
    with redirect_stderr(told):
        return read(run, None, ["from=diffmean", "label=operation", "share=0.3"])


def test_both_ends_are_explained_and_shown_as_directions(run, done):
    out = run / "directions" / "diffmean-operation"
    assert done.run == str(out) and "lens" in done.left_out and done.stages[-1] == "explorer"
    assert (out / "acts").is_symlink() and len(done.directions) == 3
    rows = [r for r in read_rows(out / "explain" / "explanations.parquet", ExplanationRow) if r.chosen]
    high = {r.latent: r for r in rows}
    for i, kind in enumerate(KINDS):
        assert f"operation is {kind}" in high[2 * i].text and high[2 * i].auprc > 0.75
    summary = read_json(out / "interpret" / "result.json")["members"][0]
    assert summary["kind"] == "directions"
    assert (out / "explorer" / "index.html").is_file()
    assert done.file in done.text()


def test_the_report_says_direction_and_not_latent(run, done):
    out = Path(done.run)
    BY_NAME["report"].run(ReportConfig(run=out), out / "report")
    page = (out / "report" / "report.md").read_text("utf-8")
    assert "## Directions" in page and "operation=addition, high end" in page
    assert "the run has no validate stage" not in page
    prose = re.sub(r"\([^)]*\)", "", page)  # without the files of figures, which keep their names
    assert "latent" not in prose.lower().split("## provenance")[0]


def test_figures_and_the_progress_line_name_directions(done, told):
    assert re.search(r"explain directions: \d+ ends? in", told.getvalue())
    figures = [
        block.figure
        for section in sections_of(Run.open(done.run), 4)
        for block in section.blocks
        if isinstance(block, Picture)
    ]
    said = {one.get_text() for figure in figures for one in figure.findobj(Text)}
    assert figures and not [text for text in said if "latent" in text.lower()]


def test_the_same_call_does_nothing_again_and_other_settings_are_refused(run, done):
    assert read(run, None, ["from=diffmean", "label=operation", "share=0.3"]) == done
    with pytest.raises(OccupiedError, match="share"):
        read(run, None, ["from=diffmean", "label=operation", "share=0.1"])


def test_a_file_of_directions_is_read_on_another_place(run, done, tmp_path):
    again = read(run, done.file, ["share=0.2"], tmp_path / "again")
    assert again.directions == done.directions


def test_a_run_of_directions_is_listed_beside_its_run(run, done):
    assert str(done.run) in [one.path for one in list_runs(run.parent).runs]


def test_a_link_to_activations_that_have_moved_is_made_anew(run, tmp_path):
    place = tmp_path / "acts"
    place.symlink_to(tmp_path / "where they were")
    _link(run / "acts", place)
    assert place.resolve() == (run / "acts").resolve()
