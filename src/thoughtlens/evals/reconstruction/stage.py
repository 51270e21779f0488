"""The validate stage: what an SAE's reconstructions are worth on held-out rows, beside baselines.

Every number is refused, or marked, where it could not mean anything; `docs/metrics.md` has the formulas.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from thoughtlens.acts.store.reader import ActivationStore
from thoughtlens.core import (
    Config,
    DataError,
    Plan,
    choose_device,
    digest,
    read_json,
    run_stage,
    say,
    warn,
    write_json,
)
from thoughtlens.evals.reconstruction import fit, joined, labels, splice
from thoughtlens.evals.reconstruction.fit import ALL, BaselineName, fit_baselines
from thoughtlens.evals.reconstruction.joined import JoinedSubject, fit_joined, subject_of
from thoughtlens.evals.reconstruction.labels import labels_on
from thoughtlens.evals.reconstruction.measure import Total, measure_baselines, measure_sae
from thoughtlens.evals.reconstruction.splicer import Splicer
from thoughtlens.evals.reconstruction.subject import (
    MIN_ROWS_PER_DIM,
    Subject,
    check_store,
    objections,
    training_rows,
)
from thoughtlens.evals.reconstruction.summary import DELTA_EV, compare, explained, headline, limits, table
from thoughtlens.evals.reconstruction.thoughts import DEFINITIONS as SPLICED
from thoughtlens.evals.reconstruction.thoughts import ThoughtSplicer
from thoughtlens.models.hf.config import ModelConfig
from thoughtlens.numerics.metrics.reconstruction import DEFINITIONS as RECONSTRUCTION
from thoughtlens.numerics.metrics.reconstruction import ExplainedVarianceByNorm, ExplainedVarianceWithin
from thoughtlens.numerics.metrics.sparsity import DENSE, L0, L1, Dead, Density
from thoughtlens.sae.formats.io import load as load_sae
from thoughtlens.sae.formats.io import load_members, member_names, member_path

__all__ = ["ValidateConfig", "plan", "validate"]

TABLES = ("reconstruction", "firing", "fidelity")
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
    "low, high": "95 % cluster bootstrap over problems or documents, expanded percentiles",
    "comparisons": f"explained_variance of the SAE minus the baseline's; equivalent within {DELTA_EV}",
    **{f"reconstructor {name}": text for name, text in fit.DEFINITIONS.items()},
    **joined.DEFINITIONS,
    **labels.DEFINITIONS,
    **splice.DEFINITIONS,
    **SPLICED,
}


class ValidateConfig(Config):
    """What to judge, on which rows, beside what."""

    acts: Path
    """The activation store."""
    sae: Path
    """The SAE(s), trained on this store."""
    model: ModelConfig | None = None
    """The model to splice into; unset: the one that the store was extracted from."""
    split: str = "test"
    """Split whose rows are judged; never one that was trained on."""
    baselines: tuple[BaselineName, ...] = ALL
    """What to hold beside the SAE: pca_l0, pca_live (principal components, as many as the SAE's L0 or as
    it has live latents), random (an SAE that learned nothing), mean, cell_mean."""
    baseline_rows: int = Field(100_000, ge=2)
    """Training vectors that the baselines are fitted on, at most."""
    ce_tokens: int = Field(4096, ge=0)
    """Text: held-out tokens for cross-entropy and KL with x replaced; 0: leave that out."""
    answer_problems: int = Field(200, ge=0)
    """Thoughts: held-out problems, one a group, that are answered with x replaced; 0: leave that out."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the SAE runs; auto: the GPU where there is one."""
    seed: int = Field(0, ge=0)
    """Seed of samples, of the random SAE and of the resampling."""
    force: bool = False
    """Give numbers even where they mean nothing; every reason is then among the warnings."""


def validate(cfg: ValidateConfig, out: str | Path) -> dict[str, Any]:
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

    def work(tmp: Path) -> dict[str, Any]:
        return _work(cfg, job or _prepare(cfg), tmp)

    return run_stage("validate", cfg, out, work, inputs=inputs)


def plan(cfg: ValidateConfig) -> Plan:
    """Rows, memory, disk and time of the stage; zeros where its inputs do not exist yet."""
    if not (Path(cfg.acts) / "meta.json").is_file() or not Path(cfg.sae).is_dir():
        return Plan(rows=0, memory_bytes=0.0, disk_bytes=0.0, seconds=0.0)
    store = ActivationStore.open(cfg.acts)
    rows, flops, widest, latents, answers = 0, 0.0, 0, 0, 0.0
    for name in member_names(cfg.sae):
        sae = load_sae(member_path(cfg.sae, name))
        n = store.view(sae.hook_names, cfg.split).n
        rows, latents, widest = rows + n, latents + sae.d_sae, max(widest, sae.d_sae)
        flops += n * sae.d_in * (8.0 * sae.d_sae + 4.0 * sae.d_in)
        flops += min(cfg.baseline_rows, store.n_rows) * 2.0 * sae.d_in**2
        answers += 4 * len(sae.hook_names) * len(store.thoughts) * cfg.answer_problems * 3e-4
    text = store.meta.kind == "text" and cfg.ce_tokens > 0
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
    warnings = _check(cfg, subjects, list(members))
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


