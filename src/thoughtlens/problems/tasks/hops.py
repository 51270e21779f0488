"""Steps along graphs: which edge of the question leads from where the search stands to what is read next.

A search may hold a whole frontier of which one concept is read, so that an edge may begin at what was read
last, at what was read before, at whom the question asks about, or at others of the frontier.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache, cached_property
from itertools import pairwise

import numpy as np

from thoughtlens.core import DataError
from thoughtlens.problems.tasks import graphs
from thoughtlens.problems.tasks.graphs import CONCEPTS, EITHER, WHETHER, Asked, Change
from thoughtlens.problems.tasks.steps import Step, Twin

OF_GRAPHS = 0.9
"""Share of questions along graphs from which on this rule fits."""
SAID = re.compile(r"\b(?:is|are) (?P<no>not )?(?:an? )?(?P<concept>[\w-]+)\W*$")
TRUTH = re.compile(r"\b(true|false)\b", re.I)


@cache
def _read(question: str) -> Asked | None:
    """The question's graph; None where it has none, or none with one answer."""
    try:
        return graphs.read(question)
    except DataError:
        return None


class HopsRule:
    """Steps such as `Every wumpus is a lempus`, each to a concept that is read."""

    def __init__(self, first: Callable[[str], str], questions: Sequence[str]) -> None:
        """`first`: what a concept begins with when the model writes it; `questions`: of whose concepts."""
        self.spelled = cache(first)
        self._questions = questions

    @cached_property
    def values(self) -> frozenset[str]:
        """What concepts are read as."""
        asked = [one for one in map(_read, self._questions) if one is not None]
        names = {*CONCEPTS, *(concept for one in asked for _, concept in one.edges)}
        return frozenset(names | {self.spelled(name) for name in names})

    def offers(self, question: str) -> tuple[str, ...]:
        """Its sentences."""
        asked = _read(question)
        return () if asked is None else asked.sentences

    def asked(self, question: str) -> None:
        """It does not say how many."""
        del question

    def wanted(self, question: str) -> None:
        """It does not say which."""
        del question

    def is_value(self, word: str) -> bool:
        """Whether a word is a concept, or begins one."""
        return word in self.values

    def answer(self, question: str, text: str) -> str:
        """The concept that was answered; of true and false, the one that is said to hold."""
        claim, truths = WHETHER.search(question), TRUTH.findall(text)
        if claim is not None and truths:
            said = (claim["no"] or "") + claim["target"]
            return said if truths[-1].lower() == "true" else graphs.opposite(said)
        found = SAID.search(text)
        return text.strip().rstrip(".") if found is None else (found["no"] or "") + found["concept"]

    def join(self, question: str, readings: Sequence[str], answer: str) -> list[Step]:
        """A concept that an edge leads to from where the search stands is a step.

        Between two that are read others may be missing, one for each thought between: their values are not
        read. Of several concepts with the same beginning, the nearest one is taken, from what was read last
        rather than from earlier ones; then one from which the answer follows. The answer closes the chain
        where an edge leads to it from the last concept, and no thought is read as it.
        """
        asked, steps, at = _read(question), list[Step](), 0
        if asked is None:
            return []
        said = self.answer(question, answer)
        for p, (before, word) in enumerate(pairwise(readings), 1):
            if word != before and self.is_value(word):
                way = self._way(asked, steps, word, p - at, said)
                steps += _along(asked, way, p, word)
                at = p if way else at
        if steps and (steps[-1].follows, said) in asked.edges and said not in {one.follows for one in steps}:
            steps += _along(asked, [steps[-1].follows, said], min(at + 1, len(readings) - 1), None)
        return steps

    def leads(self, question: str, chain: Sequence[Step], answer: str) -> bool:
        """Whether it is true; and where the chain leads to neither of the two, any answer may be."""
        asked = _read(question)
        if asked is None or not chain:
            return False
        onward = graphs.distances(asked.edges, chain[-1].follows)
        return self.answer(question, answer) == asked.target or asked.target not in onward

    def twin(self, question: str, chain: Sequence[Step], rng: np.random.Generator) -> Twin | None:
        """Another end of the step's own edge or, where none makes the other answer true, of one before it.

        If may be the way has as many hops; further ways to what was true end elsewhere.
        """
        asked, step = _read(question), chain[-1]
        if asked is None or step.follows not in asked.path:
            return None
        at = asked.path.index(step.follows)
        fit = {
            text: (at - hop, abs(len(other.path) - len(asked.path)))
            for hop, text, other in _others(question, asked)
            if hop <= at < len(other.path) and self.spelled(other.path[at]) != self.spelled(step.follows)
        }
        best = [text for text, cost in fit.items() if cost == min(fit.values())]
        if not best:
            return None
        other = _read(text := best[int(rng.integers(len(best)))])
        assert other is not None
        return Twin(text, {step.operation: other.path[at]})

    def restarted(self, question: str, rng: np.random.Generator) -> str | None:
        """The question with another edge, so that its answer is the other one."""
        asked = _read(question)
        found = [] if asked is None else [text for _, text, _ in _others(question, asked)]
        return found[int(rng.integers(len(found)))] if found else None

    def _way(
        self, asked: Asked, steps: Sequence[Step], word: str, room: int, said: str
    ) -> list[str]:  # fmt: skip
        """The shortest way to a concept that is read so, at most `room` edges long, with where it begins; or
        nothing.
        """
        known = [asked.root, *(step.follows for step in steps)]
        levels = graphs.frontiers(asked.edges, asked.root)
        beside = levels[len(steps) - 1] if 0 < len(steps) <= len(levels) else []
        found = [
            ((hops, order, said not in graphs.distances(asked.edges, name)), source, name)
            for order, source in enumerate(dict.fromkeys([*reversed(known), *beside]))
            for name, hops in graphs.distances(asked.edges, source).items()
            if 0 < hops <= room and name not in known and word in (name, self.spelled(name))
        ]
        if not found:
            return []
        _, source, name = min(found, key=lambda one: one[0])
        return [source, *graphs.shortest_path(asked.edges, source, name)]


