"""Runs of some questions, what a change at one place leaves for later thoughts, and what arrives there.

A *wake* is a run with a change at one place and every cell after it held as it was, so that what differs came
straight from there. Each route of it, the state or the keys and values of one block, is then put alone into
the untouched run before a later thought, and what arrives at that thought's cells is read before they are
held again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thoughtlens.core import DataError, HookError
from thoughtlens.interventions import Change, hook_of
from thoughtlens.models import Hook, Place, State, ThoughtModel
from thoughtlens.tracing.latent_graph.cells import Cell

STATE = "state"
ALIKE = 1e-5
"""Of the largest number in a tensor: what rounding makes of the same product in batches of other sizes."""
WITHIN = "within"
"""Route of an edge inside one thought, through the blocks."""
Arrived = dict[Place | None, Tensor]
"""What stands at each place; under None the logits of the answer's first token, about their mean."""
Memory = list[tuple[Tensor, Tensor]]
"""By layer, keys and values."""


@dataclass(frozen=True, eq=False)
class Runs:
    """Untouched runs of questions of one length: the state before each thought and after the last one."""

    model: ThoughtModel
    cells: Sequence[Cell]
    states: list[State]
    x: Arrived
    logits: Float[Tensor, "n vocab"]

    @classmethod
    def of(
        cls, model: ThoughtModel, cells: Sequence[Cell], questions: Sequence[str], bare: Sequence[Place] = ()
    ) -> Runs:
        """Think about some questions, and keep what stands at the cells, and at further places.

        Raises:
            DataError: questions of different lengths.
            HookError: a model that does not add one position for each thought.
        """
        states, x = [model.encode(questions)], Arrived()
        if not bool(states[0].mask.all()):
            raise DataError("graph: expected questions of one length")
        places = [*(cell.place for cell in cells), *bare]
        for t in model.spec.thoughts:
            hooks = [changed(place, lambda own: own, x) for place in places if place.thought == t]
            after, _ = model.step(states[-1], hooks)
            if after.mask.shape[1] != states[-1].mask.shape[1] + 1 or after.thinking is not None:
                raise HookError(
                    "graph: expected a model that adds one position for each thought, and thinks all thoughts"
                )
            states.append(after)
        return cls(model, cells, states, x, answered(model, states[-1]))

    def __len__(self) -> int:
        return len(self.logits)

    @property
    def last(self) -> int:
        """The number that the answer has as a target, one past the last thought."""
        return len(self.states) - 1

    @cached_property
    def memory(self) -> Memory:
        """Keys and values of the question's positions, before any thought."""
        return [self.model._memory(self.states[0], layer) for layer in range(self.model.spec.n_layers)]

    def cell(self, place: Place) -> Cell:
        """The one there."""
        return next(cell for cell in self.cells if cell.place == place)

    def at(self, t: int, rows: Int[Tensor, " n"]) -> State:
        """The state before a thought, of these runs, each as often as it is named."""
        model, state = self.model, self.states[t]
        after = model.clone(state)
        for layer in range(model.spec.n_layers):
            model._remember(after, layer, *(part[rows] for part in model._memory(state, layer)))
        return replace(
            after,
            mask=state.mask[rows],
            positions=state.positions[rows],
            pending=state.pending[rows],
            rows=torch.arange(len(rows)),
        )

    def held(self, t: int, rows: Int[Tensor, " n"], seen: Arrived, but: Place | None = None) -> list[Hook]:
        """Hooks that hold a thought's cells as they were, and keep what came there."""
        return [
            changed(cell.place, lambda _, own=self.x[cell.place][rows]: own, seen)
            for cell in self.cells
            if cell.thought == t and cell.place != but
        ]

    def arrive(self, t: int, state: State, rows: Int[Tensor, " n"]) -> Arrived:
        """What comes to the cells of a thought, or to the answer, from this state."""
        if t == self.last:
            return {None: answered(self.model, state)}
        seen: Arrived = {}
        self.model.step(state, self.held(t, rows, seen))
        return seen


