"""The stage: a grid on a planted store."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp
import torch

from tests.sae.stores import planted, write_store
from thoughtlens import sae as saes
from thoughtlens.acts.extract.config import ExtractConfig
from thoughtlens.acts.extract.stage import extract
from thoughtlens.acts.store.reader import ActivationStore
from thoughtlens.core import ConfigError, DataError, validate_config
from thoughtlens.numerics import description_length
from thoughtlens.studies.sweep import study
from thoughtlens.studies.sweep.measure import measure, stability

pytestmark = pytest.mark.slow

RECIPE = """
[sae]
kind = "topk"
d_sae = 24
k = 2
[train]
batch_size = 64
epochs = 3
evaluations = 2
lr = 0.004
"""


@pytest.fixture(scope="module")
def acts(tmp_path_factory):
    x, _ = planted(2000, 8, 16, 2 / 16, seed=0)
    return write_store(tmp_path_factory.mktemp("sweep") / "acts", {"layers.0:out": x})


@pytest.fixture
def recipe(tmp_path):
    file = tmp_path / "small.toml"
    file.write_text(RECIPE)
    return file


@pytest.fixture(scope="module")
def two_settings(acts, tmp_path_factory):
    """The folder of the settings k = 1 and k = 2."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "small.toml").write_text(RECIPE)
    study.run("sweep", folder / "small.toml", ["sae.k=1,2", "seeds=0"], folder / "out", acts=acts)
    return folder / "out" / "sweep" / "settings"


def test_a_grid_is_trained_measured_and_one_setting_recommended(acts, recipe, tmp_path):
    result = study.run(
        "sweep", recipe, ["sae.k=1,2", "sae.d_sae=8,24", "seeds=0,1"], tmp_path / "out", acts=acts
    )
    root = tmp_path / "out" / "sweep"
    table = pq.read_table(root / "table.parquet").to_pylist()
    assert [(row["label"], row["seed"]) for row in table] == [
        (f"sae.k={k} sae.d_sae={d}", seed) for k in (1, 2) for d in (8, 24) for seed in (0, 1)
    ]
    assert all(row["status"] == "trained" and row["n_test"] == row["n_validation"] == 200 for row in table)
    assert [row["l0_test"] <= int(row["sae.k"]) for row in table] == [True] * 8
    assert (result["chosen_on"], result["reported_on"]) == ("validation", "test")
    best = result["recommendation"]
    assert best["setting"] in {row["label"] for row in table}
    own = [row for row in table if row["label"] == best["setting"]]
    assert best["test"]["fvu"]["mean"] == pytest.approx(sum(row["fvu_test"] for row in own) / 2)
    assert result["headline"]["fvu"]["value"] == best["test"]["fvu"]["mean"]
    # validation rows decide: the recommended FVU is among those of the lowest there, not of the test rows
    mine = measure(root / own[0]["path"], ActivationStore.open(acts), "validation")
    assert own[0]["fvu_validation"] == pytest.approx(mine.fvu)
    assert own[0]["fvu_validation"] != own[0]["fvu_test"]
    assert mine.description == pytest.approx(mine.bits_which + mine.bits_values + mine.bits_residual)
    assert own[0]["description_validation"] == pytest.approx(mine.description)
    assert best["by"] == "description"
    assert best["values"][best["setting"]] <= 1.05 * min(best["values"].values())
    stable = {row["label"]: row["stability"] for row in result["settings"]}
    assert all(0 <= one["found_again_by_firings"] <= 1 and one["n_pairs"] == 2 for one in stable.values())
    for name in ("pareto.png", "pareto.pdf", "table.md"):
        assert (root / name).stat().st_size > 500
    assert f"Recommended: **{best['setting']}**".replace("_", "\\_") in (root / "table.md").read_text()
    assert saes.load(root / best["path"] / "seed_0").d_sae == own[0]["d_sae"]


