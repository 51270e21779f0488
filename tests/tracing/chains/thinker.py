"""Thought models built by hand, whose chains are known: what they compute is written in their code.

A thought is two one-hot vectors side by side: the word that the lens reads, and a number that it does not
read. Thought 2i-1 names operation i, thought 2i its value, and later thoughts repeat the last value.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from thoughtlens.latents import of_thoughts
from thoughtlens.models import Answer, State, ThoughtModel, ThoughtSpec
from thoughtlens.problems import ArithmeticRule
from thoughtlens.tracing.read.lenses import logit_lens
from thoughtlens.tracing.read.seen import seen

P = 23
RULE = ArithmeticRule(P)
WORDS = RULE.symbols.words
KINDS = ("used", "unused", "unread", "contradicts", "hidden")


class Thinker(ThoughtModel):
    """One of `KINDS`: used and readable; readable and unused; used and unreadable; answering one more;
    with readable operations and values that only another lens reads."""

    def __init__(self, kind: str) -> None:
        self.kind, self.name, self.config_hash = kind, f"thinker-{kind}", kind
        self.spec = ThoughtSpec(
            n_thoughts=6,
            n_layers=1,
            d=len(WORDS) + P,
            feedback_layer=1,
            has_projection=False,
            sites=("thought_in", "resid", "thought_out"),
            reads_last=True,
        )

    def words(self, ids):
        return {i: WORDS[i] for i in ids}

    def encode(self, questions):
        n = len(questions)
        return State(
            cache=list(questions),
            mask=torch.ones(n, 1, dtype=torch.bool),
            positions=torch.zeros(n, dtype=torch.long),
            pending=torch.zeros(n, 1, self.spec.d),
            next_thought=0,
            rows=torch.arange(n),
        )

    def _step(self, state, tap):
        z, p = tap("thought_in", state.pending), state.next_thought
        rows = [self._think(q, z[i, 0], p) for i, q in enumerate(state.cache)]
        h = tap("resid", torch.stack(rows)[:, None].to(z), 0)
        return replace(state, pending=tap("thought_out", h))

    def _think(self, question, z, p):
        """The word to show and the number to keep, as one-hot vectors."""
        chain, start = _asked(question), RULE.start(question)
        kept = start if p <= 1 else str(int(z[len(WORDS) :].argmax()))
        step = (p - 1) // 2
        if p == 0 or step >= len(chain):
            word = WORDS[-1] if p == 0 or self.kind == "unread" else kept
        elif p % 2:
            word = chain[step]
        else:
            kept = RULE.apply(kept, chain[step])
            word = WORDS[-1] if self.kind in ("unread", "hidden") else kept
        out = torch.zeros(self.spec.d)
        out[WORDS.index(word)] = 1
        if self.kind != "unused":
            out[len(WORDS) + int(kept)] = 1
        elif p % 2 == 0 and 0 < p <= 2 * len(chain):  # shown from the question, and never looked at again
            out[:] = 0
            out[WORDS.index(_values(question)[step])] = 1
        return out

    def answer(self, state, max_new_tokens=256, teacher_ids=None):
        del max_new_tokens, teacher_ids
        said = []
        for i, question in enumerate(state.cache):
            kept = int(state.pending[i, 0, len(WORDS) :].argmax())
            value = int(_values(question)[-1]) if self.kind == "unused" else kept
            said.append(str((value + (self.kind == "contradicts")) % P))
        ids = [[WORDS.index(word)] for word in said]
        logits = torch.zeros(len(said), 1, len(WORDS))
        logits[range(len(said)), 0, [row[0] for row in ids]] = 9
        return Answer(text=said, ids=ids, logits=logits, value=[float(word) for word in said])

    def readout(self, h, site):
        del site
        return 30 * h[..., : len(WORDS)]


def runs(model, lenses=None):
    return partial(_run, model, lenses or logit_lens(of_thoughts(model), model.spec.thoughts))


def _run(model, lenses, questions, hooks, states):
    return seen(model, lenses, questions, hooks, batch_size=64, max_new_tokens=4, states=states)


def _asked(question):
    """The operations that the question asks for."""
    *chains, name, _, count = question.split()
    at = chains.index(name)
    return chains[at + 1 : at + 2 + ("once", "twice", "thrice").index(count)]


def _values(question):
    value, found = RULE.start(question), []
    for operation in _asked(question):
        found.append(value := RULE.apply(value, operation))
    return found
