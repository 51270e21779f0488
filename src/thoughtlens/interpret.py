"""The interpret stage: what each latent responds to, from one streaming pass over the store.

Whole problems (or documents) are read at a time, so that "one example a problem" and intervals over
problems need no memory of what came before.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from thoughtlens import sae as saes
from thoughtlens.config import Config
from thoughtlens.explain import association, sites
from thoughtlens.explain.code_writer import write_codes
from thoughtlens.explain.examples import Examples, LatentStats, Lookup, TopExamples, spread, windows
from thoughtlens.explain.member import Member, member_thoughts
from thoughtlens.explain.preferences import Preferences, Settings
from thoughtlens.explain.tokens import load_tokenizer, token_texts
from thoughtlens.progress import progress
from thoughtlens.sae.crosscoder import Crosscoder
from thoughtlens.sae.io import member_names
from thoughtlens.stage import Plan, read_json, run_stage, write_json
from thoughtlens.store import ActivationStore

CHUNK_CELLS = 4_000_000
"""Problems times latents held at once by the accumulators."""
MARKS = {"first": "first_position", "outlier": "outlier_norm"}
"""Kinds of rows on which a latent says little, and the reason that is given."""
DEFINITIONS = {
    "density": "share of vectors on which the latent's activation is not 0",
    "l0": "mean number of latents with activation != 0 on a vector",
    "everywhere": "dense: density above everywhere_density; first_position, outlier_norm: more than half of "
    "the latent's summed activation, or of its top examples, on first rows of texts, or on rows flagged as "
    "outliers of norm",
    "*_share": "share of the latent's summed activation on such rows",
    "*_examples": "share of the latent's top examples on such rows",
    "top examples": "largest activations, at most one a problem; ties go to the lowest row",
    **association.DEFINITIONS,
    **sites.DEFINITIONS,
}


class InterpretConfig(Config):
    """What to collect about each latent."""

    acts: Path
    """The activation store."""
    sae: Path
    """The SAE(s), trained on it or on a store with the same hooks."""
    split: str | None = None
    """Split whose rows are read; unset: all. Statistics and examples come from these rows."""
    top_k: int = Field(20, ge=1)
    """Examples kept for each latent."""
    context_before: int = Field(16, ge=0)
    """Tokens shown before an example's strongest token."""
    context_after: int = Field(8, ge=0)
    """Tokens shown after it."""
    top_tokens: int = Field(10, ge=1)
    """Preferred tokens kept for each latent."""
    min_units: int = Field(10, ge=2)
    """Problems in which a latent must fire for its preferences to be tested."""
    min_token_fires: int = Field(10, ge=1)
    """Fires of a latent on a token below which that pair is not listed."""
    labels: tuple[str, ...] | None = None
    """Label columns of the problems; unset: all with at most `max_levels` values."""
    max_levels: int = Field(12, ge=2)
    """Values a label column may have."""
    n_permutations: int = Field(200, ge=1)
    """Permutations behind `p_max`."""
    everywhere_density: float = Field(0.5, gt=0, le=1)
    """Density above which a latent counts as firing everywhere."""
    batch_size: int = Field(4096, ge=1)
    """Rows read at a time; a longer document is read whole."""
    present_share: float = Field(0.3, gt=0, le=1)
    """Crosscoders: least length that a latent writes at a site, as a share of its largest, at which it counts
    as present there."""
    codes: bool = True
    """Keep the sparse codes: what explanations and the explorer read. They take 16 bytes a fire, less than
    the bfloat16 vectors they were computed from where L0 is below an eighth of d_in."""
    seed: int = Field(0, ge=0)
    """Seed of the permutations."""


