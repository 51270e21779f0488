"""The report's latents lead to their pages, and those are there."""

from __future__ import annotations

import re

import pytest

from tests.show.explorer.runs import thought_run
from thoughtlens.show.explorer.config import ExplorerConfig
from thoughtlens.show.explorer.stage import explorer
from thoughtlens.show.pages.run import Run
from thoughtlens.show.report.config import ReportConfig
from thoughtlens.show.report.stage import _explorer, report

LINK = re.compile(r'<h4><a href="([^"#]+)#/l/([^/"]+)/(\d+)">')


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return thought_run(tmp_path_factory.mktemp("run"), n=40)


@pytest.mark.slow
def test_the_runs_own_explorer_is_linked(root):
    explorer(ExplorerConfig(run=root, n_problems=1), root / "explorer")
    report(ReportConfig(run=root, top_latents=2), root / "report")
    found = LINK.findall((root / "report" / "report.html").read_text("utf-8"))
    assert len(found) == 2 and {(address, sae) for address, sae, _ in found} == {
        ("../explorer/index.html", "pooled")
    }
    assert (root / "report" / found[0][0]).resolve() == (root / "explorer" / "index.html").resolve()
    text = (root / "report" / "report.md").read_text("utf-8")
    assert f"](<../explorer/index.html#/l/pooled/{found[0][2]}>)" in text


def test_an_explorer_that_is_being_written_beside_the_report_is_linked_too(tmp_path):
    run = Run(tmp_path)
    assert _explorer(run, tmp_path / "report") is None
    (tmp_path / "explorer.tmp").mkdir()
    assert _explorer(run, tmp_path / "report") == "../explorer/index.html"
    assert _explorer(run, tmp_path / "elsewhere" / "report") is None


def test_an_address_that_is_given_is_used_as_text(root, tmp_path):
    address = 'https://host/x.html?a=1&b="2'
    report(ReportConfig(run=root, top_latents=1, explorer=address), tmp_path / "report")
    page = (tmp_path / "report" / "report.html").read_text("utf-8")
    assert '<a href="https://host/x.html?a=1&amp;b=&#34;2#/l/pooled/' in page
