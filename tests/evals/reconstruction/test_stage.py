from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from tests.conftest import save_tiny_lm
from tests.evals.reconstruction.planted import (
    ATOMS,
    HOOKS,
    ROWS,
    D,
    atoms,
    codes,
    config,
    in_test,
    oracle,
    write,
)
from thoughtlens import metrics
from thoughtlens import sae as saes
from thoughtlens.acts.extract.config import ExtractConfig
from thoughtlens.acts.extract.stage import extract
from thoughtlens.acts.store.reader import ActivationStore
from thoughtlens.acts.store.writer import StoreWriter
from thoughtlens.core import DataError, MismatchError, NotThereError, Parts, ResourceError, digest
from thoughtlens.evals.reconstruction.config import ValidateConfig
from thoughtlens.evals.reconstruction.stage import plan, validate
from thoughtlens.models.hf.config import ModelConfig
from thoughtlens.problems.config import TextConfig
from thoughtlens.sae.train.config import TrainConfig
from thoughtlens.sae.train.stage import train

pytestmark = pytest.mark.slow


@pytest.fixture
def planted(tmp_path):
    x = codes(4000) @ atoms()
    acts = write(tmp_path / "acts", {HOOKS[0]: x})
    return acts, oracle(tmp_path / "sae", acts), x


def test_the_numbers_are_those_of_the_test_rows(planted, tmp_path):
    acts, sae_dir, x = planted
    result = validate(config(acts, sae_dir), tmp_path / "out")
    test = x[in_test(4000)]
    sae = saes.load(sae_dir)
    expected = metrics.Reconstruction()
    density = metrics.Density(ATOMS)
    with torch.no_grad():
        expected.update(test, sae(test))
        density.update(sae.encode(test))
    values = expected.compute()
    values.pop("legacy_explained_variance")  # depends on the batches
    member = result["members"][0]
    got = member["reconstruction"]["sae"]
    assert {name: got[name] for name in values} == pytest.approx(values, rel=1e-6)
    assert (member["n"], member["n_problems"], member["n_train"]) == (1200, 120, 2800)
    assert member["sparsity"]["l0"] == pytest.approx((codes(4000)[in_test(4000)] != 0).sum().item() / 1200)
    firing = pq.read_table(tmp_path / "out" / "firing.parquet")
    assert (firing["fires"].to_numpy() == density.fires).all()
    assert firing["dead"].to_pylist() == [False] * ATOMS
    assert result["headline"]["fvu"] == {
        "value": pytest.approx(values["fvu"]), "n": 1200, "split": "test",
        "low": pytest.approx(1 - got["explained_variance_high"]),
        "high": pytest.approx(1 - got["explained_variance_low"]),
    }  # fmt: skip
    assert got["explained_variance_low"] < got["explained_variance"] < got["explained_variance_high"]
    own = pq.read_table(tmp_path / "out" / "problems.parquet").to_pandas()
    assert len(own) == 120 and own.n.sum() == 1200 and set(own.member) == {"pooled"}
    assert own.error.sum() / own.spread.sum() == pytest.approx(values["fvu"])
    assert set(member["reconstruction"]) == {"sae", "pca_l0", "pca_live", "random", "mean"}
    assert result["definitions"]["fvu"] == metrics.FVU.definition


def test_baselines_and_verdicts_on_a_planted_dictionary(planted, tmp_path):
    acts, sae, _ = planted
    member = validate(config(acts, sae), tmp_path / "out")["members"][0]
    ev = {name: r["explained_variance"] for name, r in member["reconstruction"].items()}
    width = {name: r["d_sae"] for name, r in member["reconstruction"].items()}
    assert width == {"sae": ATOMS, "pca_l0": 2, "pca_live": ATOMS, "random": ATOMS, "mean": 0}
    assert ev["pca_live"] == pytest.approx(1, abs=1e-6)  # 12 directions are all there are
    assert ev["sae"] > 0.6 > max(ev["random"], ev["pca_l0"])
    assert ev["mean"] == pytest.approx(0, abs=0.01)
    words = {c["baseline"]: c["verdict"] for c in member["comparisons"]}
    assert words == {"pca_l0": "better", "pca_live": "worse", "random": "better", "mean": "better"}
    table = pq.read_table(tmp_path / "out" / "reconstruction.parquet").to_pylist()
    assert {r["reconstructor"]: r["explained_variance"] for r in table} == pytest.approx(ev)
    assert {(r["member"], r["n"], r["rows"], r["hook_name"]) for r in table} == {
        ("pooled", 1200, "kept", None)
    }


