"""Run a language model over its problems and store the activations at the chosen hooks."""

from __future__ import annotations

import queue
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from pydantic import Field, field_validator
from torch import Tensor

from thoughtlens.config import Config
from thoughtlens.errors import ConfigError
from thoughtlens.models.capture import capture, resolve
from thoughtlens.models.load import DTYPES, LanguageModel, ModelConfig, load, read_config
from thoughtlens.problems.text import TextConfig, count_tokens, iter_documents, local_file
from thoughtlens.problems.tokens import BUFFER_BATCHES, Bos, Cutter, Spool, Window, bos_id, pad, spool
from thoughtlens.progress import progress, warn
from thoughtlens.stage import Plan, read_json, run_stage, write_json
from thoughtlens.store.meta import ROWS, StoreMeta
from thoughtlens.store.tables import stream
from thoughtlens.store.writer import StoreWriter

SPOOL, NORMS = "documents.arrow", "norms.json"
CALIBRATION_ROWS = 4096
QUEUED_BATCHES = 4


class ExtractConfig(Config):
    """What to run through which model, and what to keep of it."""

    model: ModelConfig = ModelConfig()
    """The model."""
    problems: TextConfig = TextConfig()
    """The text."""
    hook_names: tuple[str, ...] = Field(("layers.15:out",), min_length=1)
    """Where activations are read: `layers.8:out` is the residual stream after block 8 (counted from 0),
    `layers.8.mlp:out`, `layers.8.self_attn:in`, `embed:out`, or a module path of the model with a side."""
    context_length: int = Field(256, gt=0)
    """Most tokens the model sees at once; a longer document is cut into several windows."""
    max_windows: int | None = Field(None, gt=0)
    """Read this many windows of each document at most, so that a given number of rows spans more documents;
    unset: the whole document."""
    batch_tokens: int = Field(2048, gt=0)
    """Tokens of one forward pass, padding included."""
    max_tokens: int | None = Field(200_000, gt=0)
    """Rows to store at most; unset: the whole corpus."""
    store_dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Number format on disk; overflow is refused, not clipped."""
    bos: Bos = "tokenizer"
    """Put the begin-of-sequence token before each window: if the `tokenizer` does so by itself, `always`
    or `never`."""
    drop_special: bool = True
    """Leave out the positions of special tokens: begin, end, padding, roles of a chat."""
    outlier_factor: float = Field(10.0, gt=1)
    """A row is flagged in the column `outlier` where its norm at any hook exceeds this many times the median
    of the first 4,096 rows. Flagged rows are stored; `drop_outliers` leaves them out when they are read."""
    shard_rows: int = Field(65_536, gt=0)
    """Rows of a shard file; an interrupted extraction continues at the last finished one."""
    seed: int = 0
    """Fixes the order of the batches, and the split where `problems.seed` is unset."""

    @field_validator("hook_names")
    @classmethod
    def _different(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            raise ValueError("hook_names has a name twice")
        return names


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Rows of one forward pass, still on the model's device."""

    index: int
    """Number of the pass, counted over all runs."""
    acts: dict[str, Float[Tensor, "rows _"]]
    columns: dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a kind of problem provides for a store; the rest of the extraction is the same for all."""

    meta: StoreMeta
    n_rows: int
    problems: Callable[[], pa.Table]
    chunks: Callable[[int], Iterator[Chunk]]
    """All passes from this one on."""
    close: Callable[[], None]
    """Removes what was only needed on the way."""


def extract(cfg: ExtractConfig, out: str | Path) -> dict[str, Any]:
    """Store activations as DESIGN's `acts/` directory; an interrupted call continues.

    Raises:
        NotThereError, DataError, ConfigError: the model or the text cannot be used; see
            `models.load.load` and `problems.text.documents`.
        HookError: the model has no such hook.
        DataError: an activation is NaN, infinite, or too large for `store_dtype`.
        MismatchError: an interrupted extraction was begun with another model.
    """
    file = local_file(cfg.problems)
    inputs = {"problems": file} if file is not None else {}
    return run_stage("extract", cfg, out, lambda tmp: _work(cfg, tmp), inputs=inputs)


def plan(cfg: ExtractConfig) -> Plan:
    """Rows, memory, disk and time that `extract` will need; reads the model's configuration only."""
    config = read_config(cfg.model.name, revision=cfg.model.revision).get_text_config()
    rows = count_tokens(cfg.problems, cfg.max_tokens)
    width, n_layers = config.hidden_size, config.num_hidden_layers
    inner = getattr(config, "intermediate_size", None) or 4 * width
    deepest = max(_depth(name, n_layers) for name in cfg.hook_names)
    weights = deepest * (4 * width**2 + 3 * width * inner)
    total = n_layers * (4 * width**2 + 3 * width * inner) + config.vocab_size * width
    itemsize, stored = DTYPES[cfg.model.dtype].itemsize, DTYPES[cfg.store_dtype].itemsize
    hooks = len(cfg.hook_names)
    one_pass = 12 * cfg.batch_tokens * (width * hooks + inner) * itemsize
    return Plan(
        rows=rows,
        memory_bytes=6e8 + 1.2 * total * itemsize + one_pass,
        disk_bytes=rows * (hooks * width * stored + 8),
        seconds=2 * weights * rows / _flops(cfg.model.device, DTYPES[cfg.model.dtype], width),
    )


