"""SAEBench's own runners take our SAEs unchanged, and see in them what we see."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.evals.suites.planted import D, planted_rows, probe_sae
from thoughtlens.evals.suites.adaptor import as_sae_lens
from thoughtlens.models.hf.attach import attach
from thoughtlens.numerics.metrics.sparsity import L0
from thoughtlens.problems.text.labelled import PREFIX, labelled

lens = pytest.importorskip("transformer_lens", reason="TransformerLens is not installed")
pytest.importorskip("xgboost", reason="xgboost, which sae-probes imports, is not installed")
pytest.importorskip("sae_bench", reason="SAEBench is not installed")
pytestmark = pytest.mark.filterwarnings("default")
TOKENS = torch.randint(0, 50, (4, 9), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model():
    cfg = lens.HookedTransformerConfig(
        n_layers=2, d_model=D, d_head=8, n_heads=2, d_mlp=32, n_ctx=32, d_vocab=50, act_fn="gelu", seed=0
    )
    return lens.HookedTransformer(cfg).eval()


@torch.no_grad()
def test_core_metrics(model):
    from sae_bench.evals.core import main as core
    from sae_bench.sae_bench_utils.general_utils import load_and_format_sae

    ours = probe_sae()
    _, sae, _ = load_and_format_sae("ours", as_sae_lens(ours, model_name="tiny"), "cpu")
    store = SimpleNamespace(get_batch_tokens=lambda n: TOKENS)
    found, _ = core.get_sparsity_and_variance_metrics(
        sae, model, store, n_batches=1, eval_batch_size_prompts=4, model_kwargs={},
        compute_l2_norms=True, compute_sparsity_metrics=True, compute_variance_metrics=True,
        compute_featurewise_density_statistics=True,
    )  # fmt: skip
    x = model.run_with_cache(TOKENS)[1]["blocks.1.hook_resid_post"].flatten(0, 1)
    l0, error = L0(), (x - ours(x)).square().sum(1).mean().item()
    l0.update(ours.encode(x))
    assert found["l0"] == pytest.approx(l0.compute())
    assert found["mse"] * len(x) == pytest.approx(error, rel=1e-5)
    assert found["l2_norm_out"] == pytest.approx(ours(x).norm(dim=1).mean().item(), rel=1e-5)
    losses = core.get_recons_loss(sae, model, TOKENS, store, compute_kl=True, compute_ce_loss=True)
    with attach(model, ours):
        spliced = model(TOKENS, return_type="loss", loss_per_token=True)
    assert torch.allclose(losses["ce_loss_with_sae"], spliced, atol=1e-5)
    weights = core.get_featurewise_weight_based_metrics(sae)
    # the encoder column j is half of unit direction j, the decoder row its double: together 1
    assert weights["encoder_norm"] == pytest.approx([1.0] * D)
    assert weights["encoder_decoder_cosine_sim"] == pytest.approx([1.0] * D)


def test_sparse_probing(tmp_path):
    from sae_bench.evals.sparse_probing_sae_probes import main as probing
    from sae_bench.evals.sparse_probing_sae_probes.eval_config import SparseProbingSaeProbesEvalConfig

    name, hook = "119_us_state_TX", "blocks.1.hook_resid_post"
    y = np.unique(labelled(PREFIX + name)["label"].to_pylist(), return_inverse=True)[1]
    cache = tmp_path / "cache" / "model_activations_tiny"
    cache.mkdir(parents=True)
    torch.save(planted_rows(y), cache / f"{name}_{hook}.pt")
    config = SparseProbingSaeProbesEvalConfig(
        model_name="tiny", dataset_names=[name], ks=[1, 2], results_path=str(tmp_path / "results"),
        model_cache_path=str(tmp_path / "cache"),
    )  # fmt: skip
    sae = as_sae_lens(probe_sae(), model_name="tiny")
    probing.run_eval(config, [("ours", sae)], "cpu", str(tmp_path / "out"))
    found = json.loads(next((tmp_path / "out").glob("*.json")).read_text())
    assert found["sae_cfg_dict"]["hook_name"] == hook
    assert found["eval_result_metrics"]["sae"]["sae_top_1_test_accuracy"] > 0.6
