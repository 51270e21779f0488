"""Names of hooks translated by architecture: on tiny models, what they give adds up to the stream."""

from __future__ import annotations

import json

import pytest
import torch
import transformers

from thoughtlens.models import resolve
from thoughtlens.sae.formats import hooks
from thoughtlens.sae.formats.sites import SITES, model_type

N, LAYERS = 12, 2
BASE = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GATED = BASE | {"intermediate_size": 24, "num_key_value_heads": 2}
HEADS = GATED | {"head_dim": 4}
MODELS = {
    "gpt2": BASE,
    "gpt_neo": {
        **BASE,
        "num_layers": LAYERS,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
        "intermediate_size": 24,
    },
    "gptj": BASE | {"rotary_dim": 4},
    "codegen": BASE | {"rotary_dim": 4},
    "gpt_bigcode": BASE,
    "gpt_neox": BASE | {"intermediate_size": 24, "use_parallel_residual": True},
    "falcon": BASE | {"parallel_attn": True},
    "bloom": BASE,
    "mpt": BASE | {"d_model": 16, "n_heads": 4, "n_layers": LAYERS, "expansion_ratio": 2},
    "opt": BASE | {"ffn_dim": 24, "word_embed_proj_dim": 16},
    "phi": GATED,
    "phi3": GATED,
    "llama": GATED,
    "mistral": GATED,
    "qwen2": GATED,
    "qwen3": HEADS,
    "starcoder2": GATED,
    "stablelm": GATED,
    "cohere": GATED,
    "gemma": HEADS,
    "gemma2": HEADS,
    "gemma3_text": HEADS,
    "glm4": HEADS,
    "olmo": GATED,
    "olmo2": GATED,
    "exaone4": GATED | {"layer_types": ["full_attention"] * LAYERS},
    "mixtral": GATED | {"num_local_experts": 2},
}
NORMALISED_AFTER = {"olmo2": ("post_attention_layernorm", "post_feedforward_layernorm")}
NORMALISED_AFTER["exaone4"] = NORMALISED_AFTER["olmo2"]


@pytest.fixture(scope="module", params=MODELS)
def tiny(request, tmp_path_factory):
    """A model with random weights and norms, and a folder whose config.json names it."""
    kind = request.param
    config = transformers.AutoConfig.for_model(kind, **MODELS[kind])
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    folder = tmp_path_factory.mktemp(kind)
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    return kind, model if kind == "mixtral" else model.double(), str(folder)  # experts know no float64


@torch.no_grad()
def at(tiny, *names):
    """Activations at TransformerLens's names: by torch's own hooks, as OPT's MLP takes no batch."""
    _, model, folder = tiny
    found = {}
    for name in names:
        module, _, side = resolve(model, hooks.from_lens(name, folder))
        if side == "in":
            module.register_forward_pre_hook(
                lambda _, args, kwargs, name=name: keep(found, name, [*args, *kwargs.values()]),
                with_kwargs=True,
            )
        else:
            module.register_forward_hook(lambda _, args, out, name=name: keep(found, name, out))
    model(torch.arange(3, 3 + N)[None])
    return [found[name] for name in names]


def keep(found, name, value):
    value = value if isinstance(value, torch.Tensor) else value[0]
    found[name] = value.reshape(N, -1).clone()


def close(a, b):
    return torch.allclose(a, b, rtol=1e-4, atol=1e-6 * float(b.abs().max()))


def test_what_the_parts_add_is_the_stream(tiny):
    kind, model, _ = tiny
    block = "blocks.1."
    names = ("hook_resid_pre", "hook_attn_out", "hook_mlp_out", "hook_resid_post")
    before, attn, mlp, after = at(tiny, *(block + name for name in names))
    if kind in NORMALISED_AFTER:  # there TransformerLens shows what goes into the norm
        norms = [model.get_submodule(f"model.layers.1.{name}") for name in NORMALISED_AFTER[kind]]
        with torch.no_grad():
            attn, mlp = norms[0](attn), norms[1](mlp)
    assert float(attn.abs().max()) > 1e-3 < float(mlp.abs().max())
    assert close(before + attn + mlp, after)
    if SITES[kind].mid:
        (mid,) = at(tiny, block + "hook_resid_mid")
        assert close(before + attn, mid)


@torch.no_grad()
def test_what_the_stream_begins_with_and_what_heads_and_units_give(tiny):
    kind, model, _ = tiny
    sites = SITES[kind]
    before, attn, z, into = at(
        tiny,
        *("blocks.1." + name for name in ("hook_resid_pre", "hook_attn_out", "attn.hook_z", "mlp.hook_in")),
    )
    out = model.get_submodule(f"{sites.blocks}.1.{sites.z}")(z)
    if kind in ("gemma2", "gemma3_text", "glm4"):
        out = model.get_submodule(f"{sites.blocks}.1.{sites.attn_out}")(out)
    assert close(out, attn)
    assert into.shape == before.shape
    if sites.post:
        assert at(tiny, "blocks.1.mlp.hook_post")[0].shape[0] == N
    if kind not in ("gpt2", "gpt_bigcode", "gpt_neo", "opt"):  # which add positions to it
        first, embedded = at(tiny, "blocks.0.hook_resid_pre", "hook_embed")
        assert close(first, embedded)


