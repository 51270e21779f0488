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
from collections.abc import Iterable
from pathlib import Path

from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from thoughtlens.core import DTYPES, CheckpointError, ConfigError, MismatchError, say, warn
from thoughtlens.models.thought import adapters, added, checkpoint, filters
from thoughtlens.models.thought.adapters import LORA, STEM
from thoughtlens.models.thought.added import Layout, Tokens
from thoughtlens.models.thought.checkpoint import Base
from thoughtlens.models.thought.heard import tell
from thoughtlens.models.thought.known import known
from thoughtlens.models.thought.sequence import HFThoughts, asked
from thoughtlens.models.thought.stated import Said, Stated, stated
from thoughtlens.models.thought.thoughts import ThoughtSpec
from thoughtlens.models.thought.weights import Checkpoint, hub_id, read

EXTRA_MODULES = ("decoder", "pj_in", "pj_out")
"""Training-only modules of CODI's relatives; dropped and said."""
STOP_HEAD = re.compile(r"dynamic_cls|.*(stop|halt|exit|ponder).*|binary_head")
"""Modules that decide how many thoughts to think; not used, and said."""
LAYOUT, MULTIMODE = Layout(rows=3, begin=1, end=2, unused=16), Layout(rows=2, begin=0, end=1)


OTHERWISE = {"n_thoughts": 6, "lora_alpha": 32.0, "eos_before": False, "eos_after": False}
"""What is assumed where nothing says it: the settings of the published checkpoints."""


