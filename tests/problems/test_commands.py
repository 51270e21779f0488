"""`thoughtlens problems`: tables as Parquet, never over a file that is there."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from thoughtlens.cli import app
from thoughtlens.core import OccupiedError
from thoughtlens.problems.tasks import arithmetic, words

GSM8K = {"question": "Ann has 2 and 3 pens. How many?", "answer": "She has 2 + 3 = <<2+3=5>>5.\n#### 5"}


def told(*arguments: object) -> dict:
    done = CliRunner().invoke(app, ["problems", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0
    return json.loads(done.stdout)


@pytest.mark.parametrize("module", [arithmetic, words])
def test_generated_problems(tmp_path, module):
    name, file = module.__name__.rpartition(".")[2], tmp_path / "new" / "table.parquet"
    found = told(name, "--n", 5, "--seed", 3, "--split", "test", "--out", file)
    expected = module.problems(5, seed=3, split="test")
    assert found == {"path": str(file), "n_problems": 5, "columns": expected.column_names}
    assert pq.read_table(file) == expected and [f.name for f in file.parent.iterdir()] == [file.name]
    with pytest.raises(OccupiedError, match="exists already"):
        told(name, "--out", file)


def test_gsm8k_and_its_audit(tmp_path):
    source, table, page = tmp_path / "test.jsonl", tmp_path / "t.parquet", tmp_path / "all.md"
    source.write_text(json.dumps(GSM8K) + "\n")
    assert told("gsm8k", "--file", source, "--out", table)["n_problems"] == 1
    assert pq.read_table(table)["answer"].to_pylist() == ["5"]
    assert told("audit", "--file", source, "--out", page)["path"] == str(page)
    with pytest.raises(OccupiedError, match="exists already"):
        told("audit", "--file", source, "--out", page)
    assert "disagreements" in told("audit", "--file", source)
