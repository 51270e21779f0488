"""A toy in the manner of Wu et al. 2025 (PCCoT), arXiv:2506.18582: a fourth family.

Three latent positions are refined together, round after round: what enters position i in a round is what
left position i - 1 in the round before. Only the last round's keys and values are seen by the answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from thoughtlens.models.thought.thoughts import Answer, State, Tap, ThoughtModel, ThoughtSpec, parse_number

VOCAB, D, EOS, N_LATENT, N_LAYERS = 128, 16, 0, 3, 2
NO_TAP = Tap((), torch.zeros(1, dtype=torch.long))


class IterationToy(ThoughtModel):
    """ASCII in, ASCII out; no position embeddings, so that padding needs a mask only."""

    def __init__(self, n_thoughts: int = 4, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.table = nn.Embedding(VOCAB, D).requires_grad_(False)
        self.begin, self.end = torch.randn(2, D)
        self.qkv = [nn.Linear(D, 3 * D).requires_grad_(False) for _ in range(N_LAYERS)]
        self.out = [nn.Linear(D, D).requires_grad_(False) for _ in range(N_LAYERS)]
        self.name = self.digest = self.tokenizer_digest = self.config_hash = f"iteration-toy-{seed}"
        self.spec = ThoughtSpec(
            n_thoughts=n_thoughts, n_layers=N_LAYERS, d=D, positions_per_thought=N_LATENT, axis="iteration",
            feedback_layer=N_LAYERS, has_projection=False, sites=("thought_in", "resid", "thought_out"),
        )  # fmt: skip

    def encode(self, questions: Sequence[str]) -> State:
        longest = max(map(len, questions))
        ids = torch.tensor([[EOS] * (longest - len(q)) + [ord(c) % VOCAB for c in q] for q in questions])
        real, rows = ids != EOS, torch.arange(len(ids))
        _, past = self._blocks(self.table(ids), None, real, NO_TAP)
        return State(
            cache={"question": past, "seen": past}, mask=real, positions=real.sum(1),
            pending=self.begin.expand(len(ids), N_LATENT, D), next_thought=0, rows=rows,
        )  # fmt: skip

    def _blocks(
        self, x: Tensor, past: list[tuple[Tensor, Tensor]] | None, real: Tensor, tap: Tap
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """States of new positions, and keys and values of all; `real` covers past and new ones."""
        n, grown = x.shape[1], []
        for layer in range(N_LAYERS):
            q, k, v = self.qkv[layer](x).split(D, -1)
            if past is not None:
                k, v = torch.cat([past[layer][0], k], 1), torch.cat([past[layer][1], v], 1)
            total = k.shape[1]
            seen = torch.ones(n, total, dtype=torch.bool).tril(total - n) & real[:, None, :]
            seen |= torch.eye(n, total, dtype=torch.bool).roll(total - n, 1)
            scores = (q @ k.mT / math.sqrt(D)).masked_fill(~seen, -torch.inf)
            x = tap("resid", x + torch.tanh(self.out[layer](scores.softmax(-1) @ v)), layer)
            grown.append((k, v))
        return x, grown

    def _step(self, state: State, tap: Tap) -> State:
        x = tap("thought_in", state.pending)
        real = torch.cat([state.mask, state.mask.new_ones(len(x), N_LATENT)], 1)
        x, seen = self._blocks(x, state.cache["question"], real, tap)
        u = tap("thought_out", x)
        first = self.begin.expand(len(u), 1, D)
        cache = state.cache | {"seen": seen}
        return replace(state, cache=cache, pending=torch.cat([first, u[:, :-1]], 1))

    def answer(self, state: State, max_new_tokens: int = 256, teacher_ids: Tensor | None = None) -> Answer:
        n = len(state.rows)
        x = self.end.expand(n, 1, D)
        if teacher_ids is not None:
            x = torch.cat([x, self.table(teacher_ids).expand(n, -1, -1)], 1)
        past, said, logits = state.cache["seen"], torch.zeros(n, 0, dtype=torch.long), None
        real = state.mask
        while logits is None or said.shape[1] < max_new_tokens:
            latents = past[0][0].shape[1] - real.shape[1]
            real = torch.cat([real, real.new_ones(n, latents + x.shape[1])], 1)
            h, past = self._blocks(x, past, real, NO_TAP)
            logits = self.readout(h, "thought_out") if logits is None else logits
            token = self.readout(h[:, -1:], "thought_out").argmax(-1)
            if max_new_tokens == 0:
                break
            said, x = torch.cat([said, token], 1), self.table(token)
        ids = [row[: row.index(EOS)] if EOS in row else row for row in said.tolist()]
        text = ["".join(map(chr, row)) for row in ids]
        return Answer(text=text, ids=ids, logits=logits, value=[parse_number(t) for t in text])

    def readout(self, h: Tensor, site: str) -> Tensor:
        return h @ self.table.weight.T