def test_an_interrupted_sweep_trains_only_what_is_missing(acts, recipe, tmp_path):
    overrides = ["sae.k=1,2", "seeds=0,1"]
    whole = study.run("sweep", recipe, overrides, tmp_path / "whole", acts=acts)
    again = study.run("sweep", recipe, overrides, tmp_path / "whole", acts=acts)
    assert again == whole
    # what an interruption after the second training leaves behind
    begun = tmp_path / "part" / "sweep.tmp"
    begun.parent.mkdir()
    shutil.copytree(tmp_path / "whole" / "sweep", begun)
    for name in (
        "thoughtlens-files.json",
        "result.json",
        "table.parquet",
        "table.md",
        "pareto.png",
        "pareto.pdf",
    ):
        (begun / name).unlink()
    shutil.rmtree(begun / "settings" / "001")
    kept = begun / "settings" / "000" / "seed_1" / "sae.safetensors"
    stamp = kept.stat().st_mtime_ns
    resumed = study.run("sweep", recipe, overrides, tmp_path / "part", acts=acts)
    assert resumed["digest"] == whole["digest"]
    done = tmp_path / "part" / "sweep" / "settings" / "000" / "seed_1" / "sae.safetensors"
    assert done.stat().st_mtime_ns == stamp


def test_a_setting_that_cannot_be_trained_is_refused_before_any_training(acts, recipe, tmp_path):
    overrides = ["sae.k=2,30", "seeds=0"]
    with pytest.raises(ConfigError, match=r"sae.k=30: .*1 to d_sae = 24 latents per row, got 30"):
        study.run("sweep", recipe, overrides, tmp_path / "out", acts=acts)
    with pytest.raises(ConfigError, match=r"train.batch_size=99999: batch_size = 99999 is above the"):
        study.run("sweep", recipe, ["train.batch_size=64,99999", "seeds=0"], tmp_path / "out", acts=acts)
    assert not (tmp_path / "out").exists()
    result = study.run("sweep", recipe, overrides, tmp_path / "out", acts=acts, skip_refused=True)
    refused = result["settings"][1]
    assert (refused["label"], refused["n_seeds"]) == ("sae.k=30", 0)
    assert "got 30" in refused["reasons"][0]
    assert result["recommendation"]["setting"] == "sae.k=2"


def test_one_that_fails_does_not_take_the_others_with_it(acts, recipe, tmp_path):
    result = study.run("sweep", recipe, ["train.lr=1e38,0.004", "seeds=0"], tmp_path / "out", acts=acts)
    rows = pq.read_table(tmp_path / "out" / "sweep" / "table.parquet").to_pylist()
    assert [row["status"] for row in rows] == ["failed", "trained"]
    assert "lower train.lr" in rows[0]["reason"]
    assert rows[0]["fvu_test"] is None
    assert result["recommendation"]["setting"] == "train.lr=0.004"
    assert any("1e38" in text for text in result["warnings"])
    with pytest.raises(DataError, match="No setting could be trained"):
        study.run("sweep", recipe, ["train.lr=1e38,2e38", "seeds=0"], tmp_path / "none", acts=acts)


def test_a_sweep_s_own_config_runs_again(acts, recipe, tmp_path):
    first = study.run("sweep", recipe, ["sae.k=1,2", "seeds=0"], tmp_path / "a", acts=acts)
    config = tmp_path / "a" / "sweep" / "config.toml"
    second = study.run("sweep", config, [], tmp_path / "b")
    assert second["digest"] == first["digest"]
    plan = study.run("sweep", recipe, ["sae.k=1,2", "seeds=0,1"], tmp_path / "c", acts=acts, plan_only=True)
    assert plan["plan"]["sweep"]["rows"] == 4 * 75 * 64  # 3 passes over 1,600 rows in batches of 64
    assert not (tmp_path / "c").exists()


def test_splits_are_needed(tmp_path, recipe):
    x, _ = planted(80, 8, 16, 2 / 16, seed=0)
    store = write_store(tmp_path / "acts", {"layers.0:out": x})  # eight problems: all for training
    with pytest.raises(DataError, match="'validation' and no 'test'"):
        study.run("sweep", recipe, ["sae.k=1,2"], tmp_path / "out", acts=store)


