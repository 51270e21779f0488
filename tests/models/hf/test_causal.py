"""Attention in blocks of queries, beside torch's."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from thoughtlens.models.hf import causal as blocks
from thoughtlens.models.hf.capture import capture
from thoughtlens.models.hf.load import config_digest


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("seq", [1, 63, 64, 65, 200])
@pytest.mark.parametrize(("heads", "groups"), [(6, 2), (4, 4), (3, 1)])
def test_it_is_torchs_attention(seq, heads, groups):
    q, k, v = drawn(2, heads, seq, 8), drawn(2, groups, seq, 8), drawn(2, groups, seq, 5)
    theirs = scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3, enable_gqa=True)
    torch.testing.assert_close(blocks.causal(q, k, v, 0.3), theirs.transpose(1, 2), rtol=1e-5, atol=1e-5)


@pytest.fixture
def model(monkeypatch):
    """A tiny Llama in bfloat16 on a CPU that is said to be fast at it."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "vocab_size": 50}
    config = LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, attn_implementation="sdpa")
    return LlamaForCausalLM(config).to(torch.bfloat16).eval().requires_grad_(False)


def test_a_model_reads_the_same_within_rounding(model, monkeypatch):
    ids, hook = torch.randint(50, (3, 150)), "layers.1:out"
    before, digest = capture(model, ids, None, [hook])[hook].float(), config_digest(model.config)
    seen = []
    own = blocks.causal
    monkeypatch.setattr(blocks, "causal", lambda *a: seen.append(a[0].shape) or own(*a))
    blocks.attend_in_blocks(model)
    after = capture(model, ids, None, [hook])[hook].float()
    assert len(seen) == 2
    assert 0 < (after - before).norm() / before.norm() < 0.01
    assert config_digest(model.config) == digest


def test_what_is_padded_on_the_left_short_or_has_gradients_is_torchs(model, monkeypatch):
    ids, hook = torch.randint(50, (2, 70)), "layers.1:out"
    mask = torch.ones_like(ids)
    mask[0, :9] = 0
    embedded = model.get_input_embeddings()(ids).requires_grad_()
    before = capture(model, ids, mask, [hook])[hook][mask.bool()], model(inputs_embeds=embedded).logits
    blocks.attend_in_blocks(model)
    monkeypatch.setattr(blocks, "causal", lambda *a: pytest.fail("not for this one"))
    capture(model, ids[:, :20], None, [hook])
    after = capture(model, ids, mask, [hook])[hook][mask.bool()], model(inputs_embeds=embedded).logits
    assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True))


def test_a_saved_model_does_not_ask_for_it(model, tmp_path):
    blocks.attend_in_blocks(model)
    assert model.config._attn_implementation == blocks.NAME
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.config._attn_implementation == "sdpa"


def test_float32_stays_torchs(model):
    blocks.attend_in_blocks(model.float())
    assert model.config._attn_implementation == "sdpa"
