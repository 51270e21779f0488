"""The validate stage: what an SAE's reconstructions are worth on held-out rows, beside baselines.

Every number is refused, or marked, where it could not mean anything; `docs/metrics.md` has the formulas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from thoughtlens.acts import ActivationStore, StoreSize
from thoughtlens.core import (
    DataError,
    Parts,
    Plan,
    Record,
    Result,
    choose_device,
    column_table,
    digest,
    run_stage,
    say,
    schema,
    to_table,
    warn,
)
from thoughtlens.evals.heldout import fidelity, thoughts
from thoughtlens.evals.heldout.fidelity import Splicer
from thoughtlens.evals.heldout.joined import subject_of
from thoughtlens.evals.heldout.measure import Firing, Tally, Total, measure_baselines, measure_sae
from thoughtlens.evals.heldout.records import TextFidelity
from thoughtlens.evals.heldout.subject import (
    MIN_ROWS_PER_DIM,
    Subject,
    check_store,
    objections,
    training_rows,
)
from thoughtlens.evals.heldout.thoughts import ThoughtSplicer
from thoughtlens.evals.reconstruction import baselines, labels
from thoughtlens.evals.reconstruction.baselines import fit_baselines
from thoughtlens.evals.reconstruction.config import ValidateConfig
from thoughtlens.evals.reconstruction.elsewhere import elsewhere
from thoughtlens.evals.reconstruction.labels import labels_on
from thoughtlens.evals.reconstruction.records import (
    FiringRow,
    ProblemRow,
    ReconstructionRow,
    TextFidelityRow,
    ThoughtFidelity,
    ThoughtFidelityRow,
    Validated,
    ValidateOutcome,
)
from thoughtlens.evals.reconstruction.summary import (
    DELTA_EV,
    compare,
    doubts,
    headline,
    reconstructor,
    remarks,
    table,
    together,
    varying,
)
from thoughtlens.numerics import DEFINITIONS as RECONSTRUCTION
from thoughtlens.numerics import (
    DENSE,
    L0,
    L1,
    Dead,
    Density,
    ExplainedVarianceByNorm,
    ExplainedVarianceWithin,
)
from thoughtlens.sae import SAESize, differences, load_members

DEFINITIONS = {
    **{metric.name: metric.definition for metric in (*RECONSTRUCTION, ExplainedVarianceWithin)},
    "by_norm": ExplainedVarianceByNorm.definition,
    "l0": L0.definition,
    "l1": L1.definition,
    "density": Density.definition,
    "n_dead": f"dead@n: {Dead.definition}, N = n",
    "n_dense": f"latents with a density above {DENSE}",
    "effective_latents": "exp of the entropy (nats) of the latents' shares of all firings",
    "rule_of_three": "3 / n: a latent of this density or more would have fired with 95 % probability",
    "low, high": "95 % bootstrap of whole groups of problems or documents (copies are one group), expanded "
    "percentiles; where fewer than 20 groups count, widened to the jackknife's t interval",
    "headline": "means over the SAEs with a cell that varies; a cell hardly varies where its spread is at "
    "most 1 % of its norm, or of its hook's median spread",
    "n_uncovered": "tokens of the spliced text that are never replaced: without a row, or flagged",
    "comparisons": f"explained_variance of the SAE minus the baseline's; equivalent within {DELTA_EV}; "
    "verdicts follow p_holm, which is adjusted for all of them",
    **baselines.DEFINITIONS,
    **labels.DEFINITIONS,
    **fidelity.DEFINITIONS,
    **thoughts.DEFINITIONS,
}


def validate(cfg: ValidateConfig, out: str | Path) -> Result:
    """Judge the SAE(s) of a directory on held-out rows.

    Returns:
        The stage's result: per member its reconstruction beside baselines, comparisons with verdicts,
        sparsity, and fidelity of the spliced model.

    Raises:
        MismatchError: the SAE belongs to another store, model, hook or width.
        DataError: the numbers would mean nothing (training rows, too few rows, L0 near d_in) and
            `force` is not set; or the split is empty.
    """
    inputs = {"acts": Path(cfg.acts), "sae": Path(cfg.sae)}
    job = None if Path(out).exists() else _prepare(cfg)  # refusals leave nothing behind
    return run_stage("validate", cfg, out, lambda tmp: _work(cfg, job or _prepare(cfg), tmp), inputs=inputs)


def plan(cfg: ValidateConfig) -> Plan:
    """Rows, memory, disk and time of the stage; zeros where its inputs do not exist yet."""
    store = StoreSize.of(cfg.acts)
    if store is None:
        return Plan(rows=0, memory_bytes=0.0, disk_bytes=0.0, seconds=0.0)
    rows, flops, latents, answers = 0, 0.0, 0, 0.0
    for sae in SAESize.all_of(cfg.sae):
        n = sae.vectors(store, cfg.split)
        rows, latents = rows + n, latents + sae.d_sae
        flops += n * sae.d_in * (8.0 * sae.d_sae + 4.0 * sae.d_in)
        flops += min(cfg.baseline_rows, store.n_rows) * 2.0 * sae.d_in**2
        answers += 4 * len(sae.hook_names) * len(store.thoughts) * cfg.answer_problems * 3e-4
    text = store.kind == "text" and cfg.ce_tokens > 0
    return Plan(
        rows=rows,
        memory_bytes=0.5e9 + 3e8 * bool(rows) + 16.0 * store.n_rows + (1.5e9 if text else 0),
        disk_bytes=25.0 * latents,
        seconds=flops / 2e10 + rows / 5e3 + answers + (cfg.ce_tokens * 8 / 1500 if text else 0),
    )


@dataclass(frozen=True)
class _Job:
    store: ActivationStore
    subjects: list[Subject]
    splicer: Splicer | ThoughtSplicer
    warnings: list[str]


def _prepare(cfg: ValidateConfig) -> _Job:
    """Open everything, and refuse what cannot or should not be judged."""
    store = ActivationStore.open(cfg.acts)
    members = load_members(cfg.sae, device=str(choose_device(cfg.device)), joined=True, hooks=store.meta.d_in)
    subjects = [subject_of(store, name, sae, cfg.split) for name, sae in members.items()]
    warnings = [*differences(members, store), *_check(cfg, subjects)]
    return _Job(store, subjects, _splicer(cfg, store), warnings)


def _splicer(cfg: ValidateConfig, store: ActivationStore) -> Splicer | ThoughtSplicer:
    if store.meta.kind == "thoughts":
        return ThoughtSplicer(store, model=cfg.model, split=cfg.split, n=cfg.answer_problems, seed=cfg.seed)
    return Splicer(
        store,
        model=cfg.model,
        split=cfg.split,
        ce_tokens=cfg.ce_tokens,
        mean_rows=cfg.baseline_rows,
        seed=cfg.seed,
    )


def _check(cfg: ValidateConfig, subjects: list[Subject]) -> list[str]:
    """Refuse what means nothing; with `force`, warn instead."""
    store_digest = digest(cfg.acts)
    warnings: list[str] = []
    wrong: dict[str, list[str]] = {}
    for subject in subjects:
        warnings += check_store(
            store_digest, subject.store.meta.reading, subject.sae, subject.label, cfg.force
        )
        for text in objections(subject):
            wrong.setdefault(text, []).append(subject.label)
        if subject.source.n < MIN_ROWS_PER_DIM * subject.width:
            warnings.append(
                f"{subject.label}: judged on {subject.source.n:,} vectors of width {subject.width}, fewer "
                f"than {MIN_ROWS_PER_DIM} per dimension; look at the intervals"
            )
    refused = [f"{', '.join(labels)}: {text}" for text, labels in wrong.items()]
    if refused and not cfg.force:
        raise DataError(
            f"These numbers would mean nothing. {'; '.join(refused)}. Use held-out rows, more of them, or a "
            f"sparser SAE; validate.force=true gives the numbers all the same, marked"
        )
    warnings += [f"FORCED, the numbers mean little: {text}" for text in refused]
    return warnings


def _work(cfg: ValidateConfig, job: _Job, tmp: Path) -> ValidateOutcome:
    for line in job.warnings:
        warn(line)
    parts, every = Parts(tmp), range(len(job.subjects))
    for i in parts.todo(every):
        subject = job.subjects[i]
        if len(every) > 1:
            say(f"validate: SAE {i + 1} of {len(every)}, {subject.label}")
        _member(cfg, subject, job.splicer, parts, i)
    fidelity_row = ThoughtFidelityRow if job.store.meta.kind == "thoughts" else TextFidelityRow
    tables = {"reconstruction": ReconstructionRow, "firing": FiringRow, "fidelity": fidelity_row}
    for name, row in tables.items():
        parts.join(every, name, tmp / f"{name}.parquet", schema(row))
    members = together(parts.summaries(every, Validated))
    counted = varying(members)
    own = [i for i in every if members[i] in counted]
    parts.join(own, "problems", tmp / "problems.parquet", schema(ProblemRow))
    notes = remarks(members)
    for line in notes:
        warn(line)
    return ValidateOutcome(
        split=cfg.split,
        kind=job.store.meta.kind,
        n=sum(m.n for m in members),
        members=members,
        headline=headline(members, cfg.split),
        definitions=DEFINITIONS,
        warnings=job.warnings + notes,
    )


def _member(
    cfg: ValidateConfig, subject: Subject, splicer: Splicer | ThoughtSplicer, parts: Parts, i: int
) -> None:
    """Judge one SAE."""
    sae, total = subject.sae, Total(subject)
    mine, firing = measure_sae(subject, total)
    sparsity = firing.sparsity()
    others = fit_baselines(subject, cfg, l0=sparsity.l0, n_live=firing.density.n_live())
    tallies = {"sae": mine, **measure_baselines(subject, total, others)}
    widths = {name: model.d_sae for name, model in {"sae": sae, **others}.items()}
    spliced, skipped = None, f"a {sae.kind} does not stand for the one vector that it reads"
    if sae.reconstructs:
        spliced, skipped = splicer.rows(subject, others)
    parts.write_table(i, "reconstruction", to_table(ReconstructionRow, table(subject, tallies, widths)))
    parts.write_table(i, "problems", column_table(ProblemRow, _problem_columns(subject, mine)))
    parts.write_table(i, "firing", column_table(FiringRow, _firing_columns(subject, firing)))
    if spliced:
        parts.write_table(i, "fidelity", to_table(*_of_member(subject.label, spliced)))
    n = int(mine.rows.sum())
    judged = {name: reconstructor(tally, widths[name], cfg.seed) for name, tally in tallies.items()}
    summary = Validated(
        member=subject.label,
        kind=sae.kind,
        hook_names=list(sae.hook_names),
        thoughts=subject.thoughts,
        d_in=sae.d_in,
        d_sae=sae.d_sae,
        n=n,
        n_flagged_left_out=subject.view.n - n,
        n_problems=int((mine.rows > 0).sum()),
        n_train=training_rows(subject),
        reconstruction=judged,
        comparisons=[compare(mine, tallies[name], name, cfg.seed) for name in others],
        sparsity=sparsity,
        by_norm=mine.bins(),
        labels=labels_on(subject) if sae.kind == "supervised" else None,
        fidelity=spliced,
        fidelity_skipped=skipped,
        spreads=mine.spreads(),
        notes=doubts(mine, spliced, cfg.seed),
        elsewhere=elsewhere(sae, judged["sae"], spliced),
    )
    parts.finish(i, summary)


def _problem_columns(subject: Subject, mine: Tally) -> dict[str, object]:
    here = np.flatnonzero(mine.rows)
    return {
        "member": subject.label,
        "problem_id": np.array(subject.store.problems["problem_id"].to_pylist(), object)[here],
        "n": mine.rows[here],
        "error": mine.error[here],
        "spread": mine.spread[here],
    }


def _firing_columns(subject: Subject, firing: Firing) -> dict[str, object]:
    density = firing.density
    return {
        "member": subject.label,
        "latent": range(subject.sae.d_sae),
        "fires": density.fires,
        "density": density.compute(),
        "n_rows": density.n,
        "dead": firing.dead.mask(),
    }


def _of_member(
    member: str, rows: Sequence[TextFidelity] | Sequence[ThoughtFidelity]
) -> tuple[type[Record], list[Record]]:
    """The rows of `fidelity.parquet`, and of which kind they are."""
    cls = TextFidelityRow if isinstance(rows[0], TextFidelity) else ThoughtFidelityRow
    return cls, [cls(member=member, **vars(row)) for row in rows]
