"""Run a model over its problems and store the activations at the chosen hooks."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from jaxtyping import Float
from torch import Tensor

from thoughtlens.acts.extract.background import in_background
from thoughtlens.acts.extract.config import ExtractConfig
from thoughtlens.acts.extract.ranks import joined_parts, write_part
from thoughtlens.acts.extract.records import ExtractOutcome, Norms
from thoughtlens.acts.extract.source import Chunk, Source
from thoughtlens.acts.extract.text import plan_text, size_of_text, text_source
from thoughtlens.acts.extract.thoughts import plan_thoughts, size_of_thoughts, thought_source
from thoughtlens.acts.store.meta import PROBLEMS, ROWS, USED
from thoughtlens.acts.store.tables import stream
from thoughtlens.acts.store.writer import StoreWriter
from thoughtlens.core import (
    DTYPES,
    Json,
    Plan,
    Ranks,
    Result,
    choose_device,
    joined,
    led,
    progress,
    read_json,
    run_stage,
    warn,
    write_json,
)
from thoughtlens.models import not_stated
from thoughtlens.problems import TextConfig, local_file
from thoughtlens.problems import source as problem_source

__all__ = ["Chunk", "ExtractConfig", "Source", "extract", "plan", "write"]

NORMS = "norms.json"
SPOOLS = "spools"
ACCURACY = (
    "right answers / problems: equal numbers (equal texts where the answer is no number); "
    "low, high: Wilson 95 %"
)
MEAN_USED = "mean over the problems of the thoughts fed back before each one stopped"
STOPPED = (
    "{} of {} problems stopped before thought {}: what they did not think has no row in the store, and "
    "n_thoughts_used in problems.parquet says how many thoughts each had"
)
CALIBRATION_ROWS = 4096
QUEUED_BATCHES = 4


def extract(cfg: ExtractConfig, out: str | Path) -> Result:
    """Store activations as an `acts/` directory; an interrupted call continues.

    Started by torchrun, the processes share the passes, and the first one writes the store.

    Rows are token positions of text, or passes of a thought model: then all passes of a problem,
    with the model's own answer beside the right one.

    Raises:
        NotThereError, DataError, ConfigError: the model or the problems cannot be used; see
            `models.load.load`, `models.thought.thoughts.load`, `problems.text` and `problems.source`.
        HookError: the model has no such hook.
        DataError: an activation is NaN, infinite, or too large for `store_dtype`.
        MismatchError: an interrupted extraction was begun with another model.
    """
    if isinstance(cfg.problems, TextConfig):
        file = local_file(cfg.problems)
        inputs = {"problems": file} if file is not None else {}
    else:
        inputs = problem_source.inputs(cfg.problems)
    with joined() as ranks:
        return led(
            ranks,
            lambda work: run_stage("extract", cfg, out, work, inputs=inputs),
            lambda tmp: _work(cfg, tmp, ranks),
        )


def plan(cfg: ExtractConfig) -> Plan:
    """Rows, memory, disk and time that `extract` will need."""
    if isinstance(cfg.problems, TextConfig):
        return plan_text(cfg, cfg.problems)
    return plan_thoughts(cfg, cfg.problems)


def expect(cfg: ExtractConfig, out: Path) -> None:
    """Foretell the store's size at `out`."""
    problems = cfg.problems
    text = isinstance(problems, TextConfig)
    (size_of_text(cfg, problems) if text else size_of_thoughts(cfg, problems)).expect(out)


def _work(cfg: ExtractConfig, tmp: Path, ranks: Ranks) -> ExtractOutcome | Json:
    if isinstance(cfg.problems, TextConfig):
        own = tmp if ranks.first else tmp / SPOOLS / f"{ranks.rank:03d}"
        own.mkdir(parents=True, exist_ok=True)
        source = text_source(cfg, cfg.problems, own)
    else:
        source = thought_source(cfg, cfg.problems, tmp)
    if ranks.size > 1:
        write_part(source, tmp, cfg.shard_rows, ranks)
        ranks.wait()
        source = joined_parts(source, tmp, ranks.size)
    if not ranks.first:
        return {}
    writer = StoreWriter.begin(tmp, source.meta, cfg.shard_rows)
    if not writer.finished:
        write(cfg, tmp, source, writer)
        writer.finish(source.problems())
    result = _outcome(cfg, tmp, source)
    source.close()
    for left in (*tmp.glob("ranks_*"), tmp / SPOOLS):
        shutil.rmtree(left, ignore_errors=True)
    return result


def write(cfg: ExtractConfig, tmp: Path, source: Source, writer: StoreWriter) -> None:
    """Run the model and write; beside an accelerator on another thread meanwhile.

    On a CPU the two would only take each other's cores: a second thread brings its own OpenMP team.
    """
    on_cpu = choose_device(cfg.model.device, DTYPES[cfg.model.dtype]).type == "cpu"
    start = writer.cursor["next_batch"] if writer.cursor else 0
    thresholds, chunks = _thresholds(cfg, tmp, source, source.chunks(start, (0, 1)))

    def append(chunk: Chunk) -> None:
        norms = {hook: x.float().norm(dim=1) for hook, x in chunk.acts.items()}
        outlier = torch.stack([norms[hook] > limit for hook, limit in thresholds.items()]).any(0)
        columns = {**chunk.columns, "outlier": outlier.cpu().numpy()}
        writer.append(chunk.acts, columns, cursor={"next_batch": chunk.index + 1})

    with (
        progress("extract", source.n_rows, start=writer.rows_done) as bar,
        nullcontext(append) if on_cpu else in_background(append, QUEUED_BATCHES) as put,
    ):
        for chunk in chunks:
            put(chunk)
            bar.advance(len(chunk))


