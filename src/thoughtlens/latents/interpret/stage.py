"""The interpret stage: what each latent responds to, from one encoding pass over the store.

The pass streams the sparse codes to disk, by vector and by latent (`latents.codes`); every table is then
computed from there, latent by latent, so that quantiles are exact, memory does not grow with the store's
activations, and a killed stage goes on after the last table it finished.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from thoughtlens.acts import ActivationStore, StoreSize
from thoughtlens.core import Parts, Plan, Result, run_stage
from thoughtlens.latents.codes import association
from thoughtlens.latents.codes.code_writer import write_codes
from thoughtlens.latents.codes.coded import Coded
from thoughtlens.latents.codes.doubts import doubtful_numbers, followed
from thoughtlens.latents.codes.labels import (
    Label,
    alike,
    encode_groups,
    encode_numbers,
    is_number,
    not_told_apart,
)
from thoughtlens.latents.codes.member import Member, member_thoughts
from thoughtlens.latents.codes.statistics import HISTOGRAM_EDGES
from thoughtlens.latents.interpret import sites
from thoughtlens.latents.interpret.config import InterpretConfig
from thoughtlens.latents.interpret.preferences import labels_of
from thoughtlens.latents.interpret.records import InterpretOutcome, MemberSummary
from thoughtlens.latents.interpret.tables import TABLES, Tables, tested_of
from thoughtlens.numerics import ALPHA, FEW
from thoughtlens.sae import Crosscoder, SAESize, differences, load_members

DEFINITIONS = {
    "density": "share of vectors on which the latent's activation is not 0",
    "l0": "mean number of latents with activation != 0 on a vector",
    "everywhere": "dense: density above everywhere_density; first_position, outlier_norm: more than half of "
    "the latent's summed activation, or of its top examples, on first rows of texts, or on rows flagged as "
    "outliers of norm",
    "*_share": "share of the latent's summed size of activation on such rows",
    "*_examples": "share of the latent's top examples on such rows",
    "top examples": "largest activations, at most one for each group of problems (copies are one example); "
    "of a latent that also goes below 0 half of each side, more of one where the other has fewer; ties go "
    "to the lowest row",
    "histogram": "firings of the latent whose activation lies between histogram_edges, four bins an octave; "
    "the first and last bin also hold what lies beyond",
    "deciles": "quantiles 0, 0.1, ..., 1 of the latent's activation over its firings, interpolated linearly",
    "decile examples": "firings drawn uniformly without replacement from each tenth of the latent's firings "
    "by rank of activation, one for each group of problems; decile 10 is the strongest",
    "counts": "n_fires: firings of the latent on the n vectors of the level",
    "jaccard": "vectors on which both latents fire over vectors on which at least one does",
    **association.DEFINITIONS,
    **sites.DEFINITIONS,
}


def interpret(cfg: InterpretConfig, out: str | Path) -> Result:
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


def plan(cfg: InterpretConfig) -> Plan:
    """Rows, memory, disk and time of the stage; zeros where its inputs do not exist yet."""
    store = StoreSize.of(cfg.acts)
    if store is None:
        return Plan(rows=0, memory_bytes=0.0, disk_bytes=0.0, seconds=0.0)
    rows, flops, fires, latents, widest = 0, 0.0, 0.0, 0, 0
    for sae in SAESize.all_of(cfg.sae):
        n = sae.vectors(store)
        rows, flops = rows + n, flops + 4.0 * n * sae.d_in * sae.d_sae
        fires, latents = fires + n * sae.fires, latents + sae.d_sae
        widest = max(widest, sae.d_sae)
    examples = latents * (cfg.top_k + 10 * cfg.per_decile)
    problems = store.n_problems
    return Plan(
        rows=rows,
        memory_bytes=0.8e9 + 12.0 * cfg.batch_size * widest + 60.0 * store.n_rows
        + 8.0 * problems * cfg.n_permutations,
        disk_bytes=8.0 * examples * (cfg.context_before + cfg.context_after + 1) + 16.0 * fires,
        seconds=flops / 2e10 + fires * 1e-9 * (700 + 4 * cfg.n_permutations + 25 * cfg.text_permutations),
    )  # fmt: skip


def _work(cfg: InterpretConfig, tmp: Path) -> InterpretOutcome:
    store, parts = ActivationStore.open(cfg.acts), Parts(tmp)
    saes = list(load_members(cfg.sae, joined=True, hooks=store.meta.d_in).items())
    every = range(len(saes))
    for i in parts.todo(every):
        name, sae = saes[i]
        member = Member(store, name, sae, split=cfg.split, batch_size=cfg.batch_size)
        parts.finish(i, _member(cfg, member, tmp, parts, i))
    for table in TABLES:
        parts.join(every, table, tmp / f"{table}.parquet")
    if any(parts.has_table(i, "sites") for i in every):
        parts.join(every, "sites", tmp / "sites.parquet")
    if not cfg.codes:
        shutil.rmtree(tmp / "codes", ignore_errors=True)
    members, labels = parts.summaries(every, MemberSummary), labels_of(store.problems, cfg)
    return InterpretOutcome(
        split=cfg.split or "all",
        kind=store.meta.kind,
        members=members,
        histogram_edges=list(HISTOGRAM_EDGES),
        headline={
            "n_latents": sum(m.d_sae for m in members),
            "n_alive": sum(m.n_alive for m in members),
            "n_everywhere": sum(m.n_everywhere for m in members),
        },
        definitions=DEFINITIONS,
        warnings=[
            *differences(dict(saes), store),
            *not_told_apart(labels),
            *alike(labels),
            *_cannot_tell(cfg, members, labels),
            *(line for label in labels for line in _doubts(store.problems, label)),
            *(line for m in members for line in m.warnings),
        ],
    )


def _cannot_tell(
    cfg: InterpretConfig, members: Sequence[MemberSummary], labels: Sequence[Label]
) -> list[str]:
    """Why no label can be told from chance, whatever the latents do."""
    if not labels:
        return []
    said = []
    if 1 / (1 + cfg.n_permutations) > ALPHA:
        said.append(
            f"n_permutations={cfg.n_permutations} give no p below {1 / (1 + cfg.n_permutations):.2f}: "
            f"nothing can be found; from {round(1 / ALPHA) - 1} on something can"
        )
    few = min((one.n_groups or 0, one.n_problems, one.member) for one in members)
    if few[0] < FEW < few[1]:
        said.append(
            f"{few[2]}: its {few[1]:,} problems are in {few[0]} groups, which are shuffled whole: little or "
            f"nothing can be told from chance; is the column of groups the right one?"
        )
    return said


def _doubts(problems: pa.Table, label: Label) -> list[str]:
    """What looks wrong about a label column itself."""
    column, known = problems[label.name], label.codes >= 0
    said = doubtful_numbers(label.name, encode_numbers(column)) if is_number(column.type) else []
    asked = next((name for name in ("question", "text") if name in problems.column_names), None)
    if asked is not None and known.any():
        texts = [text or "" for text in problems[asked].filter(pa.array(known)).to_pylist()]
        groups = encode_groups(problems)[known]
        said += followed(label.name, label.codes[known], texts, groups, classes=True)
    return said


def _member(cfg: InterpretConfig, member: Member, tmp: Path, parts: Parts, i: int) -> MemberSummary:
    """Everything about one SAE, its tables as those of part `i`."""
    codes = write_codes(member, tmp / "codes" / str(i), parts.path(i, "codes"))
    if cfg.codes_parquet and cfg.codes:
        codes.write_parquet(codes.root / "codes.parquet")
    tables = Tables(cfg, Coded.of(member, codes))
    tables.write(parts, i)
    persistence = None
    if isinstance(member.sae, Crosscoder):
        found = sites.place(member, tables.stats, cfg.present_share)
        parts.write_table(i, "sites", sites.table(member, found))
        persistence = sites.counts(found)
    stats, dense = tables.stats, sum(why is not None for why in tables.dense)
    alive, warnings = int((stats.fires > 0).sum()), []
    if dense:
        warnings.append(
            f"{member.name}: {dense} of {alive} live latents fire everywhere, "
            f"on first tokens or on outlier norms: they say little about any one text"
        )
    return MemberSummary(
        member=member.name,
        hook_names=member.sae.hook_names,
        thoughts=member_thoughts(member.store, member.sae),
        kind=member.sae.kind if member.sae.directions is None else "directions",
        d_sae=member.sae.d_sae,
        split=cfg.split or "all",
        n=stats.n_vectors,
        n_problems=stats.n_units,
        n_groups=len(np.unique(tables.coded.group)),
        l0=float(stats.fires.sum() / max(stats.n_vectors, 1)),
        n_alive=alive,
        n_everywhere=dense,
        warnings=warnings,
        preferences=tested_of(parts, i),
        persistence=persistence,
    )
