"""Many trainings on one extraction: what a sweep and a grid share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thoughtlens.acts.extract.config import ExtractConfig
from thoughtlens.acts.extract.stage import extract
from thoughtlens.acts.extract.stage import plan as extract_plan
from thoughtlens.core import Config, Plan, apply_overrides, read_recipe, say, validate_config
from thoughtlens.studies import pipeline
from thoughtlens.studies.sweep.grid import TUNED, split_overrides


@dataclass(frozen=True)
class Study:
    """A stage that trains every setting of a grid on one activation store."""

    name: str
    config: type[Config]
    do: Callable[[Any, Path], dict[str, Any]]
    plan: Callable[[Any], Plan]
    configure: Callable[..., Config]
    """(recipe, overrides, acts, **options) -> the stage's config."""
    check: Callable[[Any], Any]
    """Refuses settings that nothing could be trained with, before the extraction."""

    def run(
        self,
        recipe: str | Path,
        overrides: Sequence[str],
        out: str | Path,
        *,
        acts: Path | None = None,
        plan_only: bool = False,
        **options: Any,
    ) -> dict[str, Any]:
        """Extract once into `out`/acts (or take `acts`), then train into `out`/NAME.

        Args:
            recipe: A recipe's name or file, or the stage's own config (then `out` is its directory).
            overrides: Single values change the recipe, comma lists are the axes; `seeds=0,1,2`.
            out: The directory.
            acts: A finished activation store.
            plan_only: Only say what it would need.
            options: Fields of the stage's config.
        """
        out = Path(out)
        table = read_recipe(recipe)
        if "grid" in table:
            given = {name: value for name, value in {"acts": acts, **options}.items() if value is not None}
            cfg = validate_config(self.config, apply_overrides(self.config, table, overrides) | given)
            return _plans([(self.name, self.plan(cfg))]) if plan_only else self.do(cfg, out)
        fixed, _, _ = split_overrides(overrides)
        cfg = self.configure(recipe, overrides, acts or out / "acts", **options)
        self.check(cfg)
        extraction = pipeline.stage_config(pipeline.load(recipe, fixed), "extract", out)
        assert isinstance(extraction, ExtractConfig)
        if plan_only:
            first = [] if acts else [("extract", extract_plan(extraction))]
            return _plans([*first, (self.name, self.plan(cfg))])
        if acts is None:
            extract(extraction, out / "acts")
        return self.do(cfg, out / self.name)


def recipe_tables(recipe: str | Path, overrides: Sequence[str]) -> dict[str, Any]:
    """A recipe's tables with the single values of `overrides` in them.

    Raises:
        ConfigError: a key that the recipe does not have.
    """
    return apply_overrides(pipeline.recipe_class(), read_recipe(recipe), overrides)


def tuned(table: dict[str, Any]) -> dict[str, Any]:
    """Those of a recipe's tables that may vary."""
    return {name: table[name] for name in TUNED if name in table}


def _plans(plans: list[tuple[str, Plan]]) -> dict[str, Any]:
    for name, estimate in plans:
        say(estimate.line(name))
    return {"plan": {name: estimate.to_json() for name, estimate in plans}}
