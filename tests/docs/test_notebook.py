"""The tutorial notebook runs as it stands, in an empty folder, and stores no outputs that could go stale."""

from __future__ import annotations

from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "docs" / "tutorial.ipynb"

nbformat = pytest.importorskip("nbformat")


def read():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    return notebook


def test_it_stores_no_outputs():
    cells = [cell for cell in read().cells if cell.cell_type == "code"]
    assert len(cells) >= 6
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_it_runs(tmp_path):
    client = pytest.importorskip("nbclient").NotebookClient(
        read(), timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
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
    assert (tmp_path / "runs" / "notebook" / "interpret" / "result.json").is_file()
