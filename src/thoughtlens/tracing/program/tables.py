"""The transition table of each step, and what is said after fewer thoughts: from what the model does alone.

A cell (value before, operation) is filled by making the model do it: for the first step the start value is
written into a training problem that asks for the operation, later the value is put in from another problem.
What the step gave is told by the answer, or by what follows from the next place in the probes. Several
interventions vote; training problems as they are vote too.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import NamedTuple

import numpy as np

from thoughtlens.problems import Written
from thoughtlens.tracing.program.asked import Asked, Left, Mind, Spot, lines
from thoughtlens.tracing.program.places import name_of
from thoughtlens.tracing.program.values import Values

ANSWER = "answer"
ALIKE = 0.98
"""Share of common cells in which tables must agree to be one."""
COMMON = 0.3
"""Share of the smaller table's cells that must be common."""
GAIN = 0.02
"""What one more variable must add to the share of answers that a table gives."""
Key = tuple[str, ...]


class Votes(NamedTuple):
    """A cell."""

    after: str | None
    """None: no majority."""
    votes: int
    n: int

    @classmethod
    def of(cls, count: Counter[str]) -> Votes:
        """The value that more than half of the votes say."""
        (after, votes), n = count.most_common(1)[0], sum(count.values())
        return cls(after if 2 * votes > n else None, votes, n)


