"""The sweep and the grid: every combination of settings, each trained with several seeds on one extraction.

A sweep measures every setting as a whole and recommends one: chosen by what validation rows say and reported
on test rows, which nothing was chosen on. A grid trains as stacks and shows how every layer and thought
answers to all settings.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from thoughtlens.acts import ActivationStore, StoreSize
from thoughtlens.core import (
    BY_NAME,
    ConfigError,
    DataError,
    Parts,
    Plan,
    ResourceError,
    Result,
    ThoughtlensError,
    choose_device,
    run_stage,
    say,
    warn,
)
from thoughtlens.sae import DEFINITIONS as OF_TRAINING
from thoughtlens.sae import Job, TrainConfig, check, plan_jobs, train_jobs, write_curves
from thoughtlens.studies.sweep import cells, choose, labels, tables
from thoughtlens.studies.sweep import measure as measuring
from thoughtlens.studies.sweep.axes import Setting, settings
from thoughtlens.studies.sweep.config import GridConfig, StudyConfig, SweepConfig
from thoughtlens.studies.sweep.labels import Labels, mean_found
from thoughtlens.studies.sweep.measure import Fidelity, measure, stability
from thoughtlens.studies.sweep.records import GridOutcome, Held, Run, Stability, SweepOutcome
from thoughtlens.studies.sweep.study import train_configs

CHOSEN_ON, REPORTED_ON = "validation", "test"
DEFINITIONS = {
    "low, high": "mean -/+ one standard deviation over seeds; null with one seed",
    **choose.DEFINITIONS,
    **measuring.DEFINITIONS,
    **labels.DEFINITIONS,
}


@dataclass(frozen=True)
class _Try:
    """A setting with its complete training config for each seed, or why it has none."""

    setting: Setting
    train: tuple[TrainConfig, ...] = ()
    refused: str | None = None


@dataclass(frozen=True)
class _Judge:
    """What trained settings are measured with."""

    store: ActivationStore
    precision: float
    fidelity: Fidelity | None
    labels: Labels | None

    def held(self, directory: Path) -> tuple[Held, Held]:
        """The SAE(s) in a directory on the rows that settings are chosen on, and where they are reported."""
        chosen, reported = (
            measure(directory, self.store, split, self.precision) for split in (CHOSEN_ON, REPORTED_ON)
        )
        if self.fidelity is not None:
            value, n = self.fidelity.of(directory)
            reported = replace(reported, fidelity=value, n_fidelity=n)
        return chosen, reported


@dataclass(frozen=True)
class _Planned:
    """One SAE of a grid, and where in the grid it stands."""

    setting: Setting
    job: Job
    warnings: tuple[str, ...]


def sweep(cfg: SweepConfig, out: str | Path) -> Result:
    """Train and measure every setting with every seed, and recommend one.

    Returns:
        The stage's result: per setting its means and spreads over seeds, and the recommendation.

    Raises:
        ConfigError: settings that cannot be trained, before anything is, unless `skip_refused`.
        DataError: no setting could be trained.
    """
    store = ActivationStore.open(cfg.acts)
    tries = [_try(cfg, setting, store) for setting in settings(cfg.grid)]
    _require_splits(store)
    refused = [f"{one.setting.label}: {one.refused}" for one in tries if one.refused is not None]
    if refused and not (cfg.skip_refused and len(refused) < len(tries)):
        raise ConfigError(
            f"{len(refused)} of {len(tries)} settings cannot be trained. {'; '.join(refused)}. Leave them "
            f"out of the grid, or sweep the others with --skip-refused"
        )

    def work(tmp: Path) -> SweepOutcome:
        for text in refused:
            warn(f"left out: {text}")
        judge = _Judge(
            store,
            cfg.precision,
            Fidelity(cfg, store, REPORTED_ON) if cfg.fidelity else None,
            Labels.of(store, cfg.seeds[0]) if cfg.recovery else None,
        )
        runs = _runs(tries, judge, tmp)
        return _outcome(cfg, runs, _stability(runs, store, tmp), judge, tmp)

    return run_stage("sweep", cfg, out, work, inputs={"acts": cfg.acts})


def grid(cfg: GridConfig, out: str | Path) -> Result:
    """Train every setting with every seed on every cell; `out`/settings holds one SAE directory for each
    setting and seed.

    Returns:
        The stage's result: per setting its means over cells and seeds, and every cell's front.

    Raises:
        ConfigError: a setting that cannot be trained on this store, before anything is.
        DataError: no SAE could be trained to its end; of some that could not, their rows say why.
    """
    store = ActivationStore.open(cfg.acts)
    planned = [one for setting in settings(cfg.grid) for one in _planned(cfg, setting, store)]
    warnings = list(dict.fromkeys(f"{p.setting.label}: {w}" for p in planned for w in p.warnings))

    def work(tmp: Path) -> GridOutcome:
        for text in warnings:
            warn(text)
        where = choose_device(planned[0].job.cfg.device)
        endings = train_jobs([p.job for p in planned], tmp, where, cfg.group_size)
        trained = [cells.Trained(p.setting, p.job, e) for p, e in zip(planned, endings, strict=True)]
        write_curves(
            {p.job.label: e.curve for p, e in zip(planned, endings, strict=True)}, tmp / "metrics.parquet"
        )
        return cells.write(cfg, trained, OF_TRAINING, warnings, tmp)

    return run_stage("grid", cfg, out, work, inputs={"acts": cfg.acts})


def plan(cfg: StudyConfig) -> Plan:
    """Rows, memory, disk and time of all trainings; measuring adds little."""
    members = None
    if isinstance(cfg, GridConfig):
        size = StoreSize.of(cfg.acts)
        members = "pooled" if size is None else _partition(size)
    found = []
    for setting in settings(cfg.grid):
        try:
            found += [BY_NAME["train"].plan(one) for one in train_configs(cfg, setting, members)]
        except ConfigError:
            if not getattr(cfg, "skip_refused", False):
                raise
    plans = [estimate for estimate in found if estimate is not None]
    return Plan(
        rows=sum(p.rows for p in plans),
        memory_bytes=max((p.memory_bytes for p in plans), default=0.0),
        disk_bytes=sum(p.disk_bytes for p in plans),
        seconds=sum(p.seconds for p in plans),
    )


def _try(cfg: SweepConfig, setting: Setting, store: ActivationStore) -> _Try:
    """A setting's trainings, or why this store cannot have them."""
    try:
        train = train_configs(cfg, setting)
        check(plan_jobs(train[0], store))
    except ThoughtlensError as error:
        return _Try(setting, refused=str(error).removeprefix(f"{setting.label}: "))
    return _Try(setting, tuple(train))


