"""The tables of one member, each computed from its codes and written once."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from thoughtlens.core import progress, read_json, whole, write_json
from thoughtlens.latents.codes.coded import Coded
from thoughtlens.latents.interpret.config import InterpretConfig
from thoughtlens.latents.interpret.shown import examples_table
from thoughtlens.latents.stats.examples import Examples, decile_examples, top_examples
from thoughtlens.latents.stats.preferences import encode_labels, label_columns, preferences
from thoughtlens.latents.stats.statistics import (
    LatentStats,
    coactive,
    common_tokens,
    latent_stats,
    level_counts,
)

MARKS = {"first": "first_position", "outlier": "outlier_norm"}
"""Kinds of rows on which a latent says little, and the reason that is given."""
TABLES = ("latents", "top_examples", "decile_examples", "associations", "counts", "coactivation")
BLOCK = 1024
"""Latents whose examples are shown at a time."""


def write_tables(cfg: InterpretConfig, coded: Coded, parts: Path, i: int) -> LatentStats:
    """All tables of member number `i` as `parts/<i>.<table>.parquet`; what is there is not done again.

    Returns:
        The statistics behind `latents`. What was tested is in `parts/<i>.tested.json`.
    """
    fires, rows = coded.fires, coded.rows
    marks = {name: rows.columns[name].astype(bool) for name in MARKS if name in rows.columns}
    stats = latent_stats(fires, marks)
    top = top_examples(fires, rows.row, cfg.top_k)
    deciles, drawn = decile_examples(fires, cfg.per_decile, cfg.seed)

    def tested() -> Iterator[pa.Table]:
        table, found = preferences(coded, cfg.settings())
        write_json(parts / f"{i}.tested.json", {"preferences": found})
        yield table

    makers: dict[str, Callable[[], Iterable[pa.Table]]] = {
        "latents": lambda: [_latents(cfg, coded, stats, deciles, top, marks)],
        "top_examples": lambda: _shown(cfg, coded, top),
        "decile_examples": lambda: _shown(cfg, coded, drawn),
        "associations": tested,
        "counts": lambda: _counts(cfg, coded),
        "coactivation": lambda: [_coactivation(cfg, coded)],
    }
    with progress(f"interpret {coded.name}", len(makers), "tables") as bar:
        for name, make in makers.items():
            if not (file := parts / f"{i}.{name}.parquet").is_file():
                write_parts(file, make())
            bar.advance(1)
    return stats


def tested_of(parts: Path, i: int) -> list[dict[str, Any]]:
    """What was tested for member number `i`."""
    return read_json(parts / f"{i}.tested.json")["preferences"]


def write_parts(file: Path, tables: Iterable[pa.Table]) -> None:
    """One Parquet file from tables of one schema, never all in memory; whole once it has its name."""
    tables = iter(tables)
    first = next(tables)
    with whole(file) as part, pq.ParquetWriter(part, first.schema, compression="zstd") as writer:
        for table in itertools.chain([first], tables):
            writer.write_table(table)


def join(files: list[Path], target: Path) -> None:
    """The tables of all members as one file."""
    if len(files) == 1:
        shutil.copyfile(files[0], target)
        return
    write_parts(target, (group for file in files for group in _groups(file)))


def _groups(file: Path) -> Iterator[pa.Table]:
    with pq.ParquetFile(file) as table:
        for i in range(table.num_row_groups):
            yield table.read_row_group(i)


def _latents(
    cfg: InterpretConfig,
    coded: Coded,
    stats: LatentStats,
    deciles: np.ndarray,
    top: Examples,
    marks: dict[str, np.ndarray],
) -> pa.Table:
    d_sae, nothing = coded.fires.d_sae, np.zeros(coded.fires.d_sae)
    reason = np.full(d_sae, None, object)
    shares, place = {}, top.vector // coded.fires.n_hooks
    for name, why in reversed(MARKS.items()):
        share = stats.marked_share(list(marks).index(name)) if name in marks else nothing
        of_examples = _example_share(top.latent, marks[name][place], d_sae) if name in marks else nothing
        shares |= {f"{why}_share": share, f"{why}_examples": of_examples}
        reason[(np.maximum(share, of_examples) > 0.5) & (stats.units >= cfg.min_units)] = why
    reason[stats.density > cfg.everywhere_density] = "dense"
    return pa.table(
        {
            "member": _name(coded, d_sae),
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
            "histogram": _lists(stats.histogram),
            "deciles": _lists(deciles.astype(np.float32)),
        }
    )


def _example_share(latent: np.ndarray, mark: np.ndarray, d_sae: int) -> np.ndarray:
    """Share of each latent's top examples that are on marked rows."""
    return np.bincount(latent, mark, minlength=d_sae) / np.maximum(np.bincount(latent, minlength=d_sae), 1)


