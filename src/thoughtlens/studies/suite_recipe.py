"""A suite on the model and SAE of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from thoughtlens.core import ConfigError, apply_overrides, validate_config
from thoughtlens.evals.suites.config import SuiteConfig
from thoughtlens.studies import pipeline

OWN = "suite."


def of_recipe(
    name: str, recipe: str | Path, overrides: Sequence[str], out: Path, sae: Path | None
) -> tuple[SuiteConfig, Path]:
    """The suite's config with the recipe's model and the run's SAE, and the directory for its result.

    Args:
        name: The suite.
        recipe: Recipe of the run.
        overrides: Of the recipe; those that begin with `suite.` are the suite's own settings.
        out: The run's directory.
        sae: Another SAE than the run's.

    Raises:
        ConfigError: a recipe of thoughts: the suites are texts.
    """
    own = [o.removeprefix(OWN) for o in overrides if o.startswith(OWN)]
    cfg = pipeline.load(recipe, [o for o in overrides if not o.startswith(OWN)])
    table = cfg.model_dump()
    if table["problems"]["kind"] != "text":
        raise ConfigError(
            f"--suite {name} reads texts with a language model; this recipe has a thought model"
        )
    given = {
        "suite": name,
        "model": table["model"],
        "sae": str(sae or out / "sae"),
        "bos": table["extract"]["bos"],
    }
    suite = validate_config(SuiteConfig, apply_overrides(SuiteConfig, given, own))
    return suite, out / "suites" / suite.suite
