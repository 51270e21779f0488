"""The stages in order, from one recipe; what is done already and matches is not done again.

A recipe has the tables `model`, `problems` and `sae`, and one table per stage with the rest of that
stage's config. A run is a directory with one directory a stage.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import create_model, field_validator

from thoughtlens.acts.extract import stage as extract
from thoughtlens.core import (
    Config,
    ConfigError,
    OccupiedError,
    Result,
    apply_overrides,
    differences,
    identity,
    load_config,
    provenance,
    read_recipe,
    say,
    to_toml,
    validate_config,
    write_json,
)
from thoughtlens.evals.classify import stage as classify
from thoughtlens.evals.first_study import stage as replay
from thoughtlens.evals.reconstruction import stage as validate
from thoughtlens.latents.explain import stage as explanations
from thoughtlens.latents.interpret import config as interpret_config
from thoughtlens.latents.interpret import stage as interpret
from thoughtlens.latents.lens import stage as lens
from thoughtlens.sae.kinds.config import require_k
from thoughtlens.sae.train import stage as train
from thoughtlens.show.explorer import stage as explorer
from thoughtlens.show.report import stage as report

STAGES = {
    "extract": (extract.extract, extract.ExtractConfig),
    "train": (train.train, train.TrainConfig),
    "validate": (validate.validate, validate.ValidateConfig),
    "interpret": (interpret.interpret, interpret_config.InterpretConfig),
    "classify": (classify.classify, classify.ClassifyConfig),
    "report": (report.report, report.ReportConfig),
}
OPTIONAL = {
    "lens": (lens.lens, lens.LensConfig),
    "explain": (explanations.explain, explanations.ExplainConfig),
    "replay": (replay.replay, replay.ReplayConfig),
    "explorer": (explorer.explorer, explorer.ExplorerConfig),
}
"""Stages that a recipe has to ask for, in `stages`; `seed_protocol = true` adds the replay."""
KNOWN = {**{n: s for n, s in STAGES.items() if n != "report"}, **OPTIONAL, "report": STAGES["report"]}
"""All stages in the order in which they are done."""
PLANS = {
    "extract": extract.plan,
    "train": train.plan,
    "validate": validate.plan,
    "interpret": interpret_config.plan,
    "classify": classify.plan,
    "lens": lens.plan,
    "explain": explanations.plan,
    "replay": replay.plan,
}
DIRECTORY = {"extract": "acts", "train": "sae"}
OWN_TABLE = {"model": "extract", "problems": "extract", "sae": "train"}
INPUTS = {
    "extract": (),
    "train": ("acts",),
    "validate": ("acts", "sae"),
    "interpret": ("acts", "sae"),
    "classify": ("acts", "sae"),
    "lens": ("acts", "sae"),
    "explain": ("acts", "sae", "interpret"),
    "replay": ("acts",),
    "explorer": ("run",),
    "report": ("run",),
}


class Recipe(Config):
    """A run as a whole; `recipe_class` adds the tables."""

    name: str = "run"
    """Name of the run, shown in the report."""
    seed: int = 0
    """Seed of everything: splits, order of rows, initial weights, folds, resampling."""
    stages: tuple[str, ...] = tuple(STAGES)
    """Stages to do, in their order."""
    seed_protocol: bool = False
    """Also replay the first study of CODI's thoughts on the run's problems, beside the corrected protocol;
    of GSM8K, only that study's 600 problems are extracted."""


@cache
def recipe_class() -> type[Recipe]:
    """The full recipe: the tables model, problems and sae, then what is left of each stage's config."""
    fields: dict[str, Any] = {}
    for name, stage in OWN_TABLE.items():
        field = STAGES[stage][1].model_fields[name]
        fields[name] = (field.annotation, field)
    for stage, (_, cls) in KNOWN.items():
        options = _options(stage, cls)
        fields[stage] = (options, options())
    with warnings.catch_warnings():
        # A table called `validate` hides a method that pydantic has deprecated, and nothing here calls.
        warnings.filterwarnings("ignore", "Field name", UserWarning)
        return create_model("FullRecipe", __base__=Recipe, **fields)


