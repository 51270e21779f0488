"""What is written for Neuronpedia, against its schema read by hand, on a run whose latents are planted."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.planted import D, planted_sae, text_store, thought_store
from thoughtlens.core import ConfigError, MismatchError, NotThereError, read_result, write_rows
from thoughtlens.latents.explain.records import ExplanationRow
from thoughtlens.latents.explain.scores import NO_BETTER
from thoughtlens.latents.interpret.config import InterpretConfig
from thoughtlens.latents.interpret.stage import interpret
from thoughtlens.latents.lens.records import LatentTokenRow
from thoughtlens.show.neuronpedia.config import NeuronpediaConfig
from thoughtlens.show.neuronpedia.formats import Example, Feature, Latent, Names, upload
from thoughtlens.show.neuronpedia.stage import neuronpedia

HOOK = ("layers.0:out",)
FEATURE = {
    "feature_index", "neuron_alignment_indices", "neuron_alignment_values", "neuron_alignment_l1",
    "correlated_neurons_indices", "correlated_neurons_l1", "correlated_neurons_pearson",
    "correlated_features_indices", "correlated_features_l1", "correlated_features_pearson", "neg_str",
    "neg_values", "pos_str", "pos_values", "frac_nonzero", "freq_hist_data_bar_values",
    "freq_hist_data_bar_heights", "logits_hist_data_bar_heights", "logits_hist_data_bar_values",
    "n_prompts_total", "n_tokens_in_prompt", "dataset", "activations", "decoder_weights_dist", "vector",
}  # fmt: skip
"""Fields of SAEDashboard 0.8's NeuronpediaDashboardFeature."""


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_lm_dir):
    """20 texts of 12 tokens; latent 3 fires with 2 + i / 10 on token 4 of text i, latent 9 never."""
    root = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    documents, strengths = [], []
    for i in range(20):
        documents.append(rng.integers(10, 200, 12))
        s = np.where(rng.random((12, D)) < 0.3, rng.random((12, D)), 0)
        s[:, [3, 9]] = 0
        s[4, 3] = 2 + i / 10
        strengths.append(s)
    text_store(root / "acts", tiny_lm_dir, documents, strengths)
    planted_sae(root / "sae", HOOK)
    interpret(InterpretConfig(acts=root / "acts", sae=root / "sae", top_k=4), root / "interpret")
    return root


def config(run, **options):
    return NeuronpediaConfig(run=run, **{"model_id": "Tiny-LM", "per_batch": 6, **options})


