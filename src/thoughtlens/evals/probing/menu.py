"""What a comparison may choose from: representations (arms), poolings, and the learner's settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator

GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Inverse regularisation strengths that a probe chooses from."""
KS = (1, 2, 4, 8, 16, 32, 64)
"""Numbers of features that a probe on few of them chooses from."""


def _ascending(values: tuple[float, ...]) -> tuple[float, ...]:
    if not values or not all(value > 0 for value in values):
        raise ValueError("expected positive numbers")
    return tuple(sorted(set(values)))


Counts = Annotated[tuple[int, ...], AfterValidator(_ascending)]
"""Numbers of features from 1, each once."""
Strengths = Annotated[tuple[float, ...], AfterValidator(_ascending)]
"""Inverse regularisation strengths, each once."""


@dataclass(frozen=True)
class Arm:
    """A representation that is scored: its vectors, or the text, or nothing."""

    kind: Literal["vectors", "text", "counts", "none"]
    what: str
    thoughts: tuple[int, ...] | None = None
    """Only the cells of these thoughts."""
    permuted: bool = False
    """Labels shuffled over groups: what the whole procedure gives when there is nothing to find."""
    top: bool = False
    """Only the k columns that say most about the label in the training fold, k chosen there too."""


ARMS = {
    "sae": Arm("vectors", "SAE latents"),
    "raw": Arm("vectors", "raw activations"),
    "sae_reconstruction": Arm("vectors", "what the SAE gives back of them"),
    "pca": Arm("vectors", "principal components of the SAE's training rows, as many as L0"),
    "pca_live": Arm("vectors", "principal components, as many as latents fire at all"),
    "random_projection": Arm("vectors", "random directions, as many as L0"),
    "random_sae": Arm("vectors", "latents of a random SAE of the same kind and sparsity"),
    "frozen_decoder": Arm("vectors", "latents of an SAE of the same kind whose decoder stayed random"),
    "top_latents": Arm("vectors", "the k SAE latents that say most, k chosen inside", top=True),
    "top_neurons": Arm(
        "vectors", "the k coordinates of raw activations that say most, k chosen inside", top=True
    ),
    "top_pcs": Arm("vectors", "the k principal components that say most, k chosen inside", top=True),
    "begin_of_thought": Arm(
        "vectors", "raw activations of the begin-of-thought position alone", thoughts=(0,)
    ),
    "text": Arm("text", "TF-IDF of the words"),
    "text_counts": Arm("counts", "length of the text, count and size of its numbers, number of steps"),
    "majority": Arm("none", "the most frequent class of the training fold, or its mean"),
    "permuted": Arm("vectors", "raw activations, labels shuffled", permuted=True),
}
USUAL_ARMS = (
    "sae", "raw", "sae_reconstruction", "pca", "begin_of_thought", "text", "text_counts", "majority",
    "permuted",
)  # fmt: skip
"""Arms scored unless a config says otherwise."""

CELL_POOLINGS = {
    "concat": "all cells side by side",
    "mean_thoughts": "mean over thoughts for each hook, hooks side by side",
    "mean_all": "mean over all cells",
    "max_all": "largest value over all cells",
    "binary": "share of the cells in which a value is above 0",
    "last_thought": "the last thought of each hook, side by side",
    "attention": "mean over all cells with weights learned by the probe",
}
"""How a problem's vectors, one per (hook, thought) cell, become one row; no mean mixes cells of two SAEs."""
TOKEN_POOLINGS = {
    "mean": "mean over the tokens",
    "last": "the last token",
    "max": "largest value over the tokens",
    "binary": "share of the tokens in which a value is above 0",
}
"""How a text's token vectors become one row, after encoding."""
