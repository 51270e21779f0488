"""CODI (Shen et al. 2025, arXiv:2502.21074): six thoughts through a projection, on GPT-2 or Llama.

A released checkpoint is the state dict of the whole training wrapper: base weights, LoRA and
projection, in mixed dtypes. LoRA is merged here in float32, W + alpha/r * B A. Three embedding rows
follow the base model's V: padding V, begin of thought V+1, end of thought V+2; they exist in the
checkpoint only.

Question, [eos] and begin of thought are read; z_1 = prj(u_0), then z_{p+1} = prj(u_p) for p = 1..5,
where u is the state after the final norm. The answer follows [end of thought, (eos)]. Whether an eos
stands before the thoughts and after them are two switches: a wrong one gives other thoughts, or other
answers, without an error.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from thoughtlens.core import DTYPES, CheckpointError, ConfigError, MismatchError, choose_device, say, warn
from thoughtlens.models.thought import checkpoint
from thoughtlens.models.thought.checkpoint import Base, Checkpoint
from thoughtlens.models.thought.sequence import HFThoughts, asked
from thoughtlens.models.thought.stated import Stated, chosen, stated
from thoughtlens.models.thought.thoughts import ThoughtSpec

EXTRA_MODULES = ("decoder", "pj_in", "pj_out", "dynamic_cls")
"""Training-only modules of CODI's relatives; dropped and said."""
BOT_NAMES, EOT_NAMES = ("<|bocot|>", "<|bot|>"), ("<|eocot|>", "<|eot|>")
LORA = re.compile(r"(?P<module>.+)\.lora_(?P<part>[AB])\.(?P<adapter>[^.]+)\.weight")


@dataclass(frozen=True)
class Release:
    """What a published checkpoint does not say about itself."""

    base: str
    eos_before: bool = False
    eos_after: bool = False
    n_thoughts: int = 6
    lora_alpha: float = 32.0


RELEASES = {
    "zen-E/CODI-gpt2": Release("openai-community/gpt2"),
    "zen-E/CODI-llama3.2-1b-Instruct": Release("meta-llama/Llama-3.2-1B-Instruct"),
    "bcywinski/codi_llama1b-answer_only": Release("meta-llama/Llama-3.2-1B-Instruct", eos_before=True),
}
OTHERWISE = {"n_thoughts": 6, "lora_alpha": 32.0, "eos_before": False, "eos_after": False}
"""What is assumed where nothing says it: the settings of the published checkpoints."""


class Codi(HFThoughts):
    """CODI with LoRA merged."""

    dropped: tuple[str, ...] = ()
    """Checkpoint keys of training-only modules, which were not used."""

    def __init__(
        self,
        lm: PreTrainedModel,
        prj: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        *,
        bot_id: int,
        eot_id: int,
        n_vocab: int,
        eos_before: bool,
        eos_after: bool,
        n_thoughts: int = 6,
        prompt: str | None = None,
    ) -> None:
        super().__init__(lm, tokenizer)
        self.prompt = prompt
        self.prj = prj.to(self.device, lm.dtype).eval().requires_grad_(False)
        self.n_vocab = n_vocab
        self.start_ids = (self.eos_id, bot_id) if eos_before else (bot_id,)
        self.end_ids = (eot_id, self.eos_id) if eos_after else (eot_id,)
        self.banned_ids = (eot_id,)
        self.spec = ThoughtSpec(
            n_thoughts=n_thoughts,
            n_layers=len(self.blocks),
            d=lm.config.hidden_size,
            feedback_layer=len(self.blocks),
            has_projection=not isinstance(prj, nn.Identity),
        )

    def reads(self, question: str) -> str:
        """See `ThoughtModel.reads`."""
        return asked(question, self.prompt) if self.prompt else normalise(question)

    def _tokenize(self, question: str) -> list[int]:
        text = self.reads(question)
        return self._ids(text, self.n_vocab) if question.strip() else []

    def _feed_back(self, u: Float[Tensor, "batch 1 d"]) -> Float[Tensor, "batch 1 d"]:
        return self.prj(u)


def normalise(question: str) -> str:
    """The question as CODI was evaluated on it."""
    return question.strip().replace("  ", " ")


