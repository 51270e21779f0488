"""The suite as a stage, on a tiny random model."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from tests.evals.suites.planted import probe_sae
from tests.sae.formats import foreign
from thoughtlens import sae as saes
from thoughtlens.cli import app
from thoughtlens.core import ConfigError, HookError, MismatchError
from thoughtlens.evals.probing import probes
from thoughtlens.evals.suites import ours, protocol, summary
from thoughtlens.evals.suites.config import SuiteConfig
from thoughtlens.evals.suites.reading import last_tokens, latents, load_sae
from thoughtlens.evals.suites.stage import plan, suite
from thoughtlens.models.hf.capture import capture
from thoughtlens.models.hf.config import ModelConfig
from thoughtlens.models.hf.load import load
from thoughtlens.problems.text.labelled import PREFIX, binary_sets, labelled

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("sae_probes") is None, reason="sae-probes is not installed"
)
HOOK = "layers.2:out"
SETS = ("119_us_state_TX", "129_arith_mc_A")
FAST = {
    "datasets": SETS, "ks": (1, 4), "own_ks": (2,), "folds": 2, "inner_folds": 2, "c_grid": (0.1,),
    "n_resamples": 100, "context_length": 32, "penalty": "l2",
}  # fmt: skip


@pytest.fixture(scope="module")
def sae_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("sae")
    sae = saes.create(saes.ReLUConfig(d_sae=24, normalization="none"), 32, seed=0)
    sae.hook_names = [HOOK]
    saes.save(sae, root)
    return root


def config(tiny_lm_dir, sae_dir, **options):
    model = ModelConfig(name=str(tiny_lm_dir), dtype="float32")
    return SuiteConfig(model=model, sae=sae_dir, **{**FAST, **options})


@pytest.fixture(scope="module")
def done(tiny_lm_dir, sae_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("suite") / "out"
    return out, suite(config(tiny_lm_dir, sae_dir), out)


def table(out, name):
    return pq.read_table(out / f"{name}.parquet").to_pylist()


@pytest.mark.slow
def test_there_are_113_sets():
    names = binary_sets()
    assert len(set(names)) == 113
    assert len(set(labelled(PREFIX + names[-1])["label"].to_pylist())) == 2


def test_both_protocols_stand_side_by_side(done):
    out, result = done
    json.dumps(result, allow_nan=False)
    assert [row["dataset"] for row in result["datasets"]] == list(SETS)
    theirs, own = table(out, "sae_probes"), table(out, "table")
    assert [(r["arm"], r["k"]) for r in theirs] == [("raw", None), ("sae", 1), ("sae", 4)] * 2
    assert {r["arm"] for r in own} == {"sae", "raw", "top_latents", "text", "majority"}
    for row in theirs:
        assert row["low"] <= row["auc"] <= row["high"] and row["n_train"] + row["n_test"] < 1500
    for row in own:
        assert row["n"] == next(d["n"] for d in result["datasets"] if d["dataset"] == row["dataset"])
    assert set(result["definitions"]) >= {"auc", "p_holm", "n_leaked", "best"}


def test_raw_scores_come_from_the_last_tokens(done, tiny_lm_dir, sae_dir):
    out, result = done
    cfg = config(tiny_lm_dir, sae_dir)
    data = labelled(PREFIX + SETS[0])
    y = np.unique(data["label"].to_pylist(), return_inverse=True)[1]
    x = last_tokens(load(str(tiny_lm_dir), dtype="float32"), HOOK, data["text"].to_pylist(), cfg)
    taken = protocol.split(y, 42)
    raw = x.numpy()
    found = protocol.fit(
        raw[taken.train], y[taken.train], raw[taken.test], y[taken.test], penalty="l2", seed=42
    )
    assert table(out, "sae_probes")[0]["auc"] == pytest.approx(found.auc, abs=1e-6)
    groups = np.unique(data["group"].to_pylist(), return_inverse=True)[1]
    leaked = np.isin(groups[taken.test], groups[taken.train]).sum()
    assert result["datasets"][0]["n_leaked"] == leaked > 0
    folds = probes.make_folds(y, groups, n_splits=2, n_inner=2, seed=0)
    own = probes.probe(latents(*load_sae(sae_dir, None, None), x), y, folds, n_classes=2, grid=(0.1,))
    row = next(r for r in table(out, "table") if r["arm"] == "sae")
    assert row["accuracy"] == pytest.approx((own.pred == y).mean())


def test_copies_of_a_text_are_never_on_both_sides_of_our_folds(done):
    _, result = done
    assert any("n_leaked" in text for text in result["warnings"])
    for row in result["datasets"]:
        assert row["n_texts"] < row["n"]


def test_comparisons_are_corrected_over_the_sets(done):
    out, result = done
    rows = table(out, "comparisons")
    families = {(r["protocol"], r["arm"]) for r in rows}
    assert families == {
        ("sae-probes", "sae"), *(("thoughtlens", a) for a in ("sae", "top_latents", "text", "majority"))
    }  # fmt: skip
    for family in families:
        pair = sorted((r for r in rows if (r["protocol"], r["arm"]) == family), key=lambda r: r["p"])
        assert len(pair) == 2 and {r["dataset"] for r in pair} == set(SETS)
        # Holm by hand: the smaller p counts twice, the larger at least as much
        assert pair[0]["p_holm"] == pytest.approx(min(1, 2 * pair[0]["p"]))
        assert pair[1]["p_holm"] == pytest.approx(min(1, max(2 * pair[0]["p"], pair[1]["p"])))
        assert all(
            r["verdict"] in ("better", "worse", "equivalent", "inconclusive", "no information") for r in pair
        )
    # two sets say nothing of others: means without intervals
    assert result["sae_probes"]["sae_minus_raw"]["n"] == 2
    assert result["sae_probes"]["sae_minus_raw"]["low"] is None


def test_means_over_sets_have_intervals_from_five_on():
    cfg = SuiteConfig(sae=Path("x"))
    a, b = [0.8, 0.7, 0.75, 0.9, 0.85], [0.6, 0.55, 0.5, 0.7, 0.6]
    found = summary._difference(a, b, cfg)
    # differences 0.2, 0.15, 0.25, 0.2, 0.25: mean 0.21, standard error 0.0187, t of 4 degrees 2.776
    assert found.value == pytest.approx(0.21) and found.verdict == "better"
    assert (found.low, found.high) == pytest.approx((0.158, 0.262), abs=5e-4)


def test_thinning_keeps_texts_whole():
    groups = np.array([0, 0, 0, 1, 1, 2, 3, 3, 3, 3, 4, 4])
    for most in range(4, 12):
        keep = ours._thinned(groups, most, seed=1)
        assert 0 < len(keep) <= most
        for group in np.unique(groups[keep]):
            assert (groups[keep] == group).sum() == (groups == group).sum()
    assert len(ours._thinned(groups, 0, seed=1)) == len(ours._thinned(groups, 12, seed=1)) == 12


def test_finished_sets_are_not_done_again(done, tiny_lm_dir, sae_dir, tmp_path):
    out, whole = done
    # what a kill leaves: the sets that were finished, told from new ones by a number that no set has
    first = {
        "dataset": SETS[0], "n": 4711, "n_texts": 1, "classes": ["a", "b"], "model_digest": "d",
        "theirs": {
            "table": [{**r, "converged": True} for r in table(out, "sae_probes")[:3]],
            "best_k": 1, "latents": [0], "sae_minus_raw": {
                "auc": whole["datasets"][0]["auc_sae_minus_raw"],
                "accuracy": table(out, "comparisons")[0],
            },
        },
        "ours": None,
    }  # fmt: skip
    parts = tmp_path / "out.tmp" / "parts"
    parts.mkdir(parents=True)
    (parts / f"{SETS[0]}.json").write_text(json.dumps(first))
    result = suite(config(tiny_lm_dir, sae_dir), tmp_path / "out")
    assert result["datasets"][0]["n"] == 4711
    assert result["datasets"][1] == whole["datasets"][1]
    again = [r for r in table(tmp_path / "out", "table") if r["dataset"] == SETS[1]]
    assert again == [r for r in table(out, "table") if r["dataset"] == SETS[1]]
    assert not (tmp_path / "out" / "parts").exists()


def test_last_tokens_do_not_depend_on_the_batch(tiny_lm_dir, sae_dir):
    lm = load(str(tiny_lm_dir), dtype="float32")
    texts = ["a", "some longer text than that", "x" * 300, "two words"]
    found = last_tokens(lm, HOOK, texts, config(tiny_lm_dir, sae_dir, batch_tokens=64, bos="always"))
    for text, own in zip(texts, found, strict=True):
        ids = lm.tokenizer(text, add_special_tokens=False)["input_ids"][-31:]
        ids = torch.tensor([[lm.tokenizer.bos_token_id, *ids]])
        assert torch.allclose(own, capture(lm.model, ids, None, [HOOK])[HOOK][0, -1], atol=1e-5)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"datasets": ("119_us_state_TY",)}, ConfigError, "did you mean '119_us_state_TX'"),
        ({"hook_name": "layers.9:out"}, HookError, "layers.0 to layers.3"),
        ({"member": "a"}, ConfigError, r"\(pooled\), got 'a'"),
    ],
)
def test_bad_input(tiny_lm_dir, sae_dir, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        suite(config(tiny_lm_dir, sae_dir, **options), tmp_path / "out")


def test_an_sae_of_another_model(tiny_lm_dir, tmp_path):
    sae = saes.create(saes.ReLUConfig(d_sae=24), 16, seed=0)
    sae.hook_names = [HOOK]
    saes.save(sae, tmp_path / "sae")
    with pytest.raises(MismatchError, match=r"width 16, .* has 32 at layers.2:out"):
        suite(config(tiny_lm_dir, tmp_path / "sae"), tmp_path / "out")


def test_saes_of_other_libraries_and_several_in_a_folder(tmp_path):
    path = foreign.openai(tmp_path / "a")
    with pytest.raises(HookError, match="does not stand at exactly one"):
        load_sae(path, None, None)
    assert load_sae(path, None, "layers.1:out")[1] == "layers.1:out"
    for name in ("b", "c"):
        saes.save(probe_sae(), tmp_path / "several" / name)
    with pytest.raises(ConfigError, match="expected one of b, c"):
        load_sae(tmp_path / "several", None, None)
    assert load_sae(tmp_path / "several", "c", None)[1] == "layers.1:out"


def test_plan_counts_sets(sae_dir):
    assert plan(SuiteConfig(sae=sae_dir)).rows == 113 * 3000
    assert plan(SuiteConfig(sae=sae_dir, datasets=SETS)).rows == 2 * 3000


def test_commands(tiny_lm_dir, sae_dir, tmp_path):
    run = CliRunner().invoke
    recipe = ["text-demo", f"model={tiny_lm_dir}", "model.dtype=float32", "--suite", "sae-probes"]
    given = [f"suite.{key}={json.dumps(value)}" for key, value in FAST.items() if key != "datasets"]
    sets = [f'suite.datasets=["{SETS[0]}"]', "suite.own=false", "--sae", str(sae_dir)]
    done = run(app, ["classify", *recipe, *given, *sets, "--out", str(tmp_path / "run")])
    result = json.loads(done.stdout)
    assert (result["suite"], result["n"], result["thoughtlens"]) == ("sae-probes", 1, None)
    assert (tmp_path / "run" / "suites" / "sae-probes" / "sae_probes.parquet").is_file()
    done = run(app, ["suite", "sae-probes", f"sae={sae_dir}", "--plan", "--out", str(tmp_path / "other")])
    assert json.loads(done.stdout)["plan"]["suite"]["rows"] == 113 * 3000
    done = run(app, ["classify", "pilot", "--suite", "sae-probes", "--out", str(tmp_path / "third")])
    assert isinstance(done.exception, ConfigError) and "has a thought model" in str(done.exception)
