"""One thought is edited, the next ones are thought, and what each of them changes is measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from thoughtlens.interventions.edits import changes
from thoughtlens.interventions.edits.places import Change, hook_of, places_of
from thoughtlens.models import (
    INNER,
    Answer,
    Hook,
    Place,
    State,
    ThoughtBatch,
    ThoughtModel,
    collect,
    encoded,
    is_read,
)

CHUNK = 1 << 24
"""Logits that are held at once."""


class Target(NamedTuple):
    """Where a change is looked for: a thought's state, or (without a thought) the answer."""

    thought: int | None = None
    layer: int | None = None
    """None: thought_out."""

    @property
    def place(self) -> Place:
        """The state that is compared."""
        return Place.at("thought_out" if self.layer is None else "resid", self.layer, self.thought)


ANSWER = Target()


@dataclass(frozen=True, eq=False)
class Untouched:
    """What a model thinks about its problems when nothing is changed."""

    model: ThoughtModel
    questions: Sequence[str]
    layers: tuple[int, ...]
    batch_size: int
    max_new_tokens: int

    @cached_property
    def batch(self) -> ThoughtBatch:
        """All states that a thought takes in and leaves behind, and the answers."""
        sites = [site for site in self.model.spec.sites if site not in INNER]
        return collect(
            self.model, self.questions, sites=sites, answers=True,
            batch_size=self.batch_size, max_new_tokens=self.max_new_tokens,
        )  # fmt: skip

    @cached_property
    def said(self) -> list[str]:
        """The answers, numbers as such, so that equal ones are equal."""
        assert self.batch.answers is not None
        return _said(self.batch.answers)

    def reads(self, target: Target) -> Int[np.ndarray, " n"]:
        """What the lens reads in every problem; -1: it had stopped."""
        if target not in self._reads:
            x = self.batch[target.place]
            there = ~x.isnan().any(1)
            found = np.full(len(x), -1)
            ids = [
                _log_p(self.model, part, target).argmax(-1) for part in _parts(self.model, x[there], target)
            ]
            if ids:
                found[there.numpy()] = torch.cat(ids).cpu().numpy()
            self._reads[target] = found
        return self._reads[target]

    @cached_property
    def _reads(self) -> dict[Target, np.ndarray]:
        return {}

    def everything(self, thought: int) -> list[Place]:
        """All that a thought leaves behind and something reads."""
        spec = self.model.spec
        found = [Place.at("thought_out", None, thought)]
        if "kv" in spec.sites:
            found += places_of(spec, "kv", (thought,), None)
        return [place for place in found if is_read(spec, place)]


@dataclass(frozen=True, eq=False)
class Donors:
    """What is put in the place of a thought: other problems' states, or (without rows) the mean."""

    untouched: Untouched
    rows: Int[np.ndarray, " n"] | None
    """Problem i gets the state of line `rows[i]`."""

    def states(self, place: Place) -> Float[Tensor, "n width"]:
        """The donors' states at a place; of the mean, the problems' own."""
        x = self.untouched.batch[place]
        return x if self.rows is None else x[self.rows]

    def change(self, own: Untouched, place: Place) -> Change:
        """The edit at a place."""
        if self.rows is None:
            return changes.mean_of(own.batch[place])
        return changes.given(self.states(place))


@dataclass(frozen=True, eq=False)
class Moved:
    """Of one run, per problem; NaN where the problem, or its donor, had stopped."""

    kl: Float[np.ndarray, " n"]
    change: Float[np.ndarray, " n"]
    """|x' - x|, in spreads of the place; of the answer 0."""
    top: Float[np.ndarray, " n"]
    """<x' - x, donor - x>, in squared spreads; of the answer whether it becomes the donor's."""
    bottom: Float[np.ndarray, " n"]
    """|donor - x|^2, in squared spreads; of the answer whether the donor's is another."""
    reads: Int[np.ndarray, " n"]
    """What is read after the edit; of the answer 1 where it is another one."""


@dataclass(frozen=True, eq=False)
class Run:
    """One thought edited."""

    edits: Sequence[tuple[Place, Change]]
    """Changes of one thought."""
    direct: bool
    """Whether the later thoughts leave behind what they left without the edit, so that none of them hands a
    change on."""

    @property
    def thought(self) -> int:
        """Which is edited."""
        assert self.edits[0][0].thought is not None
        return self.edits[0][0].thought

    @property
    def first(self) -> int:
        """The first thought that can be moved: the next one, or the edited one where its inside is edited."""
        within = {place.site for place, _ in self.edits} & {"thought_in", "resid"}
        return self.thought if within else self.thought + 1


@torch.no_grad()
def moved(own: Untouched, donors: Donors, runs: Sequence[Run]) -> list[dict[Target, Moved]]:
    """Of each run, every later thought and the answer, compared with the untouched ones.

    Args:
        own: The model and its problems.
        donors: Whose states are put in, which says where a change would lead.
        runs: Each goes on from the untouched states.
    """
    parts: list[list[dict[Target, Moved]]] = [[] for _ in runs]
    order: list[Tensor] = []
    for state in encoded(own.model, own.questions, batch_size=own.batch_size):
        states = {0: state}
        for p in own.model.spec.thoughts[:-1]:
            states[p + 1], _ = own.model.step(states[p])
        order.append(state.rows)
        for run, found in zip(runs, parts, strict=True):
            found.append(_Later(own, donors, run).of(states[run.thought]))
    back = torch.argsort(torch.cat(order)).numpy()
    return [{target: _joined([one[target] for one in found], back) for target in found[0]} for found in parts]


