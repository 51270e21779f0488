"""What other stages found is on the pages of the latents and problems that it belongs to."""

from __future__ import annotations

import shutil
from dataclasses import fields

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from tests.planted import HOOKS, D
from tests.show.explorer.pages import rows, tables
from tests.show.explorer.runs import HOSTILE, full_run, thought_run
from tests.show.explorer.tables import EDGES, plant_explain, plant_geometry, write
from thoughtlens.core import MismatchError, OccupiedError, StoreError, read_json, write_json
from thoughtlens.evals.reconstruction.records import ReconstructionRow
from thoughtlens.latents.explain.records import ExplanationRow, GraphRow
from thoughtlens.latents.geometry.records import MatchRow, NeighbourRow
from thoughtlens.latents.interpret.records import AssociationRow, CoactiveRow, LatentRow
from thoughtlens.latents.lens.records import LatentTokenRow, ReadingRow, SummaryRow
from thoughtlens.show.explorer import rows as views
from thoughtlens.show.explorer.cells import Cells
from thoughtlens.show.explorer.config import ExplorerConfig
from thoughtlens.show.explorer.panels import PANELS
from thoughtlens.show.explorer.sources import sources
from thoughtlens.show.explorer.stage import explorer
from thoughtlens.show.explorer.summary import plane
from thoughtlens.show.pages.pages import refreshed
from thoughtlens.show.pages.run import Run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = full_run(tmp_path_factory.mktemp("run"))
    explorer(ExplorerConfig(run=root, n_problems=12, latents_per_shard=5), root / "explorer")
    return root, tables(root / "explorer")


def test_the_chosen_explanation_comes_first_and_into_the_overview(made):
    _, found = made
    first, second = rows(found, "explanations", found["m0/0"][3]["explanations"])
    assert first["text"] == HOSTILE[3] and first["chosen"] and second["text"] == "rule 3"
    # Latent 3 of 16: AUPRC 3/16 = 0.1875, three digits.
    assert first["auprc"] == 0.188 and first["random_auprc"] == 0.0625 and first["split"] == "test"
    summary = found["m0/summary"]
    assert summary["says"][3] == HOSTILE[3] and summary["columns"]["auprc"][3] == 0.188
    assert "rule 3" in found["m0/words"][3] and "rule 4" not in found["m0/words"][3]


def test_a_problems_page_holds_where_its_thoughts_look(made):
    _, found = made
    pages = [*found["problems/0"], *found["problems/1"]]
    shown = {page["problem_id"]: page["attention"] for page in pages}
    assert {name for name, asked in shown.items() if asked} == {"p3", "p5"}
    asked = shown["p5"]
    assert asked["tokens"] == HOSTILE[:3] and asked["n_thoughts"] == 3
    lines = rows(found, "looks", asked["looks"])
    assert len(lines) == 5 * 3  # the mean, and each of two heads
    first = [row for row in lines if row["query"] == 1]
    assert [(row["layer"], row["head"]) for row in first] == [(None, None), (0, 0), (1, 0)]
    assert all(len(row["weights"]) == 5 and row["weights"][0] == 0.5 for row in first)


def test_every_panel_of_a_latent(made):
    _, found = made
    page = found["m0/1"][1]  # latent 6
    assert set(PANELS) | {"effects", "cells", "claims"} == set(page)
    assert rows(found, "neighbours", page["neighbours"]) == [{"other": 7, "cosine": 0.5}]
    (both,) = rows(found, "coactivation", page["coactivation"])
    assert both == {"other": 7, "n_both": 7, "jaccard": 0.125}
    (match,) = rows(found, "matches", page["matches"])
    assert match == {
        "latent": 6,
        "by": "decoder",
        "sae": "elsewhere pooled",
        "sae_idx": None,
        "other": 9,
        "score": 0.375,
        "null_score": 0.25,
    }
    assert page["latents"]["counts"][2:4] == [3, 5] and page["latents"]["deciles"] == list(range(11))
    assert found["run"]["members"][0]["histogram_edges"] == EDGES
    logits = rows(found, "lens_latents", page["lens_latents"])
    assert [row["sign"] for row in logits] == [1, 1, -1, -1]
    assert logits[0]["token"] == HOSTILE[6]
    assert page["lens_logits"] == {"low": -3.5, "high": 6.0, "counts": [1, 2, 1]}
    assert [n["token"] for n in page["graphs"]["nodes"]] == [HOSTILE[0], " before"]
    assert found["m0/1"][0]["graphs"] is None
    deciles = [e["decile"] for e in rows(found, "thought_examples", page["decile_examples"])]
    assert deciles == sorted(deciles, reverse=True) and deciles[0] == 10
    example = rows(found, "thought_examples", page["top_examples"])[0]
    right, given, correct = example["answers"]
    assert right == example["problem"][1:] and given == right and correct is (int(right) % 2 == 0)


