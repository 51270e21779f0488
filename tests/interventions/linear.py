"""A thought model that is linear from end to end, in float64, so that every edit's effect is a formula.

    h_p = x_p A          what block 0 gives out, and thought_out
    x_{p+1} = h_p P      what is fed back
    v_p = h_p V          the value that pass p leaves; the key is h_p
    logits = q U + (sum_p v_p) W

q is the question, two digits as a one-hot pair; x_0 is a linear function of it. With `reads` False
the answer is q U alone: thoughts are thought, and ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from thoughtlens.models.thought.thoughts import Answer, State, Tap, ThoughtModel, ThoughtSpec, parse_number

D, N_STEPS = 6, 3


class LinearToy(ThoughtModel):
    """Questions are two digits, as in "3 7"; answers are one digit."""

    def __init__(self, reads: bool = True) -> None:
        g = torch.Generator().manual_seed(0)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=g, dtype=torch.float64) / shape[0] ** 0.5

        self.start, self.A, self.P, self.V = draw(20, D), draw(D, D), draw(D, D), draw(D, D)
        self.W, self.U, self.reads = draw(D, 10), draw(20, 10), reads
        self.name = self.digest = self.tokenizer_digest = self.config_hash = "linear-toy"
        self.spec = ThoughtSpec(n_thoughts=N_STEPS, n_layers=1, d=D, feedback_layer=1, has_projection=True)

    def questions_as_vectors(self, questions: Sequence[str]) -> Tensor:
        """[n, 20]: one-hot first digit, one-hot second."""
        q = torch.zeros(len(questions), 20, dtype=torch.float64)
        for i, question in enumerate(questions):
            first, second = map(int, question.split())
            q[i, first] = q[i, 10 + second] = 1
        return q

    def encode(self, questions: Sequence[str]) -> State:
        q = self.questions_as_vectors(questions)
        n = torch.arange(len(questions))
        mask = torch.ones(len(questions), 1, dtype=torch.bool)
        cache = {"q": q, "kv": []}
        return State(
            cache=cache, mask=mask, positions=n, pending=(q @ self.start)[:, None], next_thought=0, rows=n
        )

    def _step(self, state: State, tap: Tap) -> State:
        h = tap("resid", tap("thought_in", state.pending) @ self.A, 0)
        state.cache["kv"].append((h[:, None], (h @ self.V)[:, None]))
        return replace(state, pending=tap("thought_out", h) @ self.P)

    def answer(self, state: State, max_new_tokens: int = 256, teacher_ids: Tensor | None = None) -> Answer:
        logits = state.cache["q"] @ self.U
        if self.reads:
            logits = logits + sum(v[:, 0, 0] for _, v in state.cache["kv"]) @ self.W
        text = [str(int(i)) for i in logits.argmax(-1)]
        value = [parse_number(t) for t in text]
        return Answer(text=text, ids=[[int(t)] for t in text], logits=logits[:, None], value=value)

    def readout(self, h: Tensor, site: str) -> Tensor:
        return h @ self.V @ self.W

    def _read_kv(self, state: State, layer: int) -> tuple[Tensor, Tensor]:
        return state.cache["kv"][-1]

    def _write_kv(self, state: State, layer: int, k: Tensor, v: Tensor) -> None:
        state.cache["kv"][-1] = (k, v)


def logits_by_formula(model: LinearToy, questions: Sequence[str], shift: Tensor, step: int) -> Tensor:
    """Answer logits where x_step is changed by `shift` [n, D]: every h_{step+k} moves by shift A (P A)^k."""
    q = model.questions_as_vectors(questions)
    x, total = q @ model.start, torch.zeros(len(q), D, dtype=torch.float64)
    for p in range(N_STEPS + 1):
        x = x + shift if p == step else x
        h = x @ model.A
        total += h @ model.V
        x = h @ model.P
    return q @ model.U + total @ model.W
