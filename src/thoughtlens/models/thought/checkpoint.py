"""Weight files of thought models: found, read without pickled code, and used to the last key.

What a checkpoint holds and what a model needs are compared by name; nothing is loaded half.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from thoughtlens.core import CheckpointError, ConfigError, MismatchError, NotThereError, warn

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
CPU = torch.device("cpu")
EMBEDDINGS = (".wte.weight", ".embed_tokens.weight")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A weight file and where it came from."""

    file: Path
    tensors: dict[str, Tensor]
    digest: str
    """sha256 of the file."""
    revision: str | None
    """Commit on the hub, else None."""


@dataclass(frozen=True, kw_only=True)
class Base:
    """Architecture and tokenizer of the model that a checkpoint was trained from."""

    name: str
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase


def read(name: str | Path, revision: str | None = None) -> Checkpoint:
    """The checkpoint in a file, a directory or a hub repository.

    Raises:
        NotThereError: nothing there, or the hub cannot be reached.
        CheckpointError: damaged, not a plain dictionary of tensors, or with values not finite.
        ConfigError: a revision of something local.
    """
    path = Path(name).expanduser()
    if revision is not None and path.exists():
        raise ConfigError(f"model.revision={revision!r} is only for models on the hub, and {path} is local")
    commit = None
    if path.is_dir():
        path = _file_in(path)
    elif not path.is_file():
        path, commit = _from_hub(str(name), revision)
    tensors = _tensors(path)
    for key, value in tensors.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"{path}: {key} has values that are not finite; the file is damaged")
    with path.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    return Checkpoint(file=path, tensors=tensors, digest=digest, revision=commit)


def names_in(path: Path) -> list[str]:
    """Names of the tensors in a local file or directory, unread; none where there is no weight file."""
    file = (
        path if path.is_file() else next((f for f in map(path.joinpath, WEIGHT_FILES) if f.is_file()), None)
    )
    try:
        return [] if file is None else list(_tensors(file, torch.device("meta")))
    except CheckpointError:
        return []  # whoever loads the file says what is wrong with it


def read_base(base: str | Path, tokenizer: str | Path | None = None) -> Base:
    """Config and tokenizer of a base model (hub id or directory); its weights are not needed.

    Args:
        base: Where config.json is, and the tokenizer unless another place is given.
        tokenizer: Where the tokenizer is, if not with the config.
    """
    try:
        config = AutoConfig.from_pretrained(base, trust_remote_code=False)
        words = AutoTokenizer.from_pretrained(tokenizer or base, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise NotThereError(
            f"Expected config.json and a tokenizer of the base model at {base!s} "
            f"(a directory or a hub id; set base=...): {str(error).strip().splitlines()[0]}"
        ) from None
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
    if table is None:
        raise CheckpointError(f"{where}: no embedding {prefix}*.wte.weight or {prefix}*.embed_tokens.weight")
    tied = _resolve_head(state, table, base.config, where)
    config = type(base.config).from_dict(base.config.to_dict())
    config.vocab_size, config.tie_word_embeddings = len(state[table]), tied
    lm = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    if (own := _embedding_name(lm)) != table:
        raise MismatchError(
            f"{where} holds {prefix}{table}, but {base.name} is a {type(lm).__name__} with {own}; "
            f"give the base model it was trained from (base=...)"
        )
    _fill(lm, merge(state, lm) if merge else state, where, base.name, prefix)
    return lm


def placed(lm: PreTrainedModel, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """The model on a device and in a number format."""
    nn.Module.to(lm, device, dtype)
    return lm


def describe(**parts: Any) -> str:
    """Digest of everything that a model's thoughts depend on."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


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
            raise MismatchError(
                f"{where}: {prefix}{key} is {list(value.shape)}, but {base} needs {list(wanted[key].shape)}; "
                f"give the base model that the checkpoint was trained from (base=...)"
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
    warn(f"{where}: {head} and {embedding} differ though {config.model_type} ties them; used as stored")
    return False


def _some(names: Sequence[str], prefix: str) -> str:
    return ", ".join(prefix + name for name in names[:4]) + (
        f" and {len(names) - 4} more" if len(names) > 4 else ""
    )


def _file_in(folder: Path) -> Path:
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    raise NotThereError(f"Expected {' or '.join(WEIGHT_FILES)} in {folder}, found neither")


def _from_hub(name: str, revision: str | None) -> tuple[Path, str]:
    try:
        root = Path(
            huggingface_hub.snapshot_download(
                name, revision=revision, allow_patterns=[*WEIGHT_FILES, "*.json", "*.txt", "*.model"]
            )
        )
    except HFValidationError:
        raise NotThereError(
            f"Unknown thought model {name!r}: expected codi-tiny, a file, a directory or a hub id"
        ) from None
    except (HfHubHTTPError, OSError, ValueError) as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise NotThereError(
            f"Thought model {name!r} is not a file or directory here and the hub did not give it "
            f"({type(error).__name__}: {first})"
        ) from None
    return _file_in(root), root.name


def _tensors(path: Path, device: torch.device = CPU) -> dict[str, Tensor]:
    """Tensors by name; on the device `meta` without their values."""
    try:
        if path.suffix == ".safetensors":
            return {key: value.to(device) for key, value in load_file(path).items()}
        found = torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path} is damaged, or a pickle that holds more than tensors, which is refused because reading "
            f"it would run code: save the state dict alone, best as safetensors"
        ) from None
    except (SafetensorError, zipfile.BadZipFile, EOFError, RuntimeError, ValueError, KeyError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path} is damaged or not a weight file: {first}") from None
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise CheckpointError(f"{path}: expected a dictionary of tensors by name, got something else")
    return found
