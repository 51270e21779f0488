"""The stage on codi-tiny, whose thoughts hold known values, and on text."""

from __future__ import annotations

import json
import os

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from tests.show.serve.runs import text_run
from thoughtlens import sae as saes
from thoughtlens.acts.extract.config import ExtractConfig
from thoughtlens.acts.extract.stage import extract
from thoughtlens.acts.store.reader import ActivationStore
from thoughtlens.cli import app
from thoughtlens.core import ConfigError, DataError, MismatchError, ResourceError, validate_config
from thoughtlens.latents.lens.config import LensConfig
from thoughtlens.latents.lens.rows import cell_rows
from thoughtlens.latents.lens.stage import lens, plan
from thoughtlens.latents.lens.tuned import finals
from thoughtlens.models.thought.thoughts import collect, load

SMALL = {"n_problems": 90, "n_fit": 300, "fit_steps": 40, "n_permutations": 40}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("lens")
    table = {
        "model": {"name": "codi-tiny", "dtype": "float32"},
        "problems": {"kind": "problems", "n": 1000},
        "store_dtype": "float32",
    }
    extract(validate_config(ExtractConfig, table), root / "acts")
    for name in ("x", "y"):
        sae = saes.create(saes.TopKConfig(d_sae=16, k=4, normalization="none"), 96, seed=0)
        sae.hook_names, sae.provenance = ["layers.1:out"], {"split": "train", "thoughts": None}
        saes.save(sae, root / "sae" / name)
    cfg = LensConfig(acts=root / "acts", sae=root / "sae", **SMALL)
    return root, lens(cfg, root / "lens")


def rows_of(root, **where):
    rows = pq.read_table(root / "lens" / "summary.parquet").to_pylist()
    return [row for row in rows if all(row[k] == v for k, v in where.items())]


def test_thoughts_hold_the_operations_and_the_values(run):
    root, result = run
    for column, thought in (("op1", 1), ("v1", 2), ("op2", 3)):
        place = {"column": column, "thought_idx": thought, "hook_name": "layers.1:out", "subset": "all"}
        (row,) = rows_of(root, lens="logit", **place)
        assert row["rate"] > 0.95 > 0.2 > row["null_high"] and row["p_max"] == pytest.approx(1 / 41)
    (row,) = rows_of(
        root, column="intermediate", thought_idx=2, lens="tuned", hook_name="layers.0:out", subset="all"
    )
    assert row["rate"] > 0.9 and row["low"] <= row["rate"] <= row["high"]
    assert result["headline"]["tuned_intermediate"]["thought_idx"] == 2
    hits = pq.read_table(root / "lens" / "hits.parquet").to_pandas()
    for name, own in hits.groupby(hits.lens.astype(str) + "_" + hits.column.astype(str)):
        told = result["headline"][name]
        assert (own.n.sum(), own.hits.sum() / own.n.sum()) == (told["n"], pytest.approx(told["value"]))
    assert len(hits) and hits.problem_id.nunique() == result["n"]
    assert result["warnings"] == []


def test_what_no_thought_holds_is_not_found(run):
    root, _ = run
    begin = rows_of(root, thought_idx=0, subset="all")
    assert begin and all(row["p_max"] > 0.05 for row in begin)
    wrong_place = rows_of(
        root, column="v1", thought_idx=5, lens="logit", hook_name="layers.1:out", subset="all"
    )
    assert wrong_place[0]["p_max"] > 0.05


