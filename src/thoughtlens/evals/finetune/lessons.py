"""What an SAE is trained further on: states of the untouched model, and what it loses without them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thoughtlens.evals.heldout.fidelity import Inputs
from thoughtlens.evals.heldout.windows import Window, pack
from thoughtlens.interventions import Change, hook_of
from thoughtlens.models import (
    Hook,
    LanguageModel,
    Place,
    ThoughtModel,
    collect,
    encoded,
    pad,
    replace,
)
from thoughtlens.numerics import next_token
from thoughtlens.sae import SAE


class Lesson(NamedTuple):
    """One step's."""

    x: Float[Tensor, "n d_in"]
    """States of the untouched model at the SAE's places."""
    cell: Int[Tensor, " n"] | None
    lost: Callable[[SAE], Float[Tensor, ""]]
    """KL(untouched || spliced), nats, mean over predictions; its gradient reaches the SAE alone."""
    n_read: int
    """Tokens, or problems."""


class TextLessons:
    """Windows of text, x replaced by x_hat wherever the SAE was trained.

    Args:
        lm: The model, frozen.
        hook_name: The SAE's hook.
        windows: To train on, shortest first.
    """

    def __init__(self, lm: LanguageModel, hook_name: str, windows: Sequence[Window]) -> None:
        self.lm, self.hook_name, self.batches = lm, hook_name, pack(windows)

    def __call__(self, i: int, sae: SAE) -> Lesson:
        """Batch `i`, in the SAE's cells."""
        lm, hook, read = self.lm, self.hook_name, Inputs.of(self.lm, self.batches[i])
        states: list[Tensor] = []

        def see(x: Tensor) -> Tensor:
            states.append(x[read.kept].to(sae.W_enc))
            return x

        def log_p(change: Callable[[Tensor], Tensor]) -> Tensor:
            with replace(lm.model, hook, change):
                logits, _, counted = next_token(lm.model(**read.inputs).logits, read.ids, read.stored)
            return logits[counted].float().log_softmax(-1)

        with torch.no_grad():
            clean = log_p(see)
        cell = sae.cell_index([(hook, None)], np.zeros(len(states[0]), np.int64))
        return Lesson(
            states[0],
            cell,
            lambda own: divergence(clean, log_p(read.spliced(own.at(hook)))),
            sum(len(w.tokens) for w in self.batches[i]),
        )


class ThoughtLessons:
    """Problems, the states of all the SAE's places replaced while the model thinks.

    The divergence is of every token of the answer that the untouched model gives, forced.

    Args:
        model: The model, frozen.
        places: The SAE's, those that something reads.
        questions: By batch.
        max_new_tokens: Longest answer.
    """

    def __init__(
        self,
        model: ThoughtModel,
        places: Sequence[Place],
        questions: Sequence[Sequence[str]],
        max_new_tokens: int,
    ) -> None:
        self.model, self.places, self.batches = model, list(places), questions
        self.max_new_tokens = max_new_tokens
        self._said: dict[int, list[list[int]]] = {}

    def __call__(self, i: int, sae: SAE) -> Lesson:
        """Batch `i`, in the SAE's cells."""
        questions, new = self.batches[i], i not in self._said
        found = collect(
            self.model,
            questions,
            places=self.places,
            answers=new,
            max_new_tokens=self.max_new_tokens,
            batch_size=len(questions),
        )
        if found.answers is not None:
            self._said[i] = found.answers.ids
        forced, real = (torch.from_numpy(a) for a in pad([np.array(ids or [0]) for ids in self._said[i]]))
        states = [found[place] for place in self.places]
        had = [~x.isnan().any(1) for x in states]
        x = torch.cat([x[own] for x, own in zip(states, had, strict=True)]).to(sae.W_enc)
        at = np.repeat(np.arange(len(states)), [int(own.sum()) for own in had])
        with torch.no_grad():
            clean = self._log_p(questions, forced, real, ())

        def lost(own: SAE) -> Tensor:
            hooks = [hook_of(place, _spliced(own, place), lambda *_: None) for place in self.places]
            return divergence(clean, self._log_p(questions, forced, real, hooks))

        return Lesson(x, sae.cell_index(self.places, at), lost, len(questions))

    def _log_p(
        self,
        questions: Sequence[str],
        forced: Int[Tensor, "n tokens"],
        real: Bool[Tensor, "n tokens"],
        hooks: Sequence[Hook],
    ) -> Float[Tensor, "k vocab"]:
        """Log-probabilities where a token of the answer is said."""
        parts = []
        for state in encoded(self.model, questions, hooks, batch_size=len(questions)):
            for _ in self.model.spec.thoughts:
                state, _ = self.model.step(state, hooks)
            teacher = forced[state.rows.cpu(), :-1] if forced.shape[1] > 1 else None
            logits = self.model.answer(state, 0, teacher).logits
            parts.append(logits[real[state.rows.cpu()].to(logits.device)].float().log_softmax(-1))
        return torch.cat(parts)


def divergence(clean: Float[Tensor, "k vocab"], spliced: Float[Tensor, "k vocab"]) -> Float[Tensor, ""]:
    """KL(clean || spliced) of log-probabilities, nats, mean over predictions."""
    return (clean.exp() * (clean - spliced)).sum(-1).mean()


def _spliced(sae: SAE, place: Place) -> Change:
    """x_hat; a problem that had stopped by then has no state, and a NaN in a gradient would spread."""
    here = sae.at(*place)
    return Change(lambda x: here(x.nan_to_num().to(sae.W_enc)))
