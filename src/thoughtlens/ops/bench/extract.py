"""Extraction beside the bare forward pass."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from thoughtlens.acts import ExtractConfig, StoreWriter, text_source, write
from thoughtlens.core import ConfigError, Json, validate_config
from thoughtlens.models import LanguageModel, blocks_path, load
from thoughtlens.ops.bench.clock import wait
from thoughtlens.ops.bench.limits import require_positive
from thoughtlens.problems import TextConfig


def bench_extract(
    *,
    model: str = "smollm2-135m",
    layer: int = 15,
    tokens: int = 20_000,
    context_length: int = 256,
    batch_tokens: int = 2048,
    dtype: str = "bfloat16",
    device: str = "cpu",
    source: str = "bundled",
    repeats: int = 3,
) -> Json:
    """Rows a second of an extraction at `layers.{layer}:out`, beside the bare forward pass to that block.

    The two are timed in turn. The extraction is everything between tokens and a finished store: packing,
    forward pass, choice of rows, norms, writing, digests. The bare pass is the model cut off after the block,
    without hooks, on full windows of random tokens, so padding counts against the extraction alone. Loading
    the model and reading the text are in neither.

    Returns:
        Tokens a second of both, and `ratio`, the median over `repeats` of the paired ratios.

    Raises:
        ConfigError: a number that is not above 0, or a setting that `extract` refuses.
        HookError: a block that the model does not have.
    """
    require_positive(tokens=tokens, repeats=repeats)
    table = {
        "model": {"name": model, "dtype": dtype, "device": device},
        "problems": {"source": source},
        "hook_names": [f"layers.{layer}:out"],
        "max_tokens": tokens,
        "context_length": context_length,
        "batch_tokens": batch_tokens,
    }
    cfg = validate_config(ExtractConfig, table)
    lm = load(**cfg.model.model_dump())
    _bare_speed(cfg, lm, layer, 2 * batch_tokens)  # warm-up
    text = TextConfig(source=source)
    pairs = [(_bare_speed(cfg, lm, layer, tokens), _extract_speed(cfg, text)) for _ in range(repeats)]
    return {
        "benchmark": "extract",
        **table,
        "threads": torch.get_num_threads(),
        "bare_tokens_per_s": statistics.median(bare for bare, _ in pairs),
        "extract_tokens_per_s": statistics.median(ours for _, ours in pairs),
        "ratio": statistics.median(ours / bare for bare, ours in pairs),
        "pairs": pairs,
    }


def _extract_speed(cfg: ExtractConfig, text: TextConfig) -> float:
    with tempfile.TemporaryDirectory() as folder:
        tmp = Path(folder)
        source = text_source(cfg, text, tmp)
        start = time.perf_counter()
        writer = StoreWriter.begin(tmp, source.meta, cfg.shard_rows)
        write(cfg, tmp, source, writer)
        writer.finish(source.problems())
        return source.n_rows / (time.perf_counter() - start)


@torch.no_grad()
def _bare_speed(cfg: ExtractConfig, lm: LanguageModel, layer: int, tokens: int) -> float:
    rows = max(cfg.batch_tokens // cfg.context_length, 1)
    ids = torch.randint(lm.model.config.vocab_size, (rows, cfg.context_length), device=lm.model.device)
    passes = max(tokens // ids.numel(), 1)
    with _cut_after(lm.model, layer):
        wait(ids)
        start = time.perf_counter()
        for _ in range(passes):
            lm.model.base_model(ids, use_cache=False)
        wait(ids)
    return passes * ids.numel() / (time.perf_counter() - start)


@contextmanager
def _cut_after(model: nn.Module, layer: int) -> Iterator[None]:
    """The model without the blocks after this one."""
    path = blocks_path(model)
    if path is None:
        raise ConfigError(f"{type(model).__name__} has no list of blocks to cut")
    parent, _, name = path.rpartition(".")
    owner = model.get_submodule(parent)
    blocks = model.get_submodule(path)
    assert isinstance(blocks, nn.ModuleList)
    setattr(owner, name, blocks[: layer + 1])
    try:
        yield
    finally:
        setattr(owner, name, blocks)