def test_unknown_axis_names_the_nearest_key(acts, recipe, tmp_path):
    with pytest.raises(ConfigError, match=r"did you mean 'sae\.k'"):
        study.run("sweep", recipe, ["sae.kk=1,2"], tmp_path / "out", acts=acts)
    assert json.dumps(study.configure("sweep", recipe, ["sae.k=1,2"], acts).grid) == '["sae.k=1,2"]'


def test_thoughts_are_judged_by_the_answers_that_are_left(recipe, tmp_path):
    table = {
        "model": {"name": "codi-tiny", "dtype": "float32"},
        "problems": {"kind": "problems", "n": 200},
        "store_dtype": "float32",
    }
    extract(validate_config(ExtractConfig, table), tmp_path / "acts")
    overrides = ["sae.k=2,16", "sae.d_sae=96", "train.epochs=8", "seeds=0"]
    result = study.run("sweep", recipe, overrides, tmp_path / "out", acts=tmp_path / "acts", fidelity=True)
    few, many = pq.read_table(tmp_path / "out" / "sweep" / "table.parquet").to_pylist()
    assert few["n_fidelity_test"] == many["n_fidelity_test"] == result["untouched"]["n"] > 10
    assert result["untouched"]["value"] >= 0.95
    assert few["fidelity_test"] < many["fidelity_test"] <= 1
    found = result["settings"][0]["found"]
    assert {"n_steps", "operation"} <= set(found)
    whole = [share for name, share in found.items() if ", " not in name]
    assert few["recovered_test"] == pytest.approx(sum(whole) / len(whole))


def test_the_bits_of_a_row_are_those_of_its_codes_and_what_is_left(acts, two_settings):
    root, store = two_settings / "001" / "seed_0", ActivationStore.open(acts)
    x, sae = store.view(["layers.0:out"], split="validation").read(np.arange(200)), saes.load(root)
    with torch.no_grad():
        codes, residual = sae.encode(x).abs().double().numpy(), (x - sae(x)).double().numpy()
        each = sae.decode(torch.eye(sae.d_sae)) - sae.decode(torch.zeros(1, sae.d_sae))
    unit = np.sqrt(((x.double() - x.double().mean(0)) ** 2).mean().item())
    written = codes * each.norm(dim=1).double().numpy() / unit
    hand = description_length(residual / unit, sp.csr_array(written), 0.2)
    mine = measure(root, store, "validation", precision=0.2)
    assert (mine.bits_which, mine.bits_values, mine.bits_residual) == pytest.approx(tuple(hand), rel=1e-4)
    assert mine.bits_without is not None


def test_what_another_training_finds_again(acts, two_settings):
    one, other = (two_settings / name / "seed_0" for name in ("000", "001"))
    store = ActivationStore.open(acts)
    assert stability([one, one], store, "validation").found_again == 1
    apart = stability([one, other], store, "validation")
    assert apart.n_pairs == 2
    assert apart.found_again_by_firings < 1


def test_labels_of_texts_are_told_too_and_left_out_when_asked(recipe, tmp_path):
    x, _ = planted(3000, 8, 16, 2 / 16, seed=0)
    topic = np.arange(300) // 10 % 2
    x[:, 0] += torch.from_numpy(np.repeat(3.0 * topic, 10)).float()
    acts = write_store(tmp_path / "acts", {"layers.0:out": x}, labels={"topic": [f"t{i}" for i in topic]})
    found = [
        study.run("sweep", recipe, ["sae.k=1,2", "seeds=0"], tmp_path / name, acts=acts, **options)
        for name, options in (("with", {}), ("without", {"recovery": False}))
    ]
    assert [set(one["found"]) for one in found[0]["settings"]] == [{"topic"}] * 2
    assert [one["found"] for one in found[1]["settings"]] == [{}] * 2
    assert found[0]["recommendation"]["idx"] == found[1]["recommendation"]["idx"]