def _joined(parts: Sequence[Moved], order: np.ndarray) -> Moved:
    return Moved(
        **{name: np.concatenate([getattr(one, name) for one in parts])[order] for name in vars(parts[0])}
    )


class _Later:
    """The thoughts from an edited one on, of one batch."""

    def __init__(self, own: Untouched, donors: Donors, run: Run) -> None:
        self.own, self.donors, self.run = own, donors, run

    def of(self, state: State) -> dict[Target, Moved]:
        """What the edit moves, from the untouched state before the edited thought on."""
        model, run, found = self.own.model, self.run, {}
        for p in model.spec.thoughts[run.thought :]:
            kept: list[Tensor] = []
            if p == run.thought:
                hooks = [hook_of(place, change, _ignore) for place, change in run.edits]
            else:
                hooks = self._restored(p, kept) if run.direct else []
            state, record = model.step(state, hooks)
            if p >= run.first:
                out = kept[0] if kept else record.thought_out
                found[Target(p)] = self._at(Target(p), out[:, 0], state.rows)
                for layer in self.own.layers:
                    found[Target(p, layer)] = self._at(
                        Target(p, layer), record.resid[layer][:, 0], state.rows
                    )
        return found | {ANSWER: self._answer(model.answer(state, self.own.max_new_tokens), state.rows)}

    def _restored(self, p: int, kept: list[Tensor]) -> list[Hook]:
        """The thought leaves behind what it left without the edit; its own thought_out is kept for us."""
        places, out = self.own.everything(p), Place.at("thought_out", None, p)
        hooks = [
            hook_of(place, changes.given(self.own.batch[place]), _ignore) for place in places if place != out
        ]

        def restore(x: Tensor, before: Tensor) -> Tensor:
            kept.append(x)
            return torch.where(before.isnan(), x, before.to(x))

        if out in places:
            hooks.append(Hook(out, restore, self.own.batch[out][:, None]))
        return hooks

    def _at(self, target: Target, after: Tensor, rows: Tensor) -> Moved:
        own, lines = self.own, rows.cpu()
        before = own.batch[target.place][lines].to(after)
        step = (after - before).double()
        toward = torch.zeros_like(step)
        if self.donors.rows is not None:
            toward = (self.donors.states(target.place)[lines].to(after) - before).double()
        spread = max(changes.spread(own.batch[target.place]), float(np.finfo(np.float32).tiny))
        kl, reads = _compared(own.model, before, after, target)
        return Moved(
            kl=kl,
            change=(step.norm(dim=1) / spread).cpu().numpy(),
            top=((step * toward).sum(1) / spread**2).cpu().numpy(),
            bottom=(toward.square().sum(1) / spread**2).cpu().numpy(),
            reads=reads,
        )

    def _answer(self, after: Answer, rows: Tensor) -> Moved:
        before, lines = self.own.batch.answers, rows.cpu().numpy()
        assert before is not None
        p, q = (x[:, 0].double().cpu().log_softmax(-1) for x in (before.logits[rows.cpu()], after.logits))
        own = [self.own.said[i] for i in lines]
        said = _said(after)
        wanted = own
        if self.donors.rows is not None:
            theirs = self.donors.untouched.said
            wanted = [theirs[self.donors.rows[i]] for i in lines]
        differs = np.array([a != b for a, b in zip(own, wanted, strict=True)])
        return Moved(
            kl=_kl(p, q).numpy(),
            change=np.zeros(len(lines)),
            top=differs * np.array([a == b for a, b in zip(said, wanted, strict=True)], float),
            bottom=differs.astype(float),
            reads=np.array([a != b for a, b in zip(said, own, strict=True)], int),
        )


def _compared(
    model: ThoughtModel, before: Tensor, after: Tensor, target: Target
) -> tuple[np.ndarray, np.ndarray]:
    """KL(untouched || edited) of what the lens reads, and the likeliest token after it (-1: stopped)."""
    there = ~(before.isnan().any(1) | after.isnan().any(1))
    kl, reads = np.full(len(before), np.nan), np.full(len(before), -1)
    found = []
    for x, y in zip(_parts(model, before[there], target), _parts(model, after[there], target), strict=True):
        p, q = _log_p(model, x, target), _log_p(model, y, target)
        found.append((_kl(p, q).cpu(), q.argmax(-1).cpu()))
    if found:
        kl[there.cpu().numpy()] = torch.cat([one for one, _ in found]).numpy()
        reads[there.cpu().numpy()] = torch.cat([one for _, one in found]).numpy()
    return kl, reads


def _log_p(model: ThoughtModel, x: Tensor, target: Target) -> Tensor:
    return model.readout(x, target.place.site).double().log_softmax(-1)


def _parts(model: ThoughtModel, x: Tensor, target: Target) -> Iterator[Tensor]:
    """Rows whose logits fit into memory."""
    if len(x):
        yield from x.split(max(CHUNK // model.readout(x[:1], target.place.site).shape[-1], 1))


def _kl(p: Tensor, q: Tensor) -> Tensor:
    return torch.nan_to_num(p.exp() * (p - q), nan=0.0).sum(-1).clamp_min(0)


def _said(answer: Answer) -> list[str]:
    return [
        text.strip() if value is None else f"{value:g}"
        for text, value in zip(answer.text, answer.value, strict=True)
    ]


def _ignore(before: Tensor, after: Tensor) -> None:
    del before, after
