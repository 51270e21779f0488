"""Coconut (Hao et al. 2024, arXiv:2412.06769): the last hidden state itself is the next thought.

Three tokens follow the tokenizer's: `<|start-latent|>` V, `<|end-latent|>` V+1, `<|latent|>` V+2.
Question and newline are read, then start (thought 0); thought p takes in the state after the final norm
of thought p - 1, without a projection; the answer follows the end token. The row of `<|latent|>` marks
places only and is never an input. As in CODI, the last thought's output is fed to nothing.

A checkpoint is a state dict with the prefix `base_causallm.`, and perhaps a second copy of the
embedding under `embedding.weight`.
"""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from thoughtlens.core import DTYPES, CheckpointError, ConfigError, MismatchError, choose_device
from thoughtlens.models.thought import checkpoint
from thoughtlens.models.thought.checkpoint import EMBEDDINGS, Base, Checkpoint
from thoughtlens.models.thought.sequence import HFThoughts, asked
from thoughtlens.models.thought.stated import chosen, stated
from thoughtlens.models.thought.thoughts import ThoughtSpec, parse_number

PREFIX = "base_causallm."
PROMPT = "{question}\n"
TOKENS = ("<|start-latent|>", "<|end-latent|>", "<|latent|>")


class Coconut(HFThoughts):
    """A causal language model fed with its own last state."""

    def __init__(
        self,
        lm: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        start_id: int,
        end_id: int,
        latent_id: int,
        n_thoughts: int = 6,
        prompt: str | None = None,
    ) -> None:
        super().__init__(lm, tokenizer)
        self.prompt: str = prompt or PROMPT
        self.n_vocab = min(start_id, end_id, latent_id)
        self.start_ids, self.end_ids = (start_id,), (end_id,)
        self.spec = ThoughtSpec(
            n_thoughts=n_thoughts,
            n_layers=len(self.blocks),
            d=lm.config.hidden_size,
            feedback_layer=len(self.blocks),
            has_projection=False,
        )

    def _tokenize(self, question: str) -> list[int]:
        return self._ids(asked(question, self.prompt), self.n_vocab) if question.strip() else []

    def _feed_back(self, u: Float[Tensor, "batch 1 d"]) -> Float[Tensor, "batch 1 d"]:
        return u

    def _value(self, text: str) -> float | None:
        return parse_number(text.rsplit("#", 1)[-1])


def load(
    name: str | Path,
    *,
    base: str | Path | None = None,
    n_thoughts: int | None = None,
    prompt: str | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    revision: str | None = None,
) -> Coconut:
    """Load a Coconut checkpoint: every key of it used, every parameter filled.

    Args:
        name: Hub repository, directory or file (`checkpoint_N`, .bin, .pt, .safetensors).
        base: Where config and tokenizer of the base model are; None: beside the checkpoint.
        n_thoughts: Thoughts to think: thoughts per step times steps of the training's last stage; None: as a
            file beside the weights states it (`c_thought`, `max_latent_stage`), else 6, with a warning.
        prompt: What is read for a question, with `{question}`; None: the question and a line end.
        dtype: What to compute in.
        device: A torch device.
        revision: Commit, tag or branch on the hub.

    Raises:
        NotThereError: no such checkpoint or base model.
        CheckpointError: keys missing, left over, or a second embedding that differs.
        MismatchError: another base model, or a tokenizer that shifts the thought tokens.
        ConfigError: no base model given for a checkpoint that has none beside it, an unknown dtype, fewer
            than no thoughts, or a revision of a local file.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"dtype: expected one of {', '.join(DTYPES)}, got {dtype!r}")
    target = choose_device(device)
    found = checkpoint.read(name, revision)
    own = stated(found.file.parent)
    parent = checkpoint.base_of(found, base, own.get("base"))
    settings, assumed = chosen(str(name), {"n_thoughts": n_thoughts}, {}, own, {"n_thoughts": 6})
    lm = _assemble(found, parent)
    start_id, end_id, latent_id = _thought_ids(parent, lm.config.vocab_size)
    model = Coconut(
        checkpoint.placed(lm, target, DTYPES[dtype]),
        parent.tokenizer,
        start_id=start_id,
        end_id=end_id,
        latent_id=latent_id,
        n_thoughts=settings["n_thoughts"],
        prompt=prompt,
    )
    model.settings = {**settings, "family": "coconut", "base": parent.name, "prompt": prompt}
    checkpoint.sign(model, name, found, parent, assumed=assumed, dtype=dtype)
    return model


def _assemble(found: Checkpoint, base: Base) -> PreTrainedModel:
    state = dict(found.tensors)
    twin = state.pop("embedding.weight", None)
    if odd := sorted(key for key in state if not key.startswith(PREFIX)):
        raise CheckpointError(
            f"{found.file}: {odd[0]} is not part of Coconut ({PREFIX}*, embedding.weight); "
            f"the file is for another model"
        )
    state = {key.removeprefix(PREFIX): value for key, value in state.items()}
    for key, value in state.items():
        if twin is not None and key.endswith(EMBEDDINGS) and not torch.equal(twin, value):
            raise CheckpointError(f"{found.file}: embedding.weight differs from {PREFIX}{key}, its copy")
    return checkpoint.assemble(state, base, found.file, PREFIX)


def _thought_ids(base: Base, n_rows: int) -> tuple[int, int, int]:
    """Ids of start, end and latent; the tokenizer may know them already, and must then agree."""
    vocab = base.tokenizer.get_vocab()
    n_vocab = len(base.tokenizer) - sum(token in vocab for token in TOKENS)
    checkpoint.words_before(n_rows, len(TOKENS), (n_vocab,), base)
    for i, token in enumerate(TOKENS):
        if vocab.get(token, n_vocab + i) != n_vocab + i:
            raise MismatchError(
                f"The tokenizer of {base.name} gives {token} the id {vocab[token]}, not {n_vocab + i} "
                f"as in Coconut: use the base model's own tokenizer"
            )
    return n_vocab, n_vocab + 1, n_vocab + 2
