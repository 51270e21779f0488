"""Validation of thoughts: answers with thoughts replaced by reconstructions."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest
import torch

from thoughtlens import sae as saes
from thoughtlens.acts.extract.config import ExtractConfig
from thoughtlens.acts.extract.stage import extract
from thoughtlens.core import MismatchError, digest, load_config
from thoughtlens.evals.reconstruction.config import ValidateConfig
from thoughtlens.evals.reconstruction.stage import validate
from thoughtlens.models.hf.config import ModelConfig
from thoughtlens.models.thought import tiny
from thoughtlens.sae.train.config import TrainConfig
from thoughtlens.sae.train.stage import train
from thoughtlens.show.report.config import ReportConfig
from thoughtlens.show.report.stage import report

HOOKS = ("layers.0:out", "layers.1:out")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A store of codi-tiny, and an SAE that gives back exactly what it gets: x = relu(x) - relu(-x)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("thoughts")
    table = {"model": {"name": "codi-tiny", "dtype": "float32"}, "store_dtype": "float32"}
    table["problems"] = {"source": "generated", "n": 500}
    extract(load_config(ExtractConfig, table), root / "acts")
    sae = saes.create(saes.ReLUConfig(d_sae=192, normalization="none"), 96, seed=0)
    with torch.no_grad():
        sae.W_enc.copy_(torch.cat([torch.eye(96), -torch.eye(96)], 1))
        sae.W_dec.copy_(sae.W_enc.T)
        sae.b_enc.zero_()
        sae.b_dec.zero_()
    sae.hook_names = list(HOOKS)
    sae.provenance = {"split": "train", "acts_digest": digest(root / "acts"), "thoughts": list(range(7))}
    saes.save(sae, root / "sae")
    yield root
    torch.set_num_threads(threads)


def settings(root, **changed) -> ValidateConfig:
    return ValidateConfig(acts=root / "acts", sae=root / "sae", force=True, **changed)


def test_a_perfect_sae_costs_no_answer_and_the_mean_costs_nearly_all(run, tmp_path):
    result = validate(settings(run, answer_problems=40), tmp_path / "validate")
    rows = result["members"][0]["fidelity"]
    mine = [r for r in rows if r["arm"] == "sae"]
    # 2 layers x 7 passes, without the last block's last pass, and all of them at once
    assert len(mine) == 14 and len({(r["hook_name"], r["thought_idx"]) for r in mine}) == 14
    assert all(r["difference"] == 0 and r["kl"] == 0 and r["moved"] == 0 for r in mine)
    everything = {r["arm"]: r for r in rows if r["scope"] == "all"}
    assert set(everything) == {"sae", "pca_l0", "random", "cell_mean"}
    assert everything["cell_mean"]["verdict"] == "worse" and everything["cell_mean"]["accuracy"] < 0.3
    assert everything["sae"]["low"] < 0 < everything["sae"]["high"]
    first = next(iter(result["headline"]))
    assert first == "spliced_difference" and result["headline"][first]["value"] == 0
    assert result["headline"]["spliced_accuracy_cell_mean"]["value"] == everything["cell_mean"]["accuracy"]
    table = pq.read_table(tmp_path / "validate" / "fidelity.parquet")
    assert table.num_rows == len(rows) and set(table["n"].to_pylist()) == {40}


def test_without_problems_or_model_the_reason_is_said(run, tmp_path):
    result = validate(settings(run, answer_problems=0), tmp_path / "none")
    member = result["members"][0]
    assert member["fidelity"] is None and member["fidelity_skipped"] == "answer_problems is 0"
    assert "spliced_difference" not in result["headline"]


def test_another_model_is_refused(run, tmp_path):
    tiny.save(tiny.load("codi-tiny", seed=2).decoder, tmp_path / "other", {})
    cfg = settings(run, model=ModelConfig(name=str(tmp_path / "other"), dtype="float32"))
    with pytest.raises(MismatchError, match="other weights"):
        validate(cfg, tmp_path / "out")


@pytest.mark.slow
def test_members_are_spliced_one_by_one_and_reported(run, tmp_path):
    members = {"sae": {"kind": "topk", "d_sae": 64, "k": 8}, "members": ("per_layer",), "thoughts": (2, 6)}
    options = {"acts": run / "acts", "epochs": 1, "batch_size": 512, "evaluations": 2} | members
    train(load_config(TrainConfig, options), tmp_path / "sae")
    cfg = ValidateConfig(acts=run / "acts", sae=tmp_path / "sae", answer_problems=20, force=True)
    result = validate(cfg, tmp_path / "validate")
    places = [{(r["hook_name"], r["thought_idx"]) for r in m["fidelity"]} for m in result["members"]]
    # nothing reads the last block's output at the last pass
    assert places == [{(HOOKS[0], 2), (HOOKS[0], 6), (None, None)}, {(HOOKS[1], 2)}]
    report(ReportConfig(run=tmp_path), tmp_path / "report")
    assert "thoughts replaced by reconstructions" in (tmp_path / "report" / "report.md").read_text()
