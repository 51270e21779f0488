"""Soft Thinking of one question, told again: everything is read anew for every token, nothing is cached.

After `eric-ai-lab/Soft-Thinking`, read 2026-11: `layers/sampler.py` cuts and mixes, and `update_topk_info` of
`managers/schedule_batch.py` stops.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Told:
    """What a question came to."""

    thought_in: list[Tensor] = field(default_factory=list)
    blocks: list[Tensor] = field(default_factory=list)
    thought_out: list[Tensor] = field(default_factory=list)
    answer: list[int] = field(default_factory=list)


def mixture(q: Tensor, table: Tensor, top_k: int, top_p: float, min_p: float, max_topk: int) -> Tensor:
    ranked = sorted(((p, i) for i, p in enumerate(q.tolist())), reverse=True)[:top_k]
    total, kept, mass = sum(p for p, _ in ranked), [], 0.0
    for p, i in ranked:
        if mass >= top_p:
            break
        kept.append((p / total, i))
        mass += p / total
    whole = sum(p for p, _ in kept)
    kept = [(p / whole, i) for p, i in kept if p / whole >= min_p * kept[0][0] / whole][:max_topk]
    whole = sum(p for p, _ in kept)
    return sum((p / whole * table[i] for p, i in kept), torch.zeros_like(table[0]))


@torch.no_grad()
def tell(lm, ids, end, *, n_thoughts, temperature, top_k, top_p, min_p, max_topk, stop_entropy, stop_after):
    """Ids of the whole prompt and of the end; settings as `thoughtlens.models.thought.soft` has them."""
    table, told, sure = lm.get_input_embeddings().weight, Told(), 0
    x = table[torch.tensor(ids)]
    for p in range(n_thoughts + 1):
        out = lm(inputs_embeds=x[None], output_hidden_states=True)
        told.thought_in.append(x[-1])
        told.blocks.append(torch.stack([h[0, -1] for h in out.hidden_states[1:-1]]))
        told.thought_out.append(out.hidden_states[-1][0, -1])
        q = (out.logits[0, -1] / temperature).softmax(0)
        sure = sure + 1 if float(-(q * q.log()).sum()) < stop_entropy else 0
        if p == n_thoughts or int(q.argmax()) == end[0] or sure >= stop_after:
            break
        x = torch.cat([x, mixture(q, table, top_k, top_p, min_p, max_topk)[None]])
    x = torch.cat([x, table[torch.tensor(end)]])
    for _ in range(4):
        told.answer.append(int(lm(inputs_embeds=x[None]).logits[0, -1].argmax()))
        x = torch.cat([x, table[told.answer[-1]][None]])
    return told
