"""One run of a model over its problems: what each thought is read as, the answers, the states to patch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from thoughtlens.models import Hook, Place, ThoughtBatch, ThoughtModel, collect
from thoughtlens.tracing.read.lenses import Crowd, Lenses, Look, look

Relabel = Callable[["Seen"], "Seen"]
"""What a control does to the readings of every run; the states and the answers stay."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """Readings, states and answers of all problems in one run."""

    words: list[str]
    """The words that `reading` counts; the last one, empty, is read where a problem has no such thought."""
    reading: Int[np.ndarray, "n thoughts"]
    looks: list[Look]
    """By thought, what its lens shows; a control does not change it."""
    answers: list[str]
    states: ThoughtBatch

    @property
    def probability(self) -> Float[np.ndarray, "n thoughts"]:
        """Of the likeliest word."""
        return np.stack([one.shares[:, 0] for one in self.looks], 1)

    @property
    def null(self) -> Float[np.ndarray, "n thoughts"]:
        """Of that word at this thought of the other problems, mean."""
        return np.stack([one.null for one in self.looks], 1)

    @property
    def entropy(self) -> Float[np.ndarray, "n thoughts"]:
        """Of the whole reading, nats."""
        return np.stack([one.entropy for one in self.looks], 1)

    def said(self, i: int) -> list[str]:
        """The words that the thoughts of one problem are read as."""
        return [self.words[int(word)] for word in self.reading[i]]


def seen(
    model: ThoughtModel,
    lenses: Lenses,
    questions: Sequence[str],
    hooks: Sequence[Hook] = (),
    *,
    batch_size: int = 256,
    max_new_tokens: int | None,
    states: bool = False,
    more: Sequence[Place] = (),
    top: int = 1,
    crowds: Sequence[Crowd] | None = None,
    among: Sequence[bool] | None = None,
) -> Seen:
    """Think about all questions under these hooks, and read every thought.

    Args:
        model: Who thinks.
        lenses: What reads.
        questions: The problems.
        hooks: Edits of this run.
        batch_size: Problems at a time.
        max_new_tokens: Longest answer; None: no answers.
        states: Whether keys and values are kept, too, to be patched into another run.
        more: Further places whose states are kept.
        top: Words listed of each reading.
        crowds: By thought, the problems that readings are held against; None: the others of these.
        among: Which of these are in the crowds, too.
    """
    kept = [*lenses.places, Place("thought_out"), *more]
    if states and "kv" in model.spec.sites:
        kept += [Place.at("kv", layer) for layer in range(model.spec.n_layers)]
    batch = collect(
        model,
        questions,
        hooks,
        places=kept,
        answers=max_new_tokens is not None,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens or 0,
    )
    looks = [
        look(lens, batch[Place(lens.hook_name, p)], top=top, crowd=crowds[p] if crowds else None, among=among)
        for p, lens in sorted(lenses.at.items())
    ]
    return Seen(
        words=lenses.words,
        reading=np.stack([one.words[:, 0] for one in looks], 1),
        looks=looks,
        answers=[text.strip() for text in batch.answers.text] if batch.answers else [],
        states=batch,
    )


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
