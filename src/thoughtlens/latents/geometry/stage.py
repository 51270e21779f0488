"""The geometry stage: which latents lie near each other, and which of them another SAE has too.

Two SAEs of one model are compared by their decoder directions; SAEs of any two models by what their latents
do on the problems that both were shown. Every score stands beside what chance gives.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from thoughtlens.core import Number, Parts, Plan, Result, progress, run_stage, schema, warn
from thoughtlens.latents.geometry.blocks import CANDIDATES
from thoughtlens.latents.geometry.config import GeometryConfig
from thoughtlens.latents.geometry.pairs import neighbours_table, open_collections, pairs_of
from thoughtlens.latents.geometry.records import (
    ActivationPair,
    BesideChance,
    ComparedPair,
    DecoderPair,
    GeometryOutcome,
    MatchRow,
    Stability,
)
from thoughtlens.sae import differences, load, member_names, member_path

DEFINITIONS = {
    "cosine": "of two decoder rows; comparisons leave out rows of zeros and, where a store was given, "
    "latents that never fire there",
    "mmcs_of_a": "mean over the latents of the first SAE of the best signed cosine with one of the other "
    "(Sharkey, Braun and Millidge 2022); mmcs_of_b: the other way round",
    "mcc": "mean |cosine| (activation: mean held-out correlation) over the best one-to-one assignment, of "
    "as many pairs as the smaller side has latents; mcc_exact: false where it was sought among the "
    f"{CANDIDATES} nearest of either side",
    "*_chance": "the same for independent Gaussian directions of the same numbers and width (activation: "
    "with the other side's problems shuffled)",
    "score (activation)": "Pearson correlation of a latent with its best match over units; the match is "
    "chosen on one half of the groups and scored on the other; null_score: the same after the other side's "
    "units were shuffled",
    "p_max": "share of shuffles of the held-out units in which any latent's correlation with its match "
    "reaches this one's (Westfall and Young 1993)",
    "untrained": "SAEs of the same kinds and widths with random directions (lengths and biases of the given "
    "ones), on the same units: they read the same activations and so agree too",
    "p_untrained": "by how much a latent's score exceeds the better of its scores with two untrained SAEs in "
    "place of the other one, among the differences of these two over all latents, and among the same margin "
    "of an untrained SAE's latents in place of its own; the larger p of the two",
    "share_transferred": "share of the first SAE's latents with p_max <= 0.05 and p_untrained <= 0.05; low, "
    "high: Wilson 95 %",
    "share_above_permuted": "share with p_max <= 0.05, whatever untrained SAEs reach; "
    "share_above_permuted_untrained: the same with an untrained SAE in place of the other one",
    "share_matched_chance": "share_matched of independent Gaussian directions",
    "stability": "mean mcc (and share of assigned pairs at or above each |cosine|) over all pairs of SAEs of "
    "the same member name",
}


def geometry(cfg: GeometryConfig, out: str | Path) -> Result:
    """Neighbours within every member, and every pair of members that the config asks for.

    The directory holds `neighbours.parquet` and `matches.parquet`.

    Raises:
        MismatchError: an SAE and a store that do not belong together, or problems that are not the same.
        ConfigError: nothing to compare by, or an unknown member.
        DataError: too few shared problems.
    """
    inputs = {"sae": cfg.sae, "acts": cfg.acts}
    inputs |= {f"other_{i}": path for i, path in enumerate(cfg.others)}
    inputs |= {f"other_acts_{i}": path for i, path in enumerate(cfg.other_acts)}
    given = {name: Path(path) for name, path in inputs.items() if path is not None}
    return run_stage("geometry", cfg, out, lambda tmp: _work(cfg, tmp), inputs=given)


def plan(cfg: GeometryConfig) -> Plan:
    """Rows, memory, disk and time of the stage; zeros where its inputs do not exist yet."""
    if not Path(cfg.sae).is_dir():
        return Plan(rows=0, memory_bytes=0.0, disk_bytes=0.0, seconds=0.0)
    saes = [load(member_path(cfg.sae, name)) for name in member_names(cfg.sae)]
    widest, latents = max(sae.d_sae for sae in saes), sum(sae.d_sae for sae in saes)
    d = max(sae.d_in for sae in saes)
    n_pairs = len(saes) * (len(cfg.others) or (len(saes) - 1) / 2)
    flops = 2.0 * widest**2 * (d * len(saes) + 4 * n_pairs * max(d, cfg.n_units))
    return Plan(
        rows=latents,
        memory_bytes=6e8 + 8.0 * widest * max(d, cfg.n_units),
        disk_bytes=latents * cfg.k * 12.0 + n_pairs * widest * 40.0,
        seconds=3 + flops / 3e10,
    )


@torch.no_grad()
def _work(cfg: GeometryConfig, tmp: Path) -> GeometryOutcome:
    collections, parts = open_collections(cfg), Parts(tmp)
    pq.write_table(neighbours_table(cfg, collections[0]), tmp / "neighbours.parquet", compression="zstd")
    pairs = pairs_of(cfg, collections)
    every = range(len(pairs))
    warnings = [line for pair in pairs if (line := pair.doubt())]
    for own in collections:
        warnings += [] if own.acts is None else differences(own.members, own.store)
    for line in warnings:
        warn(line)
    with progress("geometry", len(pairs), "pairs") as bar:
        for i in parts.todo(every):
            found, matches = pairs[i].compare(cfg)
            parts.write_table(i, "matches", matches)
            parts.finish(i, found)
            bar.advance(1)
    parts.join(every, "matches", tmp / "matches.parquet", schema(MatchRow))
    rows = [row for pair in parts.summaries(every, ComparedPair) for row in pair.rows]
    return GeometryOutcome(
        split=cfg.split or "all",
        members=list(collections[0].members),
        pairs=rows,
        stability=stability(rows) if cfg.others else [],
        headline=_headline(rows),
        definitions=DEFINITIONS,
        warnings=warnings,
    )


def stability(rows: list[DecoderPair | ActivationPair]) -> list[Stability]:
    """Per member name, how far the SAEs of several directories agree by decoder."""
    groups: dict[str, list[DecoderPair]] = defaultdict(list)
    for row in rows:
        if isinstance(row, DecoderPair) and row.member == row.other_member:
            groups[row.member].append(row)
    return [
        Stability(
            member=member,
            n_pairs=len(found),
            mcc=float(np.mean([row.mcc for row in found])),
            mcc_least=min(row.mcc for row in found),
            mcc_chance=float(np.mean([row.mcc_chance for row in found])),
            share_matched=_mean_of([row.share_matched for row in found]),
            share_matched_chance=_mean_of([row.share_matched_chance for row in found]),
        )
        for member, found in groups.items()
    ]


def _mean_of(shares: list[dict[str, float]]) -> dict[str, float]:
    return {t: float(np.mean([share[t] for share in shares])) for t in shares[0]}


def _headline(rows: list[DecoderPair | ActivationPair]) -> dict[str, BesideChance | Number]:
    """What the first pair of either kind says."""
    found: dict[str, BesideChance | Number] = {}
    for row in rows:
        if isinstance(row, DecoderPair):
            found.setdefault("mcc", BesideChance(value=row.mcc, chance=row.mcc_chance, n=row.n))
        else:
            low, high = row.share_transferred_low, row.share_transferred_high
            share = Number(value=row.share_transferred, low=low, high=high, n=row.n, split=row.split)
            found.setdefault("share_transferred", share)
            if row.share_above_permuted is not None and row.share_above_permuted_untrained is not None:
                chance = row.share_above_permuted_untrained
                above = BesideChance(value=row.share_above_permuted, chance=chance, n=row.n, split=row.split)
                found.setdefault("share_above_permuted", above)
    return found