def load(
    name: str | Path,
    *,
    base: str | Path | None = None,
    eos_before: bool | None = None,
    eos_after: bool | None = None,
    n_thoughts: int | None = None,
    lora_alpha: float | None = None,
    projection: bool | None = None,
    prompt: str | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    revision: str | None = None,
) -> Codi:
    """Load a CODI checkpoint: every key of it used or reported, every parameter filled.

    What is None is as known of a published checkpoint, else as a file beside the weights states it
    (`models.thought.stated`), else assumed, with a warning.

    Args:
        name: Hub repository, directory with weights, or such a file.
        base: Where config and tokenizer of the base model are.
        eos_before: Whether an eos stands between question and thoughts; assumed: no.
        eos_after: Whether an eos follows the end-of-thought token; assumed: no.
        n_thoughts: Thoughts to think; assumed: 6.
        lora_alpha: LoRA's alpha of the training run; assumed: 32. An adapter trained with rank-stabilised
            scaling has alpha times the root of its rank, unless its own config says so.
        projection: False for a checkpoint that feeds the state back as it is.
        prompt: What is read for a question, with `{question}`; None: the question without double spaces.
        dtype: What to compute in, after merging in float32.
        device: A torch device.
        revision: Commit, tag or branch on the hub.

    Raises:
        NotThereError: no such checkpoint or base model.
        CheckpointError: keys missing, left over or incomplete, by name; settings that contradict each other.
        MismatchError: another base model, or a tokenizer that shifts the thought tokens.
        ConfigError: no base model given for a checkpoint that names none, an unknown dtype, an alpha that is
            not finite, fewer than no thoughts, or a revision of a local file.
    """
    if lora_alpha is not None and not math.isfinite(lora_alpha):
        raise ConfigError(f"lora_alpha: expected a finite number, got {lora_alpha}")
    if dtype not in DTYPES:
        raise ConfigError(f"dtype: expected one of {', '.join(DTYPES)}, got {dtype!r}")
    target = choose_device(device)
    release = RELEASES.get(checkpoint.hub_id(name))
    found = checkpoint.read(name, revision)
    groups, dropped = _split(found, name)
    folder = found.file.parent
    own = stated(folder)
    parent = checkpoint.base_of(found, base, release.base if release else own.get("base"))
    given = {
        "eos_before": eos_before,
        "eos_after": eos_after,
        "n_thoughts": n_thoughts,
        "lora_alpha": lora_alpha,
    }
    adapted = any(LORA.search(key) for key in found.tensors)
    otherwise = OTHERWISE if adapted else {k: v for k, v in OTHERWISE.items() if k != "lora_alpha"}
    settings, assumed = chosen(str(name), given, vars(release) if release else {}, own, otherwise)
    projected = _is_projected(groups["prj"], projection, own, found.file)
    lm = _assemble(groups["codi"], parent, found, own, settings.get("lora_alpha", 1.0))
    n_vocab, bot_id, eot_id = _thought_ids(parent, lm.config.vocab_size)
    model = Codi(
        checkpoint.placed(lm, target, DTYPES[dtype]),
        _projection(groups["prj"], lm.config.hidden_size, found.file, own) if projected else nn.Identity(),
        parent.tokenizer,
        bot_id=bot_id,
        eot_id=eot_id,
        n_vocab=n_vocab,
        eos_before=settings["eos_before"],
        eos_after=settings["eos_after"],
        n_thoughts=settings["n_thoughts"],
        prompt=prompt,
    )
    model.dropped = dropped
    model.settings = {
        **settings,
        "family": "codi",
        "base": parent.name,
        "projection": projected,
        "prompt": prompt,
    }
    checkpoint.sign(
        model, name, found, parent, assumed=assumed, dtype=dtype,
        rank_stabilised=bool(own.get("rank_stabilised")),
    )  # fmt: skip
    return model