def _work(cfg: ValidateConfig, job: _Job, tmp: Path) -> dict[str, Any]:
    subjects = job.subjects
    for line in job.warnings:
        warn(line)
    parts = tmp / "parts"
    parts.mkdir(exist_ok=True)
    for i in [i for i in range(len(subjects)) if not (parts / f"{i}.json").is_file()]:
        if len(subjects) > 1:
            say(f"validate: SAE {i + 1} of {len(subjects)}, {subjects[i].label}")
        _member(cfg, subjects[i], job.splicer, parts, i)
    for name in TABLES:
        found = [pq.read_table(parts / f"{i}.{name}.parquet") for i in range(len(subjects))]
        pq.write_table(pa.concat_tables(found, promote_options="default"), tmp / f"{name}.parquet")
    summaries = [read_json(parts / f"{i}.json") for i in range(len(subjects))]
    shutil.rmtree(parts)
    return {
        "split": cfg.split,
        "kind": job.store.meta.kind,
        "n": sum(s["n"] for s in summaries),
        "members": summaries,
        "headline": headline(summaries, cfg.split),
        "definitions": DEFINITIONS,
        "warnings": job.warnings,
    }


def _check(cfg: ValidateConfig, subjects: list[Subject], names: list[str]) -> list[str]:
    """Refuse what means nothing; with `force`, warn instead."""
    store_digest = digest(cfg.acts)
    warnings, refused = [], []
    for subject, name in zip(subjects, names, strict=True):
        warnings += check_store(store_digest, subject.sae, name, cfg.force)
        refused += objections(subject)
        if subject.source.n < MIN_ROWS_PER_DIM * subject.width:
            warnings.append(
                f"{subject.label}: judged on {subject.source.n:,} vectors of width {subject.width}, fewer "
                f"than {MIN_ROWS_PER_DIM} per dimension; look at the intervals"
            )
    if refused and not cfg.force:
        raise DataError(
            f"These numbers would mean nothing. {'; '.join(refused)}. Use held-out rows, more of them, or a "
            f"sparser SAE; validate.force=true gives the numbers all the same, marked"
        )
    warnings += [f"FORCED, the numbers mean little: {text}" for text in refused]
    return warnings


def _member(
    cfg: ValidateConfig, subject: Subject, splicer: Splicer | ThoughtSplicer, parts: Path, i: int
) -> None:
    """Judge one SAE; its summary is written last."""
    total = Total(subject)
    mine, firing = measure_sae(subject, total)
    options: dict[str, Any] = {
        "l0": firing.l0.compute(),
        "n_live": firing.density.n_live(),
        "n_rows": cfg.baseline_rows,
        "seed": cfg.seed,
    }
    if isinstance(subject, JoinedSubject):
        baselines = fit_joined(subject, cfg.baselines, **options)
    else:
        baselines = fit_baselines(subject, cfg.baselines, **options)
    tallies = {"sae": mine, **measure_baselines(subject, total, baselines)}
    widths = {name: model.d_sae for name, model in {"sae": subject.sae, **baselines}.items()}
    spliced, skipped = None, f"a {subject.sae.kind} does not stand for the one vector that it reads"
    if subject.sae.reconstructs:
        spliced, skipped = splicer.rows(subject, baselines)
    bought = labels_on(subject, cfg.seed) if subject.sae.kind == "supervised" else None
    label = {"member": subject.label}
    _write(parts / f"{i}.reconstruction.parquet", [label | r for r in table(subject, tallies, widths)])
    columns = firing.columns()
    pq.write_table(
        pa.table({"member": [subject.label] * len(columns["latent"]), **columns}),
        parts / f"{i}.firing.parquet",
    )
    _write(parts / f"{i}.fidelity.parquet", [label | r for r in spliced or []])
    intervals = {name: explained(tally, cfg.seed) for name, tally in tallies.items()}
    summary = {
        **label,
        "kind": subject.sae.kind,
        "hook_names": subject.sae.hook_names,
        "thoughts": subject.thoughts,
        "d_in": subject.sae.d_in,
        "d_sae": subject.sae.d_sae,
        "n": int(mine.rows.sum()),
        "n_flagged_left_out": subject.view.n - int(mine.rows.sum()),
        "n_problems": int((mine.rows > 0).sum()),
        "n_train": training_rows(subject),
        "reconstruction": {
            name: {"d_sae": widths[name], **tally.row(), **limits(intervals[name])}
            for name, tally in tallies.items()
        },
        "comparisons": [
            compare(mine, tally, name, cfg.seed) for name, tally in tallies.items() if name != "sae"
        ],
        "sparsity": firing.summary(),
        "by_norm": mine.by_norm.compute(),
        "labels": bought,
        "fidelity": spliced,
        "fidelity_skipped": skipped,
    }
    write_json(parts / f"{i}.json", summary)


def _write(file: Path, rows: list[dict[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), file)
