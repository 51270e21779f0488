"""Thought models built by hand that walk along the graph of a question; a thought is where they are.

As the others, a thought is two one-hot vectors side by side: the word that the lens reads, and the concept
that it does not read. The first thought is whom the question asks about.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch

from tests.tracing.chains.thinker import Thinker
from thoughtlens.models import Answer
from thoughtlens.problems import HopsRule
from thoughtlens.problems.tasks import graphs, prontoqa
from thoughtlens.problems.tasks.graphs import CONCEPTS, HELD_OUT_NAMES, TRAIN_NAMES, WHETHER

NAMES = [*TRAIN_NAMES, *HELD_OUT_NAMES, *CONCEPTS]
NAMES += [no + one for no in ("", "not ") for one in prontoqa.PROPERTIES]


class Walker(Thinker):
    """As `KINDS` say, or `gap`: nothing can be read at thought 2; or `astray`: shows dead ends, too."""

    def __init__(self, kind: str, letters: int = 99) -> None:
        """`letters`: how much of a concept is the lens's first token."""
        super().__init__(kind)
        starts = {self.token(name, letters): None for name in NAMES}
        self.letters, self.shown = letters, [*starts, "so"]
        self.spec = replace(self.spec, n_thoughts=7, d=len(self.shown) + len(NAMES))

    @staticmethod
    def token(name: str, letters: int) -> str:
        return name.split()[0][:letters]

    def words(self, ids):
        return {i: self.shown[i] for i in ids}

    def rule(self, questions):
        return HopsRule(lambda name: self.token(name, self.letters), questions)

    def _think(self, question, z, p):
        asked = read(question)
        path = [asked.root, *asked.path]
        here = path[min(p, len(path) - 1)]  # what `unused` shows, from the question alone
        if self.kind != "unused":
            here = asked.root if p == 0 else onward(question, NAMES[int(z[len(self.shown) :].argmax())])
        hidden = p == 0 or self.kind == "unread" or (self.kind == "gap" and p == 2)
        word = "so" if hidden else self.token(here, self.letters)
        if self.kind == "astray" and p == 2:
            beside = [b for a, b in asked.edges if a == path[1] and b != path[2]]
            word = beside[0] if beside else word
        out = torch.zeros(self.spec.d)
        out[self.shown.index(word)] = 1
        if self.kind != "unused":
            out[len(self.shown) + NAMES.index(here)] = 1
        return out

    def answer(self, state, max_new_tokens=256, teacher_ids=None):
        del max_new_tokens, teacher_ids
        said = []
        for i, question in enumerate(state.cache):
            asked, claim = read(question), WHETHER.search(question)
            here = NAMES[int(state.pending[i, 0, len(self.shown) :].argmax())]
            end = asked.target if self.kind == "unused" else here
            if self.kind == "contradicts":
                end = asked.other
            told = f"{asked.root} is a {end}."
            said.append(told if claim is None else str(end == (claim["no"] or "") + claim["target"]))
        logits = torch.zeros(len(said), 1, len(self.shown))
        return Answer(text=said, ids=[[0]] * len(said), logits=logits, value=[None] * len(said))

    def readout(self, h, site):
        del site
        return 30 * h[..., : len(self.shown)]


read = cache(graphs.read)


@cache
def onward(question, name):
    """The next one on the way to either of what is offered; there, or in a dead end, the same one."""
    asked = read(question)
    for a, b in asked.edges:
        reached = graphs.distances(asked.edges, b)
        if a == name and name not in (asked.target, asked.other) and {asked.target, asked.other} & {*reached}:
            ways = graphs.distances(asked.edges, a)
            end = next(one for one in (asked.target, asked.other) if one in reached)
            if reached[end] == ways[end] - 1:
                return b
    return name