def _split(found: Checkpoint, name: str | Path) -> tuple[dict[str, dict[str, Tensor]], tuple[str, ...]]:
    """Keys by top-level module, and the keys of training-only modules."""
    groups: dict[str, dict[str, Tensor]] = {"codi": {}, "prj": {}}
    if not any(key.startswith(("codi.", "prj.", *EXTRA_MODULES)) for key in found.tensors):
        raise checkpoint.language_model_given(name)
    dropped: list[str] = []
    for key, value in found.tensors.items():
        module, _, rest = key.partition(".")
        if module in EXTRA_MODULES:
            dropped.append(key)
        elif module in groups and rest:
            groups[module][rest] = value
        else:
            raise CheckpointError(
                f"{found.file}: {key} is not part of CODI (codi.*, prj.*) nor of a known training-only "
                f"module ({', '.join(EXTRA_MODULES)}); the file is for another model; load a Coconut's with "
                f"family='coconut'"
            )
    if dropped:
        counts = Counter(key.partition(".")[0] for key in dropped)
        listed = ", ".join(f"{module}.* ({n} tensors)" for module, n in sorted(counts.items()))
        say(f"{found.file}: training-only modules not used: {listed}")
    return groups, tuple(sorted(dropped))


def _is_projected(keys: dict[str, Tensor], asked: bool | None, own: Stated, where: Path) -> bool:
    """Whether thoughts go through a projection: as asked or stated, which the weights must bear out."""
    wanted = asked if asked is not None else own.get("projection")
    if wanted is False and keys:
        raise CheckpointError(f"{where} has a projection (prj.{min(keys)}); load it with projection=true")
    if wanted is not False and not keys:
        raise CheckpointError(
            f"{where}: no projection (prj.1.weight, prj.3.weight ...) is among its keys: they were lost, "
            f"or it was trained without one; then load it with projection=false"
        )
    return wanted is not False


def _assemble(
    keys: dict[str, Tensor], base: Base, found: Checkpoint, own: Stated, alpha: float
) -> PreTrainedModel:
    """The base model with LoRA merged and the thought tokens' rows."""
    prefix = "base_model.model." if any(key.startswith("base_model.model.") for key in keys) else ""
    full = f"codi.{prefix}"
    if keys and all("lora_" in key for key in keys):
        raise CheckpointError(
            f"{found.file} holds an adapter alone ({full}*.lora_*), without the weights it adapts: save the "
            f"state dict of the whole model"
        )
    if not any("lora_" in key for key in keys):
        if prefix or own.get("use_lora") or own.get("lora_alpha"):
            raise CheckpointError(
                f"{found.file}: not one LoRA key ({full}*.lora_A.*, .lora_B.*) is there, although the "
                f"model was trained with LoRA; they were lost: save the state dict of the whole model"
            )
        say(f"{found.file}: no LoRA among its keys; its weights are used as they stand")
    state = {key.removeprefix(prefix): value for key, value in keys.items()}
    scaling = Scaling(alpha, bool(own.get("rank_stabilised")))
    return checkpoint.assemble(
        state, base, found.file, full, lambda parts, lm: _merge(parts, lm, scaling, found.file, full)
    )


class Scaling(NamedTuple):
    """How strongly adapters act."""

    alpha: float
    rank_stabilised: bool = False

    def of(self, rank: int) -> float:
        """alpha / r, or alpha over the root of r (Kalajdzievski 2023, arXiv:2312.03732)."""
        return self.alpha / (math.sqrt(rank) if self.rank_stabilised else rank)


