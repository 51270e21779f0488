"""Commands that explain, read and compare latents."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thoughtlens.cli.commands.app import (
    Acts,
    Overrides,
    PlanOnly,
    RunDir,
    Sae,
    app,
    doing,
    show_plan,
    told,
)
from thoughtlens.core import BY_NAME, require_run


@app.command(help=BY_NAME["explain"].about)
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
    from thoughtlens.latents import about, explain_more, render, settings

    stage = BY_NAME["explain"]
    given = list(arguments or [])
    run = Path(given.pop(0)) if given and "=" not in given[0] else None
    cfg, target = settings(run, given, acts=acts, sae=sae, out=out, own=stage.settings_of(run) if run else {})
    if plan:
        return show_plan(stage, cfg)
    result = explain_more(cfg, target)
    text = render(about(run)) if run is not None and target == run / "explain" else ""
    told(result, text, place=target)


@app.command(help=BY_NAME["directions"].about)
def directions(
    run_dir: RunDir,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILE] [key=value]...",
            help=".npy or .safetensors, or from=probe label=COLUMN, from=diffmean, from=pca, from=lens.",
        ),
    ] = None,
    *,
    out: Annotated[
        Path | None, typer.Option("--out", help="A run to make of them; unset: RUN/directions/NAME.")
    ] = None,
) -> None:
    from thoughtlens.studies.directions import read

    given = list(arguments or [])
    file = next((one for one in given if "=" not in one or Path(one).is_file()), None)
    done = read(run_dir, file, [one for one in given if one != file], out)
    told(done.to_json(), done.text())


@app.command(help=BY_NAME["lens"].about)
def lens(
    run_dir: RunDir,
    overrides: Overrides = None,
    *,
    out: Annotated[Path | None, typer.Option("--out", help="Where to write; unset: RUN/lens.")] = None,
    plan: PlanOnly = False,
) -> None:
    require_run(run_dir)
    table = BY_NAME["lens"].settings_of(run_dir) | {"acts": str(run_dir / "acts")}
    table |= {"sae": str(run_dir / "sae")} if (run_dir / "sae").is_dir() else {}
    doing("lens", table, overrides, out or run_dir / "lens", plan=plan)


@app.command(help=BY_NAME["geometry"].about)
def geometry(
    overrides: Overrides = None,
    *,
    sae: Annotated[
        list[Path], typer.Option("--sae", help="An SAE, or a run with one; give it twice or more to compare.")
    ],
    acts: Annotated[
        list[Path] | None,
        typer.Option("--acts", help="The store of each --sae in turn; one for all where they share it."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Where to write; unset: RUN/geometry of the first SAE."),
    ] = None,
    plan: PlanOnly = False,
) -> None:
    folder = BY_NAME["train"].directory
    sae = [one / folder if (one / folder).is_dir() else one for one in sae]
    run = sae[0].parent
    if out is None and not (sae[0].name == folder and (run / "acts").is_dir()):
        raise typer.BadParameter(f"missing, since {sae[0]} is not the SAE of a run", param_hint="--out")
    stores = acts or []
    table: dict = {"sae": sae[0], "others": sae[1:]}
    table |= {"acts": stores[0]} if stores else {}
    table |= {"other_acts": stores[1:]} if len(stores) > 1 else {}
    doing("geometry", table, overrides, out or run / "geometry", plan=plan)


@app.command(help=BY_NAME["neuronpedia"].about)
def neuronpedia(
    run_dir: RunDir,
    settings: Overrides = None,
    *,
    out: Annotated[
        Path | None, typer.Option("--out", help="The folder to make; unset: RUN/neuronpedia.")
    ] = None,
) -> None:
    require_run(run_dir)
    doing("neuronpedia", {"run": run_dir}, settings, out or run_dir / "neuronpedia")
