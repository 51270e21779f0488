"""The stages in order, from one recipe; what is done already and matches is not done again.

A recipe has the tables `model`, `problems` and `sae`, and one table per stage with the rest of that
stage's config. A run is a directory with one directory per stage.
"""

from __future__ import annotations

import json
import shlex
import time
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from shlex import quote
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import create_model

from thoughtlens.core import (
    BY_NAME,
    OF_RUNS,
    STAGES,
    Config,
    ConfigError,
    DataError,
    Json,
    OccupiedError,
    Record,
    Result,
    Stage,
    ThoughtlensError,
    again,
    apply_overrides,
    differences,
    identity,
    load_config,
    profiled,
    provenance,
    read_recipe,
    read_result,
    recipe_names,
    removed,
    say,
    seal,
    system_errors,
    to_toml,
    validate_config,
    whole,
    write_json,
)
from thoughtlens.latents import LEAST_GROUPS
from thoughtlens.models import ThoughtModelConfig
from thoughtlens.problems import SPLITS, TableConfig, TextConfig
from thoughtlens.sae import require_k
from thoughtlens.studies import beside

if TYPE_CHECKING:
    from thoughtlens.acts import AnyProblems
    from thoughtlens.evals import ClassifyConfig
    from thoughtlens.sae import AnySAEConfig


OF_SUITE = "suite."
USUAL_TARGET = "operation"
"""What the recipe for thoughts classifies by, which only arithmetic has."""
MOST_NAMED = 200
"""Characters of a list of labels in a message."""
NOT_OF = {
    "crosscoder": ("has one code for several (hook, thought)", ("classify", "recovery", "finetune")),
    "transcoder": ("does not reconstruct what it reads", ("recovery", "finetune")),
}
"""Why some kinds of SAE are left out by some stages."""
OF_FILES = {
    *(stage.name for stage in OF_RUNS if stage.recipe == "default"),
    "replay",
    "distill",
    "sweep",
    "grid",
}
"""Stages whose commands take a file of their own settings."""


@dataclass(frozen=True, kw_only=True)
class StageDone(Record):
    """A finished stage of a run."""

    path: str
    digest: str
    seconds: float
    headline: Json | None = None
    """As its own result has it; unset where that is empty."""


@dataclass(frozen=True, kw_only=True)
class RunDone(Record):
    """A finished run; the file also says with what it was made."""

    run: str
    name: str
    seed: int
    stages: dict[str, StageDone]
    warnings: list[str]
    seconds: float


class Recipe(Config):
    """A run as a whole; `recipe_class` adds the tables."""

    aliases: ClassVar[Mapping[str, str]] = {
        name: f"extract.{ThoughtModelConfig.aliases.get(name, name)}"
        for name in (*ThoughtModelConfig.model_fields, *ThoughtModelConfig.aliases)
    }

    name: str = "run"
    """Name of the run, shown in the report."""
    seed: int = 0
    """Seed of everything: splits, order of rows, initial weights, folds, resampling."""
    stages: tuple[str, ...] = tuple(stage.name for stage in OF_RUNS if stage.recipe == "default")
    """Stages to do, in their order."""
    seed_protocol: bool = False
    """Also replay the first study of CODI's thoughts on the run's problems, beside the corrected protocol;
    of GSM8K, only that study's 600 problems are extracted."""

    if TYPE_CHECKING:
        problems: AnyProblems
        sae: AnySAEConfig
        classify: ClassifyConfig


@cache
def recipe_class() -> type[Recipe]:
    """The full recipe: the tables model, problems and sae, then what is left of each stage's config."""
    fields: dict[str, Any] = {}
    for stage in OF_RUNS:
        own = stage.config.model_fields
        fields |= {name: (own[name].annotation, own[name]) for name in stage.tables}
    for stage in OF_RUNS:
        options = stage.options
        fields[stage.name] = (options, options())
    with warnings.catch_warnings():
        # A table called `validate` hides a method that pydantic has deprecated, and nothing here calls.
        warnings.filterwarnings("ignore", "Field name", UserWarning)
        return create_model("FullRecipe", __base__=Recipe, **fields)


