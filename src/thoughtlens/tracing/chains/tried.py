"""Steps put to the test: change the operand in the question, and patch the thought of that run into the own.

A *twin* of a problem is the same question with the operand of one read operation changed. If the thought
holds the step, the twin's reading is what follows from the other operand. If the answer is made from it, the
own run with what the twin's thought leaves behind in place of its own ends with the twin's answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from thoughtlens.models import Hook, ThoughtModel
from thoughtlens.problems import Rule, Step, Twin
from thoughtlens.tracing.read.patches import ROUTES, left_behind, put_in
from thoughtlens.tracing.read.rules import can_read
from thoughtlens.tracing.read.seen import Seen

VERIFIED, UNUSED, UNREAD, CONTRADICTS = LABELS = (
    "verified",
    "read but not used",
    "used but not read",
    "contradicts the answer",
)
Run = Callable[[Sequence[str], Sequence[Hook], bool], Seen]
"""The model on questions under hooks, and whether states are kept."""


@dataclass(frozen=True, kw_only=True)
class Tested:
    """A step of a problem and what its tests showed; None where a test could not be made."""

    problem: int
    number: int
    """From 1 on."""
    step: Step | None
    """None: no reading says what this step is."""
    value_at: int
    label: str
    route: str | None
    """The way on which the twin's thought was put in."""
    reading_follows: bool | None
    """In the twin the value that is read is what follows from the other operand."""
    answer_follows: bool | None
    """The twin's answer differs from the own one."""
    next_follows: bool | None
    """With the twin's thought in the own run, the next step's value is read as in the twin."""
    patched: bool | None
    """With the twin's thought in the own run, the answer is the twin's, and not the own one."""
    patched_at_random: bool | None
    """The same with as large a change in a random direction."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Trace:
    """What a model's thoughts computed about some problems, each step with its tests."""

    seen: Seen
    steps: list[list[Tested]]
    """By problem."""

    def joined(self, i: int) -> list[Step]:
        """The steps that the readings of one problem say."""
        return [one.step for one in self.steps[i] if one.step is not None]


def trace(
    model: ThoughtModel,
    run: Run,
    rule: Rule,
    questions: Sequence[str],
    *,
    hooks: Sequence[Hook] = (),
    relabel: Callable[[Seen], Seen] = lambda one: one,
    seed: int = 0,
) -> Trace:
    """Read the chain of every problem, and test each of its steps.

    Args:
        model: Who thinks.
        run: How it is run and read.
        rule: What a step of these problems is.
        questions: The problems.
        hooks: Edits that are part of the model here: they are made in every run.
        relabel: What a control does to the readings.
        seed: Of the other operands and of the random directions.
    """
    base = relabel(run(questions, hooks, True))
    chains = [rule.join(q, base.said(i), base.answers[i]) for i, q in enumerate(questions)]
    lab = _Lab(model, run, rule, list(questions), hooks, relabel, np.random.default_rng((seed, 91)), base)
    found: list[list[Tested]] = [[] for _ in questions]
    for number in range(max(map(len, chains), default=0)):
        for one in lab.step(number, chains):
            found[one.problem].append(one)
    for one in lab.unread([i for i, chain in enumerate(chains) if not chain]):
        found[one.problem].append(one)
    return Trace(seen=base, steps=found)