def test_baselines_never_see_the_test_rows(tmp_path):
    x = codes(4000) @ atoms()
    new = torch.linalg.svd(atoms())[2][-1]  # a direction without atoms
    test = in_test(4000)
    x[test] += 20 * torch.randn(int(test.sum()), 1, generator=torch.Generator().manual_seed(1)) * new
    acts = write(tmp_path / "acts", {HOOKS[0]: x})
    member = validate(config(acts, oracle(tmp_path / "sae", acts)), tmp_path / "out")["members"][0]
    assert member["reconstruction"]["pca_live"]["explained_variance"] < 0.1


def refused(tmp_path, acts, sae, message, **changes):
    with pytest.raises(DataError, match=message):
        validate(config(acts, sae, **changes), tmp_path / "out")
    result = validate(config(acts, sae, force=True, **changes), tmp_path / "out")
    assert any("FORCED" in w for w in result["warnings"])
    assert json.loads((tmp_path / "out" / "result.json").read_text())["warnings"] == result["warnings"]
    return result


def test_training_rows_are_refused(planted, tmp_path):
    refused(tmp_path, *planted[:2], "evaluation rows = training rows", split="train")


def test_too_few_training_rows_are_refused(tmp_path):
    acts = write(tmp_path / "acts", {HOOKS[0]: codes(200) @ atoms()})
    result = refused(tmp_path, acts, oracle(tmp_path / "sae", acts), "trained on 140 vectors of width 16")
    assert any("judged on 60 vectors" in w for w in result["warnings"])


def test_an_l0_near_the_width_is_refused(tmp_path):
    acts = write(tmp_path / "acts", {HOOKS[0]: codes(4000, density=0.6) @ atoms()})
    refused(tmp_path, acts, oracle(tmp_path / "sae", acts), "above d_in / 4")


def test_twins_across_the_split_are_refused(tmp_path):
    groups = [f"g{i // 8}" for i in range(400)]
    acts = write(tmp_path / "acts", {HOOKS[0]: codes(4000) @ atoms()}, groups=groups)
    refused(tmp_path, acts, oracle(tmp_path / "sae", acts), "groups of problems are both in")


def test_an_sae_of_another_store_model_or_hook_is_refused(planted, tmp_path):
    acts, _, x = planted
    other = write(tmp_path / "other", {HOOKS[0]: x + 1})
    with pytest.raises(MismatchError, match="was trained on the store"):
        validate(config(other, planted[1]), tmp_path / "out")
    assert validate(config(other, planted[1], force=True), tmp_path / "forced")["warnings"]
    model = write(tmp_path / "model", {HOOKS[0]: x}, meta={"model_digest": "b" * 64})
    theirs = oracle(tmp_path / "theirs", model, model_digest="a" * 64)
    with pytest.raises(MismatchError, match="the model with digest"):
        validate(config(model, theirs), tmp_path / "out")
    with pytest.raises(MismatchError, match=r"trained on 'layers\.1:out'"):
        validate(config(acts, oracle(tmp_path / "hook", acts, HOOKS[1:])), tmp_path / "out")
    narrow = write(tmp_path / "narrow", {HOOKS[0]: x[:, :8]})
    with pytest.raises(MismatchError, match="takes width 16"):
        validate(config(narrow, oracle(tmp_path / "wide", narrow)), tmp_path / "out")


