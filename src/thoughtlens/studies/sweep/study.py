"""Many trainings on one extraction: what a sweep and a grid share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from thoughtlens.core import BY_NAME, ConfigError, Json, Plan, apply_overrides, validate_config
from thoughtlens.sae import TrainConfig
from thoughtlens.studies import pipeline
from thoughtlens.studies.sweep.axes import TUNED, Setting, settings, split_overrides
from thoughtlens.studies.sweep.config import StudyConfig


def configure(
    name: str, recipe: str | Path, overrides: Sequence[str], acts: Path, **options: Any
) -> StudyConfig:
    """The config of a `sweep` or a `grid` over a recipe's settings.

    Args:
        name: Which of the two.
        recipe: A recipe's name or file.
        overrides: Single values change the recipe, comma lists are the axes; `seeds=0,1,2`.
        acts: The activation store.
        options: Fields of the config; None: the default.

    Raises:
        ConfigError: a key that the recipe does not have, or that may not vary.
    """
    fixed, axes, seeds = split_overrides(overrides)
    table = apply_overrides(pipeline.recipe_class(), pipeline.settings_of(recipe), fixed)
    for setting in settings(axes):
        apply_overrides(pipeline.recipe_class(), table, setting.overrides)
    if name == "grid":
        options["group_size"] = table.get("train", {}).get("group_size")
        seeds = seeds or ((table["seed"],) if "seed" in table else None)
    tuned = {key: table[key] for key in TUNED if key in table}
    given = {"acts": acts, "grid": axes, "seeds": seeds, "recipe": tuned, **options}
    return _validated(name, {key: value for key, value in given.items() if value is not None})


def run(
    name: str,
    recipe: str | Path,
    overrides: Sequence[str],
    out: str | Path,
    *,
    acts: Path | None = None,
    plan_only: bool = False,
    **options: Any,
) -> Json:
    """Extract once into `out`/acts (or take `acts`, or what was imported), then train into `out`/NAME.

    Args:
        name: `sweep` or `grid`.
        recipe: A recipe's name or file, or the stage's own config (then `out` is its directory).
        overrides: Single values change the recipe, comma lists are the axes; `seeds=0,1,2`.
        out: The directory.
        acts: A finished activation store.
        plan_only: Only say what it would need.
        options: Fields of the stage's config; None: the default.
    """
    out, stage = Path(out), BY_NAME[name]
    table = pipeline.settings_of(recipe)
    if "grid" in table:
        given = {key: value for key, value in {"acts": acts, **options}.items() if value is not None}
        cfg = _validated(name, apply_overrides(stage.config, table, overrides) | given, overrides)
        return _plans({name: stage.say_plan(cfg)}) if plan_only else stage.run(cfg, out)
    if acts is None and pipeline.imported(Path(recipe)):
        acts = Path(recipe) / BY_NAME["import"].directory
    cfg = configure(name, recipe, overrides, acts or out / "acts", **options)
    _refuse_wrong(cfg)
    extract, fixed = BY_NAME["extract"], split_overrides(overrides)[0]
    extraction = pipeline.stage_config(pipeline.load(recipe, fixed), "extract", out)
    if plan_only and acts is not None:
        return _plans({name: stage.say_plan(cfg)})
    if plan_only:
        with TemporaryDirectory() as folder:
            extract.expect(extraction, Path(folder))
            later = cfg.model_copy(update={"acts": Path(folder)})
            return _plans({"extract": extract.say_plan(extraction), name: stage.say_plan(later)})
    if acts is None:
        extract.run(extraction, out / "acts")
    return stage.run(cfg, out / name)


def train_configs(cfg: StudyConfig, setting: Setting, members: str | None = None) -> list[TrainConfig]:
    """A setting's complete training config for each seed.

    Args:
        cfg: The study.
        setting: One of its settings.
        members: Which SAEs are trained where the recipe does not say it; unset: the train stage's default.

    Raises:
        ConfigError: what no store could be trained with.
    """
    table = {name: dict(cfg.recipe.get(name, {})) for name in TUNED}
    if members is not None:
        table["train"].setdefault("members", [members])
    try:
        whole = pipeline.load(table, setting.overrides)
        one = pipeline.stage_config(whole, "train", cfg.acts, {"acts": cfg.acts})
    except ConfigError as error:
        raise ConfigError(f"{setting.label}: {error}") from None
    assert isinstance(one, TrainConfig)
    return [one.model_copy(update={"seed": seed}) for seed in cfg.seeds]


def _validated(name: str, table: Json, overrides: Sequence[str] = ()) -> StudyConfig:
    cfg = validate_config(BY_NAME[name].config, table, overrides)
    assert isinstance(cfg, StudyConfig)
    return cfg


def _refuse_wrong(cfg: StudyConfig) -> None:
    """Refuse what nothing could be trained with, before the extraction."""
    if not getattr(cfg, "skip_refused", False):
        for setting in settings(cfg.grid):
            train_configs(cfg, setting)


def _plans(plans: dict[str, Plan | None]) -> Json:
    return {"plan": {name: estimate.to_json() for name, estimate in plans.items() if estimate is not None}}
