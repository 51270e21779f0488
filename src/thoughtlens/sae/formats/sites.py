"""Where a block of each architecture computes what TransformerLens's hooks show.

A hook there means the same in every model, `hook_mlp_out` what the MLP adds to the stream; which module gives
that is the architecture's business: after a second norm in Gemma 2, inside the module in BLOOM. Taken from
TransformerLens 2 and 3 (`components/transformer_block.py`, `model_bridge/supported_architectures`) and from
transformers' own forward passes; tests/sae/formats/test_sites.py adds the parts up on tiny models.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple


class Sites(NamedTuple):
    """Modules of a block, by what TransformerLens shows of them; None where there is no such place."""

    attn_out: str = "self_attn"
    """Gives what attention adds to the stream, or what is normalised before that (OLMo 2)."""
    mlp_out: str = "mlp"
    """The same of the MLP."""
    z: str = "self_attn.o_proj"
    """Takes what the heads read."""
    mid: str | None = "post_attention_layernorm"
    """Takes the stream between attention and MLP; None where both read the same."""
    post: str | None = "mlp.down_proj"
    """Takes the MLP's hidden units; None where experts share it."""
    mlp: str = "mlp"
    """Takes what enters the MLP."""
    blocks: str = "model.layers"
    """The list of blocks."""
    embed: str = "embed:out"
    """The hook of `hook_embed`."""


LLAMA = Sites()
SANDWICH = Sites(
    attn_out="post_attention_layernorm", mlp_out="post_feedforward_layernorm", mid="pre_feedforward_layernorm"
)
NORM_AFTER = Sites(mid="mlp")
"""Here TransformerLens shows what attention and MLP give before it is normalised."""
GPT2 = Sites("attn", z="attn.c_proj", mid="ln_2", post="mlp.c_proj", blocks="transformer.h")
GPTJ = Sites("attn", z="attn.out_proj", mid=None, post="mlp.fc_out", blocks="transformer.h")
DENSE = "mlp.dense_4h_to_h"

SITES: dict[str, Sites] = {
    "gpt2": GPT2,
    "gpt_bigcode": GPT2,
    "gpt_neo": GPT2._replace(z="attn.attention.out_proj"),
    "gptj": GPTJ,
    "codegen": GPTJ,
    "gpt_neox": Sites("attention", z="attention.dense", mid=None, post=DENSE, blocks="gpt_neox.layers"),
    "falcon": Sites("self_attention", z="self_attention.dense", mid=None, post=DENSE, blocks="transformer.h"),
    "bloom": Sites(
        # both modules add the stream themselves
        "self_attention.dense",
        DENSE,
        z="self_attention.dense",
        post=DENSE,
        blocks="transformer.h",
        embed="word_embeddings_layernorm:out",
    ),
    "mpt": Sites(
        # its ffn adds the stream itself
        "attn",
        "ffn.down_proj",
        z="attn.out_proj",
        mid="norm_2",
        post="ffn.down_proj",
        mlp="ffn",
        blocks="transformer.blocks",
    ),
    "opt": Sites(
        mlp_out="fc2",
        z="self_attn.out_proj",
        mid="final_layer_norm",
        post="fc2",
        mlp="fc1",
        blocks="model.decoder.layers",
    ),
    "phi": Sites(z="self_attn.dense", mid=None, post="mlp.fc2"),
    "starcoder2": LLAMA._replace(post="mlp.c_proj"),
    "cohere": LLAMA._replace(mid=None),
    "cohere2": LLAMA._replace(mid=None),
    "gemma2": SANDWICH,
    "gemma3": SANDWICH,
    "gemma3_text": SANDWICH,
    "glm4": Sites(attn_out="post_self_attn_layernorm", mlp_out="post_mlp_layernorm"),
    "olmo2": NORM_AFTER,
    "olmo3": NORM_AFTER,
    "exaone4": NORM_AFTER,
    **dict.fromkeys(("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "granitemoe"), LLAMA._replace(post=None)),
    **dict.fromkeys(
        (
            "llama",
            "mistral",
            "ministral",
            "gemma",
            "qwen2",
            "qwen3",
            "phi3",
            "olmo",
            "stablelm",
            "granite",
            "glm",
            "nemotron",
            "smollm3",
            "helium",
        ),
        LLAMA,
    ),
}
"""By `model_type` of a config.json."""

NAMES: tuple[tuple[str, str | None], ...] = (
    (r"gpt-?neo-?x|pythia|dolly-v|redpajama-incite|stablelm-(base|tuned)", "gpt_neox"),
    (r"gpt-?neo|tiny-?stories", "gpt_neo"),
    (r"gpt-?2", "gpt2"),
    (r"gpt-?j", "gptj"),
    (r"gemma-?3n|gemma-?4", None),
    (r"gemma-?2(?![\db])|shieldgemma", "gemma2"),
    (r"gemma-?3(?![\db])", "gemma3"),
    (r"gemma", "gemma"),
    (r"olmoe", "olmoe"),
    (r"olmo-?2(?![\db])", "olmo2"),
    (r"olmo-?3(?![\db])", "olmo3"),
    (r"olmo", "olmo"),
    (r"falcon-?3", "llama"),
    (r"falcon-?(mamba|h1)", None),
    (r"falcon", "falcon"),
    (r"bloom", "bloom"),
    (r"(^|-)mpt-", "mpt"),
    (r"(^|-)opt-", "opt"),
    (r"codegen", "codegen"),
    (r"santacoder|starcoder(?!2)", "gpt_bigcode"),
    (r"starcoder2", "starcoder2"),
    (r"phi-?(3\.5-moe|tiny-moe)", None),
    (r"phi-?[34]", "phi3"),
    (r"phi-?[12](?!\d)", "phi"),
    (r"command-r|aya|cohere", "cohere"),
    (r"mixtral", "mixtral"),
    (r"mistral|ministral|zephyr|mathstral", "mistral"),
    (r"^qwen-(1_8|7|14|72)b|qwen-?3\.5|qwen-?3-next|llama-?4", None),
    (r"qwen-?3.*-a\d+b", "qwen3_moe"),
    (r"qwen-?3", "qwen3"),
    (r"qwen|qwq", "qwen2"),
    (r"stable-?lm|stable-code", "stablelm"),
    (r"granite", "granite"),
    (r"smollm-?3", "smollm3"),
    (r"exaone-?4", "exaone4"),
    (r"glm-?4", "glm4"),
    (r"llama|vicuna|alpaca|smollm|(^|-)yi-|solar|deepseek-(llm|coder)", "llama"),
    (r"nemotron", "nemotron"),
)
"""Names that models go by, and the `model_type` behind them; the first that fits."""


def short(model: str) -> str:
    """A model's name without its owner; of a folder in the hub's cache, the repository's."""
    for part in reversed(Path(model).parts):
        if part.startswith("models--"):
            return part.rsplit("--", 1)[1].lower()
    return model.rstrip("/").rsplit("/", 1)[-1].lower()


def model_type(model: str | None) -> str | None:
    """The architecture of a model by its folder's config.json, else by its name; None where neither says."""
    if not model:
        return None
    try:
        found = json.loads((Path(model) / "config.json").read_text("utf-8")).get("model_type")
        return found if isinstance(found, str) else None
    except (OSError, ValueError, AttributeError, RecursionError):
        pass
    name = short(model)
    return next((kind for pattern, kind in NAMES if re.search(pattern, name)), None)


def sites_of(model: str | None) -> Sites | None:
    """Where a model has its sites; None where its architecture is not known."""
    return SITES.get(model_type(model) or "")