def _thresholds(
    cfg: ExtractConfig, tmp: Path, source: Source, chunks: Iterator[Chunk]
) -> tuple[dict[str, float], Iterator[Chunk]]:
    """Norm above which a row of each hook is an outlier, and the chunks with none of them lost."""
    file = tmp / NORMS
    seen: list[Chunk] = []
    if not file.exists():
        n = 0
        for chunk in chunks:
            seen.append(chunk)
            n += len(chunk)
            if n >= CALIBRATION_ROWS:
                break
        median = {hook: _median_norm([c.acts[hook] for c in seen]) for hook in source.meta.hook_names}
        write_json(file, Norms(n_rows=n, median_norm=median).to_json())
    median = Norms.from_json(read_json(file)).median_norm
    limits = {hook: cfg.outlier_factor * median[hook] for hook in source.meta.hook_names}

    def all_chunks() -> Iterator[Chunk]:
        while seen:
            yield seen.pop(0)
        yield from chunks

    return limits, all_chunks()


def _median_norm(acts: list[Float[Tensor, "_ d"]]) -> float:
    norms = torch.cat([x.float().norm(dim=1) for x in acts])
    finite = norms[norms.isfinite()]  # the writer refuses the others, and says where they are
    return float(finite.median()) if len(finite) else 0.0


def _outcome(cfg: ExtractConfig, tmp: Path, source: Source) -> ExtractOutcome:
    """Counts for `result.json`, from what was written."""
    problems = pq.read_table(tmp / PROBLEMS, columns=["problem_id", "split", "group_id"])
    split_of = dict(zip(*(problems[name].to_pylist() for name in ("problem_id", "split")), strict=True))
    n_groups = len(problems["group_id"].unique())
    rows = Counter({split: 0 for split in ("train", "validation", "test")})
    n_outliers = n_first = 0
    for batch in stream(tmp / ROWS, ["problem_id", source.index, "outlier"]):
        ids, place, outlier = batch.columns
        names = ids.dictionary.to_pylist()
        for name, count in zip(names, np.bincount(ids.indices, minlength=len(names)), strict=True):
            rows[split_of[name]] += int(count)
        flags = outlier.to_numpy(zero_copy_only=False)
        n_outliers += int(flags.sum())
        n_first += int((flags & (place.to_numpy() == 0)).sum())
    copies = (
        f"{len(problems) - n_groups} of {len(problems)} documents are copies of another, up to case, space "
        f"and punctuation; copies share a group and a split"
    )
    used = _used(tmp, source)
    n_early = None if used is None else int((used < source.n_thoughts).sum())
    warnings = [
        *source.notes,
        *source.doubts(tmp),
        *(STOPPED.format(n_early, len(split_of), source.n_thoughts) for _ in range(bool(n_early))),
        *([copies] if source.meta.kind == "text" and n_groups < len(problems) else []),
    ] + [
        f"split {split} has no rows: {len(split_of)} problems are too few for the shares asked for"
        for split in source.splits
        if not rows[split]
    ]
    if "test" not in source.splits:
        warnings.append(
            "no problem is in split test: nothing can be measured on problems that no SAE has seen"
        )
    for line in warnings:
        warn(line)
    warnings += not_stated(source.settings, source.assumed)
    norms, accuracy = Norms.from_json(read_json(tmp / NORMS)), source.accuracy(tmp)
    definitions = {
        "n_groups": "groups of problems: one group_id, or the same text up to case, space and punctuation",
        "n_tokens_left_out": "tokens of texts that the model reads and that give no row: special ones, and "
        "of chats those of other roles",
        "n_outliers": f"rows with |x| > {cfg.outlier_factor} x median_norm at any hook",
        "median_norm": f"median of |x| over the first {norms.n_rows} rows, by hook",
    }
    return ExtractOutcome(
        kind=source.meta.kind,
        n_rows=sum(rows.values()),
        n_problems=len(split_of),
        n_groups=n_groups,
        n_tokens_left_out=source.n_left_out if source.meta.kind == "text" else None,
        rows_by_split=dict(rows),
        hook_names=source.meta.hook_names,
        d_in=source.meta.d_in,
        n_outliers=n_outliers,
        n_outliers_at_position_0=n_first if source.index == "position" else None,
        n_outliers_at_thought_idx_0=n_first if source.index == "thought_idx" else None,
        median_norm=norms.median_norm,
        n_norm_rows=norms.n_rows,
        model_accuracy=accuracy,
        n_stopped_early=n_early,
        mean_thoughts_used=None if used is None else float(used.mean()),
        control=source.control,
        model_settings=dict(source.settings) or None,
        model_settings_assumed=list(source.assumed) or None,
        definitions=definitions
        | ({} if accuracy is None else {"model_accuracy": ACCURACY})
        | ({} if used is None else {"mean_thoughts_used": MEAN_USED}),
        warnings=warnings,
    )


def _used(root: Path, source: Source) -> np.ndarray | None:
    """Thoughts of each problem; None where all have all of them."""
    if source.n_thoughts is None:
        return None
    return pq.read_table(root / PROBLEMS, columns=[USED])[USED].to_numpy()
