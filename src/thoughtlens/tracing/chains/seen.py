"""One run of a model over its problems: what each thought is read as, the answers, the states to patch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int

from thoughtlens.latents import Readout
from thoughtlens.models import Hook, Place, ThoughtBatch, ThoughtModel, collect

Relabel = Callable[["Seen"], "Seen"]
"""What a control does to the readings of every run; the states and the answers stay."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """Readings, states and answers of all problems in one run."""

    words: list[str]
    """The words that `reading` counts; the last one, empty, is read where a problem has no such thought."""
    reading: Int[np.ndarray, "n thoughts"]
    probability: Float[np.ndarray, "n thoughts"]
    chance: Float[np.ndarray, "n thoughts"]
    """The probability that the same word has at this thought of the other problems, mean."""
    entropy: Float[np.ndarray, "n thoughts"]
    """Of the whole reading, nats."""
    answers: list[str]
    states: ThoughtBatch

    def said(self, i: int) -> list[str]:
        """The words that the thoughts of one problem are read as."""
        return [self.words[int(word)] for word in self.reading[i]]


def seen(
    model: ThoughtModel,
    readout: Readout,
    questions: Sequence[str],
    hooks: Sequence[Hook] = (),
    *,
    batch_size: int,
    max_new_tokens: int,
    states: bool = False,
) -> Seen:
    """Think about all questions under these hooks, and read every thought through the model's output side.

    Args:
        model: Who thinks.
        readout: Its output side.
        questions: The problems.
        hooks: Edits of this run.
        batch_size: Problems at a time.
        max_new_tokens: Longest answer.
        states: Whether keys and values are kept, too, to be patched into another run.
    """
    sites = ("thought_out", *(["kv"] if states and "kv" in model.spec.sites else ()))
    batch = collect(
        model,
        questions,
        hooks,
        sites=sites,
        answers=True,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
    )
    assert batch.answers is not None
    columns = [read_thought(readout, batch[Place.at("thought_out", None, p)]) for p in model.spec.thoughts]
    reading, probability, chance, entropy = (np.stack(column, 1) for column in zip(*columns, strict=True))
    return Seen(
        words=words_of(readout),
        reading=reading,
        probability=probability,
        chance=chance,
        entropy=entropy,
        answers=[text.strip() for text in batch.answers.text],
        states=batch,
    )


def words_of(readout: Readout) -> list[str]:
    """The words of a lens, and the empty one."""
    return [*readout.words, ""]


@torch.no_grad()
def read_thought(readout: Readout, x: torch.Tensor) -> tuple[np.ndarray, ...]:
    """Of one thought: the likeliest word, its probability, that of the others' thoughts, and the entropy.

    A problem that stopped before has the empty word, and no numbers.
    """
    there = ~x.isnan().any(-1).cpu().numpy()
    whole = [np.full(len(x), len(readout.words)), *(np.full(len(x), np.nan) for _ in range(3))]
    if there.any():
        for column, found in zip(whole, _read_those(readout, x[torch.from_numpy(there)]), strict=True):
            column[there] = found
    return tuple(whole)


def _read_those(readout: Readout, x: torch.Tensor) -> tuple[np.ndarray, ...]:
    ids, probability, entropy, mean = [], [], [], torch.zeros(readout.n_vocab, dtype=torch.float64)
    for rows in x.split(readout.chunk):
        p = readout.logits(rows, "thought_out").softmax(-1).cpu()
        best = p.max(-1)
        ids.append(best.indices)
        probability.append(best.values)
        entropy.append(torch.special.entr(p).sum(-1))
        mean += p.double().sum(0)
    top, likely = torch.cat(ids), torch.cat(probability).double()
    others = (mean[top] - likely).clamp_min(0) / max(len(x) - 1, 1)
    return readout.word_of[top.numpy()], likely.numpy(), others.numpy(), torch.cat(entropy).double().numpy()


def shuffled(n: int, rng: np.random.Generator) -> Relabel:
    """Control: every problem gets the readings of another one."""
    other = np.roll(order := rng.permutation(n), 1)[np.argsort(order)]

    def relabel(run: Seen) -> Seen:
        return replace(run, reading=run.reading[other])

    return relabel


def renamed(words: Sequence[str], is_value: Callable[[str], bool], rng: np.random.Generator) -> Relabel:
    """Control: the words of the lens change places, values among values and the rest among the rest."""
    said = np.array([bool(word) for word in words])
    value = np.array([is_value(word) for word in words])
    to = np.arange(len(words))
    for kind in (value, said & ~value):
        where = np.flatnonzero(kind)
        to[where] = where[np.roll(order := rng.permutation(len(where)), 1)[np.argsort(order)]]

    def relabel(run: Seen) -> Seen:
        return replace(run, reading=to[run.reading])

    return relabel