def _shown(cfg: InterpretConfig, coded: Coded, found: Examples) -> Iterator[pa.Table]:
    """The table of examples, a block of latents at a time; an empty one has its columns too."""
    for low in range(0, coded.fires.d_sae, BLOCK):
        own = slice(*np.searchsorted(found.latent, [low, low + BLOCK]))
        decile = None if found.decile is None else found.decile[own]
        block = Examples(found.latent[own], found.rank[own], found.value[own], found.vector[own], decile)
        yield examples_table(cfg, coded, block)


def _counts(cfg: InterpretConfig, coded: Coded) -> Iterator[pa.Table]:
    """Fires of each latent by thought, position, hook, label and on its most frequent tokens."""
    fires, rows = coded.fires, coded.rows
    factors = coded.inside()
    if len(factors) == 2 and not coded.text:
        (thought, thoughts), (hook, hooks) = factors["thought"], factors["hook"]
        names = [f"{h} thought {t}" for h in hooks for t in thoughts]
        factors["cell"] = hook * len(thoughts) + thought, names
    for name in label_columns(coded.problems, cfg.labels, cfg.max_levels):
        codes, levels = encode_labels(coded.problems[name])
        factors[f"label:{name}"] = np.repeat(codes[rows.problem][rows.unit], fires.n_hooks), levels
    for by, (level, names) in factors.items():
        found, n = level_counts(fires, level, len(names))
        latent, at = np.nonzero(found)
        yield _count_table(
            coded, by, latent, pa.array(names, pa.string()).take(pa.array(at)), found[latent, at], n[at]
        )
    if coded.text:
        token = rows.columns["token_id"]
        found, n_fires = common_tokens(fires, token, cfg.top_tokens)
        latent, at = np.nonzero(found >= 0)
        known, which = np.unique(found[latent, at], return_inverse=True)
        names = coded.token_names(known.tolist())
        texts = pa.array([names[t] for t in known.tolist()], pa.string()).take(pa.array(which))
        n = (np.bincount(token, minlength=1) * fires.n_hooks)[found[latent, at]]
        yield _count_table(coded, "token", latent, texts, n_fires[latent, at], n)


def _count_table(
    coded: Coded, by: str, latent: np.ndarray, level: pa.Array, n_fires: np.ndarray, n: np.ndarray
) -> pa.Table:
    return pa.table(
        {
            "member": _name(coded, len(latent)),
            "latent": latent.astype(np.int32),
            "by": pa.array([by] * len(latent), pa.string()),
            "level": level,
            "n_fires": n_fires,
            "n": n,
        }
    )


def _coactivation(cfg: InterpretConfig, coded: Coded) -> pa.Table:
    by_vector = coded.codes.by_vector
    other, both, jaccard = coactive(coded.fires, by_vector["indptr"], by_vector["indices"], cfg.coactive)
    latent, rank = np.nonzero(other >= 0)
    return pa.table(
        {
            "member": _name(coded, len(latent)),
            "latent": latent.astype(np.int32),
            "rank": rank.astype(np.int32),
            "other": other[latent, rank].astype(np.int32),
            "n_both": both[latent, rank],
            "jaccard": jaccard[latent, rank],
        }
    )


def _name(coded: Coded, n: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(np.zeros(n, np.int32), pa.array([coded.name]))


def _lists(values: np.ndarray) -> pa.Array:
    offsets = np.arange(0, values.size + 1, values.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.reshape(-1)))
