"""The pages on Python run as they stand, one after the other, in an empty folder."""

from __future__ import annotations

import inspect

import pytest
from matplotlib.figure import Figure

from tests.docs.pages import blocks
from tests.docs.test_readme import ROOT, run
from thoughtlens.show import plots

PAGES = ("docs/python.md", "docs/tracking.md", "docs/hub.md")


def test_the_pages_run(tmp_path):
    pytest.importorskip("tensorboard")
    run(PAGES, tmp_path)
    assert (tmp_path / "runs" / "python" / "report" / "report.html").is_file()
    assert len(list((tmp_path / "runs").glob("*.tracking/tensorboard/*/events*"))) == 5
    assert sorted(p.name for p in (tmp_path / "back").iterdir()) == ["cfg.json", "sae.safetensors"]


def test_the_whole_pilot_is_15_lines():
    first = next(code for _, code in blocks(ROOT / "docs" / "python.md"))
    assert sum(bool(line.strip()) for line in first.splitlines()) <= 15


def test_every_plot_returns_a_figure_and_is_on_the_page():
    page = (ROOT / "docs" / "python.md").read_text("utf-8")
    functions = [
        f for _, f in inspect.getmembers(plots, inspect.isfunction) if f.__module__ == plots.__name__
    ]
    made = [f for f in functions if not f.__name__.startswith("_") and f.__name__ not in ("styled", "words")]
    assert len(made) >= 10
    for plot in made:
        assert inspect.signature(plot).return_annotation in ("Figure", Figure), plot.__name__
        assert f"`{plot.__name__}`" in page, f"docs/python.md does not name {plot.__name__}"