@dataclass(frozen=True, eq=False)
class _Lab:
    """The own run of all problems, and what their twins make of it."""

    model: ThoughtModel
    run: Run
    rule: Rule
    questions: list[str]
    hooks: Sequence[Hook]
    relabel: Callable[[Seen], Seen]
    rng: np.random.Generator
    base: Seen

    def step(self, number: int, chains: Sequence[Sequence[Step]]) -> list[Tested]:
        """Test step `number`, from 0 on, of every problem that has one."""
        rows = [i for i, chain in enumerate(chains) if len(chain) > number]
        now = {
            i: made
            for i in rows
            if (made := self.rule.twin(self.questions[i], chains[i][: number + 1], self.rng)) is not None
            and can_read(self.model, made.question)
        }
        asked = [now[i].question if i in now else question for i, question in enumerate(self.questions)]
        twin = self.relabel(self.run(asked, self.hooks, True))
        at = {i: chains[i][number].value_at for i in now}
        routes = self.routes(twin, at)
        after = {thought: run for thought, (_, run) in routes.items()}
        by_chance = self.patch(twin, at, {p: route for p, (route, _) in routes.items()}, at_random=True)
        found = []
        for i in rows:
            step, later = chains[i][number], chains[i][number + 1 :]
            tested = i in now
            one = Tested(
                problem=i,
                number=number + 1,
                step=step,
                value_at=step.value_at,
                label="",
                route=routes[at[i]][0] if tested else None,
                reading_follows=self._reading(step, twin.said(i), now[i], twin.answers[i], last=not later)
                if tested
                else None,
                answer_follows=twin.answers[i] != self.base.answers[i] if tested else None,
                next_follows=self._next(i, later[0], twin, after[at[i]]) if tested and later else None,
                patched=self._is_twins(i, twin, after[at[i]]) if tested else None,
                patched_at_random=self._is_twins(i, twin, by_chance[at[i]]) if tested else None,
            )
            answer = self.rule.answer(self.questions[i], self.base.answers[i])
            leads = bool(later) or self.rule.leads(self.questions[i], chains[i], answer)
            found.append(replace(one, label=_label(one, leads=leads)))
        return found

    def unread(self, rows: Sequence[int]) -> list[Tested]:
        """Of problems whose readings say no step: the first thought through which the start value acts."""
        asked, left = list(self.questions), []
        for i in rows:
            changed = self.rule.restarted(self.questions[i], self.rng)
            if changed is not None and can_read(self.model, changed):
                asked[i] = changed
                left.append(i)
        found: list[Tested] = []
        twin = self.run(asked, self.hooks, True) if left else self.base
        for p in self.model.spec.thoughts[1:] if left else ():
            at = dict.fromkeys(left, p)
            if not (routes := self.routes(twin, at)):
                continue
            route, after = routes[p]
            by_chance = self.patch(twin, at, {p: route}, at_random=True)[p]
            acting = [i for i in left if self._is_twins(i, twin, after)]
            left = [i for i in left if i not in set(acting)]
            found += [
                Tested(
                    problem=i,
                    number=1,
                    step=None,
                    value_at=p,
                    label=UNREAD,
                    route=route,
                    reading_follows=None,
                    answer_follows=True,
                    next_follows=None,
                    patched=True,
                    patched_at_random=self._is_twins(i, twin, by_chance),
                )
                for i in acting
            ]
        return found

    def routes(self, twin: Seen, at: Mapping[int, int]) -> dict[int, tuple[str, Seen]]:
        """By thought, the way on which the twin's thought brings its answer most often, and the runs with it.

        What a thought leaves behind is its state and its keys and values. Put in together they can disagree
        with the own question, as when keys name an operation that it does not write.
        """
        found: dict[int, tuple[str, Seen]] = {}
        best: dict[int, int] = {}
        for route in ROUTES:
            for thought, run in self.patch(twin, at, dict.fromkeys(at.values(), route)).items():
                share = sum(self._is_twins(i, twin, run) for i, p in at.items() if p == thought)
                if share > best.get(thought, -1):
                    found[thought], best[thought] = (route, run), share
        return found

    def patch(
        self, twin: Seen, at: Mapping[int, int], route: Mapping[int, str], *, at_random: bool = False
    ) -> dict[int, Seen]:
        """By thought, the own runs with what the twin's thought leaves behind on a route.

        Args:
            twin: The run of the changed questions.
            at: Problem to the thought that is taken from its twin.
            route: The way from each thought; thoughts without this way are left out.
            at_random: Change it as much in a random direction instead.
        """
        runs = {}
        for thought in sorted(set(at.values())):
            mine = torch.tensor([at.get(i) == thought for i in range(len(self.questions))])[:, None]
            noise = torch.Generator().manual_seed(int(self.rng.integers(2**31))) if at_random else None
            edits = put_in(
                left_behind(self.model.spec, thought, route[thought]),
                lambda place, mine=mine: torch.where(mine, twin.states[place], self.base.states[place]),
                noise,
            )
            if edits:
                runs[thought] = self.relabel(self.run(self.questions, [*self.hooks, *edits], False))
        return runs

    def _is_twins(self, i: int, twin: Seen, after: Seen) -> bool:
        """Whether the answer became the twin's, which is not the own one."""
        return after.answers[i] == twin.answers[i] != self.base.answers[i]

    def _reading(
        self, step: Step, said: Sequence[str], twin: Twin, answer: str, *, last: bool
    ) -> bool | None:
        """Whether the value that is read is the twin's; None where it is read in the answer alone."""
        if step.word is None:
            return None
        read = said[step.value_at]
        if last and not self.rule.is_value(read):
            read = self.rule.answer(twin.question, answer)
        values = set(twin.follows.values())
        return read in values | {self.rule.spelled(value) for value in values}

    def _next(self, i: int, later: Step, twin: Seen, after: Seen) -> bool | None:
        """Whether the next step's value is read as in the twin; None where it is not read as a value."""
        if later.word is None:
            return None
        return after.said(i)[later.value_at] == twin.said(i)[later.value_at]


def _label(one: Tested, *, leads: bool) -> str:
    """What the tests of a step say; `leads`: whether the answer follows, where it is the chain's end."""
    step = one.step
    assert step is not None
    if not step.holds or not leads:
        return CONTRADICTS
    if step.value is None:
        return UNREAD if one.patched else UNUSED
    follows = one.reading_follows is not False and one.next_follows is not False
    return VERIFIED if follows and one.patched else UNUSED
