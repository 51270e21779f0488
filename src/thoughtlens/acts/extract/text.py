"""Token positions of documents, from a language model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from transformers import PretrainedConfig

from thoughtlens.acts.extract.config import ExtractConfig
from thoughtlens.acts.extract.source import Chunk, Source, flops
from thoughtlens.acts.store.behind import cutter_of
from thoughtlens.acts.store.meta import StoreMeta
from thoughtlens.acts.store.size import StoreSize
from thoughtlens.core import DTYPES, ConfigError, Plan
from thoughtlens.models import LanguageModel, capture, load, pad, read_batch, read_config, resolve
from thoughtlens.problems import (
    BUFFER_BATCHES,
    Cutter,
    Spool,
    TextConfig,
    Window,
    count_tokens,
    iter_documents,
    spool,
)

CUT = ("bos", "drop_special", "context_length", "max_windows")
"""Settings that decide which tokens the model sees at once, and which of them are rows."""
SPOOL = "documents.arrow"
DEFAULT_LAYER = 15


def plan_text(cfg: ExtractConfig, text: TextConfig) -> Plan:
    """Rows, memory, disk and time of an extraction from text; reads the model's configuration only."""
    config = read_config(cfg.model.name, revision=cfg.model.revision).get_text_config()
    hooks = _hooks(cfg, config)
    rows = count_tokens(text, cfg.max_tokens or None)
    width, n_layers = config.hidden_size, config.num_hidden_layers
    inner = getattr(config, "intermediate_size", None) or 4 * width
    deepest = max(_depth(name, n_layers) for name in hooks)
    weights = deepest * (4 * width**2 + 3 * width * inner)
    total = n_layers * (4 * width**2 + 3 * width * inner) + config.vocab_size * width
    itemsize, stored = DTYPES[cfg.model.dtype].itemsize, DTYPES[cfg.store_dtype].itemsize
    one_pass = 12 * cfg.batch_tokens * (width * len(hooks) + inner) * itemsize
    return Plan(
        rows=rows,
        memory_bytes=6e8 + 1.2 * total * itemsize + one_pass,
        disk_bytes=rows * (len(hooks) * width * stored + 8),
        seconds=2 * weights * rows / flops(cfg.model.device, DTYPES[cfg.model.dtype], width),
    )


def size_of_text(cfg: ExtractConfig, text: TextConfig) -> StoreSize:
    """What the store will be, about: every document is taken to fill `max_windows` windows, or two."""
    config = read_config(cfg.model.name, revision=cfg.model.revision).get_text_config()
    rows = count_tokens(text, cfg.max_tokens or None)
    per_document = cfg.context_length * (cfg.max_windows or 2)
    return StoreSize(
        kind="text",
        n_rows=rows,
        n_problems=min(text.n_documents or rows, -(-rows // per_document)),
        d_in={hook: int(config.hidden_size or 0) for hook in _hooks(cfg, config)},
        thoughts=[],
        shares={
            "train": 1 - text.validation - text.test, "validation": text.validation, "test": text.test
        },
    )  # fmt: skip


def text_source(cfg: ExtractConfig, text: TextConfig, tmp: Path) -> Source:
    """Token positions of documents."""
    lm = load(**cfg.model.model_dump())
    if cfg.context_length > lm.context_length:
        raise ConfigError(
            f"context_length={cfg.context_length} is more than the {lm.context_length} tokens {lm.name} can "
            f"read; longer documents are cut into windows by themselves"
        )
    hooks = _hooks(cfg, lm.model.config.get_text_config())
    cutter = cutter_of(lm, cfg)
    probe = torch.tensor([[cutter.bos or 0]])
    widths = {hook: x.shape[-1] for hook, x in capture(lm.model, probe, None, hooks).items()}
    seed = cfg.seed if text.seed is None else text.seed
    documents = spool(
        tmp / SPOOL,
        iter_documents(text.model_copy(update={"seed": seed}), lm.tokenizer),
        lm.tokenizer,
        cutter,
        max_rows=cfg.max_tokens or None,
        buffer_tokens=BUFFER_BATCHES * cfg.batch_tokens,
    )
    meta = StoreMeta(
        kind="text",
        model=lm.name,
        model_revision=lm.revision,
        model_digest=lm.digest,
        tokenizer_digest=lm.tokenizer_digest,
        hook_names=list(hooks),
        modules={hook: resolve(lm.model, hook).path for hook in hooks},
        d_in=widths,
        dtype=cfg.store_dtype,
        reading={"dtype": cfg.model.dtype, **{name: getattr(cfg, name) for name in CUT}},
        config_hash=lm.config_hash,
    )
    left_out = documents.n_tokens - documents.n_rows
    shares = {"train": 1.0, "validation": text.validation, "test": text.test}
    return Source(
        meta=meta,
        n_rows=documents.n_rows,
        problems=lambda: documents.documents,
        listed=lambda: documents.documents,
        chunks=lambda start, share: _text_chunks(cfg, lm, cutter, documents, start=start, share=share),
        close=lambda: (tmp / SPOOL).unlink(missing_ok=True),
        n_left_out=max(0, left_out),
        splits=tuple(split for split, share in shares.items() if share > 0),
    )


def _text_chunks(
    cfg: ExtractConfig,
    lm: LanguageModel,
    cutter: Cutter,
    documents: Spool,
    *,
    start: int,
    share: tuple[int, int],
) -> Iterator[Chunk]:
    hooks = _hooks(cfg, lm.model.config.get_text_config())
    for index, batch in documents.batches(cutter, cfg.batch_tokens, cfg.seed, share):
        if index < start:
            continue
        kept = [cutter.kept(window.tokens, window.wanted) for window in batch]
        if not any(own.any() for own in kept):
            continue
        found = read_batch(lm, [window.tokens for window in batch], hooks)
        keep = pad(kept, False)[0]
        where = torch.from_numpy(keep).to(lm.model.device)
        yield Chunk(
            index=index,
            acts={hook: x[where] for hook, x in found.acts.items()},
            columns=_text_columns(batch, found.ids, keep),
        )


def _text_columns(batch: list[Window], ids: np.ndarray, keep: np.ndarray) -> dict[str, np.ndarray]:
    window, position = np.nonzero(keep)
    names = np.array([w.problem_id for w in batch], object)
    return {
        "problem_id": names[window],
        "token_id": ids[keep],
        "position": position,
        "window": np.array([w.index for w in batch], np.int32)[window],
    }


def _hooks(cfg: ExtractConfig, config: PretrainedConfig) -> tuple[str, ...]:
    """Where is read: by default after block 15; of fewer blocks, after the middle one."""
    n_layers = int(config.num_hidden_layers)
    layer = DEFAULT_LAYER if n_layers > DEFAULT_LAYER else n_layers // 2
    return cfg.hook_names or (f"layers.{layer}:out",)


def _depth(hook_name: str, n_layers: int) -> int:
    """Blocks that run before a hook is reached; all of them if the name does not say."""
    if found := re.search(r"\.(\d+)[.:]", f".{hook_name}"):
        return min(int(found[1]) + 1, n_layers)
    return 1 if hook_name.startswith("embed") else n_layers
