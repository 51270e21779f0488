"""Coconut (Hao et al. 2024, arXiv:2412.06769): the last hidden state itself is the next thought.

Three tokens follow the tokenizer's: `<|start-latent|>` V, `<|end-latent|>` V+1, `<|latent|>` V+2.
Question and newline are read, then start (thought 0); thought p takes in the state after the final norm
of thought p - 1, without a projection; the answer follows the end token. The row of `<|latent|>` marks
places only and is never an input. As in CODI, the last thought's output is fed to nothing.

A checkpoint is a state dict with the prefix `base_causallm.`, and perhaps a second copy of the
embedding under `embedding.weight`. SIM-CoT's has the decoder that explained the thoughts while training
(`expainable_llm.*`, not used). A control has `pause_embedding` in it, which is every thought's input.

In Dilgren's multimode models the three tokens are `<|bocot|>`, `<|eocot|>` and `<|latent|>`, and on a chat
model of Llama 3 the question ends with `<|eot_id|>`.
"""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from thoughtlens.core import DTYPES, CheckpointError, MismatchError, say
from thoughtlens.models.thought import added, checkpoint
from thoughtlens.models.thought.added import Layout, Tokens
from thoughtlens.models.thought.checkpoint import EMBEDDINGS, Base
from thoughtlens.models.thought.heard import tell
from thoughtlens.models.thought.known import known
from thoughtlens.models.thought.sequence import HFThoughts, asked
from thoughtlens.models.thought.stated import Said, Stated, stated
from thoughtlens.models.thought.thoughts import ThoughtSpec, parse_number
from thoughtlens.models.thought.weights import Checkpoint, hub_id, read

PREFIX = "base_causallm."
PROMPT = "{question}\n"
LAYOUT = Layout(rows=3, begin=0, end=1, by_tokenizer=True)
EXPLAINER = "expainable_llm."
"""The decoder of SIM-CoT's training, as its program spells it."""
PAUSE = "pause_embedding"


class Coconut(HFThoughts):
    """A causal language model fed with its own last state; a pause control, with one learned vector."""

    dropped: tuple[str, ...] = ()
    """Checkpoint keys that were not used."""

    def __init__(
        self,
        lm: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        tokens: Tokens,
        n_thoughts: int = 6,
        prompt: str | None = None,
        before: tuple[int, ...] = (),
        pause: Float[Tensor, " d"] | None = None,
        three: bool = False,
    ) -> None:
        super().__init__(lm, tokenizer)
        self.prompt: str = prompt or PROMPT
        self.n_vocab = tokens.n_words
        self.start_ids, self.end_ids = (*before, tokens.begin), (tokens.end,)
        self.mode_ids = {"direct": (tokens.begin, tokens.end)}  # no thoughts between the two
        if three:
            self.mode_ids = {"words": self.start_ids, "direct": (*before, tokens.end)}
        self.pause = None if pause is None else pause.to(self.device, lm.dtype)
        self.spec = ThoughtSpec(
            n_thoughts=n_thoughts,
            n_layers=len(self.blocks),
            n_cue=len(self.end_ids),
            sites=self.sites,
            d=lm.config.hidden_size,
            feedback_layer=len(self.blocks),
            has_projection=False,
            feeds_back=pause is None,
        )

    def _tokenize(self, question: str) -> list[int]:
        return self._ids(asked(question, self.prompt), self.n_vocab) if question.strip() else []

    def _feed_back(self, u: Float[Tensor, "batch 1 d"]) -> Float[Tensor, "batch 1 d"]:
        return u if self.pause is None else self.pause.expand_as(u)

    def _value(self, text: str) -> float | None:
        return parse_number(text.rsplit("#", 1)[-1])


