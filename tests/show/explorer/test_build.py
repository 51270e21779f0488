"""The explorer's files say what the run's tables say."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp
import torch

from tests.planted import D
from tests.show.explorer.pages import rows, tables, unpack
from tests.show.explorer.runs import HOSTILE, thought_run
from thoughtlens.core import NotThereError, OccupiedError
from thoughtlens.show.explorer.build import pack, rounded, significant
from thoughtlens.show.explorer.config import ExplorerConfig
from thoughtlens.show.explorer.latents import nearest
from thoughtlens.show.explorer.problems import _best
from thoughtlens.show.explorer.stage import explorer


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = thought_run(tmp_path_factory.mktemp("run"))
    cfg = ExplorerConfig(run=root, n_problems=12, latents_per_shard=5)
    return root, explorer(cfg, root / "explorer"), tables(root / "explorer")


def test_every_latent_is_there_with_its_numbers(made):
    root, result, found = made
    assert result["n_latents"] == D and result["n_problems"] == 12
    assert found["m0/summary"]["per_shard"] == 5
    assert [len(found[f"m0/{i}"]) for i in range(4)] == [5, 5, 5, 1]
    known = pq.read_table(root / "interpret" / "latents.parquet").to_pylist()
    columns = found["m0/summary"]["columns"]
    for name in ("density", "n_fires", "n_problems", "mean_active", "max_active"):
        assert columns[name] == pytest.approx([r[name] for r in known], rel=1e-3)


def test_examples_associations_and_labels_are_those_of_the_tables(made):
    root, _, found = made
    latent = found["m0/0"][3]
    examples = pq.read_table(root / "interpret" / "top_examples.parquet").to_pylist()
    own = [e for e in examples if e["latent"] == 3]
    shown = rows(found, "thought_examples", latent["top_examples"])
    assert [e["problem"] for e in shown] == [e["problem_id"] for e in own]
    assert all(e["thought"] == 2 and e["hook"] == "layers.1:out" for e in shown)
    first = shown[0]
    assert first["strip"][1][2] == pytest.approx(own[0]["value"], rel=1e-2)
    assert sum(v for line in first["strip"] for v in line) == pytest.approx(own[0]["value"], rel=1e-2)
    factors = {a["factor"] for a in rows(found, "associations", latent["associations"])}
    assert {"label:operation", "thought", "hook"} <= factors
    assert latent["cells"]["rows"] == ["layers.0:out", "layers.1:out"] and latent["cells"]["n"] == 60
    rates = latent["cells"]["values"]
    fires = pq.read_table(root / "interpret" / "latents.parquet").to_pylist()[3]["n_fires"]
    assert rates[1][2] == pytest.approx(fires / 60, rel=1e-2) and sum(map(sum, rates)) == rates[1][2]
    assert found["m0/summary"]["label"][3] == "operation = </script><b>mul</b>"
    assert found["m0/1"][4]["top_examples"] == [], "latent 9 never fires"


def test_problem_pages_hold_what_fires(made):
    _, _, found = made
    listed = found["run"]["problems"]
    assert len(listed) == 12 and [p["shard"] for p in listed] == [0] * 10 + [1] * 2
    page = found["problems/0"][0]
    assert page["problem_id"] == listed[0]["id"] and page["question"] in HOSTILE
    for row in rows(found, "strongest", page["members"]["m0"]):
        assert row["hook"] in (0, 1) and row["at"] in (0, 1, 2)
        values = [v for _, v, _ in row["latents"]]
        assert values == sorted(values, reverse=True) and len(values) == row["n"] and min(values) > 0


def test_no_file_holds_text_that_html_could_read(made):
    root, _, _ = made
    for file in (root / "explorer" / "data").rglob("*.js"):
        assert re.fullmatch(r'TL\.take\("[\w/]+","[A-Za-z0-9+/=]*"\);\n', file.read_text())
    page = (root / "explorer" / "index.html").read_text()
    assert "<img" not in page and "onerror" not in page


def test_one_file_holds_the_same_tables(made, tmp_path):
    root, _, found = made
    cfg = ExplorerConfig(run=root, single=True, n_problems=12, latents_per_shard=5)
    explorer(cfg, tmp_path / "one")
    text = (tmp_path / "one" / "index.html").read_text()
    assert unpack(text) == found
    assert "<script src" not in text and "http" not in text.replace("http://www.w3.org", "")


def test_what_is_missing_comes_with_its_command(made):
    root, _, found = made
    run = found["run"]
    absent = {name for name, there in run["members"][0]["have"].items() if not there}
    assert {"explanations", "graphs", "lens_latents", "readings", "matches", "interventions"} <= absent
    assert run["commands"]["explanations"] == f"thoughtlens explain {root}"
    assert run["commands"]["readings"].startswith("thoughtlens lens ")
    assert absent <= run["commands"].keys()


def test_bad_input(made, tmp_path):
    root, _, _ = made
    with pytest.raises(NotThereError, match="run directory"):
        explorer(ExplorerConfig(run=tmp_path / "none"), tmp_path / "out")
    with pytest.raises(NotThereError, match="interpret"):
        (tmp_path / "half").mkdir()
        shutil.copytree(root / "acts", tmp_path / "half" / "acts")
        (tmp_path / "half" / "acts" / "result.json").write_text('{"kind": "thoughts"}')
        explorer(ExplorerConfig(run=tmp_path / "half"), tmp_path / "out")
    with pytest.raises(OccupiedError):
        explorer(ExplorerConfig(run=root, n_problems=3), root / "explorer")
    shutil.copytree(root, tmp_path / "apart", ignore=shutil.ignore_patterns("sae"))
    with pytest.raises(NotThereError, match=r"copy it there: cp -r \S+/sae \S+/apart/sae$"):
        explorer(ExplorerConfig(run=tmp_path / "apart"), tmp_path / "out")


def test_numbers_are_rounded_as_a_format_would():
    numbers = [*(np.random.default_rng(0).normal(size=36) * 10.0 ** np.arange(-18, 18)), 0.0, 1.0, 0.1]
    shown = rounded([*numbers, 1e-310, 1.23456e300, None, float("inf")], 4)
    assert shown[:-4] == [float(f"{v:.4g}") for v in numbers]
    assert shown[-4:] == [pytest.approx(1e-310), pytest.approx(1.235e300), None, None]


def test_the_strongest_latents_of_each_vector_by_hand():
    codes = sp.csr_array([[0, 2.0, 3.0, 1.0], [0, 0, 0, 0], [0.5, 0, 0, 0]])
    assert _best(codes, 2) == [(3, [[2, 3.0], [1, 2.0]]), (0, []), (1, [[0, 0.5]])]


def test_nearest_by_hand():
    # Cosines of (1,0), (1,1), (-1,0), (0,0): 0 with 1 is 0.707, 0 with 2 is -1, 1 with 2 is -0.707.
    directions = torch.tensor([[1.0, 0], [2, 2], [-3, 0], [0, 0]])
    near = nearest(directions, 2)
    assert near[0][0] == [1, 0.707] and near[1][0] == [0, 0.707] and near[3] == []
    assert nearest(directions[:1], 8) == [[]]


def test_packed_text_survives():
    assert unpack(f'TL.take("a","{pack(HOSTILE)}");') == {"a": HOSTILE}
    assert significant(float("nan")) is None and significant(123456.0) == 123500.0
