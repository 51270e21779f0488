"""`attach` inside the other ways of running a model: TransformerLens and nnsight."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from thoughtlens import sae as saes
from thoughtlens.models.hf.attach import attach

pytestmark = pytest.mark.filterwarnings("default")
IDS = torch.arange(12).view(2, 6) + 5


@pytest.fixture
def sae():
    made = saes.create(saes.ReLUConfig(d_sae=48, normalization="none"), 32, seed=0).eval()
    made.hook_names = ["layers.2:out"]
    return made


@pytest.fixture
def model(tiny_lm_dir):
    return AutoModelForCausalLM.from_pretrained(tiny_lm_dir, dtype=torch.float32).eval()


@torch.no_grad()
def spliced(model, sae):
    with attach(model, sae) as seen:
        return model(IDS).logits, seen.acts


@torch.no_grad()
def test_hooked_transformer(sae):
    lens = pytest.importorskip("transformer_lens", reason="TransformerLens is not installed")
    cfg = lens.HookedTransformerConfig(
        n_layers=3, d_model=32, d_head=8, n_heads=4, d_mlp=64, n_ctx=32, d_vocab=50, act_fn="gelu", seed=0
    )
    model = lens.HookedTransformer(cfg).eval()
    plain = model(IDS)
    hooks = [("blocks.2.hook_resid_post", lambda x, hook: sae(x))]
    want = model.run_with_hooks(IDS, fwd_hooks=hooks)
    for name in (None, "blocks.2:out", "blocks.2.hook_resid_post:out"):
        with attach(model, sae, hook_name=name):
            assert torch.allclose(model(IDS), want, atol=1e-6)
            assert torch.allclose(model.run_with_cache(IDS)[0], want, atol=1e-6)
    assert not torch.allclose(want, plain, atol=1e-2)
    assert torch.equal(model(IDS), plain)


@torch.no_grad()
def test_transformer_bridge(sae, model, tiny_lm_dir):
    bridges = pytest.importorskip("transformer_lens.model_bridge", reason="no TransformerLens 3 here")
    bridge = bridges.TransformerBridge.boot_transformers(str(tiny_lm_dir), device="cpu")
    with attach(bridge, sae):
        assert torch.allclose(bridge(IDS), spliced(model, sae)[0], atol=1e-5)


@torch.no_grad()
def test_nnsight(sae, model):
    nnsight = pytest.importorskip("nnsight", reason="nnsight is not installed")
    want, acts = spliced(model, sae)
    traced = nnsight.NNsight(model)
    with attach(model, sae) as seen, traced.trace(IDS):
        logits = traced.output.logits.save()
    assert torch.allclose(getattr(logits, "value", logits), want, atol=1e-6)
    assert torch.allclose(seen.acts, acts, atol=1e-6)


@torch.no_grad()
def test_nnsight_inside_a_trace(sae, model):
    nnsight = pytest.importorskip("nnsight", "0.5", reason="nnsight 0.5 is not installed")
    want, _ = spliced(model, sae)
    traced = nnsight.NNsight(model)
    with traced.trace(IDS):
        traced.model.layers[2].output = sae(traced.model.layers[2].output)
        logits = traced.output.logits.save()
    assert torch.allclose(logits, want, atol=1e-6)
