"""One model on all problems, untouched and under many edits at once.

The question and the thoughts before the first edited one are the same for every edit, so they are run
once: batch by batch, each edit goes on from a copy of the untouched state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thoughtlens.core import DataError, HookError
from thoughtlens.interventions.edits.cuts import Cut
from thoughtlens.interventions.edits.places import Change, hook_of
from thoughtlens.interventions.edits.reads import Read
from thoughtlens.interventions.intervene.records import About
from thoughtlens.models import (
    Answer,
    Hook,
    Outside,
    Place,
    State,
    ThoughtModel,
    Watch,
    check_places,
    encoded,
    require_reached,
)

MOVED = 1e-5
"""An answer's logits have moved where one of them differs by more than this."""


@dataclass(frozen=True)
class Edit:
    """Changes made in one run of the model, and perhaps leaving early."""

    about: About
    """What tables say of it."""
    changes: tuple[tuple[Place, Change], ...] = ()
    n_thoughts: int | None = None
    """Thoughts to think before answering; None: all."""
    cuts: tuple[Cut, ...] = ()
    """Edges of attention that it goes without."""
    reads: tuple[Read, ...] = ()
    """What one position reads of another problem."""

    @classmethod
    def at(cls, about: About | str, places: Iterable[Place], change_at: Callable[[Place], Change]) -> Edit:
        """The same kind of change at several places; a text is the edit's name."""
        told = About(edit=about) if isinstance(about, str) else about
        return cls(told, tuple((place, change_at(place)) for place in places))

    @property
    def name(self) -> str:
        """What it is called."""
        return self.about.edit

    @property
    def first(self) -> int | None:
        """The first thought that is edited."""
        changed = [p.thought for p, _ in self.changes if p.thought is not None]
        return min([*changed, *(one.query for one in (*self.cuts, *self.reads))], default=None)


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What the problems came to in one run; arrays have one entry per problem, in the questions' order."""

    text: list[str]
    value: Float[np.ndarray, " n"]
    """The number answered; NaN where there is none."""
    logprob: Float[np.ndarray, " n"]
    """Log-probability of the answer that the untouched run gave, all its tokens, nats; NaN where it
    gave none."""
    kl: Float[np.ndarray, " n"]
    """KL(untouched || this) of the answer's first token, nats."""
    moved: Bool[np.ndarray, " n"]
    """Whether a logit of the answer's first token differs from the untouched run's."""
    changed_site: Float[np.ndarray, " n"]
    """|x' - x| / |x| where the edit was made, mean over its places; 0 without one. Of a cut, the share of the
    weights that it takes away, mean over its layers and heads."""
    reached: Bool[np.ndarray, " n"]
    """Whether it was made at all: not where the problem, or its donor, had stopped thinking by then."""
    changed_thoughts: Float[np.ndarray, "n thoughts"]
    """The same of what each later thought takes in; NaN up to the edit, and where it was not thought."""

    @classmethod
    def joined(cls, parts: Sequence[Answers], order: Int[np.ndarray, " n"]) -> Answers:
        """Those of all batches after each other, then in this order."""
        text = [line for part in parts for line in part.text]
        arrays = {
            one.name: np.concatenate([getattr(part, one.name) for part in parts])[order]
            for one in fields(cls)
            if one.name != "text"
        }
        return cls(text=[text[i] for i in order], **arrays)


@torch.no_grad()
def run_edits(
    model: ThoughtModel,
    questions: Sequence[str],
    edits: Sequence[Edit],
    *,
    batch_size: int = 512,
    max_new_tokens: int = 256,
) -> tuple[Answers, list[Answers]]:
    """Think and answer untouched, and once under every edit.

    Where an edge is cut all of it runs without fused attention, so that what differs is the cut's doing.

    Returns:
        The untouched answers, and those under each edit.

    Raises:
        HookError: a place that the model does not have or that nothing reads; says which there are. Or a cut
            in a model whose attention cannot be seen.
        DataError: an edit whose answer is not finite.
    """
    for edit in edits:
        last = model.spec.n_thoughts if edit.n_thoughts is None else edit.n_thoughts
        if last not in model.spec.thoughts:
            raise HookError(
                f"Early exit: expected 0..{model.spec.n_thoughts} thoughts, got {edit.n_thoughts}"
            )
        check_places(model.spec, [place.collected for place, _ in edit.changes], last)
    rows: list[Tensor] = []
    plain: list[Answers] = []
    parts: list[list[Answers]] = [[] for _ in edits]
    reached = [place for edit in edits for place, _ in edit.changes]
    require_reached(model, questions, reached)
    watch = Watch() if any(edit.cuts for edit in edits) else None
    with nullcontext() if watch is None else model.attending(watch):
        for state in encoded(model, questions, batch_size=batch_size):
            starts = {_start(model, edit) for edit in edits}
            asked = [str(questions[i]) for i in state.rows.tolist()]
            batch = _Batch(model, state, asked, max_new_tokens=max_new_tokens, starts=starts, watch=watch)
            rows.append(state.rows)
            plain.append(batch.untouched())
            for edit, own in zip(edits, parts, strict=True):
                own.append(batch.under(edit))
    order = np.argsort(torch.cat(rows).numpy())
    return Answers.joined(plain, order), [Answers.joined(own, order) for own in parts]