@dataclass(frozen=True, eq=False)
class Step:
    """One step of the program: from one value that a place holds to the next, by the operations between."""

    before: str
    operations: list[str]
    gives: str
    counts: dict[Key, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    @property
    def of(self) -> list[str]:
        """What it is looked up by."""
        return [self.before, *self.operations]

    @property
    def cells(self) -> dict[Key, Votes]:
        """What was seen."""
        return {key: Votes.of(count) for key, count in sorted(self.counts.items())}

    def vote(self, key: Sequence[str | None], after: str | None) -> None:
        """Count one observation, if all of it is known."""
        if after is not None and None not in key:
            self.counts[tuple(str(word) for word in key)][after] += 1


@dataclass(frozen=True, eq=False)
class Seen:
    """What was seen of a problem that left early: its variables, as far as known, and the answers."""

    known: dict[str, str]
    answers: dict[int, str]
    """By number of thoughts."""
    natural: bool = False
    """Whether it is a problem as it stands."""


@dataclass(frozen=True, eq=False)
class Filler:
    """Fills the tables of one model."""

    mind: Mind
    rule: Written
    problems: Sequence[Asked]
    """Training problems whose thoughts were looked at."""
    pool: Sequence[Asked]
    """All training problems, to put values into."""
    held_out: set[Key]
    values: Mapping[int, Values]
    """By step."""
    answers: Sequence[str]
    """The model's, to these problems."""
    repeats: int
    rng: np.random.Generator
    n_steps: int
    seen: list[Seen] = field(default_factory=list)

    @property
    def exits(self) -> range:
        """Numbers of thoughts to leave after."""
        return range(self.mind.model.spec.n_thoughts)

    def steps(self) -> list[Step]:
        """Every step with its cells."""
        found, last = [], 0
        for k in [*sorted(self.values), self.n_steps]:
            if k > last:
                found.append(self._step(last, k))
                last = k
        return found

    def _step(self, last: int, k: int) -> Step:
        before = name_of(0) if last == 0 else f"value{last}"
        gives = ANSWER if k == self.n_steps else f"value{k}"
        step = Step(before, [name_of(i) for i in range(last + 1, k + 1)], gives)
        after = self.values[k].said if k < self.n_steps else self.answers
        first = [one.words[0] for one in self.problems] if last == 0 else self.values[last].said
        for one, was, came in zip(self.problems, first, after, strict=True):
            step.vote([was, *one.words[last + 1 : k + 1]], came)
        if k == last + 1:
            for asked, value, left in self._tries(last, k):
                self._fill(step, asked, value, None if left is None else (self.values[last].spot, left), k)
        return step

    def _fill(
        self, step: Step, asked: Sequence[Asked], values: Sequence[str], put: tuple[Spot, Left] | None, k: int
    ) -> None:
        """Do the step once for each of these, and count what it gives."""
        questions, first = [one.question for one in asked], -1 if put is None else put[0].thought
        exits = [p for p in self.exits if p > first]
        untouched, found = self.mind.answers(
            questions, [] if put is None else [put], [(p, put) for p in exits]
        )
        answers = untouched if put is None else found[0]
        early = dict(zip(exits, found[0 if put is None else 1 :], strict=True))
        came: Sequence[str | None] = answers
        if k < self.n_steps:
            own = self.values[k]
            came = own.of(self.mind.think(questions, [own.spot], put)[0])
        for i, one in enumerate(asked):
            step.vote([values[i], *one.words[k : k + 1]], came[i])
            known: dict[str, str | None] = {name_of(j): one.words[j] for j in range(k, self.n_steps + 1)}
            known |= {step.before: values[i], step.gives: came[i], ANSWER: answers[i]}
            self._see(known, {p: said[i] for p, said in early.items()})

    def _tries(self, last: int, k: int) -> Iterator[tuple[list[Asked], list[str], Left | None]]:
        """Problems that ask for each operation, each with every value before it, and what is put in."""
        by_word: dict[str, list[Asked]] = defaultdict(list)
        for i in self.rng.permutation(len(self.pool)):
            by_word[self.pool[i].words[k]].append(self.pool[i])
        for repeat in range(self.repeats):
            bases = [own[repeat % len(own)] for _, own in sorted(by_word.items())]
            if last == 0:
                starts = sorted({one.words[0] for one in self.pool})
                made = [base.changed(self.rule, 0, start) for base in bases for start in starts]
                asked = [one for one in made if one is not None and one.words not in self.held_out]
                yield asked, [one.words[0] for one in asked], None
                continue
            rows = self.values[last].rows
            chosen = [int(own[self.rng.integers(len(own))]) for _ in bases for own in rows.values()]
            left = lines(self.values[last].left, chosen)
            yield [base for base in bases for _ in rows], [name for _ in bases for name in rows], left

    def as_they_stand(self) -> None:
        """See the problems leave early, untouched."""
        questions = [one.question for one in self.problems]
        early = self.mind.answers(questions, exits=[(p, None) for p in self.exits])[1]
        for i, one in enumerate(self.problems):
            known: dict[str, str | None] = {name_of(j): word for j, word in enumerate(one.words)}
            known |= {f"value{k}": own.said[i] for k, own in self.values.items() if k < self.n_steps}
            known |= {ANSWER: self.answers[i]}
            self._see(known, dict(zip(self.exits, (said[i] for said in early), strict=True)), natural=True)

    def _see(
        self, known: Mapping[str, str | None], answers: dict[int, str], *, natural: bool = False
    ) -> None:
        there = {name: word for name, word in known.items() if word is not None}
        self.seen.append(Seen(there, answers, natural))


class Exit(NamedTuple):
    """What is answered after so many thoughts."""

    n_thoughts: int
    of: Key
    cells: dict[Key, str]
    share: float


def leave(seen: Sequence[Seen], names: Sequence[str], n_thoughts: int) -> Exit:
    """The table that gives most of the answers to problems left out of it; fewer variables if as good."""
    there = [one for one in seen if n_thoughts in one.answers]
    judged = [one for one in there if one.natural]
    fit = [one for one in there if not one.natural] + judged[::2]
    best, share = (), -1.0
    for keys in (c for size in range(3) for c in combinations(names, size)):
        table = _table(fit, keys, n_thoughts)
        rights = [table.get(_key(one, keys)) == one.answers[n_thoughts] for one in judged[1::2]]
        own = float(np.mean(rights)) if rights else 0.0
        if own > share + (GAIN if len(keys) > len(best) else 0.0):
            best, share = keys, own
    return Exit(n_thoughts, best, _table(there, best, n_thoughts), share)


def _key(one: Seen, keys: Sequence[str]) -> Key:
    return tuple(one.known.get(name, "") for name in keys)


def _table(seen: Sequence[Seen], keys: Sequence[str], n_thoughts: int) -> dict[Key, str]:
    counts: dict[Key, Counter[str]] = defaultdict(Counter)
    for one in seen:
        if all(name in one.known for name in keys):
            counts[_key(one, keys)][one.answers[n_thoughts]] += 1
    return {key: count.most_common(1)[0][0] for key, count in counts.items()}


def shared(steps: Sequence[Step]) -> list[tuple[list[Step], dict[Key, str]]]:
    """Steps whose tables agree, together, with their common cells; names of values must mean the same."""
    groups: list[tuple[list[Step], dict[Key, Counter[str]]]] = []
    for step in steps:
        for own, counts in groups:
            if len(own[0].of) == len(step.of) and _alike(counts, step.counts):
                own.append(step)
                for key, count in step.counts.items():
                    counts[key] = counts.get(key, Counter()) + count
                break
        else:
            groups.append(([step], dict(step.counts)))
    found = []
    for own, counts in groups:
        cells = {key: Votes.of(count).after for key, count in sorted(counts.items())}
        found.append((own, {key: after for key, after in cells.items() if after is not None}))
    return found


def _alike(a: Mapping[Key, Counter[str]], b: Mapping[Key, Counter[str]]) -> bool:
    common = a.keys() & b.keys()
    if not common or len(common) < COMMON * min(len(a), len(b)):
        return False
    return bool(np.mean([Votes.of(a[key]).after == Votes.of(b[key]).after for key in common]) >= ALIKE)
