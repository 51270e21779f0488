"""Tiny random models of three architectures, and their forward pass written out block by block."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from tests.conftest import tiny_tokenizer
from thoughtlens import sae as saes
from thoughtlens.models import LanguageModel

D, LAYERS, VOCAB, T = 16, 3, 50, 6
SIZES = {"vocab_size": VOCAB, "hidden_size": D, "num_hidden_layers": LAYERS, "num_attention_heads": 2}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, intermediate_size=32, num_key_value_heads=1)),
    "neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES, intermediate_size=32)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, n_embd=D, n_layer=LAYERS, n_head=2)),
}


def language_model(name):
    """As the stage has it: eager attention, no gradients; weights large enough for everything to matter."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = MODELS[name]().eval().requires_grad_(False)
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    model.set_attn_implementation("eager")
    return LanguageModel(
        model=model,
        tokenizer=tiny_tokenizer(),
        name=name,
        revision=None,
        digest="",
        tokenizer_digest="",
        context_length=64,
    )


def forward(name, model, ids, *, words=0.0, mlps=None, blocks=None, added=None):
    """What each MLP reads, what each block gives, and the logits, from the modules' own parts.

    Args:
        words: Added to the embedded words.
        mlps, blocks: By layer, what stands in the place of an MLP's or a block's output.
        added: By layer, what is added to the MLP's output.
    """
    mask = torch.full((T, T), torch.finfo(torch.float32).min).triu(1)[None, None]
    at = torch.arange(T)[None]
    inner = {"llama": "model", "neox": "gpt_neox", "gpt2": "transformer"}[name]
    body, found = getattr(model, inner), SimpleNamespace(mlp_in=[], mlp_out=[], out=[])
    if name == "gpt2":
        x = body.wte(ids) + words + body.wpe(at)
        turned = {}
    else:
        x = (body.embed_in if name == "neox" else body.embed_tokens)(ids) + words
        turned = {"position_embeddings": body.rotary_emb(x, at)}
    for i, block in enumerate(body.h if name == "gpt2" else body.layers):
        attention = {"llama": "self_attn", "neox": "attention", "gpt2": "attn"}[name]
        first, second = (
            ("ln_1", "ln_2") if name == "gpt2" else ("input_layernorm", "post_attention_layernorm")
        )
        looked = getattr(block, attention)(getattr(block, first)(x), attention_mask=mask, **turned)[0]
        middle = x + looked
        found.mlp_in.append(getattr(block, second)(x if name == "neox" else middle))
        y = block.mlp(found.mlp_in[-1]) if mlps is None else mlps[i]
        y = y if added is None or added.get(i) is None else y + added[i]
        found.mlp_out.append(y)
        x = middle + y
        x = x if blocks is None or blocks.get(i) is None else blocks[i]
        found.out.append(x)
    last = {"llama": "norm", "neox": "final_layer_norm", "gpt2": "ln_f"}[name]
    logits = model.get_output_embeddings()(getattr(body, last)(x))[0, -1]
    found.logits = logits - logits.mean()
    return found


def dictionary(cfg, hooks, seed=0, width=D):
    """A random one of tiny width."""
    sae = saes.create(cfg, width, seed=seed)
    drawn = torch.Generator().manual_seed(seed)
    for p in sae.parameters():
        p.data = torch.randn(p.shape, generator=drawn) * (0.3 if p.ndim > 1 else 0.1)
    sae.hook_names = hooks
    return sae.eval().requires_grad_(False)


def transcoders():
    """One for each MLP, the second with a skip."""
    return {
        f"mlp{i}": dictionary(
            saes.TranscoderConfig(
                d_sae=24, k=5, skip=i == 1, hook_in=f"layers.{i}.mlp:in", hook_out=f"layers.{i}.mlp:out",
                normalization="none", decoder_norm="free", pre_bias=False,
            ),
            [f"layers.{i}.mlp:in"],
            seed=i,
        )
        for i in range(LAYERS)
    }  # fmt: skip


def residual():
    """SAEs after two of the blocks."""
    return {
        f"layers.{i}-out": dictionary(
            saes.ReLUConfig(d_sae=24, normalization="none", decoder_norm="free"), [f"layers.{i}:out"], seed=i
        )
        for i in range(2)
    }
