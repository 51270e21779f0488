"""The stage: every member encoded once, its tables, and what the result says of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from thoughtlens.acts.store.reader import ActivationStore
from thoughtlens.core import read_json, run_stage, write_json
from thoughtlens.latents.codes.code_writer import write_codes
from thoughtlens.latents.codes.coded import Coded
from thoughtlens.latents.codes.member import Member, member_thoughts
from thoughtlens.latents.interpret.config import InterpretConfig
from thoughtlens.latents.interpret.tables import TABLES, join, tested_of, write_tables
from thoughtlens.latents.stats import association, sites
from thoughtlens.latents.stats.statistics import HISTOGRAM_EDGES, LatentStats
from thoughtlens.sae.formats.io import load_members
from thoughtlens.sae.kinds.crosscoder import Crosscoder

DEFINITIONS = {
    "density": "share of vectors on which the latent's activation is not 0",
    "l0": "mean number of latents with activation != 0 on a vector",
    "everywhere": "dense: density above everywhere_density; first_position, outlier_norm: more than half of "
    "the latent's summed activation, or of its top examples, on first rows of texts, or on rows flagged as "
    "outliers of norm",
    "*_share": "share of the latent's summed activation on such rows",
    "*_examples": "share of the latent's top examples on such rows",
    "top examples": "largest activations, at most one a problem; ties go to the lowest row",
    "histogram": "fires of the latent whose activation lies between histogram_edges, four bins an octave; "
    "the first and last bin also hold what lies beyond",
    "deciles": "quantiles 0, 0.1, ..., 1 of the latent's activation over its fires, interpolated linearly",
    "decile examples": "fires drawn uniformly without replacement from each tenth of the latent's fires by "
    "rank of activation; decile 10 is the strongest",
    "counts": "n_fires: fires of the latent on the n vectors of the level",
    "jaccard": "vectors on which both latents fire over vectors on which at least one does",
    **association.DEFINITIONS,
    **sites.DEFINITIONS,
}


def interpret(cfg: InterpretConfig, out: str | Path) -> dict[str, Any]:
    """Codes, per-latent statistics, examples and preferences of every SAE in a directory.

    Returns:
        The stage's result: per member its counts, and how many preferences hold.

    Raises:
        MismatchError: the SAE's hook or width is not the store's.
        ConfigError: a label column that the problems do not have.
        DataError: no rows in the split.
    """
    inputs = {"acts": Path(cfg.acts), "sae": Path(cfg.sae)}
    return run_stage("interpret", cfg, out, lambda tmp: _work(cfg, tmp), inputs=inputs)


def _work(cfg: InterpretConfig, tmp: Path) -> dict[str, Any]:
    store = ActivationStore.open(cfg.acts)
    parts = tmp / "parts"
    parts.mkdir(exist_ok=True)
    members = load_members(cfg.sae, joined=True, hooks=store.meta.d_in)
    for i, (name, sae) in enumerate(members.items()):
        if not (parts / f"{i}.json").is_file():
            _member(cfg, Member(store, name, sae, split=cfg.split, batch_size=cfg.batch_size), tmp, parts, i)
    for table in TABLES:
        join([parts / f"{i}.{table}.parquet" for i in range(len(members))], tmp / f"{table}.parquet")
    summaries = [read_json(parts / f"{i}.json") for i in range(len(members))]
    if placed := sorted(parts.glob("*.sites.parquet"), key=lambda file: int(file.name.split(".")[0])):
        join(placed, tmp / "sites.parquet")
    if not cfg.codes:
        shutil.rmtree(tmp / "codes", ignore_errors=True)
    shutil.rmtree(parts)
    return {
        "split": cfg.split or "all",
        "kind": store.meta.kind,
        "members": summaries,
        "histogram_edges": list(HISTOGRAM_EDGES),
        "headline": {
            "n_latents": sum(m["d_sae"] for m in summaries),
            "n_alive": sum(m["n_alive"] for m in summaries),
            "n_everywhere": sum(m["n_everywhere"] for m in summaries),
        },
        "definitions": DEFINITIONS,
        "warnings": [w for m in summaries for w in m["warnings"]],
    }


def _member(cfg: InterpretConfig, member: Member, tmp: Path, parts: Path, i: int) -> None:
    codes = write_codes(member, tmp / "codes" / str(i), parts / f"{i}.codes")
    if cfg.codes_parquet and cfg.codes:
        codes.write_parquet(codes.root / "codes.parquet")
    stats = write_tables(cfg, Coded.of(member, codes), parts, i)
    everywhere = pq.read_table(parts / f"{i}.latents.parquet", columns=["everywhere"])[
        "everywhere"
    ].to_pylist()
    summary = _summary(cfg, member, stats, sum(everywhere)) | {"preferences": tested_of(parts, i)}
    if isinstance(member.sae, Crosscoder):
        found_sites = sites.place(member, stats, cfg.present_share)
        pq.write_table(sites.table(member, found_sites), parts / f"{i}.sites.parquet")
        summary["persistence"] = sites.counts(found_sites)
    write_json(parts / f"{i}.json", summary)


def _summary(cfg: InterpretConfig, member: Member, stats: LatentStats, everywhere: int) -> dict[str, Any]:
    alive = int((stats.fires > 0).sum())
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
        "warnings": warnings,
    }
