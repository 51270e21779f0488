"""Problems as their words say them, and what a model answers to them, untouched or with others' thoughts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from thoughtlens.interventions import Edit, given, run_edits
from thoughtlens.models import Place, ThoughtModel, ThoughtSpec, collect
from thoughtlens.problems import Written
from thoughtlens.tracing.read.patches import KEYS, STATE, left_behind, put_in

LONGEST = 16
"""Tokens of an answer."""
UNKNOWN, NO_WORD = "?", "-"
"""What a table writes for a cell that is not known, and where it is looked up by fewer words."""
Left = Mapping[Place, Tensor]
"""What thoughts left behind, [problems, width] at each place."""


class Spot(NamedTuple):
    """A way by which a thought reaches later ones."""

    thought: int
    route: str

    def places(self, spec: ThoughtSpec) -> list[Place]:
        """The states on it."""
        return left_behind(spec, self.thought, self.route)

    def __str__(self) -> str:
        return f"{self.route} of thought {self.thought}"


def spots_of(spec: ThoughtSpec) -> list[Spot]:
    """Every place that a value can be handed on from."""
    found = [Spot(p, route) for p in spec.thoughts for route in (STATE, KEYS)]
    return [spot for spot in found if spot.places(spec)]


class Asked(NamedTuple):
    """A question, and its start value and operations as it writes them."""

    question: str
    words: tuple[str, ...]

    @classmethod
    def of(cls, rule: Written, question: str) -> Asked | None:
        """None where the question does not say them plainly."""
        wanted = rule.wanted(question)
        return None if not wanted else cls(question, (rule.start(question), *wanted))

    def changed(self, rule: Written, at: int, word: str) -> Asked | None:
        """With another start value (`at` 0) or operation; None where that cannot be written."""
        if at:
            new = rule.with_operation(self.question, self.words[at], word)
        else:
            new = rule.with_start(self.question, word)
        found = None if new is None else Asked.of(rule, new)
        wanted = (*self.words[:at], word, *self.words[at + 1 :])
        return found if found is not None and found.words == wanted else None


@dataclass(frozen=True, eq=False)
class Mind:
    """A model, and how many problems it is asked at a time."""

    model: ThoughtModel
    batch_size: int

    def think(
        self, questions: Sequence[str], spots: Sequence[Spot], put: tuple[Spot, Left] | None = None
    ) -> list[Left]:
        """What each of these spots is left with, perhaps after something else was put into an earlier one."""
        spec = self.model.spec
        hooks = [] if put is None else put_in(put[0].places(spec), lambda place: put[1][place])
        kept = [place for spot in spots for place in spot.places(spec)]
        batch = collect(self.model, questions, hooks, places=kept, batch_size=self.batch_size)
        return [{place: batch[place] for place in spot.places(spec)} for spot in spots]

    @torch.no_grad()
    def answers(
        self,
        questions: Sequence[str],
        puts: Sequence[tuple[Spot, Left]] = (),
        exits: Sequence[tuple[int, tuple[Spot, Left] | None]] = (),
    ) -> tuple[list[str], list[list[str]]]:
        """The answers untouched, under each put, and after so many thoughts, perhaps under a put as well."""
        edits = [self._edit(put, None) for put in puts] + [self._edit(put, n) for n, put in exits]
        own, others = run_edits(
            self.model, questions, edits, batch_size=self.batch_size, max_new_tokens=LONGEST
        )
        return spelled(own.text), [spelled(one.text) for one in others]

    def _edit(self, put: tuple[Spot, Left] | None, n_thoughts: int | None) -> Edit:
        spot, left = (None, {}) if put is None else put
        places = [] if spot is None else spot.places(self.model.spec)
        made = Edit.at(str(spot or "exit"), places, lambda place: given(left[place]))
        return Edit(made.about, made.changes, n_thoughts)


def spelled(texts: Sequence[str]) -> list[str]:
    """Answers as words that a table can hold, and that mean nothing else there."""
    words = ["_".join(text.replace(",", ".").split()) or "_" for text in texts]
    return [f"{word}_" if word in (UNKNOWN, NO_WORD) else word for word in words]


def lines(left: Left, rows: Sequence[int]) -> Left:
    """What some of the problems left, in this order."""
    return {place: states[list(rows)] for place, states in left.items()}
