"""A thought model whose every edge is a matrix that stands in its code."""

from __future__ import annotations

from dataclasses import replace

import torch

from thoughtlens.models import Answer, State, ThoughtModel, ThoughtSpec

D, WORDS, THOUGHTS = 4, 5, 3


class Linear(ThoughtModel):
    """u_t = A z_t + the sum of what is remembered; every position remembers V of what it took in."""

    def __init__(self) -> None:
        drawn = torch.Generator().manual_seed(0)
        self.A, self.V, self.E, self.C = (torch.randn(D, D, generator=drawn) / 2 for _ in range(4))
        self.name, self.config_hash = "linear", "linear"
        self.spec = ThoughtSpec(
            n_thoughts=THOUGHTS, n_layers=1, d=D, feedback_layer=1, has_projection=False, reads_last=False
        )

    def encode(self, questions):
        x = torch.tensor([[float(word) for word in q.split()] for q in questions])
        words = torch.stack([x * (i + 1) for i in range(D)], -1) @ self.E
        n, length, _ = words.shape
        return State(
            cache=[words[:, None].clone(), (words @ self.V)[:, None]],
            mask=torch.ones(n, length, dtype=torch.bool),
            positions=torch.full((n,), length),
            pending=torch.ones(n, 1, D),
            next_thought=0,
            rows=torch.arange(n),
        )

    def _step(self, state, tap):
        z = tap("thought_in", state.pending)
        out = tap("thought_out", tap("resid", z @ self.A + state.cache[1].sum(2), 0))
        kept = [
            torch.cat([held, new[:, None]], 2) for held, new in zip(state.cache, (z, z @ self.V), strict=True)
        ]
        mask = torch.cat([state.mask, state.mask.new_ones(len(z), 1)], 1)
        return replace(state, cache=kept, mask=mask, pending=out)

    def _memory(self, state, layer):
        return state.cache[0], state.cache[1]

    def _remember(self, state, layer, k, v):
        state.cache[:] = [k, v]

    def answer(self, state, max_new_tokens=256, teacher_ids=None):
        logits = state.cache[1].sum(2) @ self.C
        ids = [[int(i)] for i in logits[:, -1].argmax(-1)]
        return Answer(text=[str(row[0]) for row in ids], ids=ids, logits=logits, value=[0.0] * len(ids))

    def readout(self, h, site):
        return h
