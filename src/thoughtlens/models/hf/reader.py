"""Token sequences through a language model: like lengths together, padded once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thoughtlens.models.hf.capture import capture
from thoughtlens.models.hf.load import LanguageModel

Tokens = Int[np.ndarray, " _"]


@dataclass(frozen=True, kw_only=True)
class Read:
    """What one forward pass gave."""

    which: list[int]
    """The sequences of this pass, by their place among those asked for."""
    ids: Int[np.ndarray, "batch seq"]
    """Their tokens, padded on the right."""
    mask: Bool[np.ndarray, "batch seq"]
    """Where they are tokens."""
    acts: dict[str, Float[Tensor, "batch *seq d"]]
    """By hook name; on the model's device, in its dtype. `at="last"` has no axis `seq`."""


def read(
    lm: LanguageModel,
    sequences: Sequence[Tokens],
    hook_names: Sequence[str],
    *,
    batch_tokens: int,
    at: Literal["all", "last"] = "all",
) -> Iterator[Read]:
    """Every sequence once, the longest first.

    Args:
        lm: The model.
        sequences: Token ids, as the model shall see them.
        hook_names: Where to read.
        batch_tokens: Tokens of one forward pass, padding included; a longer sequence runs alone.
        at: Activations at all positions, or at each sequence's last token.

    Raises:
        HookError: the model has no such hook.
    """
    for which in by_length([len(tokens) for tokens in sequences], batch_tokens):
        found = read_batch(lm, [sequences[i] for i in which], hook_names)
        acts = found.acts if at == "all" else {hook: _last(x, found.mask) for hook, x in found.acts.items()}
        yield Read(which=which, ids=found.ids, mask=found.mask, acts=acts)


def read_batch(lm: LanguageModel, sequences: Sequence[Tokens], hook_names: Sequence[str]) -> Read:
    """All sequences in one forward pass."""
    ids, mask = pad(sequences)
    acts = capture(lm.model, torch.from_numpy(ids), torch.from_numpy(mask), hook_names)
    return Read(which=list(range(len(sequences))), ids=ids, mask=mask, acts=acts)


def by_length(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Places of like lengths together, the longest first; each group fits the batch, or is one alone."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > batch_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def pad(
    rows: Sequence[np.ndarray], fill: int | bool = 0
) -> tuple[Int[np.ndarray, "batch seq"] | Bool[np.ndarray, "batch seq"], Bool[np.ndarray, "batch seq"]]:
    """Rows padded on the right, whole numbers as int64, and where they are not padding."""
    lengths = np.array([len(row) for row in rows])
    mask = np.arange(lengths.max()) < lengths[:, None]
    table = np.full(mask.shape, fill)
    table[mask] = np.concatenate(rows)
    return table, mask


def _last(x: Float[Tensor, "batch seq d"], mask: Bool[np.ndarray, "batch seq"]) -> Float[Tensor, "batch d"]:
    last = torch.from_numpy(mask.sum(1) - 1).to(x.device)
    return x[torch.arange(len(x), device=x.device), last]