def test_missing_inputs_and_empty_splits_are_refused(planted, tmp_path):
    acts, sae, _ = planted
    with pytest.raises(NotThereError):
        validate(config(tmp_path / "none", sae), tmp_path / "out")
    with pytest.raises(NotThereError):
        validate(config(acts, tmp_path / "none"), tmp_path / "out")
    with pytest.raises(DataError, match="validation"):
        validate(config(acts, sae, split="validation"), tmp_path / "out")


@pytest.fixture
def thoughts(tmp_path):
    """Two hooks, three thoughts; each cell far from the others."""
    shift = torch.arange(6).reshape(2, 3, 1) * 10.0
    acts = {}
    for h, hook in enumerate(HOOKS):
        x = (codes(3000, seed=h) @ atoms()).reshape(1000, 3, D) + shift[h]
        acts[hook] = x.reshape(3000, D)
    return write(tmp_path / "acts", acts, thoughts=3)


def test_cells_are_judged_one_by_one_and_their_means_explain_nothing_within(thoughts, tmp_path):
    cfg = TrainConfig(
        acts=thoughts, sae=saes.TopKConfig(d_sae=24, k=3), epochs=6, batch_size=512, lr=3e-3,
        validation_split="none", device="cpu",
    )  # fmt: skip
    train(cfg, tmp_path / "sae")
    result = validate(config(thoughts, tmp_path / "sae"), tmp_path / "out")
    member = result["members"][0]
    by_name = member["reconstruction"]
    assert by_name["cell_mean"]["explained_variance"] > 0.99
    assert by_name["cell_mean"]["explained_variance_within"] == pytest.approx(0, abs=0.02)
    assert by_name["mean"]["explained_variance"] == pytest.approx(0, abs=0.02)
    assert by_name["sae"]["explained_variance_within"] > by_name["random"]["explained_variance_within"]
    assert by_name["pca_l0"]["explained_variance_within"] > 0.1  # it knows the cells' means as the SAE does
    assert "explained_variance_within" in result["headline"]
    for name in ("pca_l0", "random"):
        shown = result["headline"][f"explained_variance_{name}"]
        assert shown["low"] < shown["value"] == by_name[name]["explained_variance"] < shown["high"]
    assert member["fidelity"] is None and "model of the store is not there" in member["fidelity_skipped"]
    table = pq.read_table(tmp_path / "out" / "reconstruction.parquet").to_pylist()
    cells = [r for r in table if r["reconstructor"] == "sae" and r["hook_name"]]
    assert [(r["hook_name"], r["thought_idx"]) for r in cells] == [(h, t) for h in HOOKS for t in range(3)]
    assert [r["n"] for r in cells] == [300] * 6
    assert all(r["explained_variance"] < by_name["sae"]["explained_variance"] for r in cells)


def test_members_are_judged_on_their_own_rows_and_an_interrupted_run_ends_the_same(
    thoughts, tmp_path, monkeypatch
):
    cfg = TrainConfig(
        acts=thoughts, sae=saes.TopKConfig(d_sae=24, k=3), epochs=1, batch_size=256, members="per_layer",
        validation_split="none", device="cpu",
    )  # fmt: skip
    train(cfg, tmp_path / "sae")
    whole = validate(config(thoughts, tmp_path / "sae"), tmp_path / "whole")
    assert [m["member"] for m in whole["members"]] == ["layers.0-out", "layers.1-out"]
    assert [m["n"] for m in whole["members"]] == [900, 900]
    real, calls = Parts.write_table, []

    def full_disk(*args, **kwargs):
        calls.append(args)
        if len(calls) == 4:  # in the middle of the second member
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args, **kwargs)

    monkeypatch.setattr(Parts, "write_table", full_disk)
    with pytest.raises(ResourceError, match="disk is full"):
        validate(config(thoughts, tmp_path / "sae"), tmp_path / "cut")
    assert not (tmp_path / "cut").exists()
    resumed = validate(config(thoughts, tmp_path / "sae"), tmp_path / "cut")
    differs = ("seconds", "git_commit")  # the time it took, and a commit made while the test ran
    assert {k: v for k, v in resumed.items() if k not in differs} == {
        k: v for k, v in whole.items() if k not in differs
    }
    for name in ("reconstruction", "firing", "fidelity"):
        file = f"{name}.parquet"
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert not (tmp_path / "cut" / "parts").exists()