def load(source: str | Path | dict, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe by name, file or table, with overrides; every stage's config is checked at once."""
    table = source if isinstance(source, dict) else _recipe(source)
    cfg = _with_replay(load_config(recipe_class(), table, overrides))
    known = [stage.name for stage in OF_RUNS]
    for name in cfg.stages:
        if name not in known:
            raise ConfigError(f"stages: expected some of {', '.join(known)}, got {name!r}")
        stage_config(cfg, name, Path("run"))
    _require_settings(cfg)
    return cfg


def is_recipe(table: Json) -> bool:
    """Whether a table has a recipe's keys, and not a stage's own, whose inputs are paths."""
    inputs = {key for stage in OF_RUNS for key in stage.inputs}
    return set(table) <= set(recipe_class().model_fields) and not any(
        isinstance(table.get(key), str) for key in inputs
    )


def of_stage(table: Json) -> str | None:
    """The stage whose own settings a table has."""
    return next((stage.name for stage in STAGES if set(table) <= set(stage.config.model_fields)), None)


def settings_of(source: str | Path) -> Json:
    """The table of a recipe or of a stage's settings; none for a run that was made stage by stage."""
    folder = Path(source)
    made = any((folder / stage.directory / "result.json").is_file() for stage in OF_RUNS)
    return {} if made and not (folder / "config.toml").is_file() else read_recipe(source)


def _recipe(source: str | Path) -> Json:
    """The table of a recipe.

    Raises:
        ConfigError: it has the settings of one stage; says which command takes it.
    """
    table = settings_of(source)
    if not is_recipe(table) and (name := of_stage(table)):
        place = Path("runs") / (source if source in recipe_names() else name)
        way = f"; run: thoughtlens {name} {quote(str(source))} --out {place}" if name in OF_FILES else ""
        raise ConfigError(f"{source} has the settings of {name} alone, it is not a recipe of a run{way}")
    return table


PARTITIONS = ("pooled", "per_layer", "per_thought", "per_cell")
"""What SAEs are trained on, by name; each gives some members."""


def _require_settings(cfg: Recipe) -> None:
    """Refuse what of the SAE can be known to be wrong before a model is loaded."""
    cfg.sae.check_settings()
    k = getattr(cfg.sae, "k", None)
    if k is not None and cfg.sae.d_sae is not None:
        require_k("sae.k", k, cfg.sae.d_sae)


def _require_fitting_stages(cfg: Recipe) -> None:
    """Refuse stages that cannot take what the recipe trains or names, before anything is done."""
    if "extract" in cfg.stages:
        _require_subject(cfg)
    why, not_these = NOT_OF.get(cfg.sae.kind, ("", ()))
    if unfit := [name for name in cfg.stages if name in not_these]:
        rest = shlex.quote(json.dumps([name for name in cfg.stages if name not in unfit]))
        raise ConfigError(
            f"stages: {' and '.join(unfit)} cannot be with a {cfg.sae.kind}, which {why}: leave out what "
            f"cannot be, stages={rest}"
        )
    if {"extract", "train", "classify"} <= {*cfg.stages}:
        _require_trained(cfg)


def _require_trained(cfg: Recipe) -> None:
    """Refuse a classification with SAEs that the recipe does not train; of one hook, parts can coincide."""
    own = {
        name: stage_config(cfg, name, Path("run")).model_dump() for name in ("extract", "train", "classify")
    }
    asked, made = own["classify"]["members"], own["train"]["members"]
    if len(own["extract"]["hook_names"] or ()) == 1:
        return
    if missing := [name for name in asked or () if name in PARTITIONS and name not in made]:
        raise ConfigError(
            f"classify.members: {', '.join(missing)} is asked for, and train.members trains "
            f"{', '.join(made)} alone; set both, as in classify.members={','.join(made)}"
        )


def _require_subject(cfg: Recipe) -> None:
    """Refuse an extraction of a model and a text that nobody asked for."""
    if not cfg.model_fields_set & {"model", "problems"}:
        raise ConfigError(
            "Expected a recipe that says which model reads what, got neither `model` nor `problems`; a "
            "complete one to begin with: thoughtlens recipe text-demo > recipe.toml"
        )


def _splits_to_come(cfg: Recipe, out: Path) -> dict[str, int] | None:
    """What is known of the problems' splits before anything is read by a model; None: nothing."""
    problems = cfg.problems
    if (out / BY_NAME["extract"].directory).exists() or "extract" not in cfg.stages:
        return None
    if isinstance(problems, TextConfig):
        return {"train": 1, "validation": int(problems.validation > 0), "test": int(problems.test > 0)}
    if not isinstance(problems, TableConfig):
        return None
    from thoughtlens.problems import source  # here, since it loads numpy

    return dict(Counter(source.find(problems).table["split"].to_pylist()))


def _require_splits(cfg: Recipe, there: Mapping[str, int] | None) -> None:
    """Refuse stages that would find no rows in the split that they read, before anything is trained.

    Raises:
        DataError: says which stages, and what can be done.
    """
    if there is None:
        return
    wanted = {name: getattr(stage_config(cfg, name, Path("run")), "split", None) for name in cfg.stages}
    empty = {name: split for name, split in wanted.items() if split in SPLITS and not there.get(split)}
    if not empty:
        return
    have = ", ".join(split for split, n in there.items() if n)
    rest = json.dumps([name for name in cfg.stages if name not in empty])
    way = "raise problems.test" if cfg.problems.kind == "text" else "give some problems that split"
    reads = ", ".join(f"{name} reads split {split!r}" for name, split in empty.items())
    raise DataError(
        f"{reads}, and nothing is in it, only in {have}. Either {way}, or name another split "
        f"({next(iter(empty))}.split=...), or leave these stages out: stages={shlex.quote(rest)}"
    )


def _with_replay(cfg: Recipe) -> Recipe:
    """The recipe with what `seed_protocol` asks for."""
    if not cfg.seed_protocol:
        return cfg
    problems = cfg.problems
    if problems.kind != "problems":
        raise ConfigError("seed_protocol needs problems for a thought model; this recipe has texts")
    wanted = {*cfg.stages, "replay"}
    changed: dict[str, Any] = {"stages": tuple(s.name for s in OF_RUNS if s.name in wanted)}
    if problems.source == "gsm8k":
        changed["problems"] = problems.model_copy(update={"seed_protocol": True})
    return cfg.model_copy(update=changed)


def stage_config(cfg: Recipe, name: str, root: Path, inputs: Mapping[str, Path] | None = None) -> Config:
    """One stage's complete config inside the run directory `root`."""
    stage = BY_NAME[name]
    table = getattr(cfg, name).model_dump(exclude_unset=True)
    table |= {key: getattr(cfg, key).model_dump() for key in stage.tables}
    table |= stage.places(root)
    table |= inputs or {}
    if "seed" in stage.config.model_fields:
        table["seed"] = cfg.seed
    try:
        return validate_config(stage.config, table)
    except ConfigError as error:
        raise ConfigError(f"[{name}] {error}") from None


def run(cfg: Recipe, out: str | Path, *, jobs: int | None = 1, foretell: bool = False) -> Result:
    """All stages of a recipe into the run directory `out`.

    Args:
        cfg: From `load`.
        out: What is done there already is not done again.
        jobs: Stages at once, of those that do not wait for one another, in processes of their own; None: as
            many as suits this machine. A script that asks for more than one needs
            `if __name__ == "__main__":`, as for `multiprocessing`.
        foretell: Say before anything is done where it writes, and how long the same took in a run beside it.

    Returns:
        The run's `result.json`: per stage its directory, digest, seconds and headline metrics.

    Raises:
        ConfigError: a stage that cannot take the kind of SAE.
        OccupiedError: `out` holds a run of another recipe, or something else.
    """
    out = Path(out)
    cfg = _of_import(cfg, out)
    _require_fitting_stages(cfg)
    _claim(cfg, out)
    start = time.monotonic()
    _require_splits(cfg, _splits_to_come(cfg, out))
    if foretell:
        say(_foretold(cfg, out))
    with profiled(out):
        results = _stages(cfg, out, jobs)
    done = RunDone(
        run=str(out),
        name=cfg.name,
        seed=cfg.seed,
        stages={name: _done(out / BY_NAME[name].directory, result) for name, result in results.items()},
        warnings=[text for result in results.values() for text in result.get("warnings", [])],
        seconds=round(time.monotonic() - start, 3),
    )
    table = {**done.to_json(), **provenance().to_json()}
    write_json(out / "result.json", table)
    seal(out, [out / "config.toml", out / "result.json"])
    return Result(table)


def _stages(cfg: Recipe, out: Path, jobs: int | None) -> dict[str, Result]:
    """Results by stage, in their order: first those that keep every processor busy, then the others."""
    results: dict[str, Result] = {}
    with beside.workers([stage for stage in OF_RUNS if stage.name in cfg.stages], out, jobs) as workers:
        for stage in OF_RUNS:
            if stage.name in cfg.stages and (stage.alone or workers is None):
                results[stage.name] = _do(cfg, stage, out)
                _require_splits(cfg, results[stage.name].get("rows_by_split"))
            if stage.name == "extract":
                cfg = _of_few(_of_labels(cfg, out), results.get(stage.name))
        if workers is not None:
            rest = [stage for stage in OF_RUNS if stage.name in cfg.stages and not stage.alone]
            done = workers.do(rest, lambda stage: stage_config(cfg, stage.name, out))
            results |= {stage.name: done[stage.name] for stage in rest}
    return results


def _foretold(cfg: Recipe, out: Path) -> str:
    """Where a run writes, what is done of it already, and how long the rest took in a run beside it.

    Plans are no forecast of a whole run: on a busy machine their sum was several times too long.
    """
    done = [name for name in cfg.stages if (out / BY_NAME[name].directory).exists()]
    left = [name for name in cfg.stages if name not in done]
    said = f"{cfg.name}: writes to {out}"
    said += f", where {len(done)} of {len(cfg.stages)} stages are done" if done else ""
    runs = sorted(file.parent for file in out.absolute().parent.glob("*/config.toml"))
    run, took = max(
        ((run, _took(cfg, left, run)) for run in runs if run != out.absolute()),
        key=lambda one: len(one[1]),
        default=(out, {}),
    )
    if not took:
        return said
    rest = [name for name in left if name not in took]
    more = f" (without {', '.join(rest)})" if rest else ""
    took_all = f"{about(sum(took.values()))}, added up{more}"
    return f"{said}; the same stages took about {took_all}, in {out.parent / run.name}"


def _took(cfg: Recipe, wanted: Sequence[str], run: Path) -> dict[str, float]:
    """Seconds of a run's finished stages that had the same settings and inputs, whatever the seed.

    A run that is damaged, or of an earlier version, says nothing from there on.
    """
    took: dict[str, float] = {}
    with suppress(ThoughtlensError, OSError, KeyError):
        begun = load_config(recipe_class(), run / "config.toml")
        own = cfg.model_copy(update={"seed": begun.seed})
        for stage in OF_RUNS:
            folder = run / stage.directory
            mine, theirs = (identity(stage_config(one, stage.name, run)) for one in (own, begun))
            if mine != theirs and stage.alone:
                break
            if mine == theirs and stage.name in wanted and (folder / "result.json").is_file():
                took[stage.name] = read_result(folder)["seconds"]
    return took


MINUTE = 60


def about(seconds: float) -> str:
    """A time as it is worth saying of an estimate: `40 s`, `15 minutes`, `3.5 hours`."""
    if seconds < 1.5 * MINUTE:
        return f"{max(10, 10 * round(seconds / 10))} s"
    minutes = seconds / MINUTE
    return f"{minutes:.0f} minutes" if minutes < 1.5 * MINUTE else f"{minutes / MINUTE:.1f} hours"


def plan(cfg: Recipe, out: str | Path) -> Json:
    """What each stage expects to need; stages whose inputs do not exist yet are estimated from the recipe."""
    cfg = _of_import(cfg, Path(out))
    _require_fitting_stages(cfg)
    return {"plan": _plans(cfg, cfg.stages, Path(out))}


BROUGHT = {"extract": "import", "train": "convert"}
"""Stages whose directory another one may have filled: with one's own activations, with somebody's SAE."""


def imported(out: Path, stage: str = "extract") -> bool:
    """Whether what a stage makes was brought into a run: activations not extracted, or an SAE not trained."""
    folder = out / BY_NAME[stage].directory
    return (folder / "result.json").is_file() and read_result(folder).get("stage") == BROUGHT[stage]


def _of_import(cfg: Recipe, out: Path) -> Recipe:
    """The recipe without the stages whose work was brought into the run."""
    left_out = {stage for stage in BROUGHT if imported(out, stage)}
    if (
        "extract" in left_out
        and "classify" in cfg.stages
        and cfg.classify.target is cfg.classify.data is None
    ):
        labels = _labels(out / BY_NAME["import"].directory)
        if len(labels) == 1:
            cfg = cfg.model_copy(update={"classify": cfg.classify.model_copy(update={"target": labels[0]})})
        else:
            left_out.add("classify")
            have = f"there are {', '.join(labels)}" if labels else "the activations came without labels"
            say(f"classify is left out: no classify.target was named, and {have}")
    return cfg.model_copy(update={"stages": tuple(name for name in cfg.stages if name not in left_out)})


def _of_labels(cfg: Recipe, out: Path) -> Recipe:
    """The recipe without its classification, where that is by the label of arithmetic alone and the problems
    have none of it.

    Raises:
        ConfigError: another label that they do not have, before anything is trained.
    """
    acts, target = out / BY_NAME["extract"].directory, cfg.classify.target
    asked = "classify" in cfg.stages and target is not None and cfg.classify.data is None
    if not asked or not acts.is_dir() or (out / BY_NAME["classify"].directory).is_dir():
        return cfg
    labels = _labels(acts)
    if target in labels:
        return cfg
    have = ", ".join(labels) or "no labels"
    have = have if len(have) <= MOST_NAMED else f"{have[:MOST_NAMED]} .."
    if target != USUAL_TARGET:
        raise ConfigError(f"classify.target: the problems of {acts} have no {target!r}, but {have}")
    say(f"classify is left out: the problems have no {target!r}; name one of them, classify.target=: {have}")
    return cfg.model_copy(update={"stages": tuple(name for name in cfg.stages if name != "classify")})


def _of_few(cfg: Recipe, extracted: Result | None) -> Recipe:
    """The recipe without explanations, where there are too few problems to fit and to score them on."""
    n = (extracted or {}).get("n_groups")
    if "explain" not in cfg.stages or n is None or n >= LEAST_GROUPS:
        return cfg
    what = "documents" if cfg.problems.kind == "text" else "problems"
    say(f"explain is left out: it needs {LEAST_GROUPS} independent {what}, and there are {n}")
    return cfg.model_copy(update={"stages": tuple(name for name in cfg.stages if name != "explain")})


def _labels(acts: Path) -> list[str]:
    """Columns of a store's problems that are labels."""
    from thoughtlens.acts import ActivationStore
    from thoughtlens.latents import PROBLEM_COLUMNS  # both load torch

    names = ActivationStore.open(acts).problems.column_names
    return [name for name in names if name not in PROBLEM_COLUMNS]


def _plans(cfg: Recipe, wanted: Sequence[str], out: Path, given: Mapping[str, Path] | None = None) -> Json:
    """The plans of some stages; what is neither there nor given is foretold, from the extraction on."""
    plans: Json = {}
    with TemporaryDirectory() as folder:
        foretold = Path(folder)
        inputs = dict(given or {})
        for stage in [one for one in OF_RUNS if one.name in ("extract", "train", *wanted)]:
            config = stage_config(
                cfg, stage.name, out, {k: v for k, v in inputs.items() if k in stage.inputs}
            )
            if stage.name in wanted and (estimate := stage.say_plan(config)):
                plans[stage.name] = estimate.to_json()
            if not (stage.directory in inputs or (out / stage.directory).exists()):
                stage.expect(config, foretold / stage.directory)
                if (foretold / stage.directory).exists():
                    inputs[stage.directory] = foretold / stage.directory
            if set(plans) == set(wanted):
                break
    return plans


def run_one(
    name: str,
    source: str | Path,
    overrides: Sequence[str],
    out: str | Path,
    *,
    inputs: Mapping[str, Path] | None = None,
    plan_only: bool = False,
) -> Json:
    """One stage.

    With a recipe, `out` is the run's directory and the stage's inputs are those of the run, unless
    `inputs` names others. With a stage's own `config.toml`, `out` is the stage's directory.
    """
    stage = BY_NAME[name]
    table = settings_of(source)
    if is_recipe(table) or of_stage(table) == "distill":
        recipe = load(source, overrides)
        if name == "extract":
            _require_subject(recipe)
        if plan_only:
            return {"plan": _plans(recipe, [name], Path(out), inputs)}
        cfg, target = stage_config(recipe, name, Path(out), inputs), Path(out) / stage.directory
    else:
        _require_table_of(stage, source, table)
        table = apply_overrides(stage.config, table, overrides)
        table |= {key: str(path) for key, path in (inputs or {}).items()}
        cfg, target = validate_config(stage.config, table, overrides), Path(out)
    if plan_only:
        estimate = stage.say_plan(cfg)
        return {"plan": {name: estimate.to_json()} if estimate else {}}
    return stage.run(cfg, target)


def _require_table_of(stage: Stage, source: str | Path, table: Json) -> None:
    """Refuse another stage's settings, as of a stage of a run in the place of the run."""
    other = of_stage(table)
    if other and not set(table) <= set(stage.config.model_fields):
        run = Path(source).parent
        way = f"; for the run: {stage.command(run)}" if (run / "config.toml").is_file() else ""
        raise ConfigError(f"{source} has the settings of {other}, not of {stage.name}{way}")


def suite_of(
    name: str, recipe: str | Path, overrides: Sequence[str], out: Path, sae: Path | None = None
) -> tuple[Json, Path]:
    """The settings of a suite on the model and SAE of a run, and the directory for its result.

    Args:
        name: The suite.
        recipe: Recipe of the run.
        overrides: Of the recipe; those that begin with `suite.` are the suite's own settings.
        out: The run's directory.
        sae: Another SAE than the run's.

    Raises:
        ConfigError: a recipe of thoughts: the suites are texts.
    """
    own = [item.removeprefix(OF_SUITE) for item in overrides if item.startswith(OF_SUITE)]
    cfg = load(recipe, [item for item in overrides if not item.startswith(OF_SUITE)])
    if cfg.problems.kind != "text":
        raise ConfigError(
            f"--suite {name} reads texts with a language model; this recipe has a thought model"
        )
    extraction = stage_config(cfg, "extract", out).model_dump()
    given = {
        "suite": name,
        "model": extraction["model"],
        "sae": str(sae or out / "sae"),
        "bos": extraction["bos"],
    }
    table = apply_overrides(BY_NAME["suite"].config, given, own)
    return table, out / "suites" / table["suite"]


def _do(cfg: Recipe, stage: Stage, out: Path) -> Result:
    stage_cfg, target = stage_config(cfg, stage.name, out), out / stage.directory
    if target.exists():
        if removed(target):
            say(f"{stage.name}: what was deleted of {target} stays so; it is made again by: {again(target)}")
            return read_result(target)
        return stage.run(stage_cfg, target)
    stage.say_plan(stage_cfg)
    result = stage.run(stage_cfg, target)
    from thoughtlens.numerics import give_back_freed_memory  # here, since it loads torch, as stages do

    give_back_freed_memory()
    return result


def _claim(cfg: Recipe, out: Path) -> None:
    """Write the recipe into the run directory, or see that it is the same one.

    A recipe of ours is replaced where no stage that is there, or begun, was made with what differs: so a
    stage that was refused can be done with other settings.
    """
    file = out / "config.toml"
    if out.exists() and not out.is_dir():
        raise OccupiedError(
            f"Expected a directory to make or continue at {out}, found a file; choose another"
        )
    others = out.is_dir() and any(not path.name.startswith(file.name) for path in out.iterdir())
    if file.is_file():
        begun = load_config(recipe_class(), file)
        if identity(begun) == identity(cfg):
            return
        own = file.read_text("utf-8") == to_toml(begun)
        if not own or (others and not _same_so_far(cfg, begun, out)):
            keys = differences(cfg.model_dump(mode="json"), begun.model_dump(mode="json"))
            raise OccupiedError(
                f"{out} holds a run with other settings: {', '.join(keys)}. "
                f"Choose another --out, or delete it"
            )
    elif others and not (any(imported(out, stage) for stage in BROUGHT) and _same_so_far(cfg, cfg, out)):
        raise OccupiedError(
            f"Expected a new or empty directory or an earlier run at {out}; something else is there"
        )
    out.mkdir(parents=True, exist_ok=True)
    with system_errors(file), whole(file) as part:
        part.write_text(to_toml(cfg), "utf-8")


def _same_so_far(cfg: Recipe, begun: Recipe, out: Path) -> bool:
    """Whether all that stands in a run would have been made alike."""
    stages = {out / stage.directory: stage.name for stage in OF_RUNS}
    inside = {place.parent for place in stages} - {out}
    found = [path for top in out.iterdir() for path in (top.iterdir() if top in inside else [top])]
    seen = [path for path in found if not path.name.startswith((".", "config.toml"))]
    places = {path.with_suffix("") if path.suffix == ".tmp" else path for path in seen}
    made = places - {out / name for name in ("config", "result.json", "profile.json")}
    return made <= stages.keys() and all(
        identity(stage_config(cfg, stages[path], out)) == identity(stage_config(begun, stages[path], out))
        for path in made
    )


def _done(folder: Path, result: Result) -> StageDone:
    headline = result.get("headline") or None
    return StageDone(path=str(folder), digest=result["digest"], seconds=result["seconds"], headline=headline)
