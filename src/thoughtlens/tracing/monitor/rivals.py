"""Linear models that are shown which problems are which: of the question's words, and of states."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from thoughtlens.evals import bag_of_words, probes

Matrix = Float[np.ndarray, "n features"]
FOLDS = 3
"""Folds of the training problems that choose the penalty."""
MIN_TEXTS, MOST_WORDS = 5, 2_000
"""A word, or a word at its place, counts if it is in so many questions; the most frequent ones do."""


def told(
    X: Matrix,
    y: Bool[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"],
    train: Bool[np.ndarray, " n"],
    *,
    seed: int,
) -> Float[np.ndarray, " n"]:
    """Log-odds by a logistic regression that is fitted on the rows in `train`; NaN there.

    Args:
        X: Features of every row.
        y: What is to be noticed; of rows not in `train` it is not looked at.
        groups: Rows of one group are in one fold.
        train: Rows to fit on, of both kinds.
        seed: Of the folds.
    """
    own = probes.make_folds(y[train].astype(int), groups[train], n_splits=FOLDS, n_inner=2, seed=seed).outer
    inner = np.full((1, len(y)), -1)
    inner[0, train] = own
    folds = probes.Folds(np.where(train, 1, 0), inner)
    p = probes.probe(X, np.where(train, y, 0).astype(int), folds, n_classes=2).proba
    return np.log(np.maximum(p[:, 1], 1e-300)) - np.log(np.maximum(p[:, 0], 1e-300))


def neighbours(questions: Sequence[str]) -> Matrix:
    """A bag of words and of pairs of neighbouring words."""
    return bag_of_words(questions, max_features=MOST_WORDS).toarray()


def places(questions: Sequence[str]) -> Matrix:
    """Single words, and which word stands where: a linear model of these sees no pair of words."""
    found = [text.split() for text in questions]
    marks = [{*words, *(f"{i} {word}" for i, word in enumerate(words))} for words in found]
    counts = Counter(mark for row in marks for mark in row)
    common = sorted(((-n, mark) for mark, n in counts.items() if n >= MIN_TEXTS))[:MOST_WORDS]
    known = {mark: k for k, (_, mark) in enumerate(common)}
    told = np.zeros((len(found), max(len(known), 1)))
    for i, row in enumerate(marks):
        told[i, [known[mark] for mark in row if mark in known]] = 1
    return told


def flat(states: Shaped[np.ndarray, "n *thoughts d"]) -> Matrix:
    """States of several thoughts side by side; zeros where a problem had none."""
    return np.nan_to_num(states.reshape(len(states), -1).astype(float))
