"""A causal language model and its tokenizer from a hub id, a directory, a GGUF file or a bundled name.

Whatever the source, the model is first made a local directory of safetensors and then read from there, so
that its weights have one digest whatever dtype they are loaded in. Code from a hub is never run.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import pickle
import struct
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError

from thoughtlens.core import (
    DTYPES,
    CheckpointError,
    ConfigError,
    NotThereError,
    choose_device,
    say,
    warn,
)
from thoughtlens.models.hf.locate import BUNDLED, first_line, locate, quiet, weights_digest


@dataclass(frozen=True, kw_only=True)
class LanguageModel:
    """A causal language model in eval mode, and what identifies it."""

    model: transformers.PreTrainedModel
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
            `models.locate.cache_dir()`), or the id of a model on the Hugging Face hub.
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
    target = choose_device(device)
    root = locate(name, revision=revision)
    model = _read_model(root, name, DTYPES[dtype])
    tokenizer = _read_tokenizer(root, name)
    if target.type == "cpu" and dtype != "float32":
        _mention_slow_dtype(dtype)
    on_hub = not Path(name).exists() and name not in BUNDLED
    return LanguageModel(
        model=model.to(target).eval().requires_grad_(False),  # type: ignore[arg-type]
        tokenizer=tokenizer,
        name=name,
        revision=root.name if on_hub else None,
        digest=weights_digest(root),
        tokenizer_digest=tokenizer_digest(tokenizer),
        context_length=_context_length(model.config),
    )


def read_config(name: str, *, revision: str | None = None) -> transformers.PretrainedConfig:
    """The model's configuration (widths, number of blocks), without its weights being loaded."""
    root = locate(name, revision=revision)
    try:
        return transformers.AutoConfig.from_pretrained(root, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{name}: no usable config.json in {root}: {first_line(error)}") from None


def _read_model(root: Path, name: str, dtype: torch.dtype) -> transformers.PreTrainedModel:
    try:
        with quiet():
            model, info = transformers.AutoModelForCausalLM.from_pretrained(  # type: ignore[misc]
                root, dtype=dtype, output_loading_info=True, trust_remote_code=False, local_files_only=True
            )
    except (OSError, ValueError, KeyError, RuntimeError, struct.error) as error:
        raise CheckpointError(f"{name} is no causal language model to load: {first_line(error)}") from None
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{name}: a weight file in {root} holds pickled code, which is never run; "
            f"convert it to safetensors with a tool you trust"
        ) from None
    except SafetensorError as error:
        raise CheckpointError(f"{name}: a weight file in {root} is damaged: {error}") from None
    missing, mismatched, extra = (
        sorted(map(str, info[name])) for name in ("missing_keys", "mismatched_keys", "unexpected_keys")
    )
    if lost := missing + mismatched:
        raise CheckpointError(
            f"{name}: expected every weight in {root}, but {len(lost)} are missing or of another shape, "
            f"first {lost[0]}; the checkpoint is for another model or incomplete"
        )
    if extra:
        warn(f"{name}: {len(extra)} tensors of the checkpoint are not part of the model, first {extra[0]}")
    return model


def _read_tokenizer(root: Path, name: str) -> transformers.PreTrainedTokenizerBase:
    try:
        return transformers.AutoTokenizer.from_pretrained(
            root, trust_remote_code=False, local_files_only=True
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise NotThereError(f"{name}: expected a tokenizer in {root}: {first_line(error)}") from None


def tokenizer_digest(tokenizer: transformers.PreTrainedTokenizerBase) -> str:
    """sha256 of everything the tokenizer does; of its vocabulary where it cannot say."""
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
