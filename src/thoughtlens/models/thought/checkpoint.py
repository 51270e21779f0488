"""The model behind a checkpoint: its base, and every tensor put where it belongs.

What a checkpoint holds and what a model needs are compared by name; nothing is loaded half.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from thoughtlens.core import (
    DTYPES,
    CheckpointError,
    ConfigError,
    MismatchError,
    NotThereError,
    ThoughtlensError,
    choose_device,
    warn,
)
from thoughtlens.models.hf.load import config_digest, require_words, tokenizer_digest
from thoughtlens.models.hf.locate import foreign
from thoughtlens.models.thought.heard import tell
from thoughtlens.models.thought.weights import Checkpoint

if TYPE_CHECKING:
    from thoughtlens.models.thought.sequence import HFThoughts

EMBEDDINGS = (".wte.weight", ".embed_tokens.weight")
CLASS_HEADS = {"projector.": "CODI", "lt_head.": "CoLaR"}
"""How names begin, in classes of transformers, of the tensors that make the next thought."""


@dataclass(frozen=True, kw_only=True)
class Base:
    """Architecture and tokenizer of the model that a checkpoint was trained from."""

    name: str
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase


def base_of(found: Checkpoint, base: str | Path | None, otherwise: str | None) -> Base:
    """The base model that was given, else the one beside the checkpoint, else the known or stated one.

    A tokenizer beside the checkpoint counts more than its base model's, unless a base model was given.

    Raises:
        ConfigError: none of them.
    """
    folder = found.file.parent
    beside = folder if _is_config(folder / "config.json") else None
    where = base or beside or otherwise
    if where is None:
        raise ConfigError(
            f"{found.file} does not say its base model: give base=, a hub id such as gpt2 or a directory"
        )
    own_words = base is None and (folder / "tokenizer_config.json").is_file()
    return read_base(where, folder if own_words else None)


def language_model_given(name: str | Path, keys: Iterable[str] = ()) -> ThoughtlensError:
    """The refusal of a model that does not think in vectors, with what can be done with it.

    Args:
        name: What it was asked for by.
        keys: Names of its tensors, which may show that its config lost what it is.
    """
    for prefix, kind in CLASS_HEADS.items():
        if odd := next((key for key in keys if key.startswith(prefix)), None):
            return CheckpointError(
                f"{name} has {odd} of {kind} as a class of transformers, and no config.json beside it that "
                f"says so (architectures, latent_start_id ...): add the one that it was saved with"
            )
    return ConfigError(
        f"{name} is a language model, and this needs one that feeds vectors back as thoughts: codi-tiny, "
        f"codi-words, or a checkpoint of CODI, Coconut or CoLaR; family=soft lets any model think in "
        f"mixtures of words. For the activations of a language model: "
        f"thoughtlens run text-demo model={shlex.quote(str(name))} extract.hook_names=null --out "
        f"{shlex.quote(f'runs/{Path(name).name}')}"
    )


def read_base(base: str | Path, tokenizer: str | Path | None = None) -> Base:
    """Config and tokenizer of a base model (hub id or directory); its weights are not needed.

    Args:
        base: Where config.json is, and the tokenizer unless another place is given.
        tokenizer: Where the tokenizer is, if not with the config.
    """
    what = (
        f"Expected config.json and a tokenizer of the base model at {base!s} (a directory or a hub id; set "
        f"base=..., in a recipe extract.base=...)"
    )
    with foreign(what, NotThereError):
        config = AutoConfig.from_pretrained(base, trust_remote_code=False)
        words = require_words(AutoTokenizer.from_pretrained(tokenizer or base, trust_remote_code=False))
    tell(base=str(base), config=config, tokenizer=words)
    return Base(name=str(base), config=config, tokenizer=words)


def assemble(
    state: dict[str, Tensor],
    base: Base,
    where: Path,
    prefix: str,
    merge: Callable[[dict[str, Tensor], PreTrainedModel], dict[str, Tensor]] | None = None,
) -> PreTrainedModel:
    """The base architecture, with as many embedding rows as the checkpoint has, filled in float32.

    Args:
        state: Tensors by the base model's own names; all must be used.
        base: The base model.
        where: The file they come from, for messages.
        prefix: What the file puts before each name.
        merge: Turns adapters and the weights they adapt into weights.

    Raises:
        CheckpointError: keys left over or missing, by name.
        MismatchError: not the base model of this checkpoint.
    """
    table = next((key for key in state if key.endswith(EMBEDDINGS)), None)
    tell(prefix=prefix, rows=len(state[table]) if table else None)
    if table is None:
        raise CheckpointError(f"{where}: no embedding {prefix}*.wte.weight or {prefix}*.embed_tokens.weight")
    tied = _resolve_head(state, table, base.config, where)
    config = type(base.config).from_dict(base.config.to_dict())
    config.vocab_size, config.tie_word_embeddings = len(state[table]), tied
    with foreign(f"The config of {base.name} cannot be used", MismatchError):
        lm = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
    tell(wanted={key: list(value.shape) for key, value in lm.state_dict().items()})
    if (own := _embedding_name(lm)) != table:
        raise MismatchError(
            f"{where} holds {prefix}{table}, but {base.name} is a {type(lm).__name__} with {own}; "
            f"give the base model it was trained from (base=...)"
        )
    _fill(lm, merge(state, lm) if merge else state, where, base.name, prefix)
    return lm


def device_for(dtype: str, device: str) -> torch.device:
    """Where a model shall run; refuses a number format that there is not."""
    if dtype not in DTYPES:
        raise ConfigError(f"dtype: expected one of {', '.join(DTYPES)}, got {dtype!r}")
    return choose_device(device, DTYPES[dtype])


def placed(lm: PreTrainedModel, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """The model on a device and in a number format."""
    nn.Module.to(lm, device, dtype)
    return lm


def filled(module: nn.Module, tensors: dict[str, Tensor], where: Path, prefix: str) -> nn.Module:
    """The module with its tensors, all of them and no others.

    Raises:
        CheckpointError: one is missing or unknown, by name.
        MismatchError: one has another shape.
    """
    wanted = {prefix + key: value for key, value in module.state_dict().items()}
    tell(head=sorted(wanted))
    if odd := sorted(wanted.keys() ^ tensors.keys()):
        lost = "is missing" if odd[0] in wanted else "has no place in the model"
        raise CheckpointError(f"{where}: {odd[0]} {lost} ({prefix}* needs {', '.join(sorted(wanted))})")
    for key, value in wanted.items():
        if tensors[key].shape != value.shape:
            raise MismatchError(
                f"{where}: {key} is {list(tensors[key].shape)}, its config.json needs {list(value.shape)}"
            )
    module.load_state_dict({key.removeprefix(prefix): value.float() for key, value in tensors.items()})
    return module


def describe(settings: Mapping[str, Any], base: Base, **parts: Any) -> str:
    """Digest of everything that a model's thoughts depend on: its settings, and the whole config of its base
    (positions, norms, activation, scales), which no weight tells."""
    own = {key: value for key, value in settings.items() if key != "base"}
    table = json.dumps([own, config_digest(base.config), parts], sort_keys=True, default=str)
    return hashlib.sha256(table.encode()).hexdigest()


def sign(
    model: HFThoughts,
    name: str | Path,
    found: Checkpoint,
    base: Base,
    *,
    assumed: Iterable[str],
    **parts: Any,
) -> None:
    """Write into a model what identifies it.

    Args:
        model: With its `settings`.
        name: What it was asked for by.
        found: Its weights.
        base: Its architecture and tokenizer.
        assumed: Settings that nothing stands behind.
        parts: What its thoughts depend on besides (dtype).
    """
    model.name, model.revision, model.digest = str(name), found.revision, found.digest
    model.tokenizer_digest, model.assumed = tokenizer_digest(base.tokenizer), tuple(assumed)
    model.config_hash = describe(
        model.settings, base, weights=found.digest, tokenizer=model.tokenizer_digest,
        padding="left, masked", start=model.start_ids, end=model.end_ids, **parts,
    )  # fmt: skip


def _embedding_name(lm: PreTrainedModel) -> str:
    """Name of the token embedding's weight."""
    table = lm.get_input_embeddings()
    return next(f"{name}.weight" for name, module in lm.named_modules() if module is table)


