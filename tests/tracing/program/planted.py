"""A thought model built by hand whose steps follow no arithmetic: a drawn table says what each one gives.

Its values stand in other thoughts than those of the shipped models, and its words are those of `arithmetic`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from thoughtlens.models import Answer, State, ThoughtModel, ThoughtSpec
from thoughtlens.problems import ArithmeticRule, arithmetic
from thoughtlens.tracing.program.asked import Asked

P, THOUGHTS = 11, 4
RULE = ArithmeticRule(P)
WORDS = RULE.symbols.words
STEP_AT = {1: 0, 3: 1, 4: 2}
"""By thought, the step that it does: 0-based."""
DRAWN = np.random.default_rng(5)
TABLE = {word: DRAWN.permutation(P) for word in WORDS[P : P + RULE.symbols.n_ops]}
"""By operation, what becomes of each number."""


class Runner(ThoughtModel):
    """`used`: each step goes on from the thought before; `unused`: the thoughts hold the same values, and the
    answer is made from the question; `silent`: used, and its output side reads nothing; `leaps`: thought 1
    waits, and thought 3 does two steps at once."""

    def __init__(self, kind: str = "used") -> None:
        self.kind, self.name, self.config_hash = kind, f"runner-{kind}", kind
        self.spec = ThoughtSpec(
            n_thoughts=THOUGHTS,
            n_layers=1,
            d=P,
            feedback_layer=1,
            has_projection=False,
            sites=("thought_in", "resid", "thought_out"),
            reads_last=True,
        )

    def words(self, ids):
        return {i: WORDS[i] for i in ids}

    def encode(self, questions):
        n, said = len(questions), [q.split() for q in questions]
        asked = [RULE.wanted(q) for q in questions]
        return State(
            cache=[(int(own[-2]), ops) for own, ops in zip(said, asked, strict=True)],
            mask=torch.ones(n, 1, dtype=torch.bool),
            positions=torch.zeros(n, dtype=torch.long),
            pending=torch.zeros(n, 1, P),
            next_thought=0,
            rows=torch.arange(n),
        )

    def _step(self, state, tap):
        z, p = tap("thought_in", state.pending), state.next_thought
        kept = z[:, 0].argmax(-1).tolist()
        if p == 0:
            kept = [start for start, _ in state.cache]
        kept = [self._kept(x, ops, p) for x, (_, ops) in zip(kept, state.cache, strict=True)]
        h = torch.nn.functional.one_hot(torch.tensor(kept), P).float()[:, None].to(z)
        return replace(state, pending=tap("thought_out", tap("resid", h, 0)))

    def _kept(self, x, ops, p):
        """What thought p makes of a value."""
        steps = [STEP_AT[p]] if p in STEP_AT else []
        if self.kind == "leaps":
            steps = {1: [], 3: [0, 1]}.get(p, steps)
        for step in steps:
            x = int(TABLE[ops[step]][x]) if step < len(ops) else x
        return x

    def answer(self, state, max_new_tokens=256, teacher_ids=None):
        del max_new_tokens, teacher_ids
        said = state.pending[:, 0].argmax(-1).tolist()
        if self.kind == "unused":
            said = [run(start, ops)[-1] for start, ops in state.cache]
        logits = torch.zeros(len(said), 1, len(WORDS))
        logits[range(len(said)), 0, said] = 9
        return Answer(
            text=[str(x) for x in said],
            ids=[[x] for x in said],
            logits=logits,
            value=[float(x) for x in said],
        )

    def readout(self, h, site):
        del site
        padded = torch.zeros(*h.shape[:-1], len(WORDS)).to(h)
        padded[..., :P] = 0 if self.kind == "silent" else 30 * h
        return padded


def run(start, ops):
    """The value after each step."""
    found = []
    for op in ops:
        start = int(TABLE[op][start])
        found.append(start)
    return found


def problems(n, split, seed=0, n_steps=3):
    """Problems of the split."""
    table = arithmetic.problems(n, seed=seed, split=split, p=P, n_steps=(n_steps,))
    return [Asked.of(RULE, question) for question in table["question"].to_pylist()]