def test_an_edited_latent_shows_its_effect_and_its_control_does_not(made):
    _, found = made
    (row,) = rows(found, "effects", found["m0/0"][2]["effects"])
    assert row["edit"] == "edit_latents" and row["where"] == "resid 1, all thoughts"
    assert (row["difference"], row["low"], row["high"]) == (-0.5, -0.75, -0.25)
    assert row["others"] == [11]
    (other,) = rows(found, "effects", found["m0/2"][1]["effects"])
    assert other["others"] == [2]
    assert found["m0/0"][4]["effects"] == []
    assert found["m0/summary"]["columns"]["effect"][2] == -0.5
    assert found["m0/summary"]["columns"]["effect"][4] is None


def test_problems_with_readings_come_first_and_show_them(made):
    _, found = made
    ids = [p["id"] for p in found["run"]["problems"]]
    assert {"p3", "p5"} <= set(ids) and len(ids) == 12
    page = next(p for shard in (0, 1) for p in found[f"problems/{shard}"] if p["problem_id"] == "p5")
    reading = {
        "lens": "logit",
        "hook_name": HOOKS[0],
        "thought": 1,
        "tokens": [[HOSTILE[0], 0.75], [HOSTILE[1], 0.25]],
    }
    assert reading in rows(found, "readings", page["readings"])
    (edit,) = rows(found, "edits", page["edits"])
    assert (edit["intervention"], edit["edit"]) == ("latent", "edit_latents")
    assert (edit["place"], edit["thought"], edit["kl"]) == ("resid 1", None, 0.5)
    assert (edit["text"], edit["kind"]) == ("7</script>", "other")
    assert page["given"] == "5" and page["right"] is False
    strip = next(s for s in found["run"]["members"][0]["strips"] if s["title"] == "logit lens")
    assert strip["rows"] == ["layers.0:out: v1"] and strip["values"] == [[0.5]]


def test_an_intervention_with_another_sae_is_not_shown(tmp_path):
    root = full_run(tmp_path / "run")
    result = root / "intervene" / "latent" / "result.json"
    write_json(result, read_json(result) | {"inputs": {"sae": {"digest": "another"}}})
    explorer(ExplorerConfig(run=root, n_problems=1), tmp_path / "out")
    found = tables(tmp_path / "out")
    assert found["m0/0"][2]["effects"] == [] and "effect" not in found["m0/summary"]["columns"]


def test_two_runs_in_one_explorer(made, tmp_path):
    root, _ = made
    other = thought_run(tmp_path / "second", n=40)
    cfg = ExplorerConfig(run=root, others=(other,), n_problems=60)
    result = explorer(cfg, tmp_path / "both")
    found = tables(tmp_path / "both")
    assert result["n_latents"] == 2 * D
    assert [m["label"] for m in found["run"]["members"]] == ["pooled", "second: pooled"]
    pages = [p for key, shard in found.items() if key.startswith("problems/") for p in shard]
    # The second run holds p0 to p39.
    assert all((p["members"]["m1"] is None) == (int(p["problem_id"][1:]) >= 40) for p in pages)
    assert found["m1/0"][3]["neighbours"] and "explanations" not in found["m1/0"][3]


def test_a_match_leads_to_the_sae_that_is_shown_beside(made, tmp_path):
    root, _ = made
    other = thought_run(tmp_path / "second", n=40)
    shutil.copytree(root, tmp_path / "first", ignore=shutil.ignore_patterns("explorer"))
    plant_geometry(tmp_path / "first", D, str(other / "sae"))
    explorer(ExplorerConfig(run=tmp_path / "first", others=(other,), n_problems=1), tmp_path / "out")
    found = tables(tmp_path / "out")
    # Latent i of 16 matches latent 15 - i of the second SAE shown, with score i / 16.
    match = rows(found, "matches", found["m0/matches"])[4]
    assert (match["latent"], match["by"], match["sae"]) == (4, "decoder", f"{other}/sae pooled")
    assert (match["sae_idx"], match["other"]) == (1, 11)
    assert (match["score"], match["null_score"]) == (0.25, 0.25)
    assert found["m0/0"][4]["matches"] == [found["m0/matches"][4]]


def test_an_explorer_is_written_again_where_the_run_has_grown(tmp_path):
    root = thought_run(tmp_path / "run", n=20)
    cfg = ExplorerConfig(run=root, n_problems=1)
    refreshed(cfg, root / "explorer")
    first = (root / "explorer" / "result.json").stat().st_mtime_ns
    refreshed(cfg, root / "explorer")
    assert (root / "explorer" / "result.json").stat().st_mtime_ns == first, "nothing had changed"
    plant_explain(root, D, HOSTILE)
    explorer(cfg, root / "explorer")
    found = tables(root / "explorer")
    assert rows(found, "explanations", found["m0/0"][3]["explanations"])[0]["text"] == HOSTILE[3]
    other = cfg.model_copy(update={"n_problems": 2})
    with pytest.raises(OccupiedError):
        explorer(other, root / "explorer")
    refreshed(other, root / "explorer")
    assert len(tables(root / "explorer")["run"]["problems"]) == 2


