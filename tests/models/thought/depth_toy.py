"""A depth-recurrent toy in the manner of Geiping et al. 2025, arXiv:2502.05171: a third family.

Every token has a state; a core of two blocks refines all states a number of times, and only then
does the coda speak. Steps are depth, not positions; there is no K/V to keep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from thoughtlens.models.thought.thoughts import Answer, State, Tap, ThoughtModel, ThoughtSpec, parse_number

VOCAB, D, EOS = 128, 16, 0


class DepthToy(ThoughtModel):
    """ASCII in, ASCII out; s_0 = 0, s_{i+1} = core(s_i + embedding)."""

    def __init__(self, n_thoughts: int = 4, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.table = nn.Embedding(VOCAB, D)
        self.core = nn.ModuleList(
            nn.TransformerEncoderLayer(D, 2, 32, batch_first=True) for _ in range(2)
        ).eval()
        self.norm = nn.LayerNorm(D)
        self.name = self.digest = self.tokenizer_digest = self.config_hash = f"depth-toy-{seed}"
        self.spec = ThoughtSpec(
            n_thoughts=n_thoughts, n_layers=2, d=D, positions_per_thought=None, axis="depth",
            feedback_layer=2, has_projection=False, sites=("thought_in", "resid", "thought_out"),
            reads_last=True,
        )  # fmt: skip

    def encode(self, questions: Sequence[str]) -> State:
        longest = max(len(q) for q in questions)
        ids = torch.tensor([[EOS] * (longest - len(q)) + [ord(c) % VOCAB for c in q] for q in questions])
        return self._start(ids, ids != EOS)

    def _start(self, ids: Tensor, real: Tensor) -> State:
        rows = torch.arange(len(ids))
        pending = torch.zeros(*ids.shape, D)
        return State(cache=ids, mask=real, positions=real.sum(1), pending=pending, next_thought=0, rows=rows)

    def _step(self, state: State, tap: Tap) -> State:
        x = tap("thought_in", state.pending) + self.table(state.cache)
        n = x.shape[1]
        blocked = torch.ones(n, n, dtype=torch.bool).triu(1) | ~state.mask[:, None, :]
        blocked = (blocked & ~torch.eye(n, dtype=torch.bool)).repeat_interleave(2, 0)
        for layer, block in enumerate(self.core):
            x = tap("resid", block(x, src_mask=blocked), layer)
        return replace(state, pending=tap("thought_out", x))

    def answer(self, state: State, max_new_tokens: int = 256, teacher_ids: Tensor | None = None) -> Answer:
        """Every generated token is thought about from the start, as in the paper without a cache."""
        passes, n_said = state.next_thought, 0
        if teacher_ids is not None:
            state = self._rethink(state, teacher_ids.expand(len(state.rows), -1), passes)
            n_said = teacher_ids.shape[-1]
        logits = self.readout(state.pending[:, -1 - n_said :], "thought_out")
        said = torch.zeros(len(state.rows), 0, dtype=torch.long)
        for _ in range(max_new_tokens):
            token = self.readout(state.pending[:, -1], "thought_out").argmax(-1, keepdim=True)
            said = torch.cat([said, token], 1)
            if bool((said == EOS).any(1).all()):
                break
            state = self._rethink(state, token, passes)
        ids = [row[: row.index(EOS)] if EOS in row else row for row in said.tolist()]
        text = ["".join(map(chr, row)) for row in ids]
        return Answer(text=text, ids=ids, logits=logits, value=[parse_number(t) for t in text])

    def _rethink(self, state: State, more: Tensor, passes: int) -> State:
        real = torch.cat([state.mask, torch.ones_like(more, dtype=torch.bool)], 1)
        state = self._start(torch.cat([state.cache, more], 1), real)
        for _ in range(passes):
            state = self._step(state, Tap((), state.rows))
        return state

    def readout(self, h: Tensor, site: str) -> Tensor:
        return self.norm(h) @ self.table.weight.T
