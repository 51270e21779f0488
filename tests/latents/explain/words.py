"""Random texts of numbered words, and latents that are plain functions of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import scipy.sparse as sp

from thoughtlens.latents.explain.corpus import Part
from thoughtlens.latents.explain.token_graph import Example
from thoughtlens.latents.explain.tokens import Tokens

VOCABULARY = 30
NAMES = {i: f"w{i}" for i in range(VOCABULARY)}

Latent = Callable[[np.ndarray], float]
"""From the tokens up to a place to the activation there."""


def texts(n: int, length: int, seed: int) -> list[np.ndarray]:
    """Documents of random words; word 3, which triggers look back at, is as frequent as the others."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, VOCABULARY, length) for _ in range(n)]


def part(documents: Sequence[np.ndarray], latents: Sequence[Latent]) -> Part:
    """The documents as a part of a corpus, one hook, with the latents' activations."""
    lengths = [len(d) for d in documents]
    acts = np.array([[f(d[: i + 1]) for f in latents] for d in documents for i in range(len(d))], np.float32)
    unit = np.repeat(np.arange(len(documents)), lengths)
    n = len(unit)
    return Part(
        split="test",
        acts=sp.csc_array(acts),
        unit=unit,
        cluster=np.arange(len(documents)),
        line=np.arange(len(documents)),
        place=np.arange(n),
        cell=np.zeros(n, np.int64),
        tokens=Tokens(np.concatenate(documents).astype(np.int64), unit),
        where=np.arange(n),
    )


class FunctionProbe:
    """Stands where a model would: the activation is the function of the tokens."""

    def __init__(self, latents: Sequence[Latent]) -> None:
        self.latents, self.n_sequences, self.n_tokens = latents, 0, 0

    def bound(self, examples: Sequence[Example]):
        def probe(sequences, example):
            self.n_sequences += len(sequences)
            self.n_tokens += sum(map(len, sequences))
            found = [
                self.latents[examples[i].latent](tokens)
                for tokens, i in zip(sequences, example.tolist(), strict=True)
            ]
            return np.array(found, np.float32)

        return probe


def on_word(tokens: np.ndarray) -> float:
    """Fires on word 7."""
    return 2.0 * (tokens[-1] == 7)


def on_either(tokens: np.ndarray) -> float:
    """Fires on word 7, and more weakly on word 9."""
    return {7: 3.0, 9: 1.0}.get(int(tokens[-1]), 0.0)


def word_after_word(tokens: np.ndarray) -> float:
    """Fires on word 7 right after word 3."""
    return 2.0 * (list(tokens[-2:]) == [3, 7])


def with_gap(tokens: np.ndarray) -> float:
    """Fires on word 7 with exactly two words between it and word 3."""
    return 2.0 * (len(tokens) > 3 and tokens[-4] == 3 and tokens[-1] == 7)


def within_reach(tokens: np.ndarray) -> float:
    """Fires on word 7 if word 3 is among the five words before it."""
    return 2.0 * (tokens[-1] == 7 and 3 in tokens[-6:-1])


def after_two_words(tokens: np.ndarray) -> float:
    """Fires on word 7 right after words 3 and 5, in this order."""
    return 2.0 * (list(tokens[-3:]) == [3, 5, 7])


def whatever_follows(tokens: np.ndarray) -> float:
    """Fires on any word right after word 3."""
    return 2.0 * (len(tokens) > 1 and tokens[-2] == 3)


PLANTED = (on_word, on_either, word_after_word, with_gap, within_reach, after_two_words, whatever_follows)
