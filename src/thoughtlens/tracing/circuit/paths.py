"""Direct paths: what one place gives one later thought, all else as in the untouched run.

Pass t of the untouched run is made once more with one thing from another run: the state that is fed back, or
the keys and values of some positions in one block. What comes in between stays untouched, so that the change
at t is what came directly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from thoughtlens.core import HookError
from thoughtlens.models import State, ThoughtModel

SMALL = 0.01
"""Of a change, whose effect gives the slope."""
STATE, OTHER = "state", "question: other words"


class Edge(NamedTuple):
    """A way from one place to a later thought, or to the answer."""

    source: str
    target: int
    """A thought; one past the last: the answer."""
    route: str


@dataclass(frozen=True, eq=False)
class Course:
    """A run of the model: the state before each thought and after the last one, and what each left."""

    model: ThoughtModel
    states: list[State]
    left: list[Tensor]
    """By thought its state, keys and values, [n, width]; last the answer's first logits, about their mean."""

    @classmethod
    @torch.no_grad()
    def of(cls, model: ThoughtModel, start: State) -> Course:
        """Think from a state before thought 0 on."""
        states, left = [start], []
        for _ in model.spec.thoughts:
            state, one = follow(model, states[-1])
            states.append(state)
            left.append(one)
        return cls(model, states, [*left, answer_of(model, states[-1])])

    @cached_property
    def question(self) -> int:
        """Cached positions before thought 0."""
        return self.states[0].mask.shape[1]


def follow(model: ThoughtModel, state: State) -> tuple[State, Float[Tensor, "n width"]]:
    """The next thought, and all that it leaves behind."""
    after, record = model.step(state)
    if after.mask.shape[1] != state.mask.shape[1] + 1:
        raise HookError("circuit: expected a model that adds one position per thought")
    parts = [x.flatten(1) for layer in range(model.spec.n_layers) for x in record.kv(layer)]
    return after, torch.cat([record.thought_out.flatten(1), *parts], 1).float()


def answer_of(model: ThoughtModel, state: State) -> Float[Tensor, "n vocab"]:
    """Logits of the answer's first token, about their mean."""
    logits = model.answer(state, 0).logits[:, 0].float()
    return logits - logits.mean(-1, keepdim=True)


def said(model: ThoughtModel, state: State, max_new_tokens: int) -> list[str]:
    """The answers."""
    return [text.strip() for text in model.answer(state, max_new_tokens).text]


def places(own: Course, words: Bool[Tensor, "n seq"], variable: str) -> dict[str, Bool[Tensor, "n seq"]]:
    """The positions of every source: the words of a variable, the other words, each thought."""
    n, length = own.states[-1].mask.shape
    at = torch.arange(length)
    asked = (at < own.question).expand(n, length)
    found = {f"question: {variable}": words, OTHER: asked & ~words}
    return found | {
        f"thought {p}": (at == own.question + p).expand(n, length) for p in own.model.spec.thoughts
    }


def words_of(own: Course, twin: Course) -> Bool[Tensor, "n seq"]:
    """The positions of the question whose word differs: where keys of the first block do."""
    (a, _), (b, _) = (one.model._memory(one.states[0], 0) for one in (own, twin))
    found = torch.zeros(own.states[-1].mask.shape, dtype=torch.bool)
    found[:, : own.question] = ((a - b).abs().amax((1, 3)) > 1e-6) & own.states[0].mask
    return found


@dataclass(frozen=True, eq=False)
class Tried:
    """What the edges of one variable give, per problem: share of the target's change = sum over problems of
    a column / sum of `whole`."""

    edge: Edge
    whole: Float[Tensor, " n"]
    moved: Float[Tensor, " n"]
    at_random: Float[Tensor, " n"]
    slope: Float[Tensor, " n"]
    astray: Float[Tensor, " n"]
    """Of another problem's change."""
    size: Float[Tensor, " n"]
    """Of the change made, squared, whatever its direction; less a random change's."""


