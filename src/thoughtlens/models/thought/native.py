"""CODI, Coconut and CoLaR as classes of transformers, with their ids in config.json.

The layout of `ModalityDance/latent-tts-{codi,coconut,colar}` (classes `CODIGPT2`, `COCONUTGPT2` and
`ColarLlama` of github.com/ModalityDance/LatentTTS, `src/models/*.py`; loop: `src/generation_mixin.py`):
tensors have the base model's own names; CODI's projection is `projector.*` with its norm as `projector.4`,
CoLaR's head `lt_head.*`. Question and `<|start-latent|>` (thought 0) are read, Coconut's question with a
line end; z_{p+1} is made of the state after the final norm; the answer follows `<|end-latent|>`. For CoLaR
see `models.thought.colar`. No eos, no adapter. `<|latent|>` marks places only: where a model says it, the
embedding of token 0 is read.

Read as a plain language model such a checkpoint loses its projection without an error.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from thoughtlens.core import DTYPES, CheckpointError, MismatchError
from thoughtlens.models.thought import checkpoint
from thoughtlens.models.thought.added import Tokens
from thoughtlens.models.thought.coconut import Coconut
from thoughtlens.models.thought.codi import Codi
from thoughtlens.models.thought.colar import END, Colar, LatentHead
from thoughtlens.models.thought.heard import tell
from thoughtlens.models.thought.known import known
from thoughtlens.models.thought.sequence import SequenceThoughts
from thoughtlens.models.thought.stated import Said, stated
from thoughtlens.models.thought.weights import hub_id, read

CLASS = re.compile(r"(codi|coconut|colar)(gpt2|llama|qwen\d?|mistral|gemma\d?|phi\d?)", re.IGNORECASE)
"""Of `architectures`; behind it stands nothing, or the name of a head that does not think."""
IDS = {
    "latent_start_id": "<|start-latent|>",
    "latent_end_id": "<|end-latent|>",
    "latent_id": "<|latent|>",
}
"""Field of the config -> token of the tokenizer."""
USES = ("begin of thought", "end of thought", "mark of a thought's place")
UNSET = (None, -1, -100)
"""What the fields are before a tokenizer sets them."""
HEADS = {"codi": "projector.", "coconut": "", "colar": "lt_head."}
"""What stands before the names of the tensors that make the next thought."""
NAMES = {"codi": "CODI", "coconut": "Coconut", "colar": "CoLaR"}
N_THOUGHTS = {"codi": 6, "coconut": 6, "colar": 64}
"""`latent_length` of the publisher's own evaluation; of CoLaR, which may stop before, `max_latent_length`."""


def kind(folder: Path) -> str | None:
    """codi, coconut or colar where a config.json there is of such a class; None: it is not.

    Raises:
        CheckpointError: it is such a model's reward model, which says no words.
    """
    config = read_config(folder)
    classes = [str(name) for name in config.get("architectures") or ()]
    for name in classes:
        if (found := CLASS.match(name)) and found.end() < len(name):
            raise CheckpointError(
                f"{folder / 'config.json'}: a {name} gives scores, and says no words after its thoughts; "
                f"give the model whose thoughts it scores"
            )
        if found:
            return found[1].lower()
    if not {"latent_start_id", "latent_end_id"} <= config.keys():
        return None
    return "codi" if "projector" in config else "colar" if "latent_embedding_std" in config else "coconut"


def read_config(folder: Path) -> dict[str, Any]:
    """The table of config.json; empty where there is none that can be read."""
    try:
        found = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


class _Marks(SequenceThoughts):
    """Reads the mark of a thought's place as the publisher's loop does."""

    latent_id: int | None

    def _embed(self, ids: Int[Tensor, "batch new"]) -> Float[Tensor, "batch new d"]:
        read = ids if self.latent_id is None else torch.where(ids == self.latent_id, 0, ids)
        return super()._embed(read)  # type: ignore[safe-super]


class NativeCodi(_Marks, Codi):
    """CODI as a class of transformers."""


class NativeCoconut(_Marks, Coconut):
    """Coconut as a class of transformers."""


class NativeColar(_Marks, Colar):
    """CoLaR as a class of transformers."""


def load(
    name: str | Path,
    *,
    base: str | Path | None = None,
    n_thoughts: int | None = None,
    prompt: str | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    revision: str | None = None,
) -> NativeCodi | NativeCoconut | NativeColar:
    """The model of a checkpoint that `kind` knows: every key of it used, every parameter filled.

    Args:
        name: Hub repository or directory.
        base: Where the tokenizer is, if not beside the weights.
        n_thoughts: Thoughts to think, CoLaR's at most; None: as stated beside the weights, else 6, CoLaR's
            64, with a warning.
        prompt: What is read for a question, with `{question}`; None: the question, Coconut's with a line end,
            CoLaR's in its template.
        dtype: What to compute in.
        device: A torch device.
        revision: Commit, tag or branch on the hub.

    Raises:
        NotThereError: no such checkpoint, or no tokenizer.
        CheckpointError: keys missing or left over; a config that the weights do not bear out.
        MismatchError: ids of config and tokenizer that differ, or embedding rows missing.
        ConfigError: an unknown dtype, fewer than no thoughts, or a revision of something local.
    """
    target = checkpoint.device_for(dtype, device)
    found = read(name, revision)
    folder = found.file.parent
    which, config = kind(folder) or "coconut", read_config(folder)
    tell(layout=f"{NAMES[which]} as a class of transformers (LatentTTS)")
    own_words = (folder / "tokenizer_config.json").is_file()
    parent = checkpoint.read_base(folder, folder if base is None or own_words else base)
    release = known(hub_id(name))
    said = Said(str(name), {"n_thoughts": n_thoughts}, release.settings if release else {}, stated(folder))
    settings, assumed = said.chosen({"n_thoughts": N_THOUGHTS[which]})
    said.warn_of(assumed)
    prefix = HEADS[which]
    head = {key: x for key, x in found.tensors.items() if prefix and key.startswith(prefix)}
    lm = checkpoint.assemble(
        {key: x for key, x in found.tensors.items() if key not in head}, parent, found.file, ""
    )
    make = {"codi": _codi, "coconut": _coconut, "colar": _colar}[which]
    opened = _Opened(checkpoint.placed(lm, target, DTYPES[dtype]), parent.tokenizer, head, config, found.file)
    model = make(opened, n_thoughts=settings["n_thoughts"], prompt=prompt)
    model.settings = {**settings, "family": which, "base": parent.name, "prompt": prompt}
    checkpoint.sign(model, name, found, parent, assumed=assumed, dtype=dtype, latent=model.latent_id)
    return model