@dataclass(frozen=True, eq=False)
class Wake:
    """What one change, in as many versions as there are rows, leaves behind."""

    runs: Runs
    rows: Int[Tensor, " n"]
    """Which run each version starts from."""
    within: Arrived = field(default_factory=dict)
    """What comes to later cells of the same thought."""
    states: dict[int, State] = field(default_factory=dict)
    """By thought the changed state before it."""

    @classmethod
    def of_cell(
        cls, runs: Runs, place: Place, rows: Int[Tensor, " n"], delta: Float[Tensor, "n width"]
    ) -> Wake:
        """Something is added at a cell."""
        assert place.thought is not None
        own, t = cls(runs, rows), place.thought
        hooks = [_added(place, delta), *runs.held(t, rows, own.within, but=place)]
        after, _ = runs.model.step(runs.at(t, rows), hooks)
        return own._follow(t + 1, after)

    @classmethod
    def of_words(cls, runs: Runs, rows: Int[Tensor, " n"], memory: Memory) -> Wake:
        """The question is remembered otherwise."""
        return cls(runs, rows)._follow(0, remembered(runs.model, runs.at(0, rows), memory))

    def _follow(self, t: int, state: State) -> Wake:
        self.states[t] = state
        for p in range(t, self.runs.last):
            state, _ = self.runs.model.step(state, self.runs.held(p, self.rows, {}))
            self.states[p + 1] = state
        return self

    def routes(self, t: int) -> Iterator[tuple[str, State]]:
        """The untouched state before a thought with one way of this change in it; ways that carry nothing
        are left out."""
        model, own = self.runs.model, self.runs.at(t, self.rows)
        other = self.states[t]
        if t < self.runs.last and _differ(own.pending, other.pending):
            yield STATE, replace(model.clone(own), pending=other.pending)
        for layer in range(model.spec.n_layers):
            (k, v), (k_new, v_new) = model._memory(own, layer), model._memory(other, layer)
            if _differ(k, k_new) or _differ(v, v_new):
                after = model.clone(own)
                model._remember(after, layer, k_new, v_new)
                yield f"layers.{layer}:kv", after

    def arrivals(self) -> Iterator[tuple[str, Arrived]]:
        """By route what comes straight to each later cell, and to the answer."""
        yield WITHIN, self.within
        for t in self.states:
            for route, state in self.routes(t):
                yield route, self.runs.arrive(t, state, self.rows)


def answered(model: ThoughtModel, state: State) -> Float[Tensor, "n vocab"]:
    """Logits of the answer's first token, about their mean."""
    logits = model.answer(state, 0).logits[:, 0].float()
    return logits - logits.mean(-1, keepdim=True)


def remembered(model: ThoughtModel, state: State, memory: Memory) -> State:
    """A state, which is the caller's, whose first positions hold other keys and values."""
    for layer, pair in enumerate(memory):
        own = model._memory(state, layer)
        new = (torch.cat([a, b[:, :, a.shape[2] :]], 2) for a, b in zip(pair, own, strict=True))
        model._remember(state, layer, *new)
    return state


def thought_through(model: ThoughtModel, state: State, hooks: Sequence[Hook]) -> State:
    """The state after all further thoughts, under hooks."""
    for _ in range(state.next_thought, model.spec.n_thoughts + 1):
        state, _ = model.step(state, hooks)
    return state


def free(runs: Runs, place: Place, rows: Int[Tensor, " n"], delta: Float[Tensor, "n width"]) -> State:
    """The end of runs in which something is added at a cell, and all that follows may follow."""
    assert place.thought is not None
    return thought_through(runs.model, runs.at(place.thought, rows), [_added(place, delta)])


def _differ(own: Tensor, other: Tensor) -> bool:
    return bool((own - other).abs().max() > ALIKE * own.abs().max())


def changed(place: Place, fn: Callable[[Tensor], Tensor], seen: Arrived | None = None) -> Hook:
    """A hook that changes what stands at a place, and perhaps keeps what came there."""
    kept = {} if seen is None else seen
    return hook_of(place, Change(fn), lambda before, after: kept.__setitem__(place, before))


def _added(place: Place, delta: Tensor) -> Hook:
    return changed(place, lambda x: x + delta.to(x))