@torch.no_grad()
def trials(
    own: Course, twin: Course, sources: dict[str, Bool[Tensor, "n seq"]], spread: list[Tensor], seed: int
) -> Iterator[Tried]:
    """Every edge into every thought and the answer, tried with a twin's states."""
    model, last = own.model, len(own.left) - 1
    noise = torch.Generator().manual_seed(seed)
    for t, (here, there) in enumerate(zip(own.left, twin.left, strict=True)):
        change = (there - here) / spread[t]
        state, other = own.states[t], twin.states[t]

        astray = change.roll(len(change) // 2, 0)

        def made(changed: State, t: int = t, here: Tensor = here) -> Tensor:
            found = answer_of(model, changed) if t == last else follow(model, changed)[1]
            return (found - here) / spread[t]

        for edge, step in _ways(model, state, other, sources, t=t, last=last):
            moved, drawn, small = (made(step(*how)) for how in ((1.0, None), (1.0, noise), (SMALL, None)))
            yield Tried(
                edge,
                whole=(change**2).sum(1),
                moved=(moved * change).sum(1),
                at_random=(drawn * change).sum(1),
                slope=(small * change).sum(1) / SMALL,
                astray=(moved * astray).sum(1),
                size=(moved**2 - drawn**2).sum(1),
            )


Way = Callable[[float, torch.Generator | None], State]
"""The state with so much of the change, perhaps in a random direction."""


def _ways(
    model: ThoughtModel, state: State, other: State, sources: dict[str, Tensor], *, t: int, last: int
) -> Iterator[tuple[Edge, Way]]:
    if 0 < t < last and model.spec.feeds_back:

        def fed(share: float, noise: torch.Generator | None) -> State:
            return replace(model.clone(state), pending=_toward(state.pending, other.pending, share, noise))

        yield Edge(f"thought {t - 1}", t, STATE), fed
    length = state.mask.shape[1]
    for source, at in sources.items():
        here = at[:, :length]
        if not here.any():
            continue
        for layer in range(model.spec.n_layers):

            def kept(
                share: float, noise: torch.Generator | None, layer: int = layer, here: Tensor = here
            ) -> State:
                after, where = model.clone(state), here[:, None, :, None]
                _rewrite(
                    model,
                    after,
                    other,
                    layer,
                    lambda a, b: torch.where(where, _toward(a, b[:, :, :length], share, noise), a),
                )
                return after

            yield Edge(source, t, f"layers.{layer}:kv"), kept


def _toward(own: Tensor, other: Tensor, share: float, noise: torch.Generator | None) -> Tensor:
    """So much of the way to another tensor, or as far in a random direction."""
    change = other - own
    if noise is not None:
        drawn = torch.randn(change.shape, generator=noise, dtype=change.dtype)
        change = drawn / drawn.norm(dim=-1, keepdim=True) * change.norm(dim=-1, keepdim=True)
    return own + share * change


@torch.no_grad()
def without(own: Course, donor: Course, cut: set[Edge], sources: dict[str, Tensor]) -> State:
    """Think anew, where edges that are cut carry what another problem's run has there; the end state.

    Every thought is made from what the own new run has left, but for the edges into it that are cut.
    """
    model, state = own.model, own.states[0]
    for t in model.spec.thoughts:
        after = follow(model, _swapped(model, state, donor.states[t], cut, sources, t=t))[0]
        for layer in range(model.spec.n_layers):
            _rewrite(model, after, state, layer, lambda own, past: torch.cat([past, own[:, :, -1:]], 2))
        state = after
    return _swapped(model, state, donor.states[-1], cut, sources, t=len(own.left) - 1)


def _swapped(
    model: ThoughtModel, state: State, donor: State, cut: set[Edge], sources: dict[str, Tensor], *, t: int
) -> State:
    """The state as thought t sees it when edges into it are cut."""
    after, length = model.clone(state), state.mask.shape[1]
    for layer in range(model.spec.n_layers):
        for name, at in sources.items():
            if Edge(name, t, f"layers.{layer}:kv") in cut:
                where = at[:, None, :length, None]
                _rewrite(
                    model,
                    after,
                    donor,
                    layer,
                    lambda own, new, where=where: torch.where(where, new[:, :, :length], own),
                )
    return replace(after, pending=donor.pending) if Edge(f"thought {t - 1}", t, STATE) in cut else after


def _rewrite(
    model: ThoughtModel, state: State, other: State, layer: int, merge: Callable[[Tensor, Tensor], Tensor]
) -> None:
    """Put into a state, which is the caller's, what `merge` makes of its keys and values and another's."""
    pairs = zip(model._memory(state, layer), model._memory(other, layer), strict=True)
    model._remember(state, layer, *(merge(own, new) for own, new in pairs))