def test_flagged_rows_are_left_out_and_shown_apart(tmp_path):
    x = codes(4000) @ atoms()
    outlier = np.arange(4000) % ROWS == 0
    x[torch.from_numpy(outlier)] *= 1000
    acts = write(tmp_path / "acts", {HOOKS[0]: x}, outlier=outlier)
    sae = oracle(tmp_path / "sae", acts, drop_outliers=True)
    member = validate(config(acts, sae), tmp_path / "out")["members"][0]
    assert (member["n"], member["n_flagged_left_out"]) == (1080, 120)
    rows = pq.read_table(tmp_path / "out" / "reconstruction.parquet").to_pylist()
    mse = {r["rows"]: (r["n"], r["mse"]) for r in rows if r["reconstructor"] == "mean"}
    assert mse["kept"][0] == 1080 and mse["all"][0] == 1200
    assert mse["all"][1] > 1000 * mse["kept"][1]
    assert member["reconstruction"]["mean"]["mse"] == mse["kept"][1]


def test_threads_do_not_change_the_numbers(planted, tmp_path):
    acts, sae, _ = planted
    before = torch.get_num_threads()
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(validate(config(acts, sae), tmp_path / f"out{threads}")["members"][0]["reconstruction"])
    torch.set_num_threads(before)
    for name, values in found[0].items():
        assert found[1][name] == pytest.approx(values, rel=1e-6, abs=1e-9)


def test_plan_needs_no_inputs(planted, tmp_path):
    acts, sae, _ = planted
    assert plan(config(tmp_path / "none", tmp_path / "none")).rows == 0
    assert plan(config(acts, sae)).rows == 1200


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> tuple[Path, Path]:
    """A tiny random model, and what it makes of short documents at two layers."""
    root = tmp_path_factory.mktemp("text")
    model = save_tiny_lm(root / "model")
    rng = np.random.default_rng(0)
    words = ["sum", "two", "three", "apples", "and", "the", "cost", "of", "each", "day"]
    lines = [" ".join(rng.choice(words, size=rng.integers(8, 30))) for _ in range(120)]
    (root / "text.jsonl").write_text("\n".join(json.dumps({"text": line}) for line in lines))
    cfg = ExtractConfig(
        model=ModelConfig(name=str(model), dtype="float32"),
        problems=TextConfig(source=str(root / "text.jsonl"), validation=0.0, test=0.4),
        hook_names=("layers.1:out", "layers.2:out"),
        context_length=64,
        store_dtype="float32",
    )
    extract(cfg, root / "acts")
    return root / "acts", model


def identity_sae(root, acts, scale=1.0, shift=0.0):
    """x_hat = scale * x + shift, out of 2 * d latents."""
    d = 32
    sae = saes.create(saes.ReLUConfig(d_sae=2 * d, normalization="none"), d, seed=0)
    with torch.no_grad():
        eye = torch.eye(d)
        sae.W_enc.copy_(torch.cat([eye, -eye]).T)
        sae.W_dec.copy_(scale * torch.cat([eye, -eye]))
        sae.b_enc.zero_()
        sae.b_dec.zero_()
    sae.hook_names = ["layers.1:out", "layers.2:out"]
    sae.provenance = {"split": "train", "acts_digest": digest(acts), "model_digest": None}
    saes.save(sae, root)
    return root


def spliced(text, tmp_path, sae, name="out", **changes):
    acts, model = text
    table = {"ce_tokens": 600, "force": True, "model": ModelConfig(name=str(model), dtype="float32")}
    result = validate(ValidateConfig(acts=acts, sae=sae, **table | changes), tmp_path / name)
    rows = result["members"][0]["fidelity"]
    assert pq.read_table(tmp_path / name / "fidelity.parquet").num_rows == len(rows)
    return {(r["hook_name"], r["arm"]): r for r in rows}


