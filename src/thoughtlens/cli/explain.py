"""The command that explains latents."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thoughtlens.cli.app import Acts, PlanOnly, Sae, app, show


@app.command()
def explain(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN] [key=value]...", help="A run's directory, then settings: n_latents=200."
        ),
    ] = None,
    *,
    acts: Acts = None,
    sae: Sae = None,
    out: Annotated[Path | None, typer.Option("--out", help="Directory to make; unset: RUN/explain.")] = None,
    plan: PlanOnly = False,
) -> None:
    """Explain latents, without an LLM or with one; every explanation is scored on problems it did not see."""
    from thoughtlens.core import say
    from thoughtlens.latents.explain import stage

    given = list(arguments or [])
    run = Path(given.pop(0)) if given and "=" not in given[0] else None
    cfg, target = stage.settings(run, given, acts=acts, sae=sae, out=out)
    if plan:
        show({"plan": vars(stage.plan(cfg))})
        return
    result = stage.explain(cfg, target)
    if run is not None and target == run / "explain":
        say(stage.render(stage.about(run)))
    show(result)