def test_readings_are_the_models_own(run):
    root, _ = run
    table = pq.read_table(root / "lens" / "readings.parquet").to_pylist()
    store, model = ActivationStore.open(root / "acts"), load("codi-tiny")
    ids, problem = store.problems["problem_id"].to_pylist(), table[0]["problem_id"]
    places = ("lens", "hook_name", "thought_idx", "problem_id")
    for hook, thought in (("layers.0:out", 3), ("layers.1:out", 2)):
        chosen = [r for r in table if tuple(r[k] for k in places) == ("logit", hook, thought, problem)]
        here = (store.problem_idx == ids.index(problem)) & (store.thought_idx == thought)
        with torch.no_grad():
            p = model.readout(store.read(hook, np.flatnonzero(here)), "resid")[0].softmax(-1).topk(5)
        assert [r["rank"] for r in chosen] == list(range(5))
        assert [r["token_id"] for r in chosen] == p.indices.tolist()
        assert [r["probability"] for r in chosen] == pytest.approx(p.values.tolist(), rel=1e-4)
        assert [r["token"] for r in chosen] == [model.tokenizer.vocabulary[i] for i in p.indices]
    splits = dict(zip(ids, store.problems["split"].to_pylist(), strict=True))
    assert {splits[r["problem_id"]] for r in table} == {"test"}


def test_translators_help_on_problems_they_have_not_seen(run):
    root, result = run
    kl = {
        (r["hook_name"], r["thought_idx"]): r for r in pq.read_table(root / "lens" / "kl.parquet").to_pylist()
    }
    early, last = kl["layers.0:out", 2], kl["layers.1:out", 2]
    assert early["kl_tuned"] < 0.3 < early["kl_logit"] and early["kl_gain_low"] > 0
    assert early["kl_tuned"] < early["kl_constant"]
    assert last["is_identity"] and last["kl_logit"] == last["kl_tuned"] == pytest.approx(0, abs=1e-6)
    assert result["kl"][0]["n_fit"] == 300 and not early["is_identity"]
    tensors = load_file(root / "lens" / "translators.safetensors")
    assert tensors["layers.0:out/2/weight"].shape == (96, 96) and len(tensors) == 28


def test_last_states_that_were_not_stored_are_thought_again(run, tmp_path):
    root, _ = run
    table = {
        "model": {"name": "codi-tiny", "dtype": "float32"},
        "problems": {"kind": "problems", "n": 300},
        "hook_names": ["layers.0:out"],
        "store_dtype": "float32",
    }
    extract(validate_config(ExtractConfig, table), tmp_path / "acts")
    store, model = ActivationStore.open(tmp_path / "acts"), load("codi-tiny")
    (cell,) = (c for c in cell_rows(store, "test", 20, seed=0) if c.thought_idx == 3)
    found = finals(store, model, cell.line, batch_size=16)
    questions = [store.problems["question"][int(i)].as_py() for i in cell.line]
    expected = collect(model, questions, sites=("thought_out",)).thought_out[:, 3, 0]
    assert found.hook_name == "thought_out" and torch.allclose(found.pairs(cell).final, expected, atol=1e-5)
    stored = finals(ActivationStore.open(root / "acts"), model, cell.line, batch_size=16)
    assert stored.hook_name == "layers.1:out" and stored.states is None


def test_tables_of_tokens_and_latents(run):
    root, result = run
    tokens = pq.read_table(root / "lens" / "tokens.parquet").to_pylist()
    begin = [
        t for t in tokens if (t["lens"], t["hook_name"], t["thought_idx"]) == ("logit", "layers.1:out", 0)
    ]
    assert begin[0]["share"] == 1 and begin[0]["n"] == result["n"]  # the same state whatever the problem
    latents = pq.read_table(root / "lens" / "latents.parquet")
    assert latents["member"].unique().to_pylist() == ["x", "y"] and len(latents) == 2 * 16 * 2 * 10
    by_split = {row["subset"]: row["n"] for row in rows_of(root, column="v1", thought_idx=2, lens="logit")}
    assert by_split["all"] == by_split["right"] + by_split.get("wrong", by_split["all"] - by_split["right"])


