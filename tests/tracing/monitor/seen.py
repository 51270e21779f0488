"""Runs that are made by hand: what thoughts are read as, what they hold, and how sure the answer is."""

from __future__ import annotations

import numpy as np
import torch

from tests.tracing.chains.thinker import RULE, WORDS, Thinker
from thoughtlens.latents import of_thoughts
from thoughtlens.problems import arithmetic
from thoughtlens.tracing.monitor.watched import watch

SIZES = {"batch_size": 64, "max_new_tokens": 4}


def questions(n, seed=0):
    return arithmetic.problems(n, seed=seed, split="test", p=RULE.p)["question"].to_pylist()


def seen_by(kind, n=40, seed=0):
    """What a planted thinker shows of some problems."""
    model = Thinker(kind)
    return watch(model, of_thoughts(model), questions(n, seed), **SIZES)


class Keeper(Thinker):
    """A thinker that is used as it reads, and keeps a second number beside it where a question is odd."""

    def __init__(self):
        super().__init__("used")
        self.rng = np.random.default_rng(0)

    def _think(self, question, z, p):
        out = super()._think(question, z, p)
        if p and odd(question):
            out[WORDS.index("ann")] = 0.2 * (1 + self.rng.random())
        return out + torch.from_numpy(0.02 * self.rng.normal(size=len(out))).to(out)


def odd(question):
    """Whether the problem holds a secret: by its third word, on which the answer does not depend alone."""
    return len(question.split()[2]) % 2 == 1