def _work(cfg: ExtractConfig, tmp: Path) -> dict[str, Any]:
    source = _text_source(cfg, tmp)
    writer = StoreWriter.begin(tmp, source.meta, cfg.shard_rows)
    if not writer.finished:
        _write(cfg, tmp, source, writer)
        writer.finish(source.problems())
    result = _summary(cfg, tmp, source)
    source.close()
    return result


def _write(cfg: ExtractConfig, tmp: Path, source: Source, writer: StoreWriter) -> None:
    """Run the model, and write on another thread meanwhile."""
    start = writer.cursor["next_batch"] if writer.cursor else 0
    thresholds, chunks = _thresholds(cfg, tmp, source.chunks(start))

    def append(chunk: Chunk) -> None:
        norms = {hook: x.float().norm(dim=1) for hook, x in chunk.acts.items()}
        outlier = torch.stack([norms[hook] > limit for hook, limit in thresholds.items()]).any(0)
        columns = {**chunk.columns, "outlier": outlier.cpu().numpy()}
        writer.append(chunk.acts, columns, cursor={"next_batch": chunk.index + 1})

    with (
        progress("extract", source.n_rows, start=writer.rows_done) as bar,
        _in_background(append) as put,
    ):
        for chunk in chunks:
            put(chunk)
            bar.advance(len(chunk.columns["problem_id"]))


def _thresholds(
    cfg: ExtractConfig, tmp: Path, chunks: Iterator[Chunk]
) -> tuple[dict[str, float], Iterator[Chunk]]:
    """Norm above which a row of each hook is an outlier, and the chunks with none of them lost."""
    file = tmp / NORMS
    seen: list[Chunk] = []
    if not file.exists():
        n = 0
        for chunk in chunks:
            seen.append(chunk)
            n += len(chunk.columns["problem_id"])
            if n >= CALIBRATION_ROWS:
                break
        median = {
            hook: float(torch.cat([c.acts[hook].float().norm(dim=1) for c in seen]).median())
            for hook in cfg.hook_names
        }
        write_json(file, {"n_rows": n, "median_norm": median})
    median = read_json(file)["median_norm"]
    limits = {hook: cfg.outlier_factor * median[hook] for hook in cfg.hook_names}

    def all_chunks() -> Iterator[Chunk]:
        while seen:
            yield seen.pop(0)
        yield from chunks

    return limits, all_chunks()


def _text_source(cfg: ExtractConfig, tmp: Path) -> Source:
    """Token positions of documents."""
    lm = load(**cfg.model.model_dump())
    if cfg.context_length > lm.context_length:
        raise ConfigError(
            f"context_length={cfg.context_length} is more than the {lm.context_length} tokens {lm.name} can "
            f"read; longer documents are cut into windows by themselves"
        )
    bos = bos_id(lm.tokenizer, cfg.bos)
    probe = torch.tensor([[bos or 0]])
    widths = {hook: x.shape[-1] for hook, x in capture(lm.model, probe, None, cfg.hook_names).items()}
    dropped = frozenset(lm.special_ids if cfg.drop_special else ())
    cutter = Cutter(context_length=cfg.context_length, bos=bos, dropped=dropped, max_windows=cfg.max_windows)
    seed = cfg.seed if cfg.problems.seed is None else cfg.problems.seed
    documents = spool(
        tmp / SPOOL,
        iter_documents(cfg.problems.model_copy(update={"seed": seed})),
        lm.tokenizer,
        cutter,
        max_rows=cfg.max_tokens,
        buffer_tokens=BUFFER_BATCHES * cfg.batch_tokens,
    )
    meta = StoreMeta(
        kind="text",
        model=lm.name,
        model_revision=lm.revision,
        model_digest=lm.digest,
        tokenizer_digest=lm.tokenizer_digest,
        hook_names=list(cfg.hook_names),
        modules={hook: resolve(lm.model, hook).path for hook in cfg.hook_names},
        d_in=widths,
        dtype=cfg.store_dtype,
    )
    return Source(
        meta=meta,
        n_rows=documents.n_rows,
        problems=lambda: documents.documents,
        chunks=lambda start: _text_chunks(cfg, lm, cutter, documents, start),
        close=(tmp / SPOOL).unlink,
    )


