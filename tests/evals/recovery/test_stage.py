"""Recovery on stores whose latents are known."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from tests.planted import D, planted_sae, thought_store
from thoughtlens import sae as saes
from thoughtlens.acts import ActivationStore, ExtractConfig
from thoughtlens.acts.extract.stage import extract
from thoughtlens.core import ConfigError, DataError, MismatchError, StoreError, validate_config
from thoughtlens.evals.recovery.config import RecoveryConfig
from thoughtlens.evals.recovery.made import open_model, think_again
from thoughtlens.evals.recovery.places import Held
from thoughtlens.evals.recovery.records import RIVALS, VariableBy
from thoughtlens.evals.recovery.stage import _conclusion, recovery
from thoughtlens.models import Place

N, VALUES = 600, 5


def planted(root, *, shift=0.0, drop=None):
    """Value v of `op` switches on direction v of hook 1 at thought 2; two directions per value of `half`."""
    rng = np.random.default_rng(0)
    op = rng.integers(VALUES, size=N)
    strengths = 0.05 * np.abs(rng.normal(size=(N, 4, 2, D))) * (np.arange(D) >= VALUES)
    amount = rng.permutation(N) / 7
    strengths[:, 3, 0, 9] = amount / amount.max()
    strengths[np.arange(N), 2, 1, op] = 1 + shift * rng.random(N)
    labels = {
        "op": [f"*{v}" for v in op],
        "half": [str(v // 2) for v in op],
        "noise": rng.choice(["a", "b"], size=N).tolist(),
        "steps": rng.choice([2, 3], size=N).tolist(),
        "same": ["x"] * N,
        "own": [f"u{i}" for i in range(N)],
        "amount": amount.tolist(),
    }
    splits = np.resize(["train", "train", "validation", "test"], N).tolist()
    labels["early"] = [None if s == "test" else str(v % 2) for s, v in zip(splits, op, strict=True)]
    if drop:
        splits = [s if s != drop else "train" for s in splits]
    thought_store(root / "acts", strengths, labels, splits)
    planted_sae(root / "sae", thoughts=[0, 1, 2, 3])
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return planted(tmp_path_factory.mktemp("recovery"))


@pytest.fixture(scope="module")
def result(folder):
    cfg = RecoveryConfig(acts=folder / "acts", sae=folder / "sae", by=("steps",), n_resamples=200)
    return recovery(cfg, folder / "recovery")


def test_each_value_has_its_latent_at_its_place(result, folder):
    op = result["variables"]["op"]
    assert op["place"] == {"hook_name": "layers.1:out", "thought_idx": 2} and op["n_values"] == VALUES
    assert op["found"]["value"] == op["probe"]["value"] == 1 and op["found"]["split"] == "test"
    assert op["variance_share"]["value"] > 0.8 and op["found"]["n"] == 150
    rows = [
        r for r in pq.read_table(folder / "recovery" / "values.parquet").to_pylist() if r["variable"] == "op"
    ]
    all_of_them = [r for r in rows if not r["condition"]]
    assert [(r["value"], r["latent"], r["f1"]) for r in all_of_them] == [
        (f"*{v}", v, 1.0) for v in range(VALUES)
    ]
    assert all(r["n_latents"] == r["n_sharing"] == 1 for r in all_of_them)
    assert {r["condition"] for r in rows} == {"", "steps=2", "steps=3"}


def test_two_latents_speak_for_a_value_of_two_directions(result):
    half = result["variables"]["half"]
    # values 0 and 1 of half are two directions each, value 2 is one
    assert half["found"]["value"] == pytest.approx(1 / 3) and half["found_by_two"]["value"] == 1


def test_what_is_not_there_is_not_found_and_permuted_labels_find_nothing(result):
    noise = result["variables"]["noise"]
    assert noise["found"]["value"] == 0 and noise["probe"]["low"] < 0.6
    assert abs(noise["variance_share"]["value"]) < 0.1
    assert result["variables"]["op"]["permuted"]["found_by_two"]["value"] == 0


def test_k_means_finds_what_a_place_holds_alone_and_it_is_said(result):
    kmeans = result["variables"]["op"]["baselines"]["kmeans"]
    assert kmeans["found_by_two"]["value"] == 1
    assert any(text.startswith("op: ") and "k-means" in text for text in result["warnings"])
    assert result["variables"]["op"]["baselines"]["random"]["found"]["value"] < 0.5


def test_labels_buy_what_a_probe_reads(result):
    op, noise = (result["variables"][name]["baselines"]["supervised"] for name in ("op", "noise"))
    assert op["found"]["value"] == 1 and op["best_f1"]["value"] > 0.95
    assert noise["found"]["value"] == 0


def test_the_comparison_with_k_means_has_a_verdict_and_a_sentence(result):
    more = result["variables"]["op"]["more_than_kmeans"]
    assert more["verdict"] == "equivalent" and more["low"] <= more["value"] <= more["high"]
    assert result["conclusion"].startswith("Beside k-means with as many centroids, this SAE finds ")
    assert "no value of" in result["conclusion"] and "noise" in result["conclusion"]


def test_the_sentence_names_every_plain_rival_that_does_as_well_and_says_where_none_does(result):
    said, known = result["conclusion"], result["variables"]
    for arm, words in RIVALS.items():
        ours = [name for name, one in known.items() if arm in one.get("as_well", [])]
        assert (f"{words} of {', '.join(ours)}" in said) == bool(ours)
        for name, one in known.items():
            gap = one["found_by_two"]["value"] - one["baselines"][arm]["found_by_two"]["value"]
            assert name not in ours or (gap <= 0.05 and one["found_by_two"]["value"] > 0)
    assert not known["noise"].get("as_well") and "random" not in known["op"].get("as_well", [])
    none = _conclusion({})
    beaten = {"op": VariableBy.from_json(known["op"] | {"as_well": []})}
    also = {"op": VariableBy.from_json(known["op"] | {"as_well": ["pca"]})}
    assert none == "" and _conclusion(beaten).endswith("none is shown to tell as many of any variable.")
    assert _conclusion(also).endswith("As many (within 0.05) are told by PCA directions of op.")


def test_kinds_of_values_are_looked_for_too(result):
    kinds = result["variables"]["op"]["kinds"]
    # the values *0 to *4 are of the kinds that `half` tells, which have no latents of their own
    assert kinds["n_kinds"] == 3 and kinds["found"]["value"] == pytest.approx(1 / 3)
    assert kinds["absorbed"]["value"] + kinds["composed"]["value"] == pytest.approx(1)
    assert "kinds" not in result["variables"]["half"]
    assert result["variables"]["half"]["n_latents"]["value"] == pytest.approx(5 / 3)


def test_nothing_is_made_where_problems_are_not_generated(result):
    assert result["n_made"] == 0


def test_numbers_of_many_values_have_bins_and_a_latent_that_follows_them(result):
    amount = result["variables"]["amount"]
    assert amount["n_values"] == 10 and amount["found"]["value"] == 0
    followed = result["numbers"]["amount"]
    assert followed["place"] == {"hook_name": "layers.0:out", "thought_idx": 3} and followed["latent"] == 9
    assert followed["rank_correlation"]["value"] > 0.9 and followed["rank_correlation"]["p_holm"] < 0.05
    assert set(result["numbers"]) == {"amount"}


def test_more_values_than_latents_are_said(folder, tmp_path):
    planted_sae(tmp_path / "sae", thoughts=[2])
    sae = saes.load(tmp_path / "sae")
    few = saes.create(saes.ReLUConfig(d_sae=3, normalization="none"), D, seed=0)
    few.hook_names, few.provenance = sae.hook_names, sae.provenance
    saes.save(few, tmp_path / "few")
    cfg = RecoveryConfig(acts=folder / "acts", sae=tmp_path / "few", columns=("op",), n_resamples=100)
    result = recovery(cfg, tmp_path / "out")
    assert "op: 5 values, and the SAE has 3 latents" in " ".join(result["warnings"])


def test_an_sae_of_another_model_is_refused(folder, tmp_path):
    planted_sae(tmp_path / "sae")
    sae = saes.load(tmp_path / "sae")
    sae.provenance = {**sae.provenance, "thought_convention": "counts from 1"}
    saes.save(sae, tmp_path / "other")
    with pytest.raises(MismatchError, match="thought convention"):
        recovery(RecoveryConfig(acts=folder / "acts", sae=tmp_path / "other"), tmp_path / "out")


def test_the_problems_of_another_store_are_refused(folder, tmp_path):
    shutil.copytree(folder / "acts", tmp_path / "acts")
    table = pq.read_table(folder / "acts" / "problems.parquet")
    ids = table["problem_id"].to_pylist()
    other = table.set_column(0, "problem_id", [[f"other-{i}" for i in ids]])
    pq.write_table(other, tmp_path / "acts" / "problems.parquet")
    with pytest.raises(StoreError, match="problems"):
        recovery(RecoveryConfig(acts=tmp_path / "acts", sae=folder / "sae"), tmp_path / "out")


def test_what_is_wrong_with_a_column_is_said(folder, tmp_path):
    said = {"same": "one value only", "own": "600 values", "early": "no problem of the split test"}
    for column, why in said.items():
        cfg = RecoveryConfig(acts=folder / "acts", sae=folder / "sae", columns=(column,))
        with pytest.raises(ConfigError, match=f"label {column}: .*{why}"):
            recovery(cfg, tmp_path / column)


def test_conditions_repeat_everything(result):
    by = result["variables"]["op"]["by"]["steps"]
    assert set(by) == {"2", "3"} and by["2"]["found"]["n"] + by["3"]["found"]["n"] == 150
    assert "steps" not in result["variables"]["steps"]["by"]


def test_columns_that_cannot_be_looked_for_are_named(result, folder, tmp_path):
    assert any("own" in text for text in result["left_out"])
    for column in ("same", "own"):
        cfg = RecoveryConfig(acts=folder / "acts", sae=folder / "sae", columns=(column,))
        with pytest.raises(ConfigError, match=column):
            recovery(cfg, tmp_path / column)
    with pytest.raises(ConfigError, match="nowhere"):
        recovery(
            RecoveryConfig(acts=folder / "acts", sae=folder / "sae", columns=("nowhere",)), tmp_path / "no"
        )


def test_too_few_problems_end_no_run(folder, tmp_path):
    cfg = RecoveryConfig(acts=folder / "acts", sae=folder / "sae", min_count=400)
    result = recovery(cfg, tmp_path / "out")
    assert result["variables"] == {} and "nothing was looked for" in result["warnings"][0]
    assert pq.read_table(tmp_path / "out" / "values.parquet").num_rows == 0


def test_a_missing_split_is_one_line(tmp_path):
    root = planted(tmp_path, drop="validation")
    with pytest.raises(DataError, match="validation"):
        recovery(RecoveryConfig(acts=root / "acts", sae=root / "sae"), tmp_path / "out")


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """A small store of codi-tiny, and an SAE of planted directions of its width."""
    root = tmp_path_factory.mktemp("generated")
    table = {
        "model": {"name": "codi-tiny", "dtype": "float32"},
        "problems": {"source": "generated", "n": 600},
    }
    extract(validate_config(ExtractConfig, table | {"hook_names": ["layers.1:out"]}), root / "acts")
    sae = saes.create(
        saes.TopKConfig(d_sae=32, k=2), ActivationStore.open(root / "acts").meta.d_in["layers.1:out"], seed=0
    )
    sae.hook_names, sae.provenance = ["layers.1:out"], {"split": "train", "thoughts": [2, 4]}
    saes.save(sae, root / "sae")
    return root


@pytest.mark.slow
def test_problems_are_made_until_each_value_has_enough(generated, tmp_path):
    cfg = RecoveryConfig(
        acts=generated / "acts",
        sae=generated / "sae",
        columns=("v1",),
        per_value=20,
        min_count=2,
        n_resamples=100,
    )
    result = recovery(cfg, tmp_path / "out")
    rows = pq.read_table(tmp_path / "out" / "values.parquet").to_pylist()
    v1 = [r["n"] for r in rows if r["variable"] == "v1"]
    assert len(v1) > 5 and min(v1) >= 20
    store = ActivationStore.open(generated / "acts")
    own = np.array(store.problems["split"]) == "test"
    whole = result["variables"]["v1"]
    assert result["n_made"] > 0 and whole["probe"]["n"] > own.sum()
    assert whole["probe"]["value"] > 0.8  # the states are those of the same places


def test_the_same_states_come_from_the_same_questions(generated):
    store = ActivationStore.open(generated / "acts")
    some = store.problems.slice(0, 8)
    made = think_again(store, open_model(store), some, ["layers.1:out"])
    held = Held(store)
    place = Place("layers.1:out", 4)
    rows = held.rows(place, "train")
    first = np.flatnonzero(rows.problem < 8)
    assert torch.allclose(made.at(place)[rows.problem[first]], rows.x[first], atol=0.05)


def test_a_model_that_cannot_be_opened_ends_no_run(generated, tmp_path, monkeypatch):
    shutil.copytree(generated / "acts", tmp_path / "acts")
    meta = json.loads((tmp_path / "acts" / "meta.json").read_text())
    (tmp_path / "acts" / "meta.json").write_text(json.dumps(meta | {"model_digest": "0" * 64}))
    cfg = RecoveryConfig(
        acts=tmp_path / "acts", sae=generated / "sae", columns=("v1",), min_count=2, n_resamples=100
    )
    monkeypatch.setenv("THOUGHTLENS_UNCHECKED", "1")
    result = recovery(cfg, tmp_path / "out")
    assert result["n_made"] == 0 and "no further test problems were made" in result["warnings"][0]
