"""The grid: many settings on every cell, its table, its figures, and members that fail alone."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest
import torch

from tests.sae.stores import planted, write_store
from thoughtlens import sae as saes
from thoughtlens.core import ConfigError
from thoughtlens.sae.train.config import TrainConfig
from thoughtlens.sae.train.stage import train
from thoughtlens.studies.sweep.config import GridConfig
from thoughtlens.studies.sweep.stage import grid, plan
from thoughtlens.studies.sweep.study import configure

pytestmark = pytest.mark.slow

TRAIN = {"batch_size": 32, "epochs": 4.0, "evaluations": 2, "lr": 3e-3}
RECIPE = {"sae": {"kind": "topk", "d_sae": 24, "k": 2}, "train": TRAIN}


@pytest.fixture(scope="module")
def thoughts(tmp_path_factory):
    x, _ = planted(600, 8, 16, 2 / 16, seed=0)
    acts = {"layers.0:out": x, "layers.1:out": 50 * x.flip(0) + 9}
    return write_store(tmp_path_factory.mktemp("thoughts") / "acts", acts, thoughts=3)


@pytest.fixture(scope="module")
def done(thoughts, tmp_path_factory):
    out = tmp_path_factory.mktemp("grid") / "grid"
    cfg = GridConfig(acts=thoughts, grid=("sae.k=1,3", "train.lr=1e-3,4e-3"), seeds=(0, 1), recipe=RECIPE)
    return cfg, grid(cfg, out), out


def test_every_setting_seed_and_cell_is_an_sae_like_any_other(done):
    _, result, out = done
    rows = pq.read_table(out / "table.parquet").to_pylist()
    assert len(rows) == result["n_saes"] == 4 * 2 * 6 and result["n_failed"] == 0
    assert {(r["sae.k"], r["train.lr"]) for r in rows} == {(k, lr) for k in "13" for lr in ("1e-3", "4e-3")}
    for row in rows[::7]:
        sae = saes.load(out / row["path"])
        assert sae.hook_names == [row["hook_name"]] and sae.cfg.k == int(row["sae.k"])
        assert sae.provenance["thoughts"] == [row["thought_idx"]] and sae.provenance["seed"] == row["seed"]
        assert row["l0"] <= sae.cfg.k and row["split"] == "validation" and row["n"] == 20
    members = saes.load_members(out / "settings" / "000" / "seed_1")
    assert sorted(members) == sorted({r["member"] for r in rows})
    assert len(pq.read_table(out / "metrics.parquet")) == 2 * len(rows)


def test_means_and_fronts_are_those_of_the_table(done):
    _, result, out = done
    rows = pq.read_table(out / "table.parquet").to_pylist()
    for entry in result["settings"]:
        own = [r["fvu"] for r in rows if r["setting"] == entry["setting"]]
        assert len(own) == 12 and entry["fvu"] == pytest.approx(sum(own) / 12)
    for cell in result["cells"]:
        at = {p["setting"]: (p["l0"], p["fvu"]) for p in cell["points"]}
        beaten = {
            a for a in at for b in at
            if b != a and at[b][0] <= at[a][0] and at[b][1] <= at[a][1]
        }  # fmt: skip
        assert set(cell["front"]) == set(at) - beaten
        marked = {r["setting"] for r in rows if r["member"] == cell["member"] and r["front"]}
        assert marked == set(cell["front"])


def test_figures_and_words(done):
    _, _, out = done
    for name in ("heatmap_fvu", "heatmap_l0", "heatmap_dead", "fronts"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (out / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    text = (out / "table.md").read_text()
    assert text.count("sae.k=") == 4 and "of 6 cells" in text


def test_a_member_is_the_one_that_train_makes(done, thoughts, tmp_path):
    _, _, out = done
    cfg = TrainConfig(
        acts=thoughts, sae=saes.TopKConfig(d_sae=24, k=3), members=("per_cell",), seed=1,
        **TRAIN | {"lr": 4e-3}, group_size=1,
    )  # fmt: skip
    train(cfg, tmp_path / "sae")
    for name, alone in saes.load_members(tmp_path / "sae").items():
        member = saes.load(out / "settings" / "003" / "seed_1" / name)
        for a, b in zip(member.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_one_that_diverges_has_its_reason_and_the_others_their_weights(thoughts, tmp_path):
    recipe = {"sae": {"kind": "relu", "d_sae": 24, "l1": 0.1}, "train": TRAIN | {"checkpoint_every_s": 0.0}}
    cfg = GridConfig(acts=thoughts, grid=("train.lr=1e-3,1e38",), recipe=recipe)
    result = grid(cfg, tmp_path / "grid")
    rows = pq.read_table(tmp_path / "grid" / "table.parquet").to_pylist()
    assert [r["status"] for r in rows] == ["trained"] * 6 + ["failed"] * 6
    assert all("stopped after" in r["reason"] for r in rows[6:]) and result["n_failed"] == 6
    assert not any((tmp_path / "grid" / r["path"]).exists() for r in rows[6:])
    assert any((tmp_path / "grid" / "checkpoints").glob("001.*/0*/state.safetensors"))
    assert len(result["warnings"]) >= 6 and result["cells"][0]["front"] == [0]


def test_text_has_one_sae_a_hook_and_no_map(tmp_path):
    x, _ = planted(600, 8, 16, 2 / 16, seed=0)
    acts = write_store(tmp_path / "acts", {"layers.0:out": x, "layers.1:out": x.flip(1)})
    cfg = configure(
        "grid",
        "text-demo",
        ["sae.d_sae=16,24", "sae.k=2", "train.n_vectors=640", "train.batch_size=32"],
        acts,
    )
    result = grid(cfg, tmp_path / "grid")
    assert [c["member"] for c in result["cells"]] == ["layers.0-out", "layers.1-out"]
    assert {s["label"] for s in result["settings"]} == {"sae.d_sae=16", "sae.d_sae=24"}
    assert sorted(p.name for p in (tmp_path / "grid").glob("*.png")) == ["fronts.png"]


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (("sae.k=2,25",), "sae.k=25: .*expected 1 to d_sae = 24 latents per row, got 25"),
        (("train.batch_size=32,9999",), "train.batch_size=9999: batch_size = 9999 is above"),
    ],
)
def test_a_setting_that_cannot_be_trained_is_refused_before_anything_is(thoughts, tmp_path, axes, message):
    with pytest.raises(ConfigError, match=message):
        grid(GridConfig(acts=thoughts, grid=axes, recipe=RECIPE), tmp_path / "grid")
    assert list(tmp_path.iterdir()) == []


def test_axes_that_need_another_extraction(tmp_path):
    with pytest.raises(ConfigError, match="may vary"):
        configure("grid", "text-demo", ["model=gpt2,gpt2-medium"], tmp_path)


def test_plan(thoughts):
    expected = plan(GridConfig(acts=thoughts, grid=("sae.k=1,2,3",), seeds=(0, 1), recipe=RECIPE))
    assert expected.rows == 3 * 2 * 6 * 640 and expected.disk_bytes > 0  # 160 rows per cell, 4 passes
