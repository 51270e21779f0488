"""CODI (Shen et al. 2025, arXiv:2502.21074): six thoughts through a projection, on GPT-2 or Llama.

A released checkpoint is the state dict of the whole training wrapper: base weights, LoRA and
projection, in mixed dtypes. LoRA is merged here in float32, W + alpha/r * B A. Three embedding rows
follow the base model's V: padding V, begin of thought V+1, end of thought V+2; they exist in the
checkpoint only.

Question, [eos] and begin of thought are read; z_1 = prj(u_0), then z_{p+1} = prj(u_p) for p = 1..5,
where u is the state after the final norm. The answer follows [end of thought, (eos)]. Whether eos
stands there is `remove_eos`, and the wrong choice shifts every thought without an error.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from thoughtlens.core import DTYPES, CheckpointError, ConfigError, MismatchError, choose_device, say
from thoughtlens.models.hf.load import tokenizer_digest
from thoughtlens.models.thought import checkpoint
from thoughtlens.models.thought.checkpoint import Base, Checkpoint
from thoughtlens.models.thought.sequence import HFThoughts
from thoughtlens.models.thought.thoughts import ThoughtSpec

EXTRA_MODULES = ("decoder", "pj_in", "pj_out", "dynamic_cls")
"""Training-only modules of CODI's relatives; dropped and said."""
BOT_NAMES, EOT_NAMES = ("<|bocot|>", "<|bot|>"), ("<|eocot|>", "<|eot|>")
LORA = re.compile(r"(?P<module>.+)\.lora_(?P<part>[AB])\.(?P<adapter>[^.]+)\.weight")


@dataclass(frozen=True)
class Release:
    """What a published checkpoint does not say about itself."""

    base: str
    remove_eos: bool


RELEASES = {
    "zen-E/CODI-gpt2": Release("openai-community/gpt2", True),
    "zen-E/CODI-llama3.2-1b-Instruct": Release("meta-llama/Llama-3.2-1B-Instruct", True),
    "bcywinski/codi_llama1b-answer_only": Release("meta-llama/Llama-3.2-1B-Instruct", False),
}


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
        remove_eos: bool,
        n_thoughts: int = 6,
    ) -> None:
        super().__init__(lm, tokenizer)
        self.prj = prj.to(self.device, lm.dtype).eval().requires_grad_(False)
        self.n_vocab = n_vocab
        self.start_ids = (bot_id,) if remove_eos else (self.eos_id, bot_id)
        self.end_ids = (eot_id,) if remove_eos else (eot_id, self.eos_id)
        self.banned_ids = (eot_id,)
        self.spec = ThoughtSpec(
            n_thoughts=n_thoughts,
            n_layers=len(self.blocks),
            d=lm.config.hidden_size,
            feedback_layer=len(self.blocks),
            has_projection=not isinstance(prj, nn.Identity),
        )

    def _tokenize(self, question: str) -> list[int]:
        text = normalise(question)
        return self._ids(text, self.n_vocab) if text else []

    def _feed_back(self, u: Float[Tensor, "batch 1 d"]) -> Float[Tensor, "batch 1 d"]:
        return self.prj(u)


def normalise(question: str) -> str:
    """The question as CODI was evaluated on it."""
    return question.strip().replace("  ", " ")


def load(
    name: str | Path,
    *,
    base: str | Path | None = None,
    remove_eos: bool | None = None,
    n_thoughts: int = 6,
    lora_alpha: float = 32.0,
    projection: bool = True,
    dtype: str = "float32",
    device: str = "cpu",
    revision: str | None = None,
) -> Codi:
    """Load a CODI checkpoint: every key of it used or reported, every parameter filled.

    Args:
        name: Hub repository, directory with `pytorch_model.bin` or `model.safetensors`, or such a file.
        base: Where config and tokenizer of the base model are; known for the published checkpoints.
        remove_eos: Whether no eos stands between question and thoughts; None: as the published
            checkpoint was trained, and True for others.
        n_thoughts: Thoughts to think.
        lora_alpha: LoRA's alpha of the training run; a checkpoint does not hold it. An adapter trained with
            rank-stabilised scaling has alpha times the root of its rank.
        projection: False for a checkpoint that feeds the state back as it is.
        dtype: What to compute in, after merging in float32.
        device: A torch device.
        revision: Commit, tag or branch on the hub.

    Raises:
        NotThereError: no such checkpoint or base model.
        CheckpointError: keys missing, left over or incomplete, by name.
        MismatchError: another base model, or a tokenizer that shifts the thought tokens.
        ConfigError: no base model given for a checkpoint that names none, an unknown dtype, an alpha that is
            not finite, fewer than no thoughts, or a revision of a local file.
    """
    if not math.isfinite(lora_alpha):
        raise ConfigError(f"lora_alpha: expected a finite number, got {lora_alpha}")
    if dtype not in DTYPES:
        raise ConfigError(f"dtype: expected one of {', '.join(DTYPES)}, got {dtype!r}")
    target = choose_device(device)
    release = RELEASES.get(str(name))
    found = checkpoint.read(name, revision)
    folder = found.file.parent
    where = base or (release.base if release else folder if (folder / "config.json").is_file() else None)
    if where is None:
        raise ConfigError(
            f"{name} does not say its base model: give base=, a hub id such as gpt2 or a directory"
        )
    if remove_eos is None:
        remove_eos = release.remove_eos if release else True
        say(f"{name}: remove_eos={remove_eos}, {'no' if remove_eos else 'an'} eos before the thoughts")
    own_words = base is None and (folder / "tokenizer_config.json").is_file()
    parent = checkpoint.read_base(where, folder if own_words else None)
    groups, dropped = _split(found, projection)
    lm = _assemble(groups["codi"], parent, found, lora_alpha)
    bot_id, eot_id = _thought_ids(parent, lm.config.vocab_size)
    model = Codi(
        checkpoint.placed(lm, target, DTYPES[dtype]),
        _projection(groups["prj"], lm.config.hidden_size, found.file) if projection else nn.Identity(),
        parent.tokenizer,
        bot_id=bot_id,
        eot_id=eot_id,
        n_vocab=parent.config.vocab_size,
        remove_eos=remove_eos,
        n_thoughts=n_thoughts,
    )
    model.name, model.revision, model.digest, model.dropped = str(name), found.revision, found.digest, dropped
    model.tokenizer_digest = tokenizer_digest(parent.tokenizer)
    model.config_hash = checkpoint.describe(
        family="codi", weights=found.digest, tokenizer=model.tokenizer_digest, remove_eos=remove_eos,
        n_steps=n_thoughts, lora_alpha=lora_alpha, dtype=dtype, padding="left, masked",
    )  # fmt: skip
    return model


