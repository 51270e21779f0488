"""The command that runs an evaluation suite of others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from thoughtlens.cli.app import Out, Overrides, PlanOnly, app, show

if TYPE_CHECKING:
    from thoughtlens.evals.suites.config import SuiteConfig


@app.command()
def suite(
    name: Annotated[str, typer.Argument(help="sae-probes: 113 labelled sets of texts, two classes each.")],
    settings: Overrides = None,
    *,
    out: Out,
    plan: PlanOnly = False,
) -> None:
    """Run an evaluation suite on any model and SAE: model=NAME sae=DIR hook_name=layers.8:out."""
    from thoughtlens.core import load_config
    from thoughtlens.evals.suites.config import SuiteConfig

    run_suite(load_config(SuiteConfig, {"suite": name}, settings or []), out, plan=plan)


def run_suite(cfg: SuiteConfig, out: Path, *, plan: bool) -> None:
    """Run it and print its result, or only what it is expected to need."""
    from thoughtlens.core import say
    from thoughtlens.evals.suites import stage

    if not plan:
        return show(stage.suite(cfg, out))
    estimate = stage.plan(cfg)
    say(estimate.line("suite"))
    show({"plan": {"suite": vars(estimate)}})
