"""A causal language model and its tokenizer from a hub id, a directory, a GGUF file or a bundled name.

Whatever the source, the model is first made a local directory of safetensors and then read from there, so
that its weights have one digest whatever dtype they are loaded in. Code from a hub is never run.
"""

from __future__ import annotations

import functools
import hashlib
import json
import pickle
import platform
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from thoughtlens.core import (
    DTYPES,
    CheckpointError,
    ConfigError,
    NotThereError,
    choose_device,
    say,
    warn,
)
from thoughtlens.models.hf.causal import attend_in_blocks
from thoughtlens.models.hf.locate import BUNDLED, foreign, locate, quiet, refuse_pointers, weights_digest

NOT_CAUSAL = ("bert-generation", "xlnet", "cpmant", "prophetnet")
"""Kinds that see later tokens, beside those that are trained to fill in masked ones."""
PARALLEL = ("module.", "_orig_mod.")
WEIGHTS = ("*.safetensors", "*.bin")
PICKLED = (
    "{name}: a weight file in {root} holds pickled code, which is never run; "
    "convert it to safetensors with a tool you trust"
)
IRRELEVANT = (
    "_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype", "use_cache", "auto_map",
    "output_attentions", "output_hidden_states", "return_dict", "id2label", "label2id", "problem_type",
    "task_specific_params", "bos_token_id", "eos_token_id", "pad_token_id",
)  # fmt: skip
"""Keys of a config that change no state."""


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
    config_hash: str = ""
    """Digest of the config: of positions, norms, activation and scales, which no weight tells."""

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
    target = choose_device(device, DTYPES[dtype])
    root = locate(name, revision=revision)
    model = _read_model(root, name, DTYPES[dtype]).to(target).eval().requires_grad_(False)  # type: ignore[arg-type]
    attend_in_blocks(model)
    tokenizer = _read_tokenizer(root, name)
    if target.type == "cpu" and dtype != "float32":
        _mention_slow_dtype(dtype)
    on_hub = not Path(name).exists() and name not in BUNDLED
    return LanguageModel(
        model=model,
        tokenizer=tokenizer,
        name=name,
        revision=root.name if on_hub else None,
        digest=weights_digest(root),
        tokenizer_digest=tokenizer_digest(tokenizer),
        context_length=context_length(model.config),
        config_hash=config_digest(model.config),
    )


def read_config(name: str, *, revision: str | None = None) -> transformers.PretrainedConfig:
    """The model's configuration (widths, number of blocks), without its weights being loaded."""
    root = locate(name, revision=revision)
    with foreign(f"{name}: no usable config.json in {root}"):
        return transformers.AutoConfig.from_pretrained(root, trust_remote_code=False)


def _read_model(root: Path, name: str, dtype: torch.dtype) -> transformers.PreTrainedModel:
    refuse_pointers(*(file for pattern in WEIGHTS for file in root.glob(pattern)))
    quantised = _require_causal(read_config(str(root)), name)
    with foreign(f"{name} is no causal language model to load{quantised}"), quiet():
        try:
            model, info = transformers.AutoModelForCausalLM.from_pretrained(  # type: ignore[misc]
                root, dtype=dtype, output_loading_info=True, trust_remote_code=False, local_files_only=True
            )
        except pickle.UnpicklingError:
            raise CheckpointError(PICKLED.format(name=name, root=root)) from None
    missing, mismatched, extra = (
        sorted(map(str, info[name])) for name in ("missing_keys", "mismatched_keys", "unexpected_keys")
    )
    if lost := missing + mismatched:
        if extra and all(key.startswith(PARALLEL) for key in extra):
            raise CheckpointError(
                f"{name}: every tensor in {root} is called {extra[0].partition('.')[0]}.*, as "
                f"DistributedDataParallel or torch.compile leaves it: save the model inside of it"
            )
        raise CheckpointError(
            f"{name}: expected every weight in {root}, but {len(lost)} are missing or of another shape, "
            f"first {lost[0]}; the checkpoint is for another model or incomplete"
        )
    if extra:
        warn(f"{name}: {len(extra)} tensors of the checkpoint are not part of the model, first {extra[0]}")
    return model


def _require_causal(config: transformers.PretrainedConfig, name: str) -> str:
    """Refuse models whose states see what comes later; what to mind where loading fails."""
    kind, text = str(getattr(config, "model_type", "")), config.get_text_config()
    masked = kind in NOT_CAUSAL or kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if getattr(config, "is_encoder_decoder", False):
        why = "has an encoder and a decoder"
    elif (masked and not (getattr(config, "is_decoder", False) or getattr(config, "causal", False))) or (
        getattr(text, "use_bidirectional_attention", None) in (True, "all")
    ):
        why = "sees later tokens from earlier ones"
    else:
        quantised = getattr(config, "quantization_config", None)
        how = quantised.get("quant_method") if isinstance(quantised, dict) else quantised
        return f" (its weights are quantised, {how}: take those that are not)" if quantised else ""
    raise CheckpointError(f"{name} is no causal language model: a {kind} {why}; take a decoder such as gpt2")


def _read_tokenizer(root: Path, name: str) -> transformers.PreTrainedTokenizerBase:
    refuse_pointers(*root.glob("tokenizer*"))
    with foreign(f"{name}: expected a tokenizer in {root}", NotThereError):
        return require_words(
            transformers.AutoTokenizer.from_pretrained(root, trust_remote_code=False, local_files_only=True)
        )


def require_words(
    tokenizer: transformers.PreTrainedTokenizerBase,
) -> transformers.PreTrainedTokenizerBase:
    """The tokenizer, which transformers makes up without a vocabulary where its files are missing.

    Raises:
        ValueError: it has special tokens alone.
    """
    if len(tokenizer) <= len(tokenizer.added_tokens_decoder):
        raise ValueError("no vocabulary is there, tokenizer.json or the like")
    return tokenizer


def tokenizer_digest(tokenizer: transformers.PreTrainedTokenizerBase) -> str:
    """sha256 of everything the tokenizer does; of its vocabulary where it cannot say."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = backend.to_str() if backend else json.dumps(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(text.encode()).hexdigest()


def config_digest(config: transformers.PretrainedConfig) -> str:
    """sha256 of what a config sets apart from its kind's defaults, as far as states follow from it."""
    own = {key: value for key, value in config.to_diff_dict().items() if key not in IRRELEVANT}
    return hashlib.sha256(json.dumps(own, sort_keys=True, default=str).encode()).hexdigest()


def context_length(config: transformers.PretrainedConfig) -> int:
    """Most tokens that a model has positions for."""
    text = config.get_text_config()
    for key in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length"):
        if isinstance(value := getattr(text, key, None), int) and value > 0:
            return value
    return 2**31 - 1  # no positions: the model has no limit


@functools.cache
def _mention_slow_dtype(dtype: str) -> None:
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    if dtype == "float16" or (not fast and platform.machine() in ("x86_64", "i686")):
        say(f"This CPU has no fast {dtype}; model.dtype=float32 may run faster")
