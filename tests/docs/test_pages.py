"""What pages must hold, whatever their examples do."""

from __future__ import annotations

import inspect
import re

import pytest
from matplotlib.figure import Figure

from tests.docs.pages import blocks
from tests.docs.repository import ROOT
from thoughtlens.show.pages import plots


def test_readme_stays_short():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 95


def test_links_lead_somewhere():
    for file in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        prose = re.sub(r"^```.*?^```", "", file.read_text("utf-8"), flags=re.S | re.M)
        for link in re.findall(r"\]\(([^)#]+)\)", prose):
            if "://" not in link:
                assert (file.parent / link).exists(), f"{file.name} links to {link}, which is not there"


def test_the_whole_pilot_is_15_lines():
    first = next(code for _, code in blocks(ROOT / "docs" / "python.md") if "tl.run" in code)
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


def test_the_notebook_stores_no_outputs():
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(ROOT / "docs" / "tutorial.ipynb", as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(cells) >= 6
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)


def searched(separator: str) -> set[str]:
    """The words of all pages as the site's search tells them apart."""
    text = "\n".join(file.read_text("utf-8") for file in (ROOT / "docs").glob("*.md"))
    return {word.strip("*#|!?;").lower() for word in re.split(separator, text)}


@pytest.mark.parametrize(
    "word",
    ["pythia", "resurrection", "aggregation", "pooling", "steering", "ablation", "probe", "sae_lens", "topk",
     "fvu", "coconut", "huginn", "dead", "twins", "resampling", "auxk"],
)  # fmt: skip
def test_the_search_finds_what_people_look_for(word):
    import yaml

    config = re.sub(r"!!python\S+", "", (ROOT / "mkdocs.yml").read_text("utf-8"))
    (search,) = [p["search"] for p in yaml.safe_load(config)["plugins"] if "search" in p]
    found = searched(search["separator"])
    assert all(part in found for part in word.split("_")), word
    assert "a-word-of-no-page" not in found
