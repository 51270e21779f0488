"""The sweep: a grid of settings, each trained with several seeds on one extraction, and one recommended.

Settings are chosen by what validation rows say and reported on test rows, which nothing was chosen on.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thoughtlens.acts.store.reader import ActivationStore
from thoughtlens.core import (
    ConfigError,
    DataError,
    Plan,
    ResourceError,
    ThoughtlensError,
    apply_overrides,
    read_json,
    run_stage,
    say,
    validate_config,
    warn,
    write_json,
)
from thoughtlens.sae.jobs.job import check, plan_jobs
from thoughtlens.sae.train.config import TrainConfig
from thoughtlens.sae.train.stage import plan as train_plan
from thoughtlens.sae.train.stage import train
from thoughtlens.studies import pipeline
from thoughtlens.studies.sweep import choose
from thoughtlens.studies.sweep import measure as measuring
from thoughtlens.studies.sweep.config import SweepConfig
from thoughtlens.studies.sweep.grid import Setting, settings, split_overrides
from thoughtlens.studies.sweep.measure import Fidelity, measure
from thoughtlens.studies.sweep.study import Study, recipe_tables, tuned
from thoughtlens.studies.sweep.tables import candidates, headline, recommendation, write

__all__ = ["SweepConfig", "configure", "plan", "run", "sweep"]

CHOSEN_ON, REPORTED_ON = "validation", "test"
DEFINITIONS = {
    "low, high": "mean -/+ one standard deviation over seeds; null with one seed",
    **choose.DEFINITIONS,
    **measuring.DEFINITIONS,
}


@dataclass(frozen=True)
class _Job:
    """A setting with its complete training config for each seed, or why it has none."""

    setting: Setting
    train: tuple[TrainConfig, ...]
    refused: str | None = None


def configure(recipe: str | Path, overrides: Sequence[str], acts: Path, **options: Any) -> SweepConfig:
    """The config of a sweep of a recipe.

    Raises:
        ConfigError: a key that the recipe does not have, or that a sweep cannot vary.
    """
    fixed, axes, seeds = split_overrides(overrides)
    table = recipe_tables(recipe, fixed)
    given = {"seeds": seeds, **options}
    return validate_config(
        SweepConfig,
        {
            "acts": acts,
            "grid": axes,
            "recipe": tuned(table),
            **{name: value for name, value in given.items() if value is not None},
        },
    )


def sweep(cfg: SweepConfig, out: str | Path) -> dict[str, Any]:
    """Train and measure every setting with every seed, and recommend one.

    Returns:
        The stage's result: per setting its means and spreads over seeds, and the recommendation.

    Raises:
        ConfigError: settings that cannot be trained, before anything is, unless `skip_refused`.
        DataError: no setting could be trained.
    """
    store = ActivationStore.open(cfg.acts)
    jobs = [_checked(job, store) for job in _jobs(cfg)]
    _require_splits(store)
    refused = [f"{job.setting.label}: {job.refused}" for job in jobs if job.refused is not None]
    if refused and not (cfg.skip_refused and len(refused) < len(jobs)):
        raise ConfigError(
            f"{len(refused)} of {len(jobs)} settings cannot be trained. {'; '.join(refused)}. Leave them "
            f"out of the grid, or sweep the others with --skip-refused"
        )

    def work(tmp: Path) -> dict[str, Any]:
        return _work(cfg, store, jobs, tmp, refused)

    return run_stage("sweep", cfg, out, work, inputs={"acts": cfg.acts})


def plan(cfg: SweepConfig) -> Plan:
    """Rows, memory, disk and time of all trainings; measuring adds little."""
    plans = [train_plan(one) for job in _jobs(cfg) for one in job.train]
    return Plan(
        rows=sum(p.rows for p in plans),
        memory_bytes=max((p.memory_bytes for p in plans), default=0.0),
        disk_bytes=sum(p.disk_bytes for p in plans),
        seconds=sum(p.seconds for p in plans),
    )


def _jobs(cfg: SweepConfig) -> list[_Job]:
    """The training configs of all settings; what the recipe itself does not allow is refused at once."""
    jobs = []
    for setting in settings(cfg.grid):
        table = apply_overrides(pipeline.recipe_class(), cfg.recipe, setting.overrides)
        try:
            whole = pipeline.load(table)
        except ConfigError as error:
            if not cfg.skip_refused:
                raise ConfigError(f"{setting.label}: {error}") from None
            jobs.append(_Job(setting, (), str(error)))
            continue
        one = pipeline.stage_config(whole, "train", cfg.acts, {"acts": cfg.acts})
        assert isinstance(one, TrainConfig)
        jobs.append(_Job(setting, tuple(one.model_copy(update={"seed": seed}) for seed in cfg.seeds)))
    return jobs


def _checked(job: _Job, store: ActivationStore) -> _Job:
    """The same job, or why this store cannot train it."""
    if job.refused is not None:
        return job
    try:
        for one in plan_jobs(job.train[0], store):
            check(one)
    except ThoughtlensError as error:
        return _Job(job.setting, (), str(error))
    return job


def _require_splits(store: ActivationStore) -> None:
    there = set(store.problems["split"].unique().to_pylist())
    if missing := [name for name in (CHOSEN_ON, REPORTED_ON) if name not in there]:
        raise DataError(
            f"Settings are chosen on the split {CHOSEN_ON!r} and reported on {REPORTED_ON!r}; {store.root} "
            f"has no {' and no '.join(map(repr, missing))}: extract with problems that have them"
        )


def _work(
    cfg: SweepConfig, store: ActivationStore, jobs: list[_Job], tmp: Path, refused: list[str]
) -> dict[str, Any]:
    for text in refused:
        warn(f"left out: {text}")
    parts = tmp / "parts"
    parts.mkdir(exist_ok=True)
    fidelity = Fidelity(cfg, store, REPORTED_ON) if cfg.fidelity else None
    rows, n = [], sum(len(job.train) for job in jobs)
    for job in jobs:
        for one in job.train:
            file = parts / f"{job.setting.name}.seed_{one.seed}.json"
            if not file.is_file():
                say(f"sweep: {len(rows) + 1} of {n}, {job.setting.label}, seed {one.seed}")
                write_json(file, _one(job.setting, one, store, fidelity, tmp))
            rows.append(read_json(file))
        if job.refused is not None:
            rows.append(_row(job.setting, None, "refused", job.refused))
    if not any(row["status"] == "trained" for row in rows):
        raise DataError(f"No setting could be trained. {rows[0]['reason']}")
    found = _result(cfg, jobs, rows, tmp)
    if fidelity is not None and fidelity.bench is not None:
        found["untouched"] = fidelity.untouched
    shutil.rmtree(parts)
    return found


def _one(
    setting: Setting, cfg: TrainConfig, store: ActivationStore, fidelity: Fidelity | None, tmp: Path
) -> dict[str, Any]:
    """Train and measure one setting with one seed; what fails says why and stops nothing else."""
    directory = tmp / "settings" / setting.name / f"seed_{cfg.seed}"
    row = _row(setting, cfg.seed, "trained", None)
    try:
        result = train(cfg, directory)
        if failed := result.get("failed"):
            raise DataError("; ".join(f"{f['member']}: {f['reason']}" for f in failed))
        for split in (CHOSEN_ON, REPORTED_ON):
            row[split] = measure(directory, store, split)
        if fidelity is not None:
            row[REPORTED_ON] |= fidelity.of(directory)
    except ResourceError:
        raise
    except ThoughtlensError as error:
        reason = str(error).replace(str(tmp), str(tmp).removesuffix(".tmp"))
        warn(f"{setting.label}, seed {cfg.seed}: {reason}")
        return _row(setting, cfg.seed, "failed", reason)
    return row | {"warnings": result["warnings"]}


def _row(setting: Setting, seed: int | None, status: str, reason: str | None) -> dict[str, Any]:
    return {
        "idx": setting.idx,
        "label": setting.label,
        "values": dict(setting.values),
        "path": None if seed is None else f"settings/{setting.name}/seed_{seed}",
        "seed": seed,
        "status": status,
        "reason": reason,
        "warnings": [],
    }


def _result(cfg: SweepConfig, jobs: list[_Job], rows: list[dict[str, Any]], tmp: Path) -> dict[str, Any]:
    metric = cfg.metric
    if metric == "auto":
        cells = [row[CHOSEN_ON]["fvu_within"] is not None for row in rows if row["status"] == "trained"]
        metric = "fvu_within" if all(cells) else "fvu"
    choice = choose.choose(candidates(cfg, rows, metric), rule=cfg.rule, max_dead=cfg.max_dead, metric=metric)
    table = write(cfg, rows, choice, metric, tmp)
    bad = [f"{r['label']}, seed {r['seed']}: {r['reason']}" for r in rows if r["status"] != "trained"]
    said = [w for r in rows for w in r["warnings"]]
    return {
        "split": REPORTED_ON,
        "chosen_on": CHOSEN_ON,
        "reported_on": REPORTED_ON,
        "n": next(r[REPORTED_ON]["n"] for r in rows if r["status"] == "trained"),
        "seeds": list(cfg.seeds),
        "metric": metric,
        "settings": table,
        "recommendation": recommendation(table, choice),
        "headline": headline(table, choice, metric),
        "definitions": DEFINITIONS,
        "warnings": [*dict.fromkeys(said), *bad],
    }


run = Study("sweep", SweepConfig, sweep, plan, configure, _jobs).run