def test_an_interrupted_run_ends_with_the_same_bytes(run, monkeypatch, tmp_path):
    root, _ = run
    cfg = LensConfig(acts=root / "acts", sae=root / "sae", **SMALL)
    real = os.replace

    def full_disk(source, target):
        if str(target).endswith("7.json"):
            raise OSError(28, "No space left on device")
        return real(source, target)

    monkeypatch.setattr("os.replace", full_disk)
    with pytest.raises(ResourceError, match="disk is full"):
        lens(cfg, tmp_path / "lens")
    monkeypatch.undo()
    done = (tmp_path / "lens.tmp" / "parts" / "3.safetensors").stat().st_mtime_ns
    assert done and not (tmp_path / "lens").exists()
    lens(cfg, tmp_path / "lens")
    for name in ("summary", "readings", "kl", "latents", "tokens"):
        ours, theirs = (r / "lens" / f"{name}.parquet" for r in (tmp_path, root))
        assert ours.read_bytes() == theirs.read_bytes(), name


def test_text_is_read_with_the_logit_lens_and_compared_with_the_next_token(tmp_path, tiny_lm_dir):
    root = text_run(tmp_path, tiny_lm_dir)
    cfg = LensConfig(acts=root / "acts", sae=root / "sae", split="train", n_permutations=30, max_rows=300)
    result = lens(cfg, root / "lens")
    (row,) = pq.read_table(root / "lens" / "summary.parquet").to_pylist()
    assert row["column"] == "next_token" and row["thought_idx"] is None and row["n"] < 300
    assert row["n_groups"] > 1 and 0 <= row["low"] <= row["rate"] <= row["high"] <= 1
    assert "text" in result["warnings"][0] and not (root / "lens" / "kl.parquet").exists()
    readings = pq.read_table(root / "lens" / "readings.parquet")
    assert len(readings) == 300 * 5 and "position" in readings.column_names
    assert len(pq.read_table(root / "lens" / "latents.parquet")) == 64 * 2 * 10


def test_a_model_without_a_way_to_its_logits_loses_the_lens_and_not_the_run(
    tmp_path, tiny_lm_dir, monkeypatch
):
    root = text_run(tmp_path, tiny_lm_dir)
    monkeypatch.setattr("thoughtlens.models.hf.output.blocks_path", lambda model: None)
    result = lens(LensConfig(acts=root / "acts", split="train"), root / "lens")
    (why,) = result["warnings"]
    assert why.startswith("nothing was read: LlamaForCausalLM has no list of blocks")
    assert result["n"] == 0 and result["headline"] == {}
    for name, columns in (("summary", "p_max"), ("readings", "probability"), ("tokens", "share")):
        table = pq.read_table(root / "lens" / f"{name}.parquet")
        assert len(table) == 0 and columns in table.column_names


def test_plan_and_refusals(run, tmp_path):
    root, _ = run
    assert plan(LensConfig(acts=root / "acts", n_problems=100)).rows == 1400
    assert plan(LensConfig(acts=tmp_path / "no")).rows == 0
    with pytest.raises(ConfigError, match="no 'v9'"):
        lens(LensConfig(acts=root / "acts", columns=("v9",), lenses=("logit",)), tmp_path / "1")
    with pytest.raises(ConfigError, match="no single token"):
        lens(LensConfig(acts=root / "acts", columns=("operation",), lenses=("logit",)), tmp_path / "2")
    with pytest.raises(DataError, match="nowhere"):
        lens(LensConfig(acts=root / "acts", split="nowhere"), tmp_path / "3")
    narrow = saes.create(saes.TopKConfig(d_sae=16, k=4, normalization="none"), 8, seed=0)
    narrow.hook_names = ["layers.1:out"]
    saes.save(narrow, tmp_path / "sae")
    with pytest.raises(MismatchError, match="width 8"):
        lens(LensConfig(acts=root / "acts", sae=tmp_path / "sae", lenses=("logit",)), tmp_path / "4")


def test_the_command_reads_a_run(run, tmp_path):
    root, _ = run
    words = ["lens", str(root), "n_problems=20", 'lenses=["logit"]', "n_permutations=20"]
    done = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "lens")])
    assert done.exit_code == 0, done.output
    assert {file.stem for file in (tmp_path / "lens").glob("*.parquet")} == {
        "hits", "latents", "logits", "readings", "summary", "tokens",
    }  # fmt: skip
    told = CliRunner().invoke(app, [*words, "--plan"])
    assert json.loads(told.stdout)["plan"]["rows"] == 14 * 20
