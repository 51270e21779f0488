"""The examples of README, tutorial and how-to pages run as they stand, one after the other, in one folder.

Pages that show the same run share it: the second time it is already done.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.docs.repository import ROOT

PAGES = [
    "README.md",
    *(f"docs/{name}.md" for name in ("tutorial", "interventions", "python", "tracking", "hub")),
]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder after every page was followed, in a process of its own."""
    pytest.importorskip("tensorboard")
    folder = tmp_path_factory.mktemp("pages")
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", ROOT / "tests" / "docs" / "pages.py", *[ROOT / name for name in PAGES]]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_runs_end_with_a_report(folder):
    assert {"small", "pilot"} <= {report.parts[-3] for report in folder.glob("runs/*/report/report.html")}


def test_edits_of_thoughts(folder):
    assert len(list(folder.glob("runs/*/effects.parquet"))) == 7


def test_what_was_tracked(folder):
    assert len(list(folder.glob("runs/*.tracking/tensorboard/*/events*"))) == 5


def test_what_was_pushed_and_pulled(folder):
    assert sorted(p.name for p in (folder / "back").iterdir()) == [
        "cfg.json",
        "sae.safetensors",
        "thoughtlens-files.json",
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_the_notebook(folder):
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(ROOT / "docs" / "tutorial.ipynb", as_version=4)
    client = pytest.importorskip("nbclient").NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    cells = [cell for cell in client.execute().cells if cell.cell_type == "code"]
    shown = [output.get("data", {}) for cell in cells for output in cell.outputs]
    tables = [data["text/html"] for data in shown if "text/html" in data]
    assert len(tables) == 2 and all("95 % interval" in "".join(table) for table in tables)
    assert sum("image/png" in data for data in shown) == 2
    said = "".join(
        out.get("text", "") for cell in cells for out in cell.outputs if out.get("name") == "stdout"
    )
    assert "of 50 right" in said and "fires on" in said
