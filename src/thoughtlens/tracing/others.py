"""Other problems: what their thoughts read as, and what follows if they are put in the place of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from thoughtlens.acts import ActivationStore
from thoughtlens.core import HookError, Number
from thoughtlens.latents import Readout, of_thoughts
from thoughtlens.models import Place, ThoughtBatch, ThoughtModel, TinyThoughts, collect, is_read
from thoughtlens.problems import GeneratedConfig
from thoughtlens.tracing.records import Tested

OUT = Place.at("thought_out")
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


def likeliest(shares: Float[Tensor, "*batch vocab"]) -> Int[Tensor, "*batch"]:
    """The likeliest token; -1 where a problem has stopped before."""
    return shares.nan_to_num().argmax(-1).masked_fill(~shares.isfinite().all(-1), -1)


class Others:
    """Some problems that a model was asked, and how their thoughts read."""

    def __init__(self, model: ThoughtModel, questions: Sequence[str]) -> None:
        self.model, self.questions = model, list(questions)

    def __len__(self) -> int:
        return len(self.questions)

    def without(self, question: str) -> list[int]:
        """All but this one."""
        return [i for i, other in enumerate(self.questions) if other != question]

    @cached_property
    def readout(self) -> Readout:
        """The model's output side."""
        return of_thoughts(self.model)

    @cached_property
    @torch.no_grad()
    def batch(self) -> ThoughtBatch:
        """Their states, and the keys and values that they left."""
        sites = [site for site in ("thought_out", "kv") if site in self.model.spec.sites]
        return collect(self.model, self.questions, sites=sites)

    @cached_property
    def reads(self) -> Float[Tensor, "n thoughts vocab"]:
        """Probability of every token in every thought; NaN after a problem has stopped."""
        return self.probabilities(self.batch[OUT])

    @cached_property
    def words(self) -> Int[Tensor, "n thoughts"]:
        """What every thought reads as."""
        return likeliest(self.reads)

    @torch.no_grad()
    def probabilities(self, states: Float[Tensor, "n thoughts d"]) -> Float[Tensor, "n thoughts vocab"]:
        """Of states of thoughts."""
        shares = self.readout.logits(states.flatten(0, 1), "thought_out").softmax(-1)
        return shares.unflatten(0, states.shape[:2])

    def null(self, question: str, read: Int[Tensor, " thoughts"]) -> list[float | None]:
        """Mean probability of each thought's token in the same thought of the other problems that have it."""
        lines, found = self.without(question), []
        for t, token in enumerate(read.tolist()):
            shares = self.reads[lines, t, token] if lines else torch.zeros(0)
            there = shares[shares.isfinite()]
            found.append(float(there.mean()) if len(there) else None)
        return found

    def tested(
        self, question: str, answer: str, read: Int[Tensor, " thoughts"], max_new_tokens: int
    ) -> list[Tested | None]:
        """What follows if each thought of a question is taken from other problems."""
        trial = _Trial(self, question, answer, read, max_new_tokens)
        return [trial.of(thought) for thought in self.model.spec.thoughts]


class _Trial:
    """One question with thoughts of others in the place of its own."""

    def __init__(
        self, others: Others, question: str, answer: str, read: Int[Tensor, " thoughts"], max_new_tokens: int
    ) -> None:
        self.others, self.question, self.answer, self.read = others, question, answer, read
        self.max_new_tokens, self.lines = max_new_tokens, np.array(others.without(question), int)

    def of(self, thought: int) -> Tested | None:
        """The numbers and verdict of one thought; None where no other problem can be put there."""
        words = self.others.words[self.lines, thought].numpy()
        alike, another = words == int(self.read[thought]), (words != int(self.read[thought])) & (words >= 0)
        same, other = self.lines[alike][:DONORS], self.lines[another][:DONORS]
        state = [
            place
            for place in [Place.at("thought_out", None, thought)]
            if is_read(self.others.model.spec, place)
        ]
        after = self._moved(state, thought, np.r_[same, other]) if state else None
        whole = self._moved(self._everything(thought), thought, other)
        if after is None and whole is None:
            return None
        return Tested.of(
            "live",
            changed=None if after is None else _share(after[len(same) :]),
            kept=None if after is None else _share(~after[: len(same)]),
            whole_pass=None if whole is None else _share(whole),
        )

    def _everything(self, thought: int) -> list[Place]:
        """All that a thought leaves behind."""
        from thoughtlens.interventions import places_of

        try:
            return places_of(self.others.model.spec, "all", [thought], None)
        except HookError:  # a family that does not show its keys and values
            return []

    @torch.no_grad()
    def _moved(self, places: Sequence[Place], thought: int, donors: np.ndarray) -> np.ndarray | None:
        """By donor, whether the answer or a later reading is another one."""
        from thoughtlens.interventions import given, hook_of

        if not len(places) or not len(donors):
            return None
        others = self.others
        hooks = [hook_of(at, given(others.batch[at][donors]), lambda *_: None) for at in places]
        batch = collect(
            others.model, [self.question] * len(donors), hooks, sites=("thought_out",), answers=True,
            max_new_tokens=self.max_new_tokens,
        )  # fmt: skip
        assert batch.answers is not None
        later = likeliest(others.probabilities(batch[OUT]))[:, thought + 1 :]
        read = later.ne(self.read[thought + 1 :]).any(1).numpy()
        return read | np.array([text.strip() != self.answer.strip() for text in batch.answers.text])


def _share(found: np.ndarray) -> Number | None:
    from thoughtlens.numerics import proportion

    return proportion(found).number() if len(found) else None