def are_graphs(questions: Sequence[str]) -> bool:
    """Whether these are questions along graphs, nearly all of which can be read."""
    some = [EITHER.search(q) or WHETHER.search(q) for q in questions]
    return all(some) and sum(_read(q) is not None for q in questions) >= max(OF_GRAPHS * len(some), 1)


def _others(question: str, asked: Asked) -> Iterator[tuple[int, str, Asked]]:
    """Hop, from 0 on, of whose edge another end makes the other answer true; that question; its graph."""
    hops = {edge: k for k, edge in enumerate(pairwise([asked.root, *asked.path]))}
    for change in graphs.changes(asked, free=True):
        if (other := _read(text := _alone(question, asked, change))) is not None:
            yield hops[asked.edges[asked.sentences.index(change.sentence)]], text, other


def _alone(question: str, asked: Asked, change: Change) -> str:
    """The question with a change, every edge that still leads to what was true ending elsewhere instead."""
    text, told = graphs.changed(question, change), dict(zip(asked.sentences, asked.edges, strict=True))
    told[change.sentence] = told[change.sentence][0], change.concept
    reached, begins = graphs.distances(told.values(), asked.root), {a for a, _ in asked.edges}
    ends = {b for _, b in asked.edges if " " not in b} - begins - {asked.target, asked.other}
    for sentence, (source, end) in told.items():
        free = sorted(one for one in ends if (source, one) not in asked.edges)
        if end == asked.target and source in reached and free:
            text = graphs.changed(text, Change(sentence, free[0]))
    return text


def _along(asked: Asked, way: Sequence[str], p: int, word: str | None) -> list[Step]:
    """The steps of a way, of which the last is read at thought `p`, and those before at none."""
    found = []
    for k, edge in enumerate(pairwise(way), start=2 - len(way)):
        sentence, to = asked.sentences[asked.edges.index(edge)], edge[1]
        found.append(Step(sentence, p + k, "", to, None if k else to, p + k, None if k else word))
    return found
