"""A thought model built by hand for word problems: `Ann has 12 boxes of 34 pens . She gives 5 away .`

Thought 2 reads as the product, thought 4 as what is left; between them it reads as a word. Numbers of three
digits are two tokens, of which the lens shows the first. What is computed with is a number beside it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import torch

from tests.tracing.chains.thinker import Thinker
from thoughtlens.models import Answer

NUMBERS = 4000
WORDS = [*map(str, range(100)), "pens", "left"]
TEXT = "Ann has {} boxes of {} pens . She gives {} pens away . How many are left ?"


def table(n, seed):
    """Word problems, and the values of their chains."""
    rng = np.random.default_rng(seed)
    rows = [(a, b, c) for a, b, c in rng.integers((3, 13, 3), (9, 99, 9), (n, 3)).tolist()]
    return pa.table(
        {
            "problem_id": [f"p{i}" for i in range(n)],
            "group_id": [f"p{i}" for i in range(n)],
            "split": ["test"] * n,
            "question": [TEXT.format(*row) for row in rows],
            "answer": [str(a * b - c) for a, b, c in rows],
            "v1": [float(a * b) for a, b, _ in rows],
            "v2": [float(a * b - c) for a, b, c in rows],
        }
    )


class Teller(Thinker):
    """Computes in two steps; `unused` computes the answer from the question again, `silent` shows nothing."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.spec = replace(self.spec, n_thoughts=4, d=len(WORDS) + NUMBERS)

    def words(self, ids):
        return {i: WORDS[i] for i in ids}

    def _think(self, question, z, p):
        a, b, c = (int(word) for word in question.split() if word.isdigit())
        kept = a * b if p == 2 else int(z[len(WORDS) :].argmax()) - c * (p == 4)
        out = torch.zeros(self.spec.d)
        shown = str(kept)[:2] if p in (2, 4) and self.kind != "silent" else "pens"
        out[WORDS.index(shown)] = 1
        out[len(WORDS) + max(kept, 0)] = 1
        return out

    def answer(self, state, max_new_tokens=256, teacher_ids=None):
        del max_new_tokens, teacher_ids
        said = []
        for i, question in enumerate(state.cache):
            a, b, c = (int(word) for word in question.split() if word.isdigit())
            kept = int(state.pending[i, 0, len(WORDS) :].argmax())
            said.append(str(a * b - c if self.kind == "unused" else kept))
        return Answer(
            text=[f"The answer is: {word}" for word in said],
            ids=[[0]] * len(said),
            logits=torch.zeros(len(said), 1, len(WORDS)),
            value=[float(word) for word in said],
        )

    def readout(self, h, site):
        del site
        return 30 * h[..., : len(WORDS)]