def _text_chunks(
    cfg: ExtractConfig, lm: LanguageModel, cutter: Cutter, documents: Spool, start: int
) -> Iterator[Chunk]:
    for index, batch in enumerate(documents.batches(cutter, cfg.batch_tokens, cfg.seed)):
        if index < start:
            continue
        ids, mask = pad(batch, pad_id=0)
        keep = mask & cutter.kept(ids)
        if not keep.any():
            continue
        acts = capture(lm.model, torch.from_numpy(ids), torch.from_numpy(mask), cfg.hook_names)
        where = torch.from_numpy(keep).to(lm.model.device)
        yield Chunk(
            index=index,
            acts={hook: x[where] for hook, x in acts.items()},
            columns=_text_columns(batch, ids, keep),
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


@contextmanager
def _in_background(work: Callable[[Chunk], None]) -> Iterator[Callable[[Chunk], None]]:
    """Call `work` on another thread, in order, with a few items waiting at most; its error is raised here."""
    waiting: queue.Queue[Chunk | None] = queue.Queue(maxsize=QUEUED_BATCHES)
    errors: list[BaseException] = []

    def loop() -> None:
        torch.set_num_threads(1)  # of this thread only: the model's threads keep the cores
        while (item := waiting.get()) is not None:
            if not errors:
                try:
                    work(item)
                except BaseException as error:
                    errors.append(error)

    def put(item: Chunk) -> None:
        if errors:
            raise errors[0]
        waiting.put(item)

    thread = threading.Thread(target=loop, name="store-writer", daemon=True)
    thread.start()
    try:
        yield put
    finally:
        waiting.put(None)
        thread.join()
    if errors:
        raise errors[0]


def _summary(cfg: ExtractConfig, tmp: Path, source: Source) -> dict[str, Any]:
    """Counts for `result.json`, from what was written."""
    problems = source.problems()
    split_of = dict(zip(problems["problem_id"].to_pylist(), problems["split"].to_pylist(), strict=True))
    rows: dict[str, int] = {split: 0 for split in ("train", "validation", "test")}
    outliers = {"all": 0, "position_0": 0}
    for batch in stream(tmp / ROWS, ["problem_id", "position", "outlier"]):
        names = batch["problem_id"].dictionary.to_pylist()
        counts = np.bincount(batch["problem_id"].indices, minlength=len(names))
        for name, count in zip(names, counts, strict=True):
            rows[split_of[name]] += int(count)
        flags = batch["outlier"].to_numpy(zero_copy_only=False)
        outliers["all"] += int(flags.sum())
        outliers["position_0"] += int((flags & (batch["position"].to_numpy() == 0)).sum())
    warnings = [
        f"split {split} has no rows: {len(split_of)} documents are too few for the shares asked for"
        for split, share in (
            ("validation", cfg.problems.validation),
            ("test", cfg.problems.test),
            ("train", 1),
        )
        if share > 0 and not rows[split]
    ]
    for line in warnings:
        warn(line)
    norms = read_json(tmp / NORMS)
    return {
        "kind": "text",
        "n_rows": source.n_rows,
        "n_problems": len(split_of),
        "rows_by_split": rows,
        "hook_names": list(cfg.hook_names),
        "d_in": source.meta.d_in,
        "n_outliers": outliers["all"],
        "n_outliers_at_position_0": outliers["position_0"],
        "median_norm": norms["median_norm"],
        "n_norm_rows": norms["n_rows"],
        "warnings": warnings,
        "definitions": {
            "n_outliers": f"rows with |x| > {cfg.outlier_factor} x median_norm at any hook",
            "median_norm": f"median of |x| over the first {norms['n_rows']} rows, by hook",
        },
    }


def _depth(hook_name: str, n_layers: int) -> int:
    """Blocks that run before a hook is reached; all of them if the name does not say."""
    if found := re.search(r"\.(\d+)[.:]", f".{hook_name}"):
        return min(int(found[1]) + 1, n_layers)
    return 1 if hook_name.startswith("embed") else n_layers


def _flops(device: str, dtype: torch.dtype, width: int) -> float:
    """Floating-point operations a second of a model this wide, from one small product timed here."""
    x = torch.ones(512, width, dtype=dtype, device=device)
    weight = torch.ones(width, 4 * width, dtype=dtype, device=device)
    x @ weight
    start = time.perf_counter()
    for _ in range(4):
        y = x @ weight
    y.sum().item()
    return 0.5 * 4 * 2 * x.numel() * weight.shape[1] / (time.perf_counter() - start)