def test_the_identity_costs_the_model_nothing(text, tmp_path):
    got = spliced(text, tmp_path, identity_sae(tmp_path / "sae", text[0]))
    assert {hook for hook, _ in got} == {"layers.1:out", "layers.2:out"}
    assert {arm for _, arm in got} == {"sae", "pca_l0", "pca_live", "random", "zero", "mean"}
    for hook in ("layers.1:out", "layers.2:out"):
        sae, zero, mean = (got[hook, arm] for arm in ("sae", "zero", "mean"))
        assert (sae["delta_ce"], sae["kl"], sae["top1_agreement"]) == (0, 0, 1)
        assert sae["kl_score_zero"] == sae["kl_score_mean"] == 1
        assert zero["kl_score_zero"] == 0 and mean["kl_score_mean"] == 0
        assert zero["kl"] > 1e-4 and mean["kl"] > 1e-4
        assert sae["n"] == zero["n"] == mean["n"] > 400
        assert sae["n_documents"] > 2


def test_an_sae_of_zeros_is_worth_a_zero_ablation_although_the_first_token_is_never_replaced(text, tmp_path):
    got = spliced(text, tmp_path, identity_sae(tmp_path / "sae", text[0], scale=0.0), baselines=())
    for hook in ("layers.1:out", "layers.2:out"):
        assert got[hook, "sae"]["kl"] == got[hook, "zero"]["kl"] > 0
        assert got[hook, "sae"]["kl_score_zero"] == 0
    store = ActivationStore.open(text[0])
    assert store.rows["position"].to_numpy().min() == 1  # position 0 is begin of sequence, not stored


def test_the_clean_model_is_the_same_however_much_else_is_spliced(text, tmp_path):
    full = spliced(text, tmp_path, identity_sae(tmp_path / "half", text[0], scale=0.5), "a")
    few = spliced(text, tmp_path, identity_sae(tmp_path / "whole", text[0]), "b", baselines=())
    key = ("layers.1:out", "zero")
    assert full[key]["ce_clean"] == few[key]["ce_clean"]
    assert full[key]["kl"] == few[key]["kl"]
    assert 0 < full["layers.1:out", "sae"]["kl"] < full[key]["kl"]


def test_another_model_is_refused(text, tmp_path):
    other = save_tiny_lm(tmp_path / "other", seed=1)
    sae = identity_sae(tmp_path / "sae", text[0])
    with pytest.raises(MismatchError, match="other weights"):
        spliced(text, tmp_path, sae, model=ModelConfig(name=str(other), dtype="float32"))


def test_activations_that_the_model_does_not_give_are_refused(text, tmp_path):
    acts, model = text
    store = ActivationStore.open(acts)
    table = store.rows
    meta = store.meta.model_copy(update={"n_rows": 0, "shards": [], "tables": {}, "model_digest": None})
    writer = StoreWriter(tmp_path / "acts", meta)
    columns = {n: table[n].to_numpy(zero_copy_only=False) for n in table.column_names if n != "row"}
    columns["problem_id"] = np.array(table["problem_id"].to_pylist(), object)
    rows = np.arange(store.n_rows)
    turned = {hook: store.read(hook, rows).flip(1) for hook in store.hook_names}
    writer.append(turned, columns)
    writer.finish(store.problems)
    sae = identity_sae(tmp_path / "sae", tmp_path / "acts")
    with pytest.raises(MismatchError, match="does not give the activations"):
        spliced((tmp_path / "acts", model), tmp_path, sae)


def test_what_is_wrong_with_several_saes_is_said_once_with_their_names(tmp_path):
    acts = write(tmp_path / "acts", {HOOKS[0]: codes(200) @ atoms()})
    for name in ("left", "right"):
        oracle(tmp_path / "sae" / name, acts)
    with pytest.raises(DataError) as caught:
        validate(config(acts, tmp_path / "sae"), tmp_path / "out")
    assert str(caught.value).count("trained on 140 vectors") == 1
    assert "left" in str(caught.value) and "right" in str(caught.value)
