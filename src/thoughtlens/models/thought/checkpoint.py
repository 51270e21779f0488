"""Weight files of thought models: found, read without pickled code, and used to the last key.

What a checkpoint holds and what a model needs are compared by name; nothing is loaded half.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import shlex
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

from thoughtlens.core import CheckpointError, ConfigError, MismatchError, NotThereError, say, sha256, warn
from thoughtlens.models.hf.load import config_digest, require_words, tokenizer_digest
from thoughtlens.models.hf.locate import first_line, foreign, refuse_pointers
from thoughtlens.models.thought.heard import tell

if TYPE_CHECKING:
    from thoughtlens.models.thought.sequence import HFThoughts

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
INDEX = ".index.json"
HUB_FILES = [
    *WEIGHT_FILES, "model-*.safetensors", "pytorch_model-*.bin", "checkpoint_*", "training_args.bin",
    "*.json", "*.yaml", "*.yml", "*.txt", "*.model", "*.jinja",
]  # fmt: skip
WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
"""Under which of its keys a training program may keep the state dict."""
PREFIXES = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before every name."""
MOST_PADDING = 512
"""Embedding rows that padding to a round number may add."""
CPU = torch.device("cpu")
EMBEDDINGS = (".wte.weight", ".embed_tokens.weight")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A weight file and where it came from."""

    file: Path
    tensors: dict[str, Tensor]
    digest: str
    """sha256 of the file; of several, of their digests."""
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
    files, commit = located(name, revision)
    tell(files=files, revision=commit)
    tensors = {key: value for file in files for key, value in _tensors(file).items()}
    tell(shapes={key: list(value.shape) for key, value in tensors.items()})
    tensors = _plain(tensors, files[0])
    for key, value in tensors.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"{files[0]}: {key} has values that are not finite; the file is damaged")
    digests = [sha256(file) for file in files]
    digest = digests[0] if len(files) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    tell(digest=digest)
    return Checkpoint(file=files[0], tensors=tensors, digest=digest, revision=commit)


def located(name: str | Path, revision: str | None = None) -> tuple[list[Path], str | None]:
    """Weight files of a checkpoint, fetched where needed, and their commit on the hub.

    Raises:
        NotThereError, CheckpointError, ConfigError: see `read`.
    """
    path = Path(name).expanduser()
    if revision is not None and path.exists():
        raise ConfigError(f"model.revision={revision!r} is only for models on the hub, and {path} is local")
    if path.is_dir():
        return _files_in(path), None
    return ([path], None) if path.is_file() else _from_hub(str(name), revision)


def hub_id(name: str | Path) -> str:
    """The hub's id of a checkpoint, which a path in the hub's own cache has too."""
    found = re.search(r"models--([^/]+?)--([^/]+)/snapshots/", f"{name}/")
    return f"{found[1]}/{found[2]}" if found else str(name)


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


def words_before(n_rows: int, extra: int, counts: tuple[int, ...], base: Base) -> int:
    """Words before the thought tokens, from the checkpoint's number of embedding rows.

    Args:
        n_rows: Rows of the embedding.
        extra: Thought tokens.
        counts: Numbers of words that a training program may have gone by, the likeliest first. Rows that
            round the embedding up are accepted, and said.
        base: The base model.

    Raises:
        MismatchError: none of them fits.
    """
    for n in counts:
        if n_rows == n + extra:
            return n
    for n in counts:
        more = n_rows - n - extra
        if more > 0 and (n_rows == base.config.vocab_size or (n_rows % 8 == 0 and more < MOST_PADDING)):
            say(f"{n_rows} embedding rows: thought tokens from {n} on, and {more} rows of padding after them")
            return n
    raise MismatchError(
        f"Expected {counts[0]} + {extra} embedding rows (words of base {base.name}, and the thought "
        f"tokens), the checkpoint has {n_rows}; give the base model it was trained from (base=...)"
    )


def language_model_given(name: str | Path) -> ConfigError:
    """The refusal of a model that does not think in vectors, with what can be done with it."""
    return ConfigError(
        f"{name} is a language model, and this needs one that feeds vectors back as thoughts: codi-tiny, "
        f"codi-words, or a checkpoint of CODI or Coconut; family=soft lets any model think in mixtures of "
        f"words. For the activations of a language model: "
        f"thoughtlens run text-demo model={shlex.quote(str(name))} extract.hook_names=null --out "
        f"{shlex.quote(f'runs/{Path(name).name}')}"
    )


def names_in(path: Path) -> list[str]:
    """Names of the tensors in a local file or directory, unread; none where there is no weight file."""
    try:
        files = [path] if path.is_file() else _files_in(path)
        return [key for file in files for key in _tensors(file, torch.device("meta"))]
    except (CheckpointError, NotThereError):
        return []  # whoever loads the file says what is wrong with it


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


def placed(lm: PreTrainedModel, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """The model on a device and in a number format."""
    nn.Module.to(lm, device, dtype)
    return lm


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


def _files_in(folder: Path) -> list[Path]:
    """The weight file of a directory, or the shards that its index lists."""
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return [folder / name]
        if (folder / f"{name}{INDEX}").is_file():
            return _shards(folder / f"{name}{INDEX}")
    own = sorted(file for file in folder.glob("checkpoint_*") if file.is_file())
    if len(own) == 1:
        return own
    if own:
        listed = ", ".join(file.name for file in own[:8])
        raise NotThereError(f"{folder} has several checkpoints ({listed}): give one of them, {own[-1]}")
    if any(folder.glob("adapter_model.*")):
        raise CheckpointError(
            f"{folder} holds an adapter alone (adapter_model), without the weights it adapts and the "
            f"projection: save the state dict of the whole model"
        )
    raise NotThereError(
        f"Expected {' or '.join(WEIGHT_FILES)} in {folder}, whole or in shards with an index, or "
        f"checkpoint_N; found none of them"
    )


def _shards(index: Path) -> list[Path]:
    with foreign(f"{index} is damaged"):
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        files = [index.parent / Path(name).name for name in names]
    if missing := [file.name for file in files if not file.is_file()]:
        raise NotThereError(f"{index} lists {len(files)} shards, and {missing[0]} is not there")
    return files


def _is_config(file: Path) -> bool:
    """Whether it is a model's own config, and not just a training program's."""
    with foreign(f"{file} is not JSON"):
        return file.is_file() and "model_type" in json.loads(file.read_text("utf-8"))


def _plain(tensors: dict[str, Tensor], where: Path) -> dict[str, Tensor]:
    """Without what training programs put before every name; refuses an adapter alone."""
    for prefix in PREFIXES * 2:
        if tensors and all(key.startswith(prefix) for key in tensors):
            tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    if tensors and all("lora_" in key for key in tensors):
        raise CheckpointError(
            f"{where} holds an adapter alone, without the weights it adapts and the projection: save the "
            f"state dict of the whole model"
        )
    return tensors


def _from_hub(name: str, revision: str | None) -> tuple[list[Path], str]:
    """Files and commit of `owner/name`, or of one file in it, `owner/name/checkpoint_33`."""
    parts = name.split("/")
    repository, file = "/".join(parts[:2]), "/".join(parts[2:])
    wanted = [file, *(p for p in HUB_FILES if p.startswith("*"))] if file else HUB_FILES
    try:
        root = Path(huggingface_hub.snapshot_download(repository, revision=revision, allow_patterns=wanted))
    except HFValidationError:
        raise NotThereError(
            f"Unknown thought model {name!r}: expected codi-tiny, a file, a directory or a hub id"
        ) from None
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise NotThereError(
            f"Thought model {name!r} is not a file or directory here and the hub did not give it "
            f"({type(error).__name__}: {first_line(error)})"
        ) from None
    if file and not (root / file).is_file():
        raise NotThereError(f"{repository} has no file {file}")
    return ([root / file] if file else _files_in(root)), root.name


def _tensors(path: Path, device: torch.device = CPU) -> dict[str, Tensor]:
    """Tensors by name; on the device `meta` without their values."""
    refuse_pointers(path)
    if path.suffix != ".safetensors":
        with path.open("rb") as handle:
            if not handle.read(2).startswith((b"PK", b"\x80")):
                raise CheckpointError(
                    f"{path} is damaged or not a weight file: it begins like none that torch wrote"
                )
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
        raise CheckpointError(f"{path} is damaged or not a weight file: {first_line(error)}") from None
    return _unwrapped(found, path)


def _unwrapped(found: Any, path: Path) -> dict[str, Tensor]:
    """The state dict, also where a training program keeps it under a key of its own."""
    for name in WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(name), dict):
            found = found[name]
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise CheckpointError(
            f"{path}: expected a dictionary of tensors by name, or one under {', '.join(WRAPPERS)}, got "
            f"something else"
        )
    return found