def _merge(
    state: dict[str, Tensor], lm: PreTrainedModel, scaling: Scaling, where: Path, prefix: str
) -> dict[str, Tensor]:
    """W + alpha/r * B A for every adapted module, in float32; transposed for GPT-2's Conv1D."""
    adapters = sorted({match["adapter"] for key in state if (match := LORA.fullmatch(key))})
    if len(adapters) > 1:
        raise CheckpointError(f"{where} has several LoRA adapters ({', '.join(adapters)}); keep one")
    suffixes = (".base_layer.weight", *(f".lora_{part}.{name}.weight" for name in adapters for part in "AB"))
    adapted = {key.removesuffix(end) for key in state for end in suffixes if key.endswith(end)}
    merged = {
        key.replace(".base_layer.", "."): value for key, value in state.items() if not LORA.fullmatch(key)
    }
    modules = dict(lm.named_modules())
    for name in sorted(adapted):
        if missing := [name + end for end in suffixes if name + end not in state]:
            raise CheckpointError(f"{where}: {prefix}{missing[0]} is missing")
        if name not in modules:
            raise CheckpointError(f"{where}: {prefix}{name} has LoRA, but the base model has no such module")
        w, a, b = (state[name + end].float() for end in suffixes)
        if a.ndim != 2 or b.ndim != 2 or b.shape[1] != len(a):
            raise CheckpointError(
                f"{where}: expected LoRA of {prefix}{name} as A [r, in] and B [out, r], "
                f"got {list(a.shape)} and {list(b.shape)}"
            )
        update = scaling.of(len(a)) * (b @ a)
        update = update.T if isinstance(modules[name], Conv1D) else update
        if update.shape != w.shape:
            raise CheckpointError(
                f"{where}: LoRA of {prefix}{name} is {list(update.shape)}, its weight {list(w.shape)}"
            )
        merged[f"{name}.weight"] = w + update
    return merged


def _thought_ids(base: Base, n_rows: int) -> tuple[int, int, int]:
    """Words, and ids of begin and end of thought; refuses a tokenizer in which they mean something else."""
    n_vocab, words = base.config.vocab_size, base.tokenizer
    added = {i: token.content for i, token in words.added_tokens_decoder.items() if i >= n_vocab}
    ids = [
        words.get_vocab()[name]
        for names in (BOT_NAMES, EOT_NAMES)
        for name in names
        if name in added.values()
    ]
    if len(ids) == 2 and n_rows == max(n_vocab, len(words)):
        return n_vocab, ids[0], ids[1]
    n_vocab = checkpoint.words_before(n_rows, 3, (n_vocab, len(words)), base)
    added = {i: token.content for i, token in words.added_tokens_decoder.items() if i >= n_vocab}
    allowed = {n_vocab: (words.pad_token,), n_vocab + 1: BOT_NAMES, n_vocab + 2: EOT_NAMES}
    for i, token in sorted(added.items()):
        if token not in allowed.get(i, ()):
            raise MismatchError(
                f"The tokenizer of {base.name} gives id {i} to {token!r}, where the checkpoint has its "
                f"thought tokens (padding {n_vocab}, begin {n_vocab + 1}, end {n_vocab + 2}): "
                f"use the base model's own tokenizer"
            )
    return n_vocab, n_vocab + 1, n_vocab + 2


def _projection(state: dict[str, Tensor], d: int, where: Path, own: Stated) -> nn.Module:
    """Linear, GELU, Linear and, unless trained without, LayerNorm; dropout is 0 when not training."""
    with_norm = any(key.startswith("ln.") for key in state)
    without = own.get("projection_without_norm")
    if without is not None and without == with_norm:
        raise CheckpointError(
            f"{where}: {own.files['projection_without_norm']} says prj_no_ln = {json.dumps(without)}, but "
            f"prj.ln is {'there' if with_norm else 'not there'}: the keys were lost, or are another model's"
        )
    if without is None and not with_norm:
        warn(
            f"{where} has no prj.ln: taken for a CODI that was trained without that norm, not for a lost key"
        )
    wanted = {
        f"{i}.{part}" for i in ("1", "3", *(("ln",) if with_norm else ())) for part in ("weight", "bias")
    }
    if odd := sorted(wanted ^ state.keys()):
        raise CheckpointError(
            f"{where}: the projection needs prj.1, prj.3 and perhaps prj.ln with weight and bias; "
            f"missing or unknown: {', '.join('prj.' + key for key in odd)}"
        )
    width = state["1.weight"].shape[0]
    prj = nn.Sequential(nn.Dropout(0.0), nn.Linear(d, width), nn.GELU(), nn.Linear(width, d))
    if with_norm:
        prj.add_module("ln", nn.LayerNorm(d))
    for key, parameter in prj.state_dict().items():
        if state[key].shape != parameter.shape:
            raise MismatchError(
                f"{where}: prj.{key} is {list(state[key].shape)}, a base model of width {d} needs "
                f"{list(parameter.shape)}"
            )
    prj.load_state_dict({key: value.float() for key, value in state.items()}, strict=True)
    return prj