class _Batch:
    """The untouched run of a batch, whose states every edit starts from."""

    def __init__(
        self,
        model: ThoughtModel,
        state: State,
        questions: Sequence[str],
        *,
        max_new_tokens: int,
        starts: set[int],
        watch: Watch | None,
    ) -> None:
        self.model, self.max_new_tokens, self.watch, self.questions = model, max_new_tokens, watch, questions
        self.begin, self.looks = state.mask.shape[1], []
        self.ends: dict[int, State] = {}
        self.states, self.inputs = {0: state}, []
        for p in model.spec.thoughts:
            state, record = model.step(state)
            self._look()
            if p + 1 in starts:
                self.states[p + 1] = state
            self.inputs.append(record.thought_in.flatten(1))
        self.last = state
        if watch is not None:
            model.answer(state, 0)
            self._look()
        self.answer = model.answer(state, max_new_tokens)
        self.first = self.answer.logits[:, 0].double().log_softmax(-1)
        self.said = _padded(self.answer.ids)

    def _look(self) -> None:
        """Keep where the latest position looks, by layer [batch, heads, keys]."""
        if self.watch is not None:
            self.looks.append({layer: x[:, :, -1] for layer, x in self.watch.weights.items()})

    @contextmanager
    def _cut(self, edit: Edit, query: int, state: State, seen: _Watch) -> Iterator[None]:
        """Without the edges that an edit cuts from a position."""
        for one in edit.cuts if self.watch is not None else ():
            if one.query == query and self.watch is not None:
                x, chosen = self.looks[query][one.layer].double().cpu(), one.chosen(state, self.begin)
                if state.thinking is not None and query in self.model.spec.thoughts:
                    chosen &= state.thinking.cpu()[:, None]
                if not bool(chosen.any()):
                    continue
                mask = one.mask(chosen, x.shape[1])
                lost = torch.where(mask, x[..., : mask.shape[-1]], 0).sum(-1)
                seen.total += lost.sum(1).nan_to_num(0.0) / mask.any(-1).sum(1).clamp_min(1)
                seen.n += chosen.any(1)
                self.watch.cut[one.layer] = mask
        try:
            yield
        finally:
            if self.watch is not None:
                self.watch.cut.clear()

    def _donor(self, read: Read, rows: Tensor) -> State:
        """What the run of the donors has left when all is thought."""
        if id(read.donors) not in self.ends:
            state = self.model.encode([read.donors[int(i)] for i in rows])
            for _ in self.model.spec.thoughts:
                state, _ = self.model.step(state)
            self.ends[id(read.donors)] = state
        return self.ends[id(read.donors)]

    def _reading(self, edit: Edit, query: int, state: State, seen: _Watch) -> State:
        """The state as a position sees it that reads of another problem."""
        for read in edit.reads:
            if read.query == query:
                donor = self._donor(read, state.rows)
                state, before, after = read.seen(self.model, state, donor, self.begin)
                seen(before, after)
        return state

    def untouched(self) -> Answers:
        """The untouched run as one of its own."""
        n = len(self.inputs[0])
        return self._answers(self.last, self.answer, _Watch(n), self._blank())

    def under(self, edit: Edit) -> Answers:
        """What the edit makes of it."""
        watch = _Watch(len(self.inputs[0]))
        hooks = [hook_of(place, change, watch) for place, change in edit.changes]
        last = self.model.spec.n_thoughts if edit.n_thoughts is None else edit.n_thoughts
        inside = [hook for hook in hooks if hook.place.thought in self.model.spec.thoughts]
        start = _start(self.model, edit)
        state, changed = self._from(start, [hook for hook in hooks if hook not in inside]), self._blank()
        for p in range(max(start, 0), last + 1):
            with self._cut(edit, p, state, watch):
                before = state
                state, record = self.model.step(self._reading(edit, p, before, watch), inside)
            for read in edit.reads:
                if read.query == p:
                    read.unseen(self.model, state, before)
            if p > start:
                changed[:, p] = _relative(self.inputs[p], record.thought_in.flatten(1))
        state = self._reading(edit, last + 1, state, watch)
        with self._cut(edit, last + 1, state, watch):
            answer = self.model.answer(state, self.max_new_tokens)
            if not bool(torch.isfinite(answer.logits[:, 0]).all()):
                raise DataError(f"{edit.name}: the answer's logits are not finite; make the edit smaller")
            return self._answers(state, answer, watch, changed)

    def _from(self, start: int, outside: Sequence[Hook]) -> State:
        """The untouched state before a thought; with edits of the question, or of the cue, those."""
        state = self.states[max(start, 0)]
        if not outside:
            return state
        seen = Outside(outside, state.rows)
        if start >= 0:
            return replace(state, outside=seen)
        return replace(self.model.begun(self.questions, seen), rows=state.rows)

    def _blank(self) -> Tensor:
        return torch.full((len(self.inputs[0]), len(self.inputs)), torch.nan)

    def _answers(self, state: State, answer: Answer, watch: _Watch, changed: Tensor) -> Answers:
        logits = answer.logits[:, 0].double().log_softmax(-1)
        kl = torch.nan_to_num(self.first.exp() * (self.first - logits), nan=0.0).sum(-1).clamp_min(0)
        gap = (answer.logits[:, 0] - self.answer.logits[:, 0]).abs().amax(-1)
        value = [np.nan if v is None else v for v in answer.value]
        return Answers(
            text=answer.text,
            value=np.array(value, dtype=float),
            logprob=self._logprob(state, answer),
            kl=kl.cpu().numpy(),
            moved=(gap > MOVED).cpu().numpy(),
            changed_site=watch.mean().numpy(),
            reached=(watch.n > 0).numpy(),
            changed_thoughts=changed.double().cpu().numpy(),
        )

    def _logprob(self, state: State, answer: Answer) -> np.ndarray:
        """Of the untouched run's answer, forced token by token."""
        ids, real = self.said
        if ids.shape[1] == 0:
            return np.full(len(ids), np.nan)
        logits = answer.logits[:, :1]
        if ids.shape[1] > 1:
            logits = self.model.answer(state, 0, ids[:, :-1]).logits
        log_p = logits.double().log_softmax(-1).cpu().gather(-1, ids[:, :, None])[:, :, 0]
        total = torch.where(real, log_p, 0).sum(-1)
        return torch.where(real.any(-1), total, torch.nan).numpy()


