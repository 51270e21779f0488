"""Weight files of thought models: found by path or hub id, and read without pickled code.

Which of several checkpoints is meant is never guessed: one line lists them.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import shlex
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import huggingface_hub
import torch
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from thoughtlens.core import CheckpointError, ConfigError, NotThereError, say, sha256
from thoughtlens.models.hf.locate import first_line, foreign, refuse_pointers
from thoughtlens.models.thought.heard import tell

WHOLE = ("model.safetensors", "pytorch_model.bin")
INDEX = ".index.json"
ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
NOT_THE_MODELS = ("training_args", "optimizer", "scheduler", "rng_state", "scaler", "random_states")
"""How files begin that a trainer writes beside the weights."""
PROJECTIONS = ("prj", "proj")
"""How files begin that hold a projection alone."""
SHARD = re.compile(r"-\d+-of-\d+\.")
SETTINGS = (".json", ".yaml", ".yml", ".txt", ".model", ".jinja", "training_args.bin")
UNLISTED = [
    *WHOLE, "model-*.safetensors", "pytorch_model-*.bin", "checkpoint_*", "adapter_*",
    *(f"{name}*" for name in PROJECTIONS), *(f"*{end}" for end in SETTINGS),
]  # fmt: skip
"""What is fetched of a repository whose files cannot be listed."""
DEEPEST = 3
"""Levels of folders in which checkpoints are looked for."""
WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
"""Under which of its keys a training program may keep the state dict."""
PREFIXES = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before every name."""
CPU = torch.device("cpu")
MOST_NAMED = 8


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Tensors of a weight file and where they came from."""

    file: Path
    tensors: dict[str, Tensor]
    digest: str
    """sha256 of the file; of several, of their digests."""
    revision: str | None
    """Commit on the hub, else None."""

    @property
    def is_adapter(self) -> bool:
        """Whether it is what PEFT saves: LoRA without the weights that it adapts."""
        return self.file.name in ADAPTERS


def read(name: str | Path, revision: str | None = None) -> Checkpoint:
    """The checkpoint in a file, a directory or a hub repository (`owner/name`, `owner/name/folder/file`).

    Raises:
        NotThereError: nothing there, several checkpoints, or the hub cannot be reached.
        CheckpointError: damaged, not a plain dictionary of tensors, or with values not finite.
        ConfigError: a revision of something local.
    """
    files, commit = located(name, revision)
    tell(files=files, revision=commit)
    tensors = {key: value for file in files for key, value in tensors_in(file).items()}
    tell(shapes={key: list(value.shape) for key, value in tensors.items()})
    tensors = _plain(tensors)
    for key, value in tensors.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"{files[0]}: {key} has values that are not finite; the file is damaged")
    digest = digest_of(files)
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
    return (_local(path), None) if path.exists() else _from_hub(str(name), revision)


def digest_of(files: Sequence[Path]) -> str:
    """sha256 of a file; of several, of their digests."""
    digests = [sha256(file) for file in files]
    return digests[0] if len(files) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def names_in(path: Path) -> list[str]:
    """Names of the tensors in a local file or directory, unread; none where there is no weight file."""
    try:
        return [key for file in _local(path) for key in keys_in(file)]
    except (CheckpointError, NotThereError):
        return []  # whoever loads the file says what is wrong with it


def adapts_a_thought_model(path: Path) -> bool:
    """Whether an adapter lies there, or is that file, and a projection beside it."""
    folder = path.parent if path.name in ADAPTERS else path
    there = any((folder / name).is_file() for name in ADAPTERS)
    return there and any(file.name.startswith(PROJECTIONS) for file in folder.iterdir())


def hub_id(name: str | Path) -> str:
    """The hub's id of a checkpoint, which a path in the hub's own cache has too."""
    found = re.search(r"models--([^/]+?)--([^/]+)/snapshots/[^/]+(?P<inner>/.*)?", f"{name}")
    return f"{found[1]}/{found[2]}{found['inner'] or ''}".rstrip("/") if found else str(name)


def keys_in(path: Path) -> list[str]:
    """Names of the tensors of one file, without their values."""
    if path.suffix != ".safetensors":
        return list(tensors_in(path, torch.device("meta")))
    refuse_pointers(path)
    with foreign(f"{path} is damaged or not a weight file"), safe_open(path, "pt") as held:
        return list(held.keys())


def tensors_in(path: Path, device: torch.device = CPU) -> dict[str, Tensor]:
    """Tensors of one file by name; on the device `meta` without their values."""
    refuse_pointers(path)
    if path.suffix != ".safetensors":
        with path.open("rb") as handle:
            if not handle.read(2).startswith((b"PK", b"\x80")):
                raise CheckpointError(
                    f"{path} is damaged or not a weight file: it begins like none that torch wrote"
                )
    try:
        if path.suffix == ".safetensors":
            return load_file(path, str(device))
        with warnings.catch_warnings(action="ignore"):  # about the pickle protocols of other programs
            found = torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path} is damaged, or a pickle that holds more than tensors, which is refused because reading "
            f"it would run code: save the state dict alone, best as safetensors"
        ) from None
    except (SafetensorError, zipfile.BadZipFile, EOFError, RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is damaged or not a weight file: {first_line(error)}") from None
    return _unwrapped(found, path)


def _local(path: Path) -> list[Path]:
    """The weight file, or the shards of it, that a path stands for."""
    if path.is_file():
        return _shards(path) if path.name.endswith(INDEX) else [path]
    levels = ("/".join("*" * (depth + 1)) for depth in range(DEEPEST))
    names = [
        file.relative_to(path).as_posix()
        for level in levels
        for file in path.glob(level)
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts)
    ]
    found = path / _one(names, str(path))
    return _shards(found) if found.name.endswith(INDEX) else [found]


def _one(names: Iterable[str], where: str) -> str:
    """The checkpoint among files: the only one of a folder, else the only one of its sub-folders.

    Raises:
        NotThereError: none, or several; these are listed.
    """
    paths = [PurePosixPath(name) for name in names]
    folders = {path.parent for path in paths}
    at = PurePosixPath()
    found = _in_folder(at, [path.name for path in paths if path.parent == at])
    if not found:
        found = sorted(
            one
            for folder in folders
            for one in _in_folder(folder, [p.name for p in paths if p.parent == folder])
        )
    if len(found) == 1:
        return found[0]
    if found:
        listed = ", ".join(found[:MOST_NAMED]) + (", ..." if len(found) > MOST_NAMED else "")
        raise NotThereError(
            f"{where} has several checkpoints ({listed}): give one of them, "
            f"{shlex.quote(f'{where}/{found[-1]}')}"
        )
    raise NotThereError(
        f"Expected {' or '.join(WHOLE)} in {where}, whole or in shards with an index, an adapter or "
        f"checkpoint_N; found none of them"
    )


def _in_folder(folder: PurePosixPath, names: Sequence[str]) -> list[str]:
    """The checkpoints of one folder; of one in two formats, the safetensors."""
    forms = [[name for name in (whole, whole + INDEX) if name in names] for whole in WHOLE]
    forms.append([name for name in ADAPTERS if name in names][:1])
    numbered = sorted(name for name in names if name.startswith("checkpoint_") and not _is_setting(name))
    if forms[0] and forms[1]:
        say(f"{folder.as_posix()}: {forms[0][0]} is read, not {forms[1][0]}")
        forms[1] = []
    found = [*(name for form in forms for name in form), *numbered]
    return [(folder / name).as_posix() for name in found or sorted(filter(_is_other, names))]


def _is_other(name: str) -> bool:
    """Whether it may be a checkpoint by a name of its own."""
    beside = name.startswith((*NOT_THE_MODELS, *PROJECTIONS)) or SHARD.search(name)
    return name.endswith(SUFFIXES) and not beside


def _is_setting(name: str) -> bool:
    return name.endswith(SETTINGS) and not name.endswith(INDEX)


def _shards(index: Path) -> list[Path]:
    """The shards that an index lists, each of which must hold exactly what the index says.

    Raises:
        NotThereError: a shard is missing.
        CheckpointError: index and shards disagree; names the tensor.
    """
    with foreign(f"{index} is damaged"):
        pairs = json.loads(index.read_text("utf-8"), object_pairs_hook=list)
        weight_map = next(value for key, value in pairs if key == "weight_map")
        files = sorted({index.parent / Path(name).name for _, name in weight_map})
    if twice := [key for key, n in Counter(key for key, _ in weight_map).items() if n > 1]:
        raise CheckpointError(f"{index} lists {twice[0]} twice; download the checkpoint again")
    if missing := [file.name for file in files if not file.is_file()]:
        raise NotThereError(f"{index} lists {len(files)} shards, and {missing[0]} is not there")
    placed = {key: Path(name).name for key, name in weight_map}
    for file in files:
        held = set(keys_in(file))
        promised = {key for key, name in placed.items() if name == file.name}
        for keys, what in ((promised - held, "is not in it"), (held - promised, "is in it unlisted")):
            if keys:
                raise CheckpointError(
                    f"{file}: {min(keys)} {what}, unlike {index.name} says ({len(keys)} such tensors): index "
                    f"and shards are not of one checkpoint"
                )
    return files


def _from_hub(name: str, revision: str | None) -> tuple[list[Path], str]:
    """Files and commit of `owner/name`, or of a file or folder in it, `owner/name/coconut/checkpoint_33`."""
    parts = name.split("/")
    repository, inner = "/".join(parts[:2]), "/".join(parts[2:])
    if ".." in parts:
        raise NotThereError(f"{name}: expected a file or folder of {repository}, got {inner}")
    try:
        wanted = _wanted(repository, inner, revision)
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
    if not (root / inner).exists():
        raise NotThereError(f"{repository} has no file {inner}")
    try:
        return _local(root / inner), root.name
    except NotThereError as error:
        raise NotThereError(str(error).replace(str(root / inner).rstrip("/"), name)) from None


def _wanted(repository: str, inner: str, revision: str | None) -> list[str]:
    """What to fetch of a repository: the one checkpoint meant, and the settings in its folder and above.

    Where the files can't be listed (without a network), whatever the cache has.
    """
    try:
        listed = huggingface_hub.list_repo_files(repository, revision=revision)
    except (HfHubHTTPError, OSError):
        return [inner, f"{inner}/*", *UNLISTED[-len(SETTINGS) :]] if inner else UNLISTED
    within = [
        name.removeprefix(f"{inner}/") for name in listed if name.startswith(f"{inner}/" if inner else "")
    ]
    where = f"{repository}/{inner}".rstrip("/")
    picked = inner if inner in listed else f"{inner}/{_one(within, where)}".lstrip("/")
    folder = PurePosixPath(picked).parent
    stem = picked.removesuffix(INDEX).rpartition(".")[0] if picked.endswith(INDEX) else None
    return [
        file
        for file in listed
        if file == picked
        or (stem is not None and file.startswith(f"{stem}-"))
        or (PurePosixPath(file).parent in (folder, *folder.parents) and _is_setting(file))
        or (PurePosixPath(file).parent == folder and PurePosixPath(file).name.startswith(PROJECTIONS))
    ]


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without what training programs put before every name."""
    for prefix in PREFIXES * 2:
        if tensors and all(key.startswith(prefix) for key in tensors):
            tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return tensors


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
