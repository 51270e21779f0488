"""Commands that look into what is there: a run, a recipe, a store."""

from __future__ import annotations

import sys
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from thoughtlens.cli.commands.app import Recipe, RunDir, app, doing, require_order, show, told
from thoughtlens.core import BY_NAME

CHANGED = (
    "name", "seed", "stages", "model.name", "problems.source", "problems.n", "extract.hook_names",
    "extract.max_tokens", "sae.kind", "sae.d_sae", "sae.expansion", "sae.k", "train.members", "train.epochs",
    "train.lr", "classify.target",
)  # fmt: skip
"""Keys that a recipe shows beside those that it sets: what people change from study to study."""


@app.command()
def fire(
    run_dir: RunDir,
    texts: Annotated[list[str], typer.Argument(metavar="TEXT...", help="One or more texts or questions.")],
    *,
    member: Annotated[
        str | None, typer.Option(help="Which SAE of several; unset: the pooled one, else the first.")
    ] = None,
) -> None:
    """Show the strongest latents of a text, its L0, and which of them are dense."""
    require_order("fire", run_dir, texts)
    from thoughtlens.latents import on_text

    found = on_text.fire(run_dir, texts, member=member)
    told(found.to_json(), on_text.render(found))


@app.command()
def recipe(
    name: Recipe,
    *,
    whole: Annotated[bool, typer.Option("--all", help="Every key, not only the usual ones.")] = False,
) -> None:
    """Print a recipe, each key explained: what people change, or all of it."""
    from thoughtlens.core import dotted, load_config, read_recipe, to_toml
    from thoughtlens.studies import pipeline

    table = read_recipe(name)
    stage = None if pipeline.is_recipe(table) else pipeline.of_stage(table)
    cfg = pipeline.load(name) if stage is None else load_config(BY_NAME[stage].config, table)
    if whole:
        sys.stdout.write(to_toml(cfg, comments=True))
    else:
        usual = to_toml(cfg, comments=True, only={*dotted(table), *CHANGED})
        sys.stdout.write(f"{usual}\n# Every other key: thoughtlens recipe {quote(name)} --all\n")


@app.command()
def recipes() -> None:
    """List the shipped recipes."""
    from thoughtlens.core import recipe_names

    show({"recipes": recipe_names()})


@app.command()
def verify(path: Annotated[Path, typer.Argument(help="A run, a stage of one, an SAE or a store.")]) -> None:
    """Read every file and compare it with its digest."""
    from thoughtlens.acts import verify as verify_store
    from thoughtlens.core import verify as verify_files

    of_store = (path / "meta.json").is_file() and (path / "shards").is_dir()
    show((verify_store(path) if of_store else verify_files(path)).to_json())


@app.command(help=BY_NAME["explorer"].about)
def explorer(
    run_dir: RunDir,
    *,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder to write; open index.html in it. Unset: RUN/explorer."),
    ] = None,
    single: Annotated[bool, typer.Option("--single", help="One HTML file; for small runs.")] = False,
    beside: Annotated[
        list[Path] | None, typer.Option("--beside", help="Another run, shown beside for comparison.")
    ] = None,
    explain: Annotated[
        Path | None, typer.Option(help="An explain made elsewhere, shown in the place of the run's own.")
    ] = None,
    problems: Annotated[
        int | None,
        typer.Option(help="Problems that get a page of their own; unset: as the recipe says."),
    ] = None,
) -> None:
    stage = BY_NAME["explorer"]
    asked = {"others": beside or None, "single": single or None, "explain": explain, "n_problems": problems}
    table = stage.table(run_dir) | {name: value for name, value in asked.items() if value is not None}
    if out is not None:
        return doing("explorer", table, None, out)
    from thoughtlens.core import load_config
    from thoughtlens.show import ExplorerConfig, refreshed

    place = run_dir / "explorer"
    show(refreshed(load_config(ExplorerConfig, table), place), place=place)


@app.command()
def view(run_dir: RunDir) -> None:
    """Open the explorer of a run in the browser; written into the run when that has changed."""
    import webbrowser

    from thoughtlens.show import explorer_of, refreshed

    result = refreshed(explorer_of(run_dir), run_dir / "explorer")
    page = (run_dir / "explorer" / "index.html").resolve()
    show({"page": str(page), "opened": webbrowser.open(page.as_uri()), "n_latents": result["n_latents"]})