class _Watch:
    """Adds up how much an edit changes, by problem."""

    def __init__(self, n: int) -> None:
        self.total, self.n = torch.zeros(n, dtype=torch.float64), torch.zeros(n)

    def __call__(self, before: Tensor, after: Tensor) -> None:
        change = _relative(before, after)
        self.total += change.nan_to_num(0.0)
        self.n += ~change.isnan()

    def mean(self) -> Tensor:
        """Relative change, mean over the places where there was something to change."""
        return self.total / self.n.clamp_min(1)


def _start(model: ThoughtModel, edit: Edit) -> int:
    """The first thought that has to be run again; one past the last where none has."""
    end = (model.spec.n_thoughts if edit.n_thoughts is None else edit.n_thoughts) + 1
    return end if edit.first is None else min(edit.first, end)


def _relative(before: Tensor, after: Tensor) -> Tensor:
    before, after = before.double(), after.double()
    change, size = (after - before).norm(dim=-1), before.norm(dim=-1)
    return torch.where(change == 0, 0, change / size.clamp_min(torch.finfo(torch.float64).tiny)).cpu()


def _padded(ids: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Token ids padded on the right, and which are real."""
    longest = max(len(row) for row in ids)
    table = torch.zeros(len(ids), longest, dtype=torch.long)
    real = torch.zeros(len(ids), longest, dtype=torch.bool)
    for i, row in enumerate(ids):
        table[i, : len(row)] = torch.tensor(row, dtype=torch.long)
        real[i, : len(row)] = True
    return table, real