def test_names_go_both_ways_and_are_written_as_transformer_lens_has_them(tiny):
    _, _, folder = tiny
    for part in ("hook_resid_pre", "hook_resid_post", "hook_mlp_out", "hook_attn_out", "attn.hook_z"):
        theirs = f"blocks.1.{part}"
        ours = hooks.from_lens(theirs, folder)
        assert hooks.is_ours(ours)
        assert hooks.to_lens(ours, folder) == theirs


def test_where_transformer_lens_has_no_name_none_is_written():
    assert hooks.to_lens("layers.5.mlp:out", "google/gemma-2-2b") is None  # before its second norm
    assert hooks.to_lens("layers.5.post_feedforward_layernorm:out", "gemma-2-2b") == "blocks.5.hook_mlp_out"
    assert hooks.to_lens("layers.5.post_feedforward_layernorm:out", "OLMo-2-1124-7B") is None
    assert hooks.to_lens("layers.5.self_attn:out", "OLMo-2-1124-7B") == "blocks.5.hook_attn_out"
    assert hooks.to_lens("layers.5.input_layernorm:out", "meta-llama/Llama-3.2-1B") is None
    assert hooks.to_lens("thought_out", None) is None
    assert hooks.to_module("layers.5.mlp:out", "google/gemma-2-2b") == "model.layers.5.mlp"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("gpt2-small", "gpt2"),
        ("distilgpt2", "gpt2"),
        ("EleutherAI/pythia-70m-deduped", "gpt_neox"),
        ("EleutherAI/gpt-neo-125M", "gpt_neo"),
        ("roneneldan/TinyStories-33M", "gpt_neo"),
        ("gemma-2b", "gemma"),
        ("google/gemma-2-2b-it", "gemma2"),
        ("gemma-2-27b", "gemma2"),
        ("google/gemma-7b", "gemma"),
        ("google/gemma-3-270m", "gemma3"),
        ("google/gemma-3n-E2B", None),
        ("tiny-random-Gemma2ForCausalLM", "gemma2"),
        ("allenai/OLMo-2-0425-1B", "olmo2"),
        ("allenai/OLMo-1B-hf", "olmo"),
        ("microsoft/phi-2", "phi"),
        ("microsoft/Phi-3-mini-4k-instruct", "phi3"),
        ("tiiuae/falcon-7b", "falcon"),
        ("tiiuae/Falcon3-7B-Base", "llama"),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "qwen2"),
        ("Qwen/Qwen3-1.7B", "qwen3"),
        ("facebook/opt-125m", "opt"),
        ("HuggingFaceTB/SmolLM2-135M", "llama"),
        ("/models/models--google--gemma-2-2b/snapshots/abc", "gemma2"),
        ("solu-4l", None),
        (None, None),
    ],
)
def test_architectures_by_name(name, kind):
    assert model_type(name) == kind


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("model.layers.2", "layers.2:out"),
        ("transformer.h.3", "layers.3:out"),
        ("gpt_neox.layers.3.attention", "layers.3.attention:out"),
        ("model.decoder.layers.0.fc2", "layers.0.fc2:out"),
        ("model.language_model.layers.4.mlp", "layers.4.mlp:out"),
        ("transformer.blocks.1", "layers.1:out"),
        ("model.embed_tokens", "embed:out"),
        ("transformer.wte", "embed:out"),
        ("blocks.3.attn.hook_q", "blocks.3.attn.hook_q"),
        ("model.vision_tower.encoder.layers.3", "model.vision_tower.encoder.layers.3"),
        ("layers.3:in", "layers.3:in"),
    ],
)
def test_names_of_hugging_face_models(theirs, ours):
    assert hooks.from_lens(theirs) == ours


@pytest.mark.parametrize(
    ("submodule", "io", "model", "ours"),
    [
        ("gpt_neox.layers.3", "in", None, "layers.3:in"),
        ("gpt_neox.layers.3.mlp", "out", None, "layers.3.mlp:out"),
        ("transformer.h.0", None, None, "layers.0:out"),
        ("resid_post_layer_8", "out", None, "layers.8:out"),
        ("resid_out_layer3", "out", None, "layers.3:out"),
        ("mlp_out_layer3", "out", "google/gemma-2-2b", "layers.3.post_feedforward_layernorm:out"),
        ("attn_out_layer_2", "out", "EleutherAI/pythia-70m", "layers.2.attention:out"),
        ("embed_in", "out", None, "embed:out"),
        ("my thing", "out", None, "my thing"),
    ],
)
def test_names_of_dictionary_learning(submodule, io, model, ours):
    assert hooks.from_dictionary(submodule, io, model) == ours
    if hooks.is_ours(ours) and not ours.startswith("embed"):
        again = hooks.to_dictionary(ours, model)
        assert hooks.from_dictionary(again, "in" if ours.endswith(":in") else "out", model) == ours


def test_names_of_one_module_mean_the_same():
    assert hooks.meaning("gpt_neox.layers.3.attention:out") == hooks.meaning("layers.3.attn:out")
    assert hooks.meaning("model.layers.3.mlp:out") == hooks.meaning("transformer.h.3.mlp:out")
    assert hooks.meaning("layers.3:in") != hooks.meaning("layers.3:out")
    assert hooks.meaning("layers.3.mlp:out") != hooks.meaning("layers.3.mlp.down_proj:out")