def _require_splits(store: ActivationStore) -> None:
    there = set(store.problems["split"].unique().to_pylist())
    if missing := [name for name in (CHOSEN_ON, REPORTED_ON) if name not in there]:
        raise DataError(
            f"Settings are chosen on the split {CHOSEN_ON!r} and reported on {REPORTED_ON!r}; {store.root} "
            f"has no {' and no '.join(map(repr, missing))}: extract with problems that have them"
        )


def _runs(tries: list[_Try], judge: _Judge, tmp: Path) -> list[Run]:
    """Every setting with every seed, those of an earlier call as they were."""
    parts, runs, n = Parts(tmp), [], sum(len(one.train) for one in tries)
    for one in tries:
        for cfg in one.train:
            part = f"{one.setting.name}.seed_{cfg.seed}"
            for _ in parts.todo([part]):
                say(f"sweep: {len(runs) + 1} of {n}, {one.setting.label}, seed {cfg.seed}")
                parts.finish(part, _run(one.setting, cfg, judge, tmp))
            runs += parts.summaries([part], Run)
        if one.refused is not None:
            runs.append(_untrained(one.setting, None, "refused", one.refused))
    if not any(run.status == "trained" for run in runs):
        raise DataError(f"No setting could be trained. {runs[0].reason}")
    return runs


