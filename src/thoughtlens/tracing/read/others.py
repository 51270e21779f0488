"""Other problems: what their thoughts read as, and what follows if they are put in the place of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from thoughtlens.acts import ActivationStore
from thoughtlens.core import Number
from thoughtlens.models import Place, ThoughtModel, TinyThoughts
from thoughtlens.numerics import proportion
from thoughtlens.problems import GeneratedConfig
from thoughtlens.tracing.read.lenses import Crowd, Lenses
from thoughtlens.tracing.read.patches import STATE, everything, left_behind, put_in
from thoughtlens.tracing.read.records import Tested
from thoughtlens.tracing.read.seen import Seen, seen

DONORS = 24
"""Thoughts of other problems put in the place of one, with the same reading and with another one each."""


def known_questions(model: ThoughtModel, store: ActivationStore | None, n: int) -> list[str]:
    """`n` problems that a model can be asked: held-out ones of a store, or made for a shipped model."""
    if store is not None:
        asked, split = store.questions.to_pylist(), store.problems.column("split").to_pylist()
        lines = [i for i, own in enumerate(split) if own == "test" and asked[i]] or range(len(asked))
        chosen = np.random.default_rng(0).permutation(np.array(lines))[:n]
        return [asked[i] for i in np.sort(chosen)]
    if n < 2 or not isinstance(model, TinyThoughts):
        return []
    from thoughtlens.interventions import held_out  # here: few need it

    made = held_out(GeneratedConfig(source="generated"), model, split="test", n=n, seed=0)
    return made.column("question").to_pylist()


@dataclass(frozen=True, eq=False)
class Others:
    """Some problems that a model was asked, and how their thoughts read."""

    model: ThoughtModel
    lenses: Lenses
    questions: Sequence[str]

    def __len__(self) -> int:
        return len(self.questions)

    def without(self, question: str) -> list[int]:
        """All but this one."""
        return [i for i, other in enumerate(self.questions) if other != question]

    @cached_property
    def seen(self) -> Seen:
        """Their readings and states, and the keys and values that they left."""
        return seen(self.model, self.lenses, self.questions, max_new_tokens=None, states=True)

    @property
    def crowds(self) -> list[Crowd]:
        """By thought, what readings of one question are held against."""
        if not len(self):
            return [Crowd(torch.zeros(0), 0)] * len(self.lenses.at)
        return [look.crowd for look in self.seen.looks]

    def tested(self, question: str, own: Seen, i: int, max_new_tokens: int) -> list[Tested | None]:
        """What follows if each thought of question `i` of a run is taken from other problems."""
        trial = _Trial(self, question, own.reading[i], own.answers[i], max_new_tokens)
        return [trial.of(thought) for thought in self.model.spec.thoughts]


@dataclass(frozen=True, eq=False)
class _Trial:
    """One question with thoughts of others in the place of its own."""

    others: Others
    question: str
    read: np.ndarray
    answer: str
    max_new_tokens: int

    def of(self, thought: int) -> Tested | None:
        """The numbers and verdict of one thought; None where no other problem can be put there."""
        lines, spec = np.array(self.others.without(self.question), int), self.others.model.spec
        words = self.others.seen.reading[lines, thought]
        alike = words == self.read[thought]
        same, other = lines[alike][:DONORS], lines[~alike & (words >= 0)][:DONORS]
        after = self._moved(left_behind(spec, thought, STATE), thought, np.r_[same, other])
        whole = self._moved(everything(spec, thought), thought, other)
        if after is None and whole is None:
            return None
        return Tested.of(
            "live",
            changed=None if after is None else _share(after[len(same) :]),
            kept=None if after is None else _share(~after[: len(same)]),
            whole_pass=None if whole is None else _share(whole),
        )

    def _moved(self, places: Sequence[Place], thought: int, donors: np.ndarray) -> np.ndarray | None:
        """By donor, whether the answer or a later reading is another one."""
        if not len(places) or not len(donors):
            return None
        others = self.others
        run = seen(
            others.model,
            others.lenses,
            [self.question] * len(donors),
            put_in(places, lambda place: others.seen.states[place][donors]),
            max_new_tokens=self.max_new_tokens,
        )
        read = (run.reading != self.read)[:, thought + 1 :].any(1)
        return read | np.array([text != self.answer for text in run.answers])


def _share(found: np.ndarray) -> Number | None:
    return proportion(found).number() if len(found) else None