def _fill(lm: PreTrainedModel, state: dict[str, Tensor], where: Path, base: str, prefix: str) -> None:
    wanted = lm.state_dict()
    if extra := sorted(set(state) - set(wanted)):
        raise CheckpointError(
            f"{where}: {len(extra)} tensors that a {type(lm).__name__} of {base} does not have: "
            f"{_some(extra, prefix)}; the file is for another model"
        )
    if missing := sorted(set(wanted) - set(state)):
        raise CheckpointError(
            f"{where}: {len(missing)} tensors are missing: {_some(missing, prefix)}; the file is incomplete, "
            f"or {base} is not its base model"
        )
    for key, value in state.items():
        if value.shape != wanted[key].shape:
            own = Path(base) == where.parent
            hint = (
                "its config.json is another model's"
                if own
                else "give the base model it was trained from (base=...)"
            )
            raise MismatchError(
                f"{where}: {prefix}{key} is {list(value.shape)}, but {base} needs "
                f"{list(wanted[key].shape)}; {hint}"
            )
    lm.load_state_dict({key: value.float() for key, value in state.items()}, strict=True, assign=True)
    lm.tie_weights()


def _resolve_head(state: dict[str, Tensor], embedding: str, config: PretrainedConfig, where: Path) -> bool:
    """Whether the output head is the embedding; fills in a head that was left out because it is.

    A file may hold both although the base ties them. Where they differ, both are used as stored.
    """
    head = "lm_head.weight"
    if not config.tie_word_embeddings or embedding not in state:
        return False
    if head not in state:
        state[head] = state[embedding]
        return True
    if state[head].shape == state[embedding].shape and torch.equal(state[head], state[embedding]):
        return True
    tell(differing_head=True)
    warn(f"{where}: {head} and {embedding} differ though {config.model_type} ties them; used as stored")
    return False


def _some(names: Sequence[str], prefix: str) -> str:
    return ", ".join(prefix + name for name in names[:4]) + (
        f" and {len(names) - 4} more" if len(names) > 4 else ""
    )


def _is_config(file: Path) -> bool:
    """Whether it is a model's own config, and not just a training program's."""
    with foreign(f"{file} is not JSON"):
        return file.is_file() and "model_type" in json.loads(file.read_text("utf-8").strip() or "{}")