def test_only_an_explorer_is_replaced(made, tmp_path):
    root, _ = made
    other = tmp_path / "mine"
    other.mkdir()
    (other / "notes.txt").write_text("keep")
    with pytest.raises(OccupiedError):
        refreshed(ExplorerConfig(run=root), other)
    assert (other / "notes.txt").read_text() == "keep"


def test_runs_of_two_kinds_are_refused(made, tmp_path):
    root, _ = made
    other = tmp_path / "text"
    shutil.copytree(root, other, ignore=shutil.ignore_patterns("explorer"))
    meta = other / "acts" / "meta.json"
    write_json(meta, read_json(meta) | {"kind": "text"})
    with pytest.raises(MismatchError, match="one kind"):
        explorer(ExplorerConfig(run=root, others=(other,)), tmp_path / "out")


@pytest.mark.parametrize(
    "graph", ["no json", "[]", '{"nodes": [], "edges": [[0, 1]]}', '{"nodes": [{"id": 1}]}']
)
def test_a_damaged_graph_is_one_line(made, tmp_path, graph):
    root, _ = made
    table = {"member": ["pooled"], "latent": np.zeros(1, np.int32), "graph": [graph]}
    shutil.copytree(root, tmp_path / "run", ignore=shutil.ignore_patterns("explorer"))
    write(tmp_path / "run" / "explain" / "graphs.parquet", table)
    with pytest.raises(StoreError, match="damaged token graph"):
        explorer(ExplorerConfig(run=tmp_path / "run"), tmp_path / "out")


def test_a_damaged_table_is_one_line(made, tmp_path):
    root, _ = made
    shutil.copytree(root, tmp_path / "run", ignore=shutil.ignore_patterns("explorer"))
    (tmp_path / "run" / "lens" / "latents.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(StoreError, match="run lens again"):
        explorer(ExplorerConfig(run=tmp_path / "run"), tmp_path / "out")


def test_firing_rates_by_cell_are_those_of_the_rows(made):
    root, _ = made
    source = sources([Run.open(root)])[0]
    cells = Cells.of(source)
    assert cells is not None and cells.hook_names == list(HOOKS) and cells.thoughts == [0, 1, 2]
    fires = pq.read_table(root / "interpret" / "latents.parquet")["n_fires"].to_numpy()
    np.testing.assert_array_equal(cells.n_fires.sum(1), fires)
    np.testing.assert_array_equal(cells.n, [60] * 6)
    # Latent 3 fires at hook 1, thought 2 only: its peak is there; 9 is dead and has none.
    assert sum(count for _, _, count in cells.peaks()) == D - 1
    assert cells.rates[3].argmax() == 5


@pytest.mark.parametrize(
    ("view", "record"),
    [
        (views.Association, AssociationRow),
        (views.Coactive, CoactiveRow),
        (views.Counted, LatentRow),
        (views.Labelled, AssociationRow),
        (views.Neighbour, NeighbourRow),
        (views.Matched, MatchRow),
        (views.Logit, LatentTokenRow),
        (views.ReadRate, SummaryRow),
        (views.ReadToken, ReadingRow),
        (views.Said, ExplanationRow),
        (views.Graph, GraphRow),
        (views.Cell, ReconstructionRow),
    ],
)
def test_a_view_has_columns_of_the_table(view, record):
    assert {one.name for one in fields(view)} <= {one.name for one in fields(record)}


def test_plane_by_hand():
    # Two axes hold all of the variance of rows in a plane; lengths do not count.
    directions = torch.tensor([[2.0, 0, 0], [0, 5.0, 0], [-1.0, 0, 0], [0, -3.0, 0], [0, 0, 0]])
    (x, y), share = plane(directions)
    assert share == pytest.approx(1) and x[4] == y[4] == 0
    assert sorted(np.hypot(x, y).round(3).tolist()) == [0, 1, 1, 1, 1]
    assert max(x, key=abs) > 0 and max(y, key=abs) > 0
    assert plane(torch.zeros(3, 4)) == ([[0, 0, 0], [0, 0, 0]], 0.0)
    assert plane(torch.ones(3, 1)) == ([[0, 0, 0], [0, 0, 0]], 0.0)


def test_the_pooled_sae_is_shown_first(tmp_path):
    root = thought_run(tmp_path / "run", members={"layers.0-out": HOOKS[:1], "pooled": HOOKS})
    assert [s.label for s in sources([Run.open(root)])] == ["pooled", "layers.0-out"]
    assert [s.key for s in sources([Run.open(root)])] == ["m0", "m1"]