def load(
    name: str | Path,
    *,
    base: str | Path | None = None,
    n_thoughts: int | None = None,
    prompt: str | None = None,
    bot_id: int | None = None,
    eot_id: int | None = None,
    multimode: bool | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    revision: str | None = None,
) -> Coconut:
    """Load a Coconut checkpoint: every key of it used or reported, every parameter filled.

    Args:
        name: Hub repository, perhaps with a folder or file of it, directory or file (`checkpoint_N`, .bin,
            .pt, .safetensors).
        base: Where config and tokenizer of the base model are; None: beside the checkpoint, or as known or
            stated of it.
        n_thoughts: Thoughts to think: thoughts per step times steps of the training's last stage; None: as a
            file beside the weights states it (`c_thought`, `max_latent_stage`), else 6, with a warning.
        prompt: What is read for a question, with `{question}`; None: the question and a line end.
        bot_id: Id of the begin-of-thought token; None: as a file, the tokenizer or the layout says.
        eot_id: Id of the end-of-thought token, likewise.
        multimode: Whether the question ends with `<|eot_id|>` where the tokenizer has it, as in Dilgren's
            multimode models; None: as known, stated or named so.
        dtype: What to compute in.
        device: A torch device.
        revision: Commit, tag or branch on the hub.

    Raises:
        NotThereError: no such checkpoint or base model, or several.
        CheckpointError: keys missing, left over, or a second embedding that differs.
        MismatchError: another base model, or a tokenizer that shifts the thought tokens.
        ConfigError: no base model given for a checkpoint that has none beside it, an unknown dtype, fewer
            than no thoughts, or a revision of a local file.
    """
    target = checkpoint.device_for(dtype, device)
    release = known(hub_id(name))
    found = read(name, revision)
    own = stated(found.file.parent)
    parent = checkpoint.base_of(found, base, release.base if release else own.get("base"))
    given = {"n_thoughts": n_thoughts, "prompt": prompt, "bot_id": bot_id, "eot_id": eot_id}
    said = Said(str(name), {**given, "multimode": multimode}, release.settings if release else {}, own)
    settings, assumed = said.chosen({"n_thoughts": 6})
    tell(layout="Coconut, the state dict of its training")
    lm, pause, dropped = _assemble(found, parent, own)
    tokens = added.find(parent, lm.config.vocab_size, LAYOUT, found.file.parent, said)
    assumed |= tokens.assumed
    said.warn_of(assumed)
    model = Coconut(
        checkpoint.placed(lm, target, DTYPES[dtype]),
        parent.tokenizer,
        tokens=tokens,
        n_thoughts=settings["n_thoughts"],
        prompt=said.get("prompt"),
        before=added.end_of_turn(parent.tokenizer) if added.is_multimode(said) else (),
        pause=pause,
        three=added.is_multimode(said),
    )
    model.dropped = dropped
    model.settings = {
        **settings,
        **said.extra(tokens.assumed),
        "family": "coconut",
        "base": parent.name,
        "prompt": said.get("prompt"),
    }
    checkpoint.sign(model, name, found, parent, assumed=assumed, dtype=dtype)
    return model


def _assemble(
    found: Checkpoint, base: Base, own: Stated
) -> tuple[PreTrainedModel, Float[Tensor, " d"] | None, tuple[str, ...]]:
    """The base model, the pause vector of a control, and the keys that are not used."""
    state = dict(found.tensors)
    dropped = tuple(sorted(key for key in state if key.startswith(EXPLAINER)))
    tell(unused=list(dropped))
    if dropped:
        say(f"{found.file}: the decoder of the training is not used: {EXPLAINER}* ({len(dropped)} tensors)")
    state = {key: value for key, value in state.items() if key not in dropped}
    twin, pause = state.pop("embedding.weight", None), state.pop(PAUSE, None)
    _check_mode(own, pause, found.file)
    odd = sorted(key for key in state if not key.startswith(PREFIX))
    if odd and len(odd) == len(state):
        raise CheckpointError(
            f"{found.file}: not one tensor is called {PREFIX}*: a language model, as Coconut's training "
            f"leaves it of its first stage and of its baselines (cot, no_cot), which has no thoughts"
        )
    if odd:
        raise CheckpointError(
            f"{found.file}: {odd[0]} is not part of Coconut ({PREFIX}*, embedding.weight, {PAUSE}); "
            f"the file is for another model"
        )
    state = {key.removeprefix(PREFIX): value for key, value in state.items()}
    for key, value in state.items():
        if twin is not None and key.endswith(EMBEDDINGS) and not torch.equal(twin, value):
            raise CheckpointError(f"{found.file}: embedding.weight differs from {PREFIX}{key}, its copy")
    lm = checkpoint.assemble(state, base, found.file, PREFIX)
    if pause is not None and pause.shape != (lm.config.hidden_size,):
        raise MismatchError(f"{found.file}: {PAUSE} is {list(pause.shape)}, not [{lm.config.hidden_size}]")
    return lm, pause, dropped


def _check_mode(own: Stated, pause: Tensor | None, where: Path) -> None:
    """Refuse a pause control without its vector, and a Coconut with one."""
    mode = own.get("feedback_mode")
    if mode is not None and (mode != "continuous") != (pause is not None):
        raise CheckpointError(
            f"{where}: {own.files['feedback_mode']} says feedback_mode = {mode}, but {PAUSE} is "
            f"{'not ' if pause is None else ''}there: it was lost, or the file is another model's"
        )
