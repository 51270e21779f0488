"""Where training starts: seeded weights, the student after its teacher, a control after its model."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from thoughtlens.models.thought.tiny_decoder import ANS, BOT, COT, TinyDecoder


def fit_projection(
    model: TinyDecoder, states: Float[Tensor, "n d"], tokens: Float[Tensor, "n d"], steps: int
) -> None:
    """Let thoughts begin as the tokens they are aligned with.

    `<bot>` becomes a copy of `<cot>`, and the projection alone learns by regression. The circuits that
    read the teacher's text can then read thoughts. Without this, one seed in three finds every
    operation but never a value.

    Args:
        model: A finished teacher.
        states: The teacher's states, of `projection_pairs`.
        tokens: Embedding of the token that comes next, for each.
        steps: Optimiser steps of 2,048 pairs.
    """
    with torch.no_grad():
        model.embed.weight[BOT] = model.embed.weight[COT]
    variance = tokens.var(0).mean()
    optimizer = torch.optim.Adam(model.prj.parameters(), lr=3e-3)
    rng = torch.Generator().manual_seed(0)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / steps)
        rows = torch.randint(len(states), (2048,), generator=rng)
        loss = F.mse_loss(model.prj(states[rows]), tokens[rows]) / variance
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.zero_grad()


@torch.no_grad()
def answer_where_the_teacher_looks_up(model: TinyDecoder, openings: Sequence[int]) -> None:
    """Make the student's answer cue, at its position, look like the first token of the chain of thought
    at its own: the mean of `openings`, the tokens that can stand there.

    There the finished model finds the first operation; a control without thoughts that begins so
    has to learn only the step itself.
    """
    at, cue = model.cfg.question_len + 1, model.cfg.question_len + model.cfg.n_thoughts + 2
    opening = model.embed.weight[list(openings)].mean(0)
    model.pos.weight[cue] = opening + model.pos.weight[at] - model.embed.weight[ANS]


def initialize(model: TinyDecoder, seed: int, layout: tuple[int, int]) -> TinyDecoder:
    """Seeded start values. `layout` = (chains, tokens per chain) of the context.

    Positions of the context begin as one vector per chain plus one per slot within the chain. Without a
    layout, positions begin as waves (Vaswani et al. 2017), so that "the nearest before" is one linear map
    everywhere.
    """
    g = torch.Generator().manual_seed(seed)
    d = model.cfg.d_in
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim == 2 and ("embed" in name or "pos" in name):
                p.normal_(0, 0.3, generator=g)
            elif p.ndim == 2:
                gain = {"attn_out": 0.5, "down": 0.25}.get(name.split(".")[-2], 1.0)
                p.normal_(0, gain / math.sqrt(d), generator=g)
            else:
                p.fill_(1.0 if name.endswith("weight") else 0.0)
        chains, slots = layout
        if chains:
            chain = torch.randn(chains, 1, d, generator=g) * 0.3
            slot = torch.randn(1, slots, d, generator=g) * 0.3
            model.pos.weight[: chains * slots] = (chain + slot).view(-1, d)
        else:
            model.pos.weight.copy_(waves(*model.pos.weight.shape))
    return model


def waves(n: int, d: int) -> Float[Tensor, "n d"]:
    """Sines and cosines of d / 2 wavelengths from 2 pi to 4 n, geometric, of the embeddings' size (0.3)."""
    frequency = torch.logspace(0, -math.log10(4 * n / (2 * math.pi)), d // 2)
    angle = torch.arange(n)[:, None] * frequency
    return 0.3 * math.sqrt(2) * torch.cat([angle.sin(), angle.cos()], 1)
