"""New texts through the model of an activation store, read exactly as that store was made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from thoughtlens.acts import ActivationStore, cutter_of, language_model, made_with, says_how
from thoughtlens.core import DataError, StoreError
from thoughtlens.models import LanguageModel, by_length, read
from thoughtlens.problems import Cutter, Window, token_ids


@dataclass(frozen=True)
class Reading:
    """One text: a row for each token that is not special."""

    index: int
    """Which of the texts."""
    token_ids: Int[np.ndarray, " rows"]
    position: Int[np.ndarray, " rows"]
    """Position within the window that the model saw."""
    acts: dict[str, Float[Tensor, "rows _"]]
    """Raw float32 activations by hook name."""


class TextReader:
    """A model, and the way in which an extraction cut texts and dropped special tokens."""

    def __init__(self, lm: LanguageModel, cutter: Cutter, batch_tokens: int) -> None:
        self.lm, self.cutter, self.batch_tokens = lm, cutter, batch_tokens

    @classmethod
    def like(cls, store: ActivationStore) -> TextReader:
        """The reader that an activation store of texts was made with.

        Raises:
            StoreError: the store holds thoughts, or does not say how it was made.
            MismatchError: the model's weights are not those that made the store.
        """
        if not says_how(store):
            raise StoreError(
                f"{store.root} does not say how its texts were cut (no config.toml, and no bos among reading "
                f"of its meta.json); extract it again"
            )
        lm, cfg = language_model(store), made_with(store)
        return cls(lm, cutter_of(lm, cfg), cfg.batch_tokens)

    def read(self, texts: Sequence[str], hook_names: Sequence[str]) -> Iterator[Reading]:
        """Every text once, texts of like length together and so not in the order given.

        Raises:
            DataError: no texts, or one without a token that is not special.
            HookError: the model has no such hook.
        """
        if not len(texts):
            raise DataError("Expected at least one text, got none")
        tokens = token_ids(self.lm.tokenizer, texts, self.cutter.bos)
        for i, one in enumerate(tokens):
            if not self.cutter.kept(one).any():
                raise DataError(
                    f"Expected text with at least one token, got {texts[i]!r} (text {i + 1} of {len(texts)})"
                )
        for group in by_length([len(one) + 1 for one in tokens], self.batch_tokens):
            windows = [w for i in group for w in self.cutter.windows(str(i), tokens[i])]
            yield from self._run(windows, list(hook_names))

    def _run(self, windows: list[Window], hook_names: list[str]) -> Iterator[Reading]:
        parts: dict[int, list[Reading]] = {}
        for found in read(self.lm, [w.tokens for w in windows], hook_names, batch_tokens=self.batch_tokens):
            keep = found.mask & self.cutter.kept(found.ids)
            for row, which in enumerate(found.which):
                own = np.flatnonzero(keep[row])
                at = torch.from_numpy(own)
                x = {hook: value[row].cpu()[at].float() for hook, value in found.acts.items()}
                index = int(windows[which].problem_id)
                parts.setdefault(index, []).append(Reading(index, found.ids[row, own], own, x))
        for index, pieces in parts.items():
            yield Reading(
                index,
                np.concatenate([p.token_ids for p in pieces]),
                np.concatenate([p.position for p in pieces]),
                {hook: torch.cat([p.acts[hook] for p in pieces]) for hook in hook_names},
            )
