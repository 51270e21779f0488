"""Causal attention of bfloat16 models on a CPU with bfloat16 products, in blocks of queries.

torch's own kernel takes twice as long there and longer. Here all heads of queries that share a head of keys
are one product, and a block of queries is multiplied with the keys up to its end only.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers
from jaxtyping import Float
from torch import Tensor, nn

NAME = "thoughtlens_blocks"
BLOCK = 64
"""Queries at once: of 64, 128 and 256 the fastest for windows of 64 to 1,024 tokens."""
KNOWN = ("sliding_window", "position_ids", "use_cache", "output_attentions", "cache_position")
"""What models pass on and what changes nothing where there is no mask."""


def attend_in_blocks(model: transformers.PreTrainedModel) -> None:
    """Let a model that takes torch's attention take this one, where it is faster: AVX512-BF16 without AMX."""
    fast = torch.cpu._is_avx512_bf16_supported() and not torch.cpu._is_amx_tile_supported()
    ours = model.dtype == torch.bfloat16 and model.device.type == "cpu"
    if fast and ours and model.config._attn_implementation == "sdpa":
        # here, since it takes seconds, and the models that think need none of it
        from transformers import AttentionInterface, AttentionMaskInterface
        from transformers.masking_utils import sdpa_mask

        AttentionInterface.register(NAME, _forward)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        model.set_attn_implementation(NAME)


def causal(
    q: Float[Tensor, "batch heads seq d"],
    k: Float[Tensor, "batch groups seq d"],
    v: Float[Tensor, "batch groups seq d_v"],
    scale: float,
) -> Float[Tensor, "batch seq heads d_v"]:
    """softmax(scale q k^T) v over each token and those before it; heads share the keys of their group."""
    batch, heads, seq, d = q.shape
    pairs, each = batch * k.shape[1], heads // k.shape[1]
    keys, values = k.reshape(pairs, seq, d).mT, v.reshape(pairs, seq, -1)
    out = q.new_empty(batch, seq, heads, values.shape[-1])
    for start in range(0, seq, BLOCK):
        end = min(start + BLOCK, seq)
        n = end - start
        later = q.new_full((n, end), -torch.inf).triu(start + 1).repeat(each, 1)
        queries = q[:, :, start:end].reshape(pairs, each * n, d)
        scores = torch.baddbmm(later, queries, keys[..., :end], alpha=scale)
        mixed = torch.bmm(scores.softmax(-1), values[:, :end])
        out[:, start:end] = mixed.view(batch, heads, n, -1).transpose(1, 2)
    return out


def _forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """As transformers calls it; what is not plain causal attention without gradients goes on to torch."""
    plain = (
        attention_mask is None
        and (getattr(module, "is_causal", True) if is_causal is None else is_causal)
        and not dropout
        and query.dtype == torch.bfloat16
        and query.shape[2] == key.shape[2] >= BLOCK // 2
        and not (torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value)))
        and all(kwargs.get(name) is None for name in kwargs.keys() - set(KNOWN))
    )
    if plain:
        return causal(query, key, value, query.shape[-1] ** -0.5 if scaling is None else scaling), None
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    return sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout, scaling, is_causal, **kwargs
    )
