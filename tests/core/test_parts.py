"""Parts: what is finished is not done again, and a kill during the clean-up loses nothing."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.core.counting import Count
from thoughtlens.core import Outcome, Parts, run_stage


def test_only_unfinished_parts_are_to_do(tmp_path):
    parts = Parts(tmp_path)
    parts.finish("a", {"n": 1})
    assert list(parts.todo(["a", "b"])) == ["b"]
    assert Parts(tmp_path).summary("a") == {"n": 1}


def test_tables_join_in_the_order_of_parts(tmp_path):
    parts = Parts(tmp_path)
    for i in (2, 0):
        parts.write_table(i, "rows", pa.table({"x": [i, i + 10]}))
    parts.join(range(3), "rows", tmp_path / "rows.parquet")
    assert pq.read_table(tmp_path / "rows.parquet")["x"].to_pylist() == [0, 10, 2, 12]


def test_killed_during_the_clean_up(tmp_path, monkeypatch):
    """The work is done once; the second call only cleans up."""
    calls = []

    def work(tmp):
        calls.append(1)
        Parts(tmp).finish("a", {})
        return Outcome()

    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run_stage("count", Count(), tmp_path / "out", work)
    monkeypatch.undo()
    run_stage("count", Count(), tmp_path / "out", work)
    assert calls == [1]
    assert not (tmp_path / "out" / "parts").exists() and not (tmp_path / "out.tmp").exists()
