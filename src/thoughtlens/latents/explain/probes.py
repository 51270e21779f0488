"""Running edited texts and questions: what token graphs ask the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from thoughtlens.acts.behind import thought_model
from thoughtlens.core import MismatchError
from thoughtlens.latents.codes.member import Member
from thoughtlens.latents.codes.reading import TextReader
from thoughtlens.latents.explain.token_graph import Example, Probe
from thoughtlens.models.hf.reader import read
from thoughtlens.models.thought.places import block_outputs
from thoughtlens.models.thought.thoughts import ThoughtModel, collect
from thoughtlens.sae.base import SAE
from thoughtlens.sae.kinds.crosscoder import Crosscoder

Cell = tuple[str, int | None]
THOUGHTS_AT_ONCE = 128
"""Edited questions whose states are held together."""


class TextProbe:
    """Token sequences through a language model: activations of chosen latents at the last token."""

    def __init__(self, reader: TextReader, sae: SAE, cells: Sequence[Cell], batch_tokens: int) -> None:
        self.lm, self.bos, self.sae = reader.lm, reader.cutter.bos, sae
        self.cells, self.batch_tokens = list(cells), batch_tokens

    def bound(self, examples: Sequence[Example]) -> Probe:
        """The probe that answers for these examples."""

        def probe(sequences: Sequence[np.ndarray], example: Int[np.ndarray, " n"]) -> np.ndarray:
            latent = np.array([examples[i].latent for i in example.tolist()], np.int64)
            cell = np.array([examples[i].cell for i in example.tolist()], np.int64)
            return self.activations(sequences, latent, cell)

        return probe

    @torch.no_grad()
    def activations(
        self, sequences: Sequence[np.ndarray], latent: Int[np.ndarray, " n"], cell: Int[np.ndarray, " n"]
    ) -> Float[np.ndarray, " n"]:
        """One activation for each sequence; equal sequences run once."""
        different, which = _unique(sequences)
        found = np.zeros(len(sequences), np.float32)
        asked = _asked_by(which, len(different))
        head = np.array([] if self.bos is None else [self.bos], np.int64)
        tokens = [np.concatenate([head, one]).astype(np.int64) for one in different]
        hooks = list(dict.fromkeys(hook for hook, _ in self.cells))
        for batch in read(self.lm, tokens, hooks, batch_tokens=self.batch_tokens, at="last"):
            x = {hook: states.cpu().float() for hook, states in batch.acts.items()}
            rows = np.concatenate([asked[i] for i in batch.which])
            at = np.repeat(np.arange(len(batch.which)), [len(asked[i]) for i in batch.which])
            found[rows] = encoded(self.sae, self.cells, x, at, latent[rows], cell[rows])
        return found


class ThoughtProbe:
    """Questions of edited words through a thought model: activations at the thought of each example."""

    def __init__(self, model: ThoughtModel, sae: SAE, cells: Sequence[Cell], vocabulary: list[str]) -> None:
        self.model, self.sae, self.cells, self.vocabulary = model, sae, list(cells), vocabulary
        self.places = block_outputs(list(dict.fromkeys(hook for hook, _ in cells)), model.spec.n_layers)

    bound = TextProbe.bound

    @torch.no_grad()
    def activations(
        self, sequences: Sequence[np.ndarray], latent: Int[np.ndarray, " n"], cell: Int[np.ndarray, " n"]
    ) -> Float[np.ndarray, " n"]:
        """One activation for each question; equal questions run once."""
        different, which = _unique(sequences)
        asked = _asked_by(which, len(different))
        found = np.zeros(len(sequences), np.float32)
        for start in range(0, len(different), THOUGHTS_AT_ONCE):
            batch = different[start : start + THOUGHTS_AT_ONCE]
            states = self._states([" ".join(self.vocabulary[i] for i in words) for words in batch])
            own = asked[start : start + THOUGHTS_AT_ONCE]
            rows = np.concatenate(own)
            at = np.repeat(np.arange(len(batch)), [len(r) for r in own])
            for k in np.unique(cell[rows]).tolist():
                here = cell[rows] == k
                hook, thought = self.cells[k]
                x = {hook: states[hook][:, thought]}
                of = rows[here]
                found[of] = encoded(self.sae, self.cells, x, at[here], latent[of], cell[of])
        return found

    def _states(self, questions: list[str]) -> dict[str, Float[Tensor, "batch thoughts d"]]:
        batch = collect(self.model, questions, places=self.places, batch_size=THOUGHTS_AT_ONCE)
        return {place.hook_name: batch[place].float() for place in self.places}


def probe_of(member: Member, cells: Sequence[Cell], vocabulary: list[str] | None, batch_tokens: int) -> Any:
    """The probe that runs the model of a member's store.

    Raises:
        NotThereError: the model is not where the store says.
        MismatchError: other weights than the store's, or an SAE that reads several sites at once.
        StoreError: the store does not say how it was made.
    """
    if isinstance(member.sae, Crosscoder):
        raise MismatchError("this SAE has one code for several sites, and edited texts are read at one")
    if vocabulary is None:
        return TextProbe(TextReader.like(member.store), member.sae, cells, batch_tokens)
    return ThoughtProbe(thought_model(member.store), member.sae, cells, vocabulary)


@torch.no_grad()
def encoded(
    sae: SAE,
    cells: Sequence[Cell],
    x: dict[str, Float[Tensor, "batch d"]],
    at: Int[np.ndarray, " n"],
    latent: Int[np.ndarray, " n"],
    cell: Int[np.ndarray, " n"],
) -> Float[np.ndarray, " n"]:
    """Activation of `latent[i]` on row `at[i]` of the states at the hook of `cell[i]`."""
    found = np.zeros(len(at), np.float32)
    for k in np.unique(cell).tolist():
        here = np.flatnonzero(cell == k)
        rows, back = np.unique(at[here], return_inverse=True)
        states = x[cells[k][0]][torch.from_numpy(rows)].to(sae.W_enc.dtype)
        acts = sae.at(*cells[k]).encode(states)
        found[here] = acts[torch.from_numpy(back), torch.from_numpy(latent[here])].float().numpy()
    return found


def _unique(sequences: Sequence[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
    """Different sequences in order of appearance, and which of them each one is."""
    number: dict[bytes, int] = {}
    different, which = [], np.zeros(len(sequences), np.int64)
    for i, tokens in enumerate(sequences):
        key = np.ascontiguousarray(tokens, np.int64).tobytes()
        if key not in number:
            number[key] = len(different)
            different.append(tokens)
        which[i] = number[key]
    return different, which


def _asked_by(which: np.ndarray, n: int) -> list[np.ndarray]:
    """Which requests ask for each of `n` different sequences."""
    order = np.argsort(which, kind="stable")
    return np.split(order, np.searchsorted(which[order], np.arange(1, n)))
