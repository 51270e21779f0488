"""How often every lens reads each of a problem's words, where that is most often, and what to mind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool

from thoughtlens.acts.store.reader import ActivationStore
from thoughtlens.latents.lens.config import LensConfig
from thoughtlens.latents.lens.readings import Reading
from thoughtlens.latents.lens.readout import Readout
from thoughtlens.latents.lens.rows import INTERMEDIATE, NEXT, group_numbers, targets
from thoughtlens.latents.lens.score import Scored, score, with_family

PLACE = {"lens": pa.string(), "hook_name": pa.string(), "thought_idx": pa.int32()}
NUMBERS = ("rate", "low", "high", "rate_top", "null", "null_high", "p", "p_max")
SCHEMA = pa.schema(
    [
        *PLACE.items(),
        *(("column", pa.string()), ("subset", pa.string()), ("n", pa.int64()), ("n_groups", pa.int64())),
        *((name, pa.float64()) for name in NUMBERS),
    ]
)


def summarise(
    cfg: LensConfig, store: ActivationStore, readout: Readout, readings: list[Reading]
) -> list[dict[str, Any]]:
    """One row a lens, hook, thought, column and subset of the problems."""
    groups = group_numbers(store)
    scored: list[Scored] = []
    for alike in _same_rows(readings):
        line = alike[0].cell.line
        tokens = np.stack([r.tokens for r in alike])
        words = tokens if store.meta.kind == "text" else readout.word_of[tokens]
        for target in targets(store, alike[0].cell, readout, cfg.columns):
            for subset, keep in _subsets(store, line).items():
                n_permutations = cfg.n_permutations if subset == "all" else 0
                found = score(words, target, groups[line], keep, n_permutations=n_permutations, seed=cfg.seed)
                for r, one in zip(alike, found, strict=bool(found)):
                    scored.append(Scored({**_place(r), "subset": subset, **one.row}, one.null))
    family = with_family([s for s in scored if s.row["subset"] == "all"])
    return [*family, *(s.row for s in scored if s.row["subset"] != "all")]


def _same_rows(readings: list[Reading]) -> list[list[Reading]]:
    """Readings of the same problems, in the same order, together."""
    found: dict[bytes, list[Reading]] = {}
    for r in readings:
        found.setdefault(r.cell.line.tobytes(), []).append(r)
    return list(found.values())


def _place(r: Reading) -> dict[str, Any]:
    return {"lens": r.lens, "hook_name": r.cell.hook_name, "thought_idx": r.cell.thought_idx}


def _subsets(store: ActivationStore, line: np.ndarray) -> dict[str, Bool[np.ndarray, " n"]]:
    found = {"all": np.ones(len(line), bool)}
    if "correct" in store.problems.column_names:
        right = np.array(store.problems["correct"].to_pylist(), bool)[line]
        found |= {"right": right, "wrong": ~right}
    return found


def summary_table(rows: list[dict[str, Any]]) -> pa.Table:
    """The rows, with the columns that they have even where there are none."""
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def best(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each column and lens, the place where the lens reads it most often; chosen on these problems."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        key = row["column"], row["lens"]
        if row["subset"] == "all" and row["rate"] > found.get(key, {"rate": -1.0})["rate"]:
            found[key] = row
    return list(found.values())


def headline(cfg: LensConfig, rows: list[dict[str, Any]], gains: list[dict[str, Any]]) -> dict[str, Any]:
    """The strongest place of what matters most, for each lens, and the translators' mean gain."""
    found: dict[str, Any] = {}
    chosen = [row for row in best(rows) if row["column"] in (INTERMEDIATE, NEXT)]
    for row in chosen:
        keep = {k: row[k] for k in ("low", "high", "n", "null", "p_max", "hook_name", "thought_idx")}
        found[f"{row['lens']}_{row['column']}"] = {"value": row["rate"], "split": cfg.split, **keep}
    if gains:
        value = float(np.mean([g["kl_gain"] for g in gains]))
        found["kl_gain"] = {"value": value, "n": gains[0]["n"], "split": cfg.split}
    return found


def objections(cfg: LensConfig, store: ActivationStore, rows: list[dict[str, Any]]) -> list[str]:
    """Warnings."""
    said = []
    if "tuned" in cfg.lenses and store.meta.kind == "text":
        said.append("tuned lenses are for thoughts; this store of text was read with the logit lens")
    if not rows:
        said.append(
            "no label of the problems reads as a single token of this model: nothing was compared; name "
            "label columns with columns=[..]"
        )
    return said