def _options(stage: str, cls: type[Config]) -> type[Config]:
    given = {"seed", *_own_tables(stage), *INPUTS[stage]}
    fields: dict[str, Any] = {n: (f.annotation, f) for n, f in cls.model_fields.items() if n not in given}
    validators = _validators(cls, set(fields))
    return create_model(f"{cls.__name__}Options", __base__=Config, __validators__=validators, **fields)


def _validators(cls: type[Config], names: set[str]) -> dict[str, Any]:
    """A config's validators of single fields, which a class made from its fields would lose."""
    found = {}
    for name, one in cls.__pydantic_decorators__.field_validators.items():
        if own := names & set(one.info.fields):
            mode: Any = one.info.mode
            found[name] = field_validator(*own, mode=mode)(vars(cls)[one.cls_var_name])
    return found


def _own_tables(stage: str) -> list[str]:
    """The fields of a stage's config that stand as tables of their own in a recipe."""
    return [name for name, owner in OWN_TABLE.items() if owner == stage]


def load(source: str | Path | dict, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe by name, file or table, with overrides; every stage's config is checked at once."""
    cfg = _with_replay(load_config(recipe_class(), source, overrides))
    for name in cfg.stages:
        if name not in KNOWN:
            raise ConfigError(f"stages: expected some of {', '.join(KNOWN)}, got {name!r}")
        stage_config(cfg, name, Path("run"))
    sae = cfg.sae  # type: ignore[attr-defined]
    sae.check_settings()
    if sae.d_sae is not None and hasattr(sae, "k"):  # known before a model is loaded
        require_k("sae.k", sae.k, sae.d_sae)
    return cfg


def _require_fitting_stages(cfg: Recipe) -> None:
    """Refuse stages that cannot take what the recipe trains, before anything is done."""
    if cfg.sae.kind == "crosscoder" and "classify" in cfg.stages:  # type: ignore[attr-defined]
        rest = [name for name in cfg.stages if name != "classify"]
        raise ConfigError(
            f"stages: classify compares codes of one (hook, thought), and a crosscoder's are not; leave it "
            f"out: stages={json.dumps(rest)}"
        )


def _with_replay(cfg: Recipe) -> Recipe:
    """The recipe with what `seed_protocol` asks for."""
    if not cfg.seed_protocol:
        return cfg
    problems = cfg.problems  # type: ignore[attr-defined]
    if problems.kind != "problems":
        raise ConfigError("seed_protocol needs problems for a thought model; this recipe has texts")
    wanted = {*cfg.stages, "replay"}
    changed: dict[str, Any] = {"stages": tuple(name for name in KNOWN if name in wanted)}
    if problems.source == "gsm8k":
        changed["problems"] = problems.model_copy(update={"seed_protocol": True})
    return cfg.model_copy(update=changed)


def stage_config(cfg: Recipe, stage: str, root: Path, inputs: dict[str, Path] | None = None) -> Config:
    """One stage's complete config inside the run directory `root`."""
    table = getattr(cfg, stage).model_dump(exclude_unset=True)
    for name in _own_tables(stage):
        table[name] = getattr(cfg, name).model_dump()
    for name in INPUTS[stage]:
        table[name] = root if name == "run" else root / name
    table.update(inputs or {})
    cls = KNOWN[stage][1]
    if "seed" in cls.model_fields:
        table["seed"] = cfg.seed
    try:
        return validate_config(cls, table)
    except ConfigError as error:
        raise ConfigError(f"[{stage}] {error}") from None


def run(cfg: Recipe, out: str | Path) -> Result:
    """All stages of a recipe into the run directory `out`.

    Returns:
        The run's `result.json`: per stage its directory, digest, seconds and headline metrics.

    Raises:
        ConfigError: a stage that cannot take the kind of SAE.
        OccupiedError: `out` holds a run of another recipe, or something else.
    """
    _require_fitting_stages(cfg)
    out = Path(out)
    _claim(cfg, out)
    start = time.monotonic()
    stages = {}
    for name in KNOWN:
        if name in cfg.stages:
            stages[name] = _do(cfg, name, out)
    result = {
        "run": str(out),
        "name": cfg.name,
        "seed": cfg.seed,
        "stages": {name: _summary(name, out, r) for name, r in stages.items()},
        "warnings": [w for r in stages.values() for w in r.get("warnings", [])],
        "seconds": round(time.monotonic() - start, 3),
        **provenance(),
    }
    write_json(out / "result.json", result)
    return Result(result)


def plan(cfg: Recipe, out: str | Path) -> dict[str, Any]:
    """What each stage expects to need; stages whose inputs do not exist yet are estimated from the recipe."""
    _require_fitting_stages(cfg)
    plans = {}
    for name in cfg.stages:
        if name in PLANS:
            estimate = PLANS[name](stage_config(cfg, name, Path(out)))
            say(estimate.line(name))
            plans[name] = vars(estimate)
    return {"plan": plans}


def run_one(
    name: str,
    source: str | Path,
    overrides: Sequence[str],
    out: str | Path,
    *,
    inputs: dict[str, Path] | None = None,
    plan_only: bool = False,
) -> dict[str, Any]:
    """One stage.

    With a recipe, `out` is the run's directory and the stage's inputs are those of the run, unless
    `inputs` names others. With a stage's own `config.toml`, `out` is the stage's directory.
    """
    function, cls = KNOWN[name]
    table = read_recipe(source)
    if set(table) <= set(recipe_class().model_fields) and not (set(table) & set(INPUTS[name])):
        cfg = load(source, overrides)
        stage_cfg = stage_config(cfg, name, Path(out), inputs)
        target = Path(out) / DIRECTORY.get(name, name)
    else:
        table = apply_overrides(cls, table, overrides) | {k: str(v) for k, v in (inputs or {}).items()}
        stage_cfg, target = validate_config(cls, table), Path(out)
    if plan_only and name in PLANS:
        estimate = PLANS[name](stage_cfg)
        say(estimate.line(name))
        return {"plan": {name: vars(estimate)}}
    return function(stage_cfg, target)


def _do(cfg: Recipe, name: str, out: Path) -> dict[str, Any]:
    stage_cfg = stage_config(cfg, name, out)
    target = out / DIRECTORY.get(name, name)
    if name in PLANS and not target.exists():
        say(PLANS[name](stage_cfg).line(name))
    return KNOWN[name][0](stage_cfg, target)


def _claim(cfg: Recipe, out: Path) -> None:
    """Write the recipe into the run directory, or see that it is the same one.

    A recipe of ours beside which nothing stands yet, as a refused model or text leaves it, is replaced.
    """
    file = out / "config.toml"
    if out.exists() and not out.is_dir():
        raise OccupiedError(
            f"Expected a directory to make or continue at {out}, found a file; choose another"
        )
    others = out.is_dir() and any(path != file for path in out.iterdir())
    if file.is_file():
        begun = load_config(recipe_class(), file)
        if identity(begun) == identity(cfg):
            return
        if others or file.read_text("utf-8") != to_toml(begun):
            keys = differences(cfg.model_dump(mode="json"), begun.model_dump(mode="json"))
            raise OccupiedError(
                f"{out} holds a run with other settings: {', '.join(keys)}. "
                f"Choose another --out, or delete it"
            )
    elif others:
        raise OccupiedError(
            f"Expected a new or empty directory or an earlier run at {out}; something else is there"
        )
    out.mkdir(parents=True, exist_ok=True)
    file.write_text(to_toml(cfg), "utf-8")


def _summary(name: str, out: Path, result: dict[str, Any]) -> dict[str, Any]:
    keep = {"digest": result["digest"], "seconds": result["seconds"]}
    headline = result.get("headline", {})
    return {
        "path": str(out / DIRECTORY.get(name, name)),
        **keep,
        **({"headline": headline} if headline else {}),
    }