def _positive(opened: _Opened, field: str) -> float:
    value = opened.config.get(field)
    if not isinstance(value, int | float) or not 0 < value < math.inf:
        raise CheckpointError(f"{opened.file.parent / 'config.json'}: expected {field} > 0, got {value}")
    return value


class _Opened(NamedTuple):
    """What a model is made of."""

    lm: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    head: dict[str, Tensor]
    """Tensors of what makes the next thought."""
    config: dict[str, Any]
    file: Path


def _codi(opened: _Opened, *, n_thoughts: int, prompt: str | None) -> NativeCodi:
    tokens, latent = thought_ids(opened)
    model = NativeCodi(
        opened.lm, _projector(opened), opened.tokenizer, tokens=tokens, eos_before=False, eos_after=False,
        banned=False, n_thoughts=n_thoughts, prompt=prompt or "{question}",
    )  # fmt: skip
    model.latent_id = latent
    return model


def _coconut(opened: _Opened, *, n_thoughts: int, prompt: str | None) -> NativeCoconut:
    tokens, latent = thought_ids(opened)
    model = NativeCoconut(opened.lm, opened.tokenizer, tokens=tokens, n_thoughts=n_thoughts, prompt=prompt)
    model.latent_id = latent
    return model


def _colar(opened: _Opened, *, n_thoughts: int, prompt: str | None) -> NativeColar:
    _require_rows(opened)
    deviation, width = (_positive(opened, f"latent_{of}") for of in ("embedding_std", "intermediate_size"))
    end = _one_id(opened, "latent_end_id", END)
    tell(tokens={"begin and end of thought": (end, "the tokenizer")})
    head = LatentHead(opened.lm.config.hidden_size, int(width))
    model = NativeColar(
        opened.lm, checkpoint.filled(head, opened.head, opened.file, HEADS["colar"]), opened.tokenizer,
        end_id=end,
        deviation=deviation, n_thoughts=n_thoughts, prompt=prompt,
    )  # fmt: skip
    model.latent_id = opened.tokenizer.get_vocab().get(IDS["latent_id"])
    return model


def thought_ids(opened: _Opened) -> tuple[Tokens, int]:
    """Start and end, and the mark, by their fields in the config, with which the tokenizer must agree.

    Raises:
        CheckpointError: neither says one, or two are the same.
        MismatchError: they differ, or the embedding has fewer rows than that.
    """
    _require_rows(opened)
    start, end, latent = (_one_id(opened, field, token) for field, token in IDS.items())
    who = ["the tokenizer" if opened.config.get(field) in UNSET else "config.json" for field in IDS]
    tell(tokens=dict(zip(USES, zip((start, end, latent), who, strict=True), strict=True)))
    if len({start, end, latent}) < 3:
        raise CheckpointError(
            f"{opened.file.parent}: two thought tokens have one id ({start}, {end}, {latent})"
        )
    return Tokens(start, end, min(start, end, latent)), latent


def _require_rows(opened: _Opened) -> None:
    said, n = opened.config.get("vocab_size"), opened.lm.config.vocab_size
    if said != n:
        raise MismatchError(
            f"{opened.file.parent / 'config.json'} speaks of {said} embedding rows (vocab_size), and the "
            f"weights have {n}: rows were lost or added, and with them the thought tokens"
        )


def _one_id(opened: _Opened, field: str, token: str) -> int:
    folder, n_rows = opened.file.parent, opened.lm.config.vocab_size
    said, known = opened.config.get(field), opened.tokenizer.get_vocab().get(token)
    said = None if said in UNSET else said
    if said is None and known is None:
        raise CheckpointError(
            f"{folder}: neither config.json ({field}) nor the tokenizer ({token}) says which token that is: "
            f"save the tokenizer that the model was trained with beside it, or give it (base=...)"
        )
    if said is not None and known is not None and said != known:
        raise MismatchError(
            f"{folder}: config.json says {field} = {said}, and the tokenizer has {token} = {known}: one of "
            f"them is not this checkpoint's"
        )
    found = known if said is None else said
    if not isinstance(found, int) or not 0 <= found < n_rows:
        raise MismatchError(f"{folder}: {field} is {found}, and the embedding has rows 0..{n_rows - 1}")
    return found


def _projector(opened: _Opened) -> nn.Module:
    """CODI's projection; the state as it is where the config has none."""
    if not opened.config.get("projector"):
        if opened.head:
            odd = min(opened.head)
            raise CheckpointError(f"{opened.file} has {odd}, and its config.json says projector = false")
        return nn.Identity()
    d = opened.lm.config.hidden_size
    width = opened.config.get("projector_hidden_size") or d
    parts = nn.Linear(d, width), nn.GELU(), nn.Linear(width, d), nn.LayerNorm(d)
    return checkpoint.filled(nn.Sequential(nn.Dropout(0.0), *parts), opened.head, opened.file, HEADS["codi"])