def _split(found: Checkpoint, projection: bool) -> tuple[dict[str, dict[str, Tensor]], tuple[str, ...]]:
    """Keys by top-level module, and the keys of training-only modules."""
    groups: dict[str, dict[str, Tensor]] = {"codi": {}, "prj": {}}
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
    if not projection and groups["prj"]:
        raise CheckpointError(
            f"{found.file} has a projection ({min(groups['prj'])}); load it with projection=True"
        )
    if dropped:
        counts = Counter(key.partition(".")[0] for key in dropped)
        listed = ", ".join(f"{module}.* ({n} tensors)" for module, n in sorted(counts.items()))
        say(f"{found.file}: training-only modules not used: {listed}")
    return groups, tuple(sorted(dropped))


def _assemble(keys: dict[str, Tensor], base: Base, found: Checkpoint, alpha: float) -> PreTrainedModel:
    """The base model with LoRA merged and the thought tokens' rows."""
    prefix = "base_model.model." if any(key.startswith("base_model.model.") for key in keys) else ""
    state = {key.removeprefix(prefix): value for key, value in keys.items()}
    full = f"codi.{prefix}"
    return checkpoint.assemble(
        state, base, found.file, full, lambda parts, lm: _merge(parts, lm, alpha, found.file, full)
    )


def _merge(
    state: dict[str, Tensor], lm: PreTrainedModel, alpha: float, where: Path, prefix: str
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
        update = alpha / len(a) * (b @ a)
        update = update.T if isinstance(modules[name], Conv1D) else update
        if update.shape != w.shape:
            raise CheckpointError(
                f"{where}: LoRA of {prefix}{name} is {list(update.shape)}, its weight {list(w.shape)}"
            )
        merged[f"{name}.weight"] = w + update
    return merged


def _thought_ids(base: Base, n_rows: int) -> tuple[int, int]:
    """Ids of begin and end of thought; refuses a tokenizer in which they mean something else."""
    n_vocab, words = base.config.vocab_size, base.tokenizer
    added = {i: token.content for i, token in words.added_tokens_decoder.items() if i >= n_vocab}
    ids = [
        words.get_vocab()[name]
        for names in (BOT_NAMES, EOT_NAMES)
        for name in names
        if name in added.values()
    ]
    if len(ids) == 2 and n_rows == max(n_vocab, len(words)):
        return ids[0], ids[1]
    if n_rows != n_vocab + 3:
        raise MismatchError(
            f"Expected {n_vocab} + 3 embedding rows (base {base.name} and padding, begin, end of thought), "
            f"the checkpoint has {n_rows}; give the base model it was trained from (base=...)"
        )
    allowed = {n_vocab: (words.pad_token,), n_vocab + 1: BOT_NAMES, n_vocab + 2: EOT_NAMES}
    for i, token in sorted(added.items()):
        if token not in allowed.get(i, ()):
            raise MismatchError(
                f"The tokenizer of {base.name} gives id {i} to {token!r}, where the checkpoint has its "
                f"thought tokens (padding {n_vocab}, begin {n_vocab + 1}, end {n_vocab + 2}): "
                f"use the base model's own tokenizer"
            )
    return n_vocab + 1, n_vocab + 2


def _projection(state: dict[str, Tensor], d: int, where: Path) -> nn.Module:
    """Linear, GELU, Linear and, unless trained without, LayerNorm; dropout is 0 when not training."""
    with_norm = any(key.startswith("ln.") for key in state)
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
