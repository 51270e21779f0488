"""A line for each run below a folder."""

from __future__ import annotations

import pytest

from tests.show.runs.made import run_of, stage
from thoughtlens.core import NotThereError
from thoughtlens.show import list_runs, size


def test_runs_studies_and_unfinished_stages_are_listed(tmp_path):
    run = run_of(tmp_path / "mine" / "a", [True, False])
    (run / "interpret.tmp").mkdir()
    (run / "interpret.tmp" / "config.toml").touch()
    stage(tmp_path, "sweep", "s", "", {"headline": {"fvu": {"value": 0.3}}})
    inside = run_of(run / "directions" / "pca", [True])
    (tmp_path / "notes").mkdir()
    (tmp_path / "link").symlink_to(run)
    found = list_runs(tmp_path)
    assert [one.path for one in found.runs] == [str(run), str(inside), str(tmp_path / "s")]
    first, _, study = found.runs
    assert (first.what, first.stages, first.unfinished) == (
        "thoughts",
        ["extract", "train", "validate"],
        ["interpret"],
    )
    assert first.headline == {"validate.fvu": 0.2, "validate.l0": 8.0} and first.date is not None
    assert (study.what, study.headline) == ("sweep", {"sweep.fvu": 0.3})
    assert "(interpret unfinished)" in found.text() and "3 runs" in found.text()


def test_a_run_that_has_a_stages_name_is_a_run(tmp_path):
    run = run_of(tmp_path / "runs" / "circuit", [True])
    (run / "result.json").write_text('{"stages": {}, "name": "circuit"}')
    assert [one.path for one in list_runs(tmp_path / "runs").runs] == [str(run)]


def test_a_damaged_run_does_not_hide_the_others(tmp_path):
    run_of(tmp_path / "a", [True])
    bad = run_of(tmp_path / "b", [True])
    (bad / "validate" / "result.json").write_text("{")
    found = list_runs(tmp_path)
    assert len(found.runs) == 2 and "is not JSON" in found.runs[1].problem


def test_a_folder_without_runs(tmp_path):
    with pytest.raises(NotThereError, match="found none; a run is made by: thoughtlens run pilot"):
        list_runs(tmp_path)
    with pytest.raises(NotThereError, match="found none there"):
        list_runs(tmp_path / "no")


@pytest.mark.parametrize(
    ("n", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2_340_000_000, "2.34 GB")]
)
def test_sizes(n, text):
    assert size(n) == text
