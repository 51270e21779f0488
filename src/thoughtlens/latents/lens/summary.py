"""How often every lens reads each of a problem's words, where that is most often, and what to mind."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool

from thoughtlens.acts import ActivationStore
from thoughtlens.core import Number
from thoughtlens.latents.codes.readout import LensInput
from thoughtlens.latents.lens.readings import Reading
from thoughtlens.latents.lens.records import HitRow, KLRow, ReadRate, SummaryRow
from thoughtlens.latents.lens.rows import INTERMEDIATE, NEXT, group_numbers, targets
from thoughtlens.latents.lens.score import Scored, family_p, score

HEADLINE = (INTERMEDIATE, NEXT)
"""Columns that the headline is about."""


def summarise(given: LensInput, readings: list[Reading]) -> tuple[list[SummaryRow], list[HitRow]]:
    """A row for each lens, hook, thought, column and subset, first those of all problems; and what is read of
    each problem at the best places of the headline."""
    cfg, store, readout = given.cfg, given.store, given.readout
    groups = group_numbers(store)
    found: list[tuple[Reading, str, str, Scored]] = []
    for alike in _same_rows(readings):
        line = alike[0].cell.line
        tokens = np.stack([r.tokens for r in alike])
        words = tokens if store.meta.kind == "text" else readout.word_of[tokens]
        for target in targets(store, alike[0].cell, readout, cfg.columns):
            for subset, keep in _subsets(store, line).items():
                n_permutations = cfg.n_permutations if subset == "all" else 0
                scored = score(
                    words, target, groups[line], keep, n_permutations=n_permutations, seed=cfg.seed
                )
                found += [(r, target.name, subset, one) for r, one in zip(alike, scored, strict=bool(scored))]
    family = [one for one in found if one[2] == "all"]
    p_max = family_p([scored for *_, scored in family])
    rows = [_row(*one, p) for one, p in zip(family, p_max, strict=True)]
    chosen = [id(row) for row in best(rows) if row.column in HEADLINE]
    hits = [
        hit
        for row, (reading, *_, scored) in zip(rows, family, strict=True)
        if id(row) in chosen
        for hit in _hits(store, row, reading.cell.line[scored.at], scored)
    ]
    return rows + [_row(*one, None) for one in found if one[2] != "all"], hits


def _hits(store: ActivationStore, row: SummaryRow, line: np.ndarray, scored: Scored) -> list[HitRow]:
    own, index, n = np.unique(line, return_inverse=True, return_counts=True)
    hits, ids = np.bincount(index, weights=scored.hits), store.problems["problem_id"].take(own).to_pylist()
    return [
        HitRow(lens=row.lens, column=row.column, problem_id=name, n=int(of), hits=int(right))
        for name, of, right in zip(ids, n, hits, strict=True)
    ]


def _row(r: Reading, column: str, subset: str, scored: Scored, p_max: float | None) -> SummaryRow:
    return SummaryRow(
        **r.place,
        column=column,
        subset=subset,
        n=scored.n,
        n_groups=scored.n_groups,
        rate=scored.rate,
        low=scored.low,
        high=scored.high,
        rate_top=scored.rate_top,
        null=float(scored.null.mean()) if len(scored.null) else None,
        null_high=float(np.quantile(scored.null, 0.95)) if len(scored.null) else None,
        p=scored.p,
        p_max=p_max,
    )


def _same_rows(readings: list[Reading]) -> list[list[Reading]]:
    """Readings of the same problems, in the same order, together."""
    found: dict[bytes, list[Reading]] = {}
    for r in readings:
        found.setdefault(r.cell.line.tobytes(), []).append(r)
    return list(found.values())


def _subsets(store: ActivationStore, line: np.ndarray) -> dict[str, Bool[np.ndarray, " n"]]:
    found = {"all": np.ones(len(line), bool)}
    if "correct" in store.problems.column_names:
        right = np.array(store.problems["correct"].to_pylist(), bool)[line]
        found |= {"right": right, "wrong": ~right}
    return found


def best(rows: list[SummaryRow]) -> list[SummaryRow]:
    """For each column and lens, the place where the lens reads it most often; chosen on these problems."""
    found: dict[tuple[str, str], SummaryRow] = {}
    for row in rows:
        key = row.column, row.lens
        if row.subset == "all" and (key not in found or row.rate > found[key].rate):
            found[key] = row
    return list(found.values())


def headline(split: str, rows: list[SummaryRow], gains: list[KLRow]) -> dict[str, ReadRate | Number]:
    """The strongest place of what matters most, for each lens, and the translators' mean gain."""
    found: dict[str, ReadRate | Number] = {}
    for row in best(rows):
        if row.column in HEADLINE:
            found[f"{row.lens}_{row.column}"] = ReadRate(
                value=row.rate,
                low=row.low,
                high=row.high,
                n=row.n,
                split=split,
                null=row.null,
                p_max=row.p_max,
                hook_name=row.hook_name,
                thought_idx=row.thought_idx,
            )
    if gains:
        value = float(np.mean([row.kl_gain for row in gains]))
        found["kl_gain"] = Number(value=value, n=gains[0].n, split=split)
    return found


def objections(given: LensInput, rows: list[SummaryRow]) -> list[str]:
    """Warnings."""
    said = []
    if "tuned" in given.cfg.lenses and given.store.meta.kind == "text":
        said.append("tuned lenses are for thoughts; this store of text was read with the logit lens")
    if not rows:
        said.append(
            "no label of the problems reads as a single token of this model: nothing was compared; name "
            "label columns with columns=[..]"
        )
    return said
