"""Logits of states equal the model's own, whatever it does to them after its last block."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

from thoughtlens.core import HookError
from thoughtlens.models import OutputSide
from thoughtlens.models.hf.capture import capture

SIZES = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
FAMILIES = {
    "gpt2": {},
    "llama": {},
    "phi": {},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 3, "max_seq_len": 64},
    "rwkv": {"attention_hidden_size": 32, "rescale_every": 3},
    "jamba": {"num_experts": 2, "use_mamba_kernels": False},
    "recurrent_gemma": {"lru_width": 32},
    "lfm2": {"layer_types": ["conv", "full_attention", "conv"]},
    "gpt_neox": {},
    "gpt_neo": {"num_layers": 3, "num_heads": 4, "attention_types": [[["global"], 3]]},
    "bloom": {"n_head": 4},
    "falcon": {},
    "starcoder2": {},
    "gpt_bigcode": {},
    "mamba": {"state_size": 4},
    "openai-gpt": {},
    "stablelm": {},
    "olmo2": {},
    "granite": {"logits_scaling": 8.0, "embedding_multiplier": 12.0},
    "granitemoe": {"logits_scaling": 6.0, "num_local_experts": 2, "num_experts_per_tok": 1},
    "gemma2": {"final_logit_softcapping": 3.0, "head_dim": 8},
    "cohere": {"logit_scale": 0.0625},
    "cohere2": {"logit_scale": 0.25},
    "hyperclovax": {"logits_scaling": 0.25},
}
CHANGED = ("granite", "granitemoe", "gemma2", "cohere", "cohere2", "hyperclovax")
"""Those that change their logits outside the head."""


def tiny(family: str, **options) -> PreTrainedModel:
    known = CONFIG_MAPPING[family]()
    sizes = {name: value for name, value in SIZES.items() if hasattr(known, name)}
    config = CONFIG_MAPPING[family](**sizes | FAMILIES.get(family, {}) | options)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval().requires_grad_(False)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


def last_states(model: PreTrainedModel, side: OutputSide, ids: torch.Tensor) -> torch.Tensor:
    return capture(model, ids, None, [f"layers.{len(side.blocks) - 1}:out"]).popitem()[1]


def agrees_with_the_model(model: PreTrainedModel) -> OutputSide:
    side, ids = OutputSide(model), torch.tensor([[7, 3, 11, 4]])
    want, decoded = model(input_ids=ids, use_cache=False).logits[0], []
    handle = side.decoder.register_forward_hook(lambda m, x, out: decoded.append(out.last_hidden_state))
    model(input_ids=ids, use_cache=False)
    handle.remove()
    torch.testing.assert_close(side(last_states(model, side, ids)[0]), want, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(side.head(decoded[0])[0], want, atol=1e-5, rtol=1e-5)
    assert (side.d, side.n_vocab) == (32, 50)
    return side


@pytest.mark.parametrize("family", FAMILIES)
def test_states_after_the_last_block_give_the_models_logits(family):
    agrees_with_the_model(tiny(family))


@pytest.mark.parametrize("options", [{"word_embed_proj_dim": 16}, {"do_layer_norm_before": False}])
def test_a_projection_after_the_norm_or_no_norm_at_all(options):
    sizes = {"ffn_dim": 48, "word_embed_proj_dim": 32}
    agrees_with_the_model(tiny("opt", **sizes | options))


@pytest.mark.parametrize("family", CHANGED)
def test_scale_and_cap_are_in_the_probabilities(family):
    model = tiny(family)
    side = OutputSide(model)
    x = torch.randn(4, side.d)
    plain = model.get_output_embeddings()(side.decoder.norm(x)).softmax(-1)
    assert (side(x).softmax(-1) - plain).abs().max() > 0.01


def test_gradients_flow_and_the_model_is_left_as_it_was():
    model, ids = tiny("llama"), torch.tensor([[7, 3, 11, 4]])
    side, before = OutputSide(model), model(input_ids=ids).logits
    x = torch.randn(2, 32, requires_grad=True)
    side(x).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
    torch.testing.assert_close(model(input_ids=ids).logits, before)


def test_a_model_whose_logits_need_more_is_refused():
    class Restless(nn.Module):
        def forward(self, x):
            return x + torch.rand_like(x)

    model = tiny("llama")
    model.model.norm = Restless()
    with pytest.raises(HookError, match=r"more than the output of its last block in model\.layers"):
        OutputSide(model)
    with pytest.raises(HookError, match="no logits"):
        OutputSide(model.model)