@pytest.fixture(scope="module")
def done(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("np") / "out"
    return out, neuronpedia(config(run), out)


def batches(out, folder):
    return [json.loads((out / folder / f"batch-{i}.json").read_text()) for i in range(3)]


def test_every_live_latent_once(done):
    out, result = done
    assert (result["n"], result["n_skipped"], result["n_batches"]) == (D - 1, 1, 3)
    assert (result["source"], result["model_id"]) == ("0-res-16", "tiny-lm")
    skipped = json.loads((out / "dashboard" / "skipped_indexes.json").read_text())
    assert skipped["skipped_indexes"] == [9] and skipped["sae_set"] == "res-16" and skipped["layer"] == "0"
    for folder, key in (("dashboard", "feature_index"), ("upload", "index")):
        found = [f[key] for batch in batches(out, folder) for f in batch["features"]]
        assert found == [i for i in range(D) if i != 9]


def test_dashboard_batches_have_the_fields_of_saedashboard(done):
    out, _ = done
    for batch in batches(out, "dashboard"):
        assert set(batch) == {"model_id", "layer", "sae_set", "sae_id_suffix", "features"}
        assert batch["layer"] == 0
        for feature in batch["features"]:
            assert set(feature) == FEATURE
            assert feature["n_prompts_total"] == 20 and 0 < feature["frac_nonzero"] <= 1
            assert sum(feature["freq_hist_data_bar_heights"]) == round(feature["frac_nonzero"] * 240)
            for example in feature["activations"]:
                assert len(example["tokens"]) == len(example["values"])
                assert all(isinstance(t, str) and t for t in example["tokens"])


def test_the_planted_latent(done):
    out, _ = done
    feature = batches(out, "dashboard")[0]["features"][3]
    assert feature["frac_nonzero"] == pytest.approx(20 / 240)
    # the decoder row is unit direction 3: all of its length is there
    assert feature["neuron_alignment_indices"][0] == 3 and feature["neuron_alignment_l1"][0] == 1.0
    top = [a for a in feature["activations"] if a["bin_contains"] == -1]
    assert len(top) == 4
    for example, value in zip(top, (3.9, 3.8, 3.7, 3.6), strict=True):
        assert example["values"][example["qualifying_token_index"]] == pytest.approx(value, abs=1e-5)
        assert sum(v != 0 for v in example["values"]) == 1
        assert (example["bin_min"], example["bin_max"]) == (-1, pytest.approx(3.9, abs=1e-5))
    drawn = [a for a in feature["activations"] if a["bin_contains"] == 0.1]
    assert len(drawn) == 20  # two fires in each decile, all of them drawn
    for a in drawn:
        assert a["bin_min"] - 1e-5 <= a["values"][a["qualifying_token_index"]] <= a["bin_max"] + 1e-5
    values, heights = feature["freq_hist_data_bar_values"], feature["freq_hist_data_bar_heights"]
    assert sum(heights) == 20 and heights[0] > 0 < heights[-1] and len(values) == len(heights)
    assert 1.8 < values[0] < values[-1] < 4.2


def test_upload_batches_keep_the_limits_of_a_request(done):
    out, _ = done
    for batch in batches(out, "upload"):
        assert set(batch) == {"modelId", "source", "features"} and 1 <= len(batch["features"]) <= 128
        assert batch["modelId"] == batch["modelId"].lower() and batch["source"] == "0-res-16"
        for feature in batch["features"]:
            assert isinstance(feature["index"], int) and 0 <= feature["density"] <= 1
            assert len(feature["topLogits"]) <= 20 and len(feature["activations"]) >= 1
            for a in feature["activations"]:
                assert 1 <= len(a["tokens"]) == len(a["values"]) <= 1024
                assert ("quantileFraction" in a) == ("quantileMin" in a) == ("quantileMax" in a)


def with_optional(run, tmp_path):
    """The run, with what the stages lens and explain write of latent 3."""
    root = tmp_path / "run"
    root.mkdir()
    for name in ("acts", "sae", "interpret"):
        (root / name).symlink_to(run / name)
    of_latent = {"member": "pooled", "latent": 3}
    logits = [
        LatentTokenRow(**of_latent, token_id=1, sign=s, rank=r, token=t, logit=s * (2.0 - r))
        for s, t, r in ((1, " b", 1), (1, "", 0), (-1, " c", 0))
    ]
    scores = ("auprc", "precision_at_half_recall", "pearson", "precision", "recall", "base_rate", "auprc_low")
    scores += ("auprc_high", "token_auprc", "random_auprc", "validation_auprc")
    common = of_latent | dict.fromkeys(scores, 0.5) | dict.fromkeys(("n", "n_units", "n_fires"), 9)
    said = [
        ExplanationRow(**common, split="test", method="token", text="x" * 600, chosen=True),
        ExplanationRow(**common, split="test", method="rules", text="other", chosen=False),
    ]
    said.append(replace(said[0], latent=4, text="chance", verdict=NO_BETTER))
    for stage in ("lens", "explain"):
        (root / stage).mkdir()
    write_rows(root / "lens" / "latents.parquet", LatentTokenRow, logits)
    write_rows(root / "explain" / "explanations.parquet", ExplanationRow, said)
    return root


def test_logits_and_explanations_where_the_run_has_them(run, tmp_path):
    root = with_optional(run, tmp_path)
    result = neuronpedia(config(root), tmp_path / "out")
    assert not {w for w in result["left_out"] if "lens" in w or "explain" in w}
    feature = batches(tmp_path / "out", "upload")[0]["features"][3]
    # in the order of their ranks; a token without characters would be refused there
    assert feature["topLogits"] == [{"token": " ", "value": 2.0}, {"token": " b", "value": 1.0}]
    assert feature["bottomLogits"] == [{"token": " c", "value": -2.0}]
    assert not batches(tmp_path / "out", "upload")[0]["features"][4]["explanations"]
    assert "explanations that are no better than chance, left out: 1" in result["warnings"]
    (text,) = [e["text"] for e in feature["explanations"]]
    assert len(text) == 512 and text.endswith("x…")


def test_deciles_become_quantiles():
    example = Example(
        bin_min=1.0, bin_max=2.0, bin_contains=0.1, tokens=["a"], values=[1.5], qualifying_token_index=0
    )
    feature = Feature(
        feature_index=1, frac_nonzero=0.1, activations=[example], neuron_alignment_indices=[],
        neuron_alignment_values=[], neuron_alignment_l1=[],
    )  # fmt: skip
    names = Names(
        model_id="m", layer=0, source_set="a", source="0-a", dataset="", n_prompts=1, n_tokens_in_prompt=1
    )
    found = upload(names, [Latent(feature)])["features"][0]["activations"]
    assert found == [
        {"tokens": ["a"], "values": [1.5], "quantileMin": 1.0, "quantileMax": 2.0, "quantileFraction": 0.1}
    ]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"model_id": None}, ConfigError, "model_id: expected Neuronpedia's name"),
        ({"member": "a"}, ConfigError, "got 'a'"),
        ({"source_set": "a b"}, ConfigError, "source_set: expected letters"),
    ],
)
def test_bad_input(run, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        neuronpedia(config(run, **options), tmp_path / "out")


def test_runs_that_cannot_be_shown(tmp_path):
    with pytest.raises(NotThereError, match="Expected a finished stage"):
        neuronpedia(config(tmp_path), tmp_path / "out")
    strengths = np.ones((12, 2, 2, D))
    thought_store(tmp_path / "acts", strengths, {"operation": ["a", "b"] * 6})
    planted_sae(tmp_path / "sae")
    interpret(InterpretConfig(acts=tmp_path / "acts", sae=tmp_path / "sae"), tmp_path / "interpret")
    assert read_result(tmp_path / "interpret")["kind"] == "thoughts"
    with pytest.raises(MismatchError, match="this run is of thoughts"):
        neuronpedia(config(tmp_path), tmp_path / "out")