def interpret(cfg: InterpretConfig, out: str | Path) -> dict[str, Any]:
    """Per-latent statistics, top examples and preferences of every SAE in a directory.

    Returns:
        The stage's result: per member its counts, and how many preferences hold.

    Raises:
        MismatchError: the SAE's hook or width is not the store's.
        ConfigError: a label column that the problems do not have.
        DataError: no rows in the split.
    """
    inputs = {"acts": Path(cfg.acts), "sae": Path(cfg.sae)}
    return run_stage("interpret", cfg, out, lambda tmp: _work(cfg, tmp), inputs=inputs)


def plan(cfg: InterpretConfig) -> Plan:
    """Rows, memory, disk and time of the stage; zeros where its inputs do not exist yet."""
    if not (Path(cfg.acts) / "meta.json").is_file() or not Path(cfg.sae).is_dir():
        return Plan(rows=0, memory_bytes=0.0, disk_bytes=0.0, seconds=0.0)
    store = ActivationStore.open(cfg.acts)
    rows, flops, examples, widest = 0, 0.0, 0, 0
    for name in member_names(cfg.sae):
        sae = saes.load(Path(cfg.sae) / name)
        n = store.n_rows * len(sae.hook_names)
        rows, flops = rows + n, flops + 4.0 * n * sae.d_in * sae.d_sae
        examples, widest = examples + sae.d_sae * cfg.top_k, max(widest, sae.d_sae)
    window = cfg.context_before + cfg.context_after + 1
    return Plan(
        rows=rows,
        memory_bytes=0.5e9 + 12.0 * cfg.batch_size * widest + 60.0 * examples * window + 16.0 * store.n_rows,
        disk_bytes=8.0 * examples * window,
        seconds=flops / 2e10 + rows / 2e5,
    )


def _work(cfg: InterpretConfig, tmp: Path) -> dict[str, Any]:
    store = ActivationStore.open(cfg.acts)
    parts = tmp / "parts"
    parts.mkdir(exist_ok=True)
    members = saes.load_members(cfg.sae, joined=True, hooks=store.meta.d_in)
    for i, (name, sae) in enumerate(members.items()):
        if not (parts / f"{i}.json").is_file():
            member = Member(store, name, sae, split=cfg.split, batch_size=cfg.batch_size)
            write_codes(member, tmp / "codes" / str(i), parts / f"{i}.codes")
            _member(cfg, member, parts, i)
    for table in ("latents", "top_examples", "associations"):
        _join([parts / f"{i}.{table}.parquet" for i in range(len(members))], tmp / f"{table}.parquet")
    summaries = [read_json(parts / f"{i}.json") for i in range(len(members))]
    if not cfg.codes:
        shutil.rmtree(tmp / "codes", ignore_errors=True)
    if placed := sorted(parts.glob("*.sites.parquet")):
        _join(placed, tmp / "sites.parquet")
    shutil.rmtree(parts)
    return {
        "split": cfg.split or "all",
        "kind": store.meta.kind,
        "members": summaries,
        "headline": {
            "n_latents": sum(m["d_sae"] for m in summaries),
            "n_alive": sum(m["n_alive"] for m in summaries),
            "n_everywhere": sum(m["n_everywhere"] for m in summaries),
        },
        "definitions": DEFINITIONS,
        "warnings": [w for m in summaries for w in m["warnings"]],
    }


