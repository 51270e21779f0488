"""Running edited texts and questions: what token graphs ask the model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from thoughtlens.acts import thought_model
from thoughtlens.core import MismatchError
from thoughtlens.latents.codes.reading import TextReader
from thoughtlens.latents.explain.corpus import Corpus
from thoughtlens.latents.explain.token_graph import Example, Probe
from thoughtlens.models import Place, ThoughtModel, block_outputs, collect, read
from thoughtlens.sae import SAE, Crosscoder

THOUGHTS_AT_ONCE = 128
"""Edited questions whose states are held together."""
States = Callable[[Place], Float[Tensor, "batch d"]]
"""States of a batch of sequences at a place."""


class ModelProbe(ABC):
    """Token sequences through a model: activations of chosen latents at chosen places."""

    def __init__(self, sae: SAE, places: Sequence[Place]) -> None:
        self.sae, self.places = sae, list(places)

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
        """The size of one activation for each sequence; equal sequences run once.

        Args:
            sequences: Token ids, or numbers of words.
            latent: Whose activation.
            cell: Which of `places`.
        """
        different, which = _unique(sequences)
        found, asked = np.zeros(len(sequences), np.float32), _asked_by(which, len(different))
        for batch, states in self._runs(different):
            rows = np.concatenate([asked[i] for i in batch])
            at = np.repeat(np.arange(len(batch)), [len(asked[i]) for i in batch])
            for k in np.unique(cell[rows]).tolist():
                here = cell[rows] == k
                own, back = np.unique(at[here], return_inverse=True)
                x = states(self.places[k])[torch.from_numpy(own)].to(self.sae.W_enc.dtype)
                acts = self.sae.at(*self.places[k]).encode(x.nan_to_num(0.0))
                acts[x.isnan().any(1)] = 0  # a thought that the model did not have
                picked = acts[torch.from_numpy(back), torch.from_numpy(latent[rows[here]])]
                found[rows[here]] = picked.float().abs().numpy()
        return found

    @property
    def hook_names(self) -> list[str]:
        """Hooks of the places."""
        return list(dict.fromkeys(place.hook_name for place in self.places))

    @abstractmethod
    def _runs(self, sequences: Sequence[np.ndarray]) -> Iterator[tuple[list[int], States]]:
        """Every sequence through the model: which of them ran together, and their states."""


class TextProbe(ModelProbe):
    """A language model's states at the last token of each sequence."""

    def __init__(self, reader: TextReader, sae: SAE, places: Sequence[Place], batch_tokens: int) -> None:
        super().__init__(sae, places)
        self.lm, self.bos, self.batch_tokens = reader.lm, reader.cutter.bos, batch_tokens

    def _runs(self, sequences: Sequence[np.ndarray]) -> Iterator[tuple[list[int], States]]:
        head = np.array([] if self.bos is None else [self.bos], np.int64)
        begun = [len(head) > 0 and len(one) > 0 and one[0] == self.bos for one in sequences]
        tokens = [
            np.concatenate([head[int(own) :], one]).astype(np.int64)
            for own, one in zip(begun, sequences, strict=True)
        ]
        for one in read(self.lm, tokens, self.hook_names, batch_tokens=self.batch_tokens, at="last"):
            acts = {hook: states.cpu().float() for hook, states in one.acts.items()}
            yield one.which, lambda place, acts=acts: acts[place.hook_name]


class ThoughtProbe(ModelProbe):
    """A thought model's states at the thoughts of questions, which are sequences of words."""

    def __init__(self, model: ThoughtModel, sae: SAE, places: Sequence[Place], vocabulary: list[str]) -> None:
        super().__init__(sae, places)
        self.model, self.vocabulary = model, vocabulary
        self.collected = block_outputs(self.hook_names, model.spec.n_layers)

    def _runs(self, sequences: Sequence[np.ndarray]) -> Iterator[tuple[list[int], States]]:
        questions = [" ".join(self.vocabulary[i] for i in words) for words in sequences]
        for low in range(0, len(questions), THOUGHTS_AT_ONCE):
            asked = questions[low : low + THOUGHTS_AT_ONCE]
            batch = collect(self.model, asked, places=self.collected, batch_size=THOUGHTS_AT_ONCE)
            yield list(range(low, low + len(asked))), lambda place, batch=batch: batch[place].float()


def probe_of(corpus: Corpus) -> ModelProbe:
    """The probe that runs the model of a corpus's store.

    Raises:
        NotThereError: the model is not where the store says.
        MismatchError: other weights than the store's, or an SAE that reads several sites at once.
        StoreError: the store does not say how it was made.
    """
    member = corpus.member
    if isinstance(member.sae, Crosscoder):
        raise MismatchError("this SAE has one code for several sites, and edited texts are read at one")
    if corpus.vocabulary is None:
        reader = TextReader.like(member.store)
        return TextProbe(reader, member.sae, corpus.cells, corpus.cfg.batch_tokens)
    return ThoughtProbe(thought_model(member.store), member.sae, corpus.cells, corpus.vocabulary)


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