def _stability(runs: list[Run], store: ActivationStore, tmp: Path) -> dict[int, Stability]:
    """By setting, where several seeds were trained; those of an earlier call as they were."""
    parts, found = Parts(tmp), {}
    for own in tables.by_setting(runs):
        trained = [tmp / run.path for run in own if run.status == "trained" and run.path is not None]
        if len(trained) > 1:
            part = f"{own[0].setting:03d}.stability"
            for _ in parts.todo([part]):
                parts.finish(part, stability(trained, store, CHOSEN_ON))
            found[own[0].setting] = parts.summaries([part], Stability)[0]
    return found


def _run(setting: Setting, cfg: TrainConfig, judge: _Judge, tmp: Path) -> Run:
    """Train and measure one setting with one seed; what fails says why and stops nothing else."""
    directory = tmp / "settings" / setting.name / f"seed_{cfg.seed}"
    try:
        result = BY_NAME["train"].run(cfg, directory)
        if failed := result.get("failed"):
            raise DataError("; ".join(f"{f['member']}: {f['reason']}" for f in failed))
        chosen, reported = judge.held(directory)
        found = {} if judge.labels is None else judge.labels.found(directory)
        reported = replace(reported, recovered=mean_found(found))
    except ResourceError:
        raise
    except ThoughtlensError as error:
        reason = str(error).replace(str(tmp), str(tmp).removesuffix(".tmp"))
        warn(f"{setting.label}, seed {cfg.seed}: {reason}")
        return _untrained(setting, cfg.seed, "failed", reason)
    done = _untrained(setting, cfg.seed, "trained", None)
    return replace(done, warnings=result["warnings"], found=found, validation=chosen, test=reported)


def _untrained(setting: Setting, seed: int | None, status: str, reason: str | None) -> Run:
    """A run of which nothing was measured."""
    path = None if seed is None else f"settings/{setting.name}/seed_{seed}"
    values = dict(setting.values)
    return Run(
        setting=setting.idx, label=setting.label, seed=seed, status=status, reason=reason, path=path,
        values=values,
    )  # fmt: skip


def _outcome(
    cfg: SweepConfig, runs: list[Run], stable: dict[int, Stability], judge: _Judge, tmp: Path
) -> SweepOutcome:
    trained = [run for run in runs if run.validation is not None]
    metric = cfg.metric
    if metric == "auto":
        within = [run.validation.fvu_within is not None for run in trained if run.validation]
        metric = "fvu_within" if all(within) else "fvu"
    candidates = tables.candidates(cfg, runs, metric)
    choice = choose.choose(
        candidates, rule=cfg.rule, max_dead=cfg.max_dead, metric=metric, precision=cfg.precision
    )
    table = tables.write(cfg, runs, stable, choice, metric, root=tmp)
    said = dict.fromkeys(text for run in runs for text in run.warnings)
    bad = [f"{run.label}, seed {run.seed}: {run.reason}" for run in runs if run.status != "trained"]
    return SweepOutcome(
        split=REPORTED_ON,
        chosen_on=CHOSEN_ON,
        reported_on=REPORTED_ON,
        n=next(run.test.n for run in trained if run.test),
        seeds=list(cfg.seeds),
        metric=metric,
        settings=table,
        recommendation=tables.recommendation(table, choice, metric, candidates),
        untouched=None if judge.fidelity is None else judge.fidelity.untouched,
        headline=tables.headline(table, choice, metric),
        definitions=DEFINITIONS,
        warnings=[*said, *bad],
    )


def _planned(cfg: GridConfig, setting: Setting, store: ActivationStore) -> list[_Planned]:
    """The SAEs of a setting, each with its folder."""
    found = []
    for one in train_configs(cfg, setting, _partition(store)):
        folder = f"settings/{setting.name}/seed_{one.seed}"
        try:
            jobs = plan_jobs(one, store)
            doubts = check(jobs)
        except ConfigError as error:
            raise ConfigError(f"{setting.label}: {error}") from None
        for job, warnings in zip(jobs, doubts, strict=True):
            label = f"{setting.name}.seed_{one.seed}.{job.label}"
            name = f"{folder}/{job.name}" if job.name else folder
            found.append(_Planned(setting, replace(job, name=name, label=label), warnings))
    return found


def _partition(store: ActivationStore | StoreSize) -> str:
    return "per_cell" if store.thoughts else "per_layer"