class Codi(HFThoughts):
    """CODI with LoRA merged."""

    dropped: tuple[str, ...] = ()
    """Checkpoint keys of training-only modules and stop heads, which were not used."""

    def __init__(
        self,
        lm: PreTrainedModel,
        prj: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        *,
        tokens: Tokens,
        eos_before: bool,
        eos_after: bool,
        n_thoughts: int = 6,
        prompt: str | None = None,
        before: tuple[int, ...] = (),
        banned: bool = True,
    ) -> None:
        super().__init__(lm, tokenizer)
        self.prompt = prompt
        self.prj = prj.to(self.device, lm.dtype).eval().requires_grad_(False)
        self.n_vocab = tokens.n_words
        self.start_ids = (*((self.eos_id,) if eos_before else ()), *before, tokens.begin)
        self.end_ids = (tokens.end, self.eos_id) if eos_after else (tokens.end,)
        self.banned_ids = (tokens.end,) if banned else ()
        if not banned:  # Dilgren's three modes
            self.mode_ids = {"words": self.start_ids, "direct": (*self.start_ids[:-1], tokens.end)}
        elif not eos_before:  # CODI's teacher, which goes on where the question ends
            self.mode_ids = {"words": ()}
        self.spec = ThoughtSpec(
            n_thoughts=n_thoughts,
            n_layers=len(self.blocks),
            n_cue=len(self.end_ids),
            sites=self.sites,
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
    bot_id: int | None = None,
    eot_id: int | None = None,
    multimode: bool | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    revision: str | None = None,
) -> Codi:
    """Load a CODI checkpoint: every key of it used or reported, every parameter filled.

    What is None is as known of a published checkpoint, else as a file beside the weights states it
    (`models.thought.stated`), else assumed, with a warning.

    Args:
        name: Hub repository, perhaps with a folder or file of it, directory with weights, or such a file.
        base: Where config and tokenizer of the base model are; of an adapter, its weights too.
        eos_before: Whether an eos stands between question and thoughts; assumed: no.
        eos_after: Whether an eos follows the end-of-thought token; assumed: no.
        n_thoughts: Thoughts to think; assumed: 6.
        lora_alpha: LoRA's alpha of the training run; assumed: 32. An adapter trained with rank-stabilised
            scaling has alpha times the root of its rank, unless its own config says so.
        projection: False for a checkpoint that feeds the state back as it is.
        prompt: What is read for a question, with `{question}`; None: the question without double spaces.
        bot_id: Id of the begin-of-thought token; None: as a file, the tokenizer or the layout says.
        eot_id: Id of the end-of-thought token, likewise.
        multimode: Whether it is one of Dilgren's models of three modes: two tokens and no padding token,
            and `<|eot_id|>` after the question where the tokenizer has it; None: as known, stated, named.
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
    target = checkpoint.device_for(dtype, device)
    release = known(hub_id(name))
    found = read(name, revision)
    if found.is_adapter:
        found = adapters.completed(found, base or (release.base if release else None))
    groups, dropped = _split(found, name)
    own = stated(found.file.parent)
    parent = checkpoint.base_of(found, base, release.base if release else own.get("base"))
    given = {
        "eos_before": eos_before, "eos_after": eos_after, "n_thoughts": n_thoughts, "lora_alpha": lora_alpha,
        "prompt": prompt, "bot_id": bot_id, "eot_id": eot_id, "multimode": multimode,
    }  # fmt: skip
    said = Said(str(name), given, release.settings if release else {}, own)
    if not found.is_adapter:
        tell(layout="CODI, the state dict of its training")
    adapted = any(LORA.search(key) for key in found.tensors)
    settings, assumed = said.chosen({k: v for k, v in OTHERWISE.items() if adapted or k != "lora_alpha"})
    ours = not any(key.startswith(filters.BASE) for key in found.tensors)
    projected = _is_projected(groups["prj"], projection, own, found.file) if ours else bool(groups["prj"])
    lm = _assemble(groups["codi"], parent, found, own, settings.get("lora_alpha", 1.0))
    three = added.is_multimode(said)
    if three:
        tell(layout="CODI of three modes (Dilgren), the state dict of its training")
    layout = MULTIMODE if three else LAYOUT
    tokens = added.find(parent, lm.config.vocab_size, layout, found.file.parent, said)
    assumed |= tokens.assumed
    said.warn_of(assumed)
    build, d = _projection if ours else filters.build, lm.config.hidden_size
    model = Codi(
        checkpoint.placed(lm, target, DTYPES[dtype]),
        build(groups["prj"], own, d, found.file) if projected or not ours else nn.Identity(),
        parent.tokenizer,
        tokens=tokens,
        eos_before=settings["eos_before"],
        eos_after=settings["eos_after"],
        n_thoughts=settings["n_thoughts"],
        prompt=said.get("prompt") or (None if ours else "{question}"),
        before=added.end_of_turn(parent.tokenizer) if three else (),
        banned=not three,
    )
    model.dropped = dropped
    if not ours:
        model.banned_ids = (tokens.end, *filters.head_of(own, found.file))
    model.settings = {
        **settings,
        **said.extra(tokens.assumed),
        "family": "codi",
        "base": parent.name,
        "projection": projected,
        "prompt": said.get("prompt"),
    }
    checkpoint.sign(
        model, name, found, parent, assumed=assumed, dtype=dtype,
        rank_stabilised=bool(own.get("rank_stabilised")),
    )  # fmt: skip
    return model


def _split(found: Checkpoint, name: str | Path) -> tuple[dict[str, dict[str, Tensor]], tuple[str, ...]]:
    """Keys by top-level module, and the keys of training-only modules."""
    groups: dict[str, dict[str, Tensor]] = {"codi": {}, "prj": {}}
    if not any(key.startswith(("codi.", "prj.", filters.BASE, *EXTRA_MODULES)) for key in found.tensors):
        raise checkpoint.language_model_given(name, found.tensors)
    heads: list[str] = []
    extra: list[str] = []
    for key, value in found.tensors.items():
        module, _, rest = key.partition(".")
        module = {filters.BASE: "codi", filters.FILTER: "prj"}.get(module, module)
        if module in groups and rest:
            groups[module][rest] = value
        elif module in EXTRA_MODULES:
            extra.append(key)
        elif STOP_HEAD.fullmatch(module):
            heads.append(key)
        else:
            raise CheckpointError(
                f"{found.file}: {key} is not part of CODI (codi.*, prj.*) nor of a known training-only "
                f"module ({', '.join(EXTRA_MODULES)}); the file is for another model; load a Coconut's with "
                f"family='coconut'"
            )
    if groups["codi"] and all("lora_" in key for key in groups["codi"]):
        raise CheckpointError(
            f"{found.file} holds an adapter alone (codi.*.lora_*), without the weights it adapts: save the "
            f"state dict of the whole model, or the adapter as PEFT does ({adapters.CONFIG} beside it)"
        )
    if extra:
        say(f"{found.file}: training-only modules not used: {_counted(extra)}")
    if heads:
        warn(
            f"{found.file} has a stop head ({_counted(heads)}), which decides how many thoughts to think; it "
            f"is not used: n_thoughts are thought for every problem"
        )
    tell(unused=extra, stop_heads=heads)
    return groups, tuple(sorted(extra + heads))


def _counted(keys: Iterable[str]) -> str:
    counts = Counter(key.partition(".")[0] for key in keys)
    return ", ".join(f"{module}.* ({n} tensors)" for module, n in sorted(counts.items()))


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
    prefix = STEM if any(key.startswith(STEM) for key in keys) else ""
    full = f"codi.{prefix}"
    if not any("lora_" in key for key in keys):
        if prefix:
            raise CheckpointError(
                f"{found.file}: not one LoRA key ({full}*.lora_A.*, .lora_B.*) is there, although the "
                f"model was trained with LoRA; they were lost: save the state dict of the whole model"
            )
        say(f"{found.file}: no LoRA among its keys; its weights are used as they stand")
    state = {key.removeprefix(prefix): value for key, value in keys.items()}
    stabilised = bool(own.get("rank_stabilised"))
    return checkpoint.assemble(
        state,
        base,
        found.file,
        full,
        lambda parts, lm: adapters.merged(parts, lm, (alpha, stabilised), found, full),
    )


def _projection(state: dict[str, Tensor], own: Stated, d: int, where: Path) -> nn.Module:
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
    tell(head=sorted(f"prj.{key}" for key in wanted))
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
