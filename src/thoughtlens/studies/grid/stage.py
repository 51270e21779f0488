"""The grid: settings x seeds x cells, trained as stacks; a table, heat maps and Pareto fronts.

Where a sweep recommends one setting, a grid shows how every layer and thought answers to all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from thoughtlens.acts.store.reader import ActivationStore
from thoughtlens.core import Config, ConfigError, Plan, choose_device, run_stage, validate_config, warn
from thoughtlens.sae.fit.evaluation import DEFINITIONS
from thoughtlens.sae.fit.track import write_curves
from thoughtlens.sae.jobs.job import Job, check, plan_jobs
from thoughtlens.sae.jobs.run import train_jobs
from thoughtlens.sae.train.config import GroupSize, TrainConfig
from thoughtlens.sae.train.stage import plan as train_plan
from thoughtlens.studies import pipeline
from thoughtlens.studies.grid import tables
from thoughtlens.studies.sweep.grid import TUNED, Setting, settings, split_overrides
from thoughtlens.studies.sweep.study import Study, recipe_tables, tuned

__all__ = ["GridConfig", "configure", "grid", "plan", "run"]


class GridConfig(Config):
    """Settings to train on every cell."""

    acts: Path
    """The activation store that all share."""
    grid: tuple[str, ...] = ()
    """Axes, each `key=value,value`; every combination is a setting."""
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    """Each setting is trained once for each: initial weights and order of rows."""
    group_size: GroupSize = "auto"
    """SAEs of one shape that are trained as one batched program; auto: as many as pays off and fits."""
    recipe: dict[str, Any] = Field(default_factory=dict)
    """The tables `sae` and `train` of the recipe, as far as it sets them. Where `train.members` is not
    set, there is one SAE for each (hook, thought), on text one for each hook."""

    @field_validator("seeds")
    @classmethod
    def _different(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds) or min(seeds) < 0:
            raise ValueError("seeds must be different and not negative")
        return seeds


@dataclass(frozen=True)
class Planned:
    """A job of the grid, and where in the grid it stands."""

    setting: Setting
    job: Job
    warnings: tuple[str, ...]


def configure(recipe: str | Path, overrides: Sequence[str], acts: Path) -> GridConfig:
    """The config of a grid over a recipe's settings.

    Raises:
        ConfigError: a key that the recipe does not have, or that a grid cannot vary.
    """
    fixed, axes, seeds = split_overrides(overrides)
    table = recipe_tables(recipe, fixed)
    own = {"acts": acts, "grid": axes, "recipe": tuned(table)}
    if seeds is not None:
        own["seeds"] = seeds
    elif "seed" in table:
        own["seeds"] = (table["seed"],)
    if "group_size" in table.get("train", {}):
        own["group_size"] = table["train"]["group_size"]
    return validate_config(GridConfig, own)


def grid(cfg: GridConfig, out: str | Path) -> dict[str, Any]:
    """Train every setting with every seed on every cell; `out`/settings holds one SAE directory a setting
    and seed.

    Returns:
        The stage's result: per setting its means over cells and seeds, and every cell's front.

    Raises:
        ConfigError: a setting that cannot be trained on this store, before anything is.
        DataError: no SAE could be trained to its end; of some that could not, their rows say why.
    """
    store = ActivationStore.open(cfg.acts)
    planned = _planned(cfg, store)
    warnings = list(dict.fromkeys(f"{p.setting.label}: {w}" for p in planned for w in p.warnings))

    def work(tmp: Path) -> dict[str, Any]:
        for text in warnings:
            warn(text)
        return _work(cfg, planned, warnings, tmp)

    return run_stage("grid", cfg, out, work, inputs={"acts": cfg.acts})


def plan(cfg: GridConfig) -> Plan:
    """Rows, memory, disk and time of all trainings."""
    there = (Path(cfg.acts) / "meta.json").is_file()
    members = _partition(ActivationStore.open(cfg.acts)) if there else "pooled"
    plans = [train_plan(one) for s in settings(cfg.grid) for one in _train_configs(cfg, s, members)]
    return Plan(
        rows=sum(p.rows for p in plans),
        memory_bytes=max(p.memory_bytes for p in plans),
        disk_bytes=sum(p.disk_bytes for p in plans),
        seconds=sum(p.seconds for p in plans),
    )


def _work(cfg: GridConfig, planned: list[Planned], warnings: list[str], tmp: Path) -> dict[str, Any]:
    where = choose_device(planned[0].job.cfg.device)
    outcomes = train_jobs([p.job for p in planned], tmp, where, cfg.group_size)
    rows = [tables.row(p.setting, p.job, o) for p, o in zip(planned, outcomes, strict=True)]
    write_curves({o.label: o.curve for o in outcomes}, tmp / "metrics.parquet")
    failed = [f"{row['path']} was not trained to its end: {row['reason']}" for row in rows if row["reason"]]
    return {
        "split": planned[0].job.cfg.validation_split,
        "seeds": list(cfg.seeds),
        **tables.write(rows, tmp),
        "definitions": DEFINITIONS | tables.DEFINITIONS,
        "warnings": warnings + failed,
    }


def _planned(cfg: GridConfig, store: ActivationStore) -> list[Planned]:
    """Every SAE of the grid, each with its folder."""
    found = []
    for setting in settings(cfg.grid):
        for one in _train_configs(cfg, setting, _partition(store)):
            folder = f"settings/{setting.name}/seed_{one.seed}"
            for job, warnings in _checked(one, store, setting):
                label = f"{setting.name}.seed_{one.seed}.{job.label}"
                name = f"{folder}/{job.name}" if job.name else folder
                found.append(Planned(setting, replace(job, name=name, label=label), warnings))
    return found


def _checked(one: TrainConfig, store: ActivationStore, setting: Setting) -> list[tuple[Job, tuple[str, ...]]]:
    """A setting's jobs with what should not be believed of each."""
    try:
        return [(job, tuple(check(job))) for job in plan_jobs(one, store)]
    except ConfigError as error:
        raise ConfigError(f"{setting.label}: {error}") from None


def _train_configs(
    cfg: GridConfig, setting: Setting, members: Literal["pooled", "per_layer", "per_cell"]
) -> list[TrainConfig]:
    """A setting's training config for each seed."""
    table = {name: dict(cfg.recipe.get(name, {})) for name in TUNED}
    table["train"].setdefault("members", [members])
    try:
        whole = pipeline.load(table, setting.overrides)
        one = pipeline.stage_config(whole, "train", cfg.acts, {"acts": cfg.acts})
    except ConfigError as error:
        raise ConfigError(f"{setting.label}: {error}") from None
    assert isinstance(one, TrainConfig)
    return [one.model_copy(update={"seed": seed}) for seed in cfg.seeds]


def _partition(store: ActivationStore) -> Literal["per_layer", "per_cell"]:
    return "per_cell" if store.thoughts else "per_layer"


def _check(cfg: GridConfig) -> None:
    for setting in settings(cfg.grid):
        _train_configs(cfg, setting, "pooled")


run = Study("grid", GridConfig, grid, plan, configure, _check).run