def _member(cfg: InterpretConfig, member: Member, parts: Path, i: int) -> None:
    rows, d_sae = member.rows, member.sae.d_sae
    stats, examples = LatentStats(d_sae), TopExamples(rows.row, d_sae, cfg.top_k)
    preferences = Preferences(member, _settings(cfg))
    marks = {name: rows.columns[name].astype(bool) for name in MARKS if name in rows.columns}
    units = max(1, CHUNK_CELLS // d_sae)
    with progress(f"interpret {member.name}", len(rows.row)) as bar:
        for low, high in rows.chunks(cfg.batch_size, units):
            fires = member.fires(low, high)
            n_vectors = int(rows.first[high] - rows.first[low]) * len(member.hook_names)
            stats.update(fires, n_vectors, high - low, {n: c[fires.place] for n, c in marks.items()})
            examples.update(fires)
            preferences.update(fires, low, high)
            bar.advance(int(rows.first[high] - rows.first[low]))
    found = examples.compute()
    associations, tested = preferences.compute()
    of_examples = {name: _example_share(found, mark, d_sae) for name, mark in marks.items()}
    latents = _latents_table(cfg, member, stats, of_examples)
    pq.write_table(latents, parts / f"{i}.latents.parquet")
    pq.write_table(_examples_table(cfg, member, found), parts / f"{i}.top_examples.parquet")
    pq.write_table(associations, parts / f"{i}.associations.parquet")
    summary = _summary(cfg, member, stats, latents, tested)
    if isinstance(member.sae, Crosscoder):
        found_sites = sites.place(member, stats, cfg.present_share)
        pq.write_table(sites.table(member, found_sites), parts / f"{i}.sites.parquet")
        summary["persistence"] = sites.counts(found_sites)
    write_json(parts / f"{i}.json", summary)


def _settings(cfg: InterpretConfig) -> Settings:
    return Settings(**{name: getattr(cfg, name) for name in Settings.__dataclass_fields__})


def _example_share(found: Examples, mark: np.ndarray, d_sae: int) -> np.ndarray:
    """Share of each latent's top examples that are on marked rows."""
    hits = np.bincount(found.latent, mark[found.place], minlength=d_sae)
    return hits / np.maximum(np.bincount(found.latent, minlength=d_sae), 1)


def _latents_table(
    cfg: InterpretConfig, member: Member, stats: LatentStats, examples: dict[str, np.ndarray]
) -> pa.Table:
    d_sae = member.sae.d_sae
    reason = np.full(d_sae, None, object)
    shares = {}
    for name, why in reversed(MARKS.items()):
        share, of_examples = stats.marked_share(name), examples.get(name, np.zeros(d_sae))
        shares |= {f"{why}_share": share, f"{why}_examples": of_examples}
        reason[(np.maximum(share, of_examples) > 0.5) & (stats.units >= cfg.min_units)] = why
    reason[stats.density > cfg.everywhere_density] = "dense"
    return pa.table(
        {
            "member": pa.array([member.name] * d_sae).dictionary_encode(),
            "latent": np.arange(d_sae, dtype=np.int32),
            "n_vectors": np.full(d_sae, stats.n_vectors),
            "n_fires": stats.fires,
            "density": stats.density,
            "n_problems": stats.units,
            "mean_active": stats.mean_active,
            "max_active": stats.max,
            **shares,
            "everywhere": np.array([r is not None for r in reason]),
            "everywhere_reason": pa.array(reason, pa.string()),
        }
    )


def _examples_table(cfg: InterpretConfig, member: Member, found: Examples) -> pa.Table:
    rows, problems = member.rows, member.store.problems
    line = rows.problem[rows.unit[found.place]]
    text = next((c for c in ("question", "text") if c in problems.column_names), None)
    common = {
        "member": pa.array([member.name] * len(line)).dictionary_encode(),
        "latent": found.latent.astype(np.int32),
        "rank": found.rank.astype(np.int32),
        "value": found.value.astype(np.float32),
        "row": rows.row[found.place],
        "hook_name": pa.array(np.array(member.hook_names, object)[found.hook], pa.string()),
        "problem_id": problems["problem_id"].combine_chunks().take(pa.array(line)),
        "split": problems["split"].combine_chunks().take(pa.array(line)),
    }
    if member.text:
        return pa.table(common | _text_windows(cfg, member, found))
    extra = {} if text is None else {"question": problems[text].combine_chunks().take(pa.array(line))}
    return pa.table(common | extra | _thought_strips(member, found))


def _text_windows(cfg: InterpretConfig, member: Member, found: Examples) -> dict[str, pa.Array]:
    rows, meta = member.rows, member.store.meta
    start, stop = windows(
        found.place, rows.columns["stretch"], before=cfg.context_before, after=cfg.context_after
    )
    place, lengths = spread(start, stop), stop - start
    asked = Lookup(
        place, np.repeat(found.hook, lengths), np.repeat(found.latent, lengths),
        len(member.hook_names), member.sae.d_sae,
    )  # fmt: skip
    acts = _look_up(member, asked, "read examples")
    tokens = rows.columns["token_id"][place]
    texts = token_texts(load_tokenizer(meta.model, meta.model_revision), np.unique(tokens))
    offsets = pa.array(np.r_[0, np.cumsum(lengths)], pa.int32())
    names = pa.array([texts[t] for t in tokens.tolist()], pa.string())
    return {
        "position": pa.array(rows.columns["position"][found.place]),
        "peak": pa.array((found.place - start).astype(np.int32)),
        "token_ids": pa.ListArray.from_arrays(offsets, pa.array(tokens)),
        "tokens": pa.ListArray.from_arrays(offsets, names),
        "acts": pa.ListArray.from_arrays(offsets, pa.array(acts)),
    }


def _thought_strips(member: Member, found: Examples) -> dict[str, pa.Array]:
    """The latent's activation on every (hook, thought) of the example's problem, hook-major."""
    rows, hooks = member.rows, len(member.hook_names)
    unit = rows.unit[found.place]
    start, stop = rows.first[unit], rows.first[unit + 1]
    place = spread(np.repeat(start, hooks), np.repeat(stop, hooks))
    per_hook = np.repeat(stop - start, hooks)
    hook = np.repeat(np.tile(np.arange(hooks), len(unit)), per_hook)
    latent = np.repeat(found.latent, (stop - start) * hooks)
    acts = _look_up(member, Lookup(place, hook, latent, hooks, member.sae.d_sae), "read examples")
    offsets = pa.array(np.r_[0, np.cumsum((stop - start) * hooks)], pa.int32())
    names = pa.array(np.array(member.hook_names, object)[hook], pa.string())
    return {
        "thought_idx": pa.array(rows.columns["thought_idx"][found.place]),
        "strip_hook": pa.ListArray.from_arrays(offsets, names.dictionary_encode()),
        "strip_thought": pa.ListArray.from_arrays(offsets, pa.array(rows.columns["thought_idx"][place])),
        "acts": pa.ListArray.from_arrays(offsets, pa.array(acts)),
    }


def _look_up(member: Member, asked: Lookup, label: str) -> np.ndarray:
    with progress(label, len(asked.places)) as bar:
        for low in range(0, len(asked.places), member.batch_size):
            places = asked.places[low : low + member.batch_size]
            asked.update(member.at(places))
            bar.advance(len(places))
    return asked.compute()


def _summary(
    cfg: InterpretConfig, member: Member, stats: LatentStats, latents: pa.Table, tested: list[dict[str, Any]]
) -> dict[str, Any]:
    alive = int((stats.fires > 0).sum())
    everywhere = int(latents["everywhere"].to_numpy().sum())
    warnings = []
    if everywhere:
        warnings.append(
            f"{member.name}: {everywhere} of {alive} live latents fire everywhere, "
            f"on first tokens or on outlier norms: they say little about any one text"
        )
    return {
        "member": member.name,
        "hook_names": member.sae.hook_names,
        "thoughts": member_thoughts(member.store, member.sae),
        "kind": member.sae.kind,
        "d_sae": member.sae.d_sae,
        "split": cfg.split or "all",
        "n": stats.n_vectors,
        "n_problems": stats.n_units,
        "l0": stats.fires.sum() / max(stats.n_vectors, 1),
        "n_alive": alive,
        "n_everywhere": everywhere,
        "preferences": tested,
        "warnings": warnings,
    }


def _join(files: list[Path], target: Path) -> None:
    tables = [pq.read_table(file) for file in files]
    part = target.with_name(target.name + ".part")
    pq.write_table(pa.concat_tables(tables).combine_chunks(), part, compression="zstd")
    part.replace(target)
