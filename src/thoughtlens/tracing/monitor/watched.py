"""One run of a model over problems, as a monitor sees it: answers, how sure, readings and states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from thoughtlens.latents import Readout
from thoughtlens.models import Hook, Place, ThoughtModel, collect, parse_number, thoughts
from thoughtlens.tracing.read.lenses import first_token, look, through

LEAST = 1e-9
"""Probabilities below this count as this."""
TOP = 256
"""Likeliest first tokens of an answer that are kept."""


class First(NamedTuple):
    """The first token of the answers."""

    ids: Int[np.ndarray, "n k"]
    """The likeliest tokens, the likeliest first."""
    p: Float[np.ndarray, "n k"]
    margin: Float[np.ndarray, " n"]
    """Log-odds of the likeliest against the next, nats."""
    entropy: Float[np.ndarray, " n"]
    """Nats."""

    @classmethod
    def of(cls, logits: Float[Tensor, "n vocab"]) -> First:
        """Of the logits of all tokens."""
        log_p = logits.double().log_softmax(-1)
        best = log_p.topk(min(TOP, log_p.shape[1]), dim=-1)
        entropy = torch.special.entr(log_p.exp()).sum(-1)
        found = (best.indices, best.values.exp(), best.values[:, 0] - best.values[:, 1], entropy)
        return cls(*(one.cpu().numpy() for one in found))

    def take(self, rows: Int[np.ndarray, " k"]) -> First:
        """Some of the problems."""
        return First(*(one[rows] for one in self))

    def share(self, wanted: Int[np.ndarray, " n"], word_of: Int[np.ndarray, " vocab"]) -> np.ndarray:
        """Probability of each answer's word, given by its number; 0 of what is not among the likeliest."""
        return (self.p * (word_of[self.ids] == wanted[:, None])).sum(1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Watched:
    """What a run shows of every problem; what a problem did not think is NaN, and read as an empty word."""

    readout: Readout
    questions: list[str]
    answers: list[str]
    heard: list[str]
    """The word that each answer is, or begins with: of its number where it has one."""
    first: First
    states: Float[Tensor, "n thoughts d"]
    """`thought_out`."""
    inputs: Float[Tensor, "n thoughts d"]
    """`thought_in`."""

    def take(self, rows: Int[np.ndarray, " k"]) -> Watched:
        """Some of the problems."""
        return replace(
            self,
            questions=[self.questions[i] for i in rows],
            answers=[self.answers[i] for i in rows],
            heard=[self.heard[i] for i in rows],
            first=self.first.take(rows),
            states=self.states[rows],
            inputs=self.inputs[rows],
        )

    def thinking_of(self, rows: Int[np.ndarray, " n"]) -> Watched:
        """With the thoughts of other problems, and the own answers."""
        return replace(self, states=self.states[rows], inputs=self.inputs[rows])

    def until(self, thought: int) -> Watched:
        """Without the thoughts after this one."""
        states, inputs = self.states.clone(), self.inputs.clone()
        states[:, thought + 1 :] = inputs[:, thought + 1 :] = torch.nan
        return replace(self, states=states, inputs=inputs)

    @cached_property
    def had(self) -> np.ndarray:
        """Thoughts of each problem, [n, thoughts]."""
        return (~self.states.isnan().any(-1)).cpu().numpy()

    @cached_property
    def said(self) -> list[list[str]]:
        """The likeliest word of every thought that a problem had."""
        lens, words = through(self.readout), list(self.readout.words)
        best = np.stack([look(lens, x).words[:, 0] for x in self.states.unbind(1)], 1)
        return [[words[word] for word in row if word >= 0] for row in best]

    def read(self, rows: Int[np.ndarray, " k"], p: int, words: Sequence[str]) -> Float[np.ndarray, " k"]:
        """Probability of a word in thought `p` of each of these problems."""
        wanted, of = self._numbers(words), self.readout.word_of
        found, first = np.zeros(len(words)), 0
        for part in self._read(rows, p):
            own = wanted[first : first + len(part)]
            for word in np.unique(own[own >= 0]):
                here = np.flatnonzero(own == word)
                found[first + here] = part[np.ix_(here, np.flatnonzero(of == word))].sum(1)
            first += len(part)
        return found

    def answered(self, rows: Int[np.ndarray, " k"], words: Sequence[str]) -> Float[np.ndarray, " k"]:
        """Probability that an answer is a word; 1 or 0 where it does not begin with what it is."""
        first, of = self.first.take(rows), self.readout.word_of
        told = self._numbers([self.heard[i] for i in rows])
        same = told == (wanted := self._numbers(words))
        return np.where(of[first.ids[:, 0]] == told, first.share(wanted, of), same.astype(float))

    def usual(self, p: int, words: Sequence[str]) -> Float[np.ndarray, " k"]:
        """Mean probability of each word in thought `p` of all problems that had it."""
        rows, total = np.flatnonzero(self.had[:, p]), np.zeros(self.readout.n_vocab)
        for part in self._read(rows, p):
            total += part.sum(0)
        by_word = np.bincount(self.readout.word_of, weights=total / max(len(rows), 1))
        return np.append(by_word, 0.0)[self._numbers(words)]

    def _read(self, rows: Int[np.ndarray, " k"], p: int) -> list[np.ndarray]:
        """Probabilities of all tokens, some problems at a time."""
        x = self.states[torch.from_numpy(np.asarray(rows, dtype=np.int64)), p]
        with torch.no_grad():
            return [
                self.readout.logits(part, "thought_out").softmax(-1).double().cpu().numpy()
                for part in x.split(self.readout.chunk)
            ]

    def _numbers(self, words: Sequence[str]) -> Int[np.ndarray, " k"]:
        """Words by the lens's numbers; -1 of those that it does not have."""
        return np.array([self.readout.words.get(word, -1) for word in words], dtype=int)


def watch(
    model: ThoughtModel,
    readout: Readout,
    questions: Sequence[str],
    hooks: Sequence[Hook] = (),
    *,
    batch_size: int,
    max_new_tokens: int,
    n_thoughts: int | None = None,
) -> Watched:
    """Let a model think and answer under these hooks, or leave after `n_thoughts`."""
    batch = collect(
        model,
        questions,
        hooks,
        sites=("thought_in", "thought_out"),
        answers=True,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
    )
    answer = batch.answers
    if n_thoughts is not None:
        answer = thoughts.run(
            model,
            questions,
            hooks,
            n_thoughts=n_thoughts,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
        )
    assert answer is not None
    spell, said = first_token(readout, model.tokenizer), [text.strip() for text in answer.text]
    found = Watched(
        readout=readout,
        questions=list(questions),
        answers=said,
        heard=[spell(_number(text)) for text in said],
        first=First.of(answer.logits[:, 0]),
        states=batch[Place.at("thought_out")],
        inputs=batch[Place.at("thought_in")],
    )
    return found if n_thoughts is None else found.until(n_thoughts)


def joined(parts: Sequence[Watched]) -> Watched:
    """The problems of several runs after each other."""
    return replace(
        parts[0],
        questions=[text for part in parts for text in part.questions],
        answers=[text for part in parts for text in part.answers],
        heard=[text for part in parts for text in part.heard],
        first=First(*map(np.concatenate, zip(*(part.first for part in parts), strict=True))),
        states=torch.cat([part.states for part in parts]),
        inputs=torch.cat([part.inputs for part in parts]),
    )


def _number(text: str) -> str:
    """The last number of an answer; without one, the text."""
    number = parse_number(text)
    return text if number is None else f"{number:.0f}" if number == round(number) else str(number)
