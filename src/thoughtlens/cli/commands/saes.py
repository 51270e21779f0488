"""Commands that take SAEs to other libraries, bring theirs here, and judge them on others' suites."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thoughtlens.cli.commands.app import Out, Overrides, PlanOnly, app, doing, show, told
from thoughtlens.cli.commands.run import Jobs
from thoughtlens.cli.commands.terminal import ending
from thoughtlens.core import BY_NAME


@app.command(help=BY_NAME["convert"].about)
def convert(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="An SAE of any format, or a folder of them.")],
    *,
    to: Annotated[
        str,
        typer.Option(
            help="thoughtlens, sae_lens, sparsify, dictionary_learning, gemma_scope, gemma_scope_2, openai, "
            "circuit_tracer."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    source_format: Annotated[
        str | None, typer.Option("--from", help="Format of SRC; unset: recognised from its files.")
    ] = None,
    hook: Annotated[
        str | None, typer.Option(help="Hook of the SAE, e.g. layers.8:out, where SRC does not say it.")
    ] = None,
) -> None:
    table = {"source": source, "to": to, "source_format": source_format, "hook_name": hook}
    doing("convert", table, None, out)


@app.command(help=BY_NAME["suite"].about)
def suite(
    name: Annotated[str, typer.Argument(help="sae-probes: 113 labelled sets of texts, two classes each.")],
    settings: Overrides = None,
    *,
    out: Out,
    plan: PlanOnly = False,
) -> None:
    doing("suite", {"suite": name}, settings, out, plan=plan, named=True)


@app.command()
def look(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="SAE", help="A path, OWNER/NAME:FOLDER on the hub, or RELEASE/ID; with --list: a word."
        ),
    ] = None,
    overrides: Overrides = None,
    *,
    model: Annotated[str | None, typer.Option(help="Its model; unset: the one that it says.")] = None,
    text: Annotated[
        Path | None, typer.Option(help=".txt, .jsonl or .parquet; unset: the bundled text.")
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to read at most.")] = 50_000,
    out: Annotated[
        Path | None, typer.Option("--out", help="The run's directory; unset: runs/look-SAE.")
    ] = None,
    hook: Annotated[
        str | None, typer.Option(help="Where it reads, layers.8:out, if it does not say so.")
    ] = None,
    source_format: Annotated[
        str | None, typer.Option("--from", help="Its format, if its files do not tell.")
    ] = None,
    jobs: Jobs = None,
    force: Annotated[
        bool, typer.Option("--force", help="Go on where model or settings are not its own.")
    ] = False,
    opens: Annotated[bool, typer.Option("--open/--no-open", help="Open the explorer in the browser.")] = True,
    listing: Annotated[
        bool, typer.Option("--list", help="List known releases, and what is on this machine.")
    ] = False,
) -> None:
    """Somebody's SAE, from its files to its pages: extract, validate, interpret, explain, explore."""
    if listing:
        from thoughtlens.sae import listed

        found = listed(source or "")
        none = "" if found else f"no release or model of the catalogue goes by {source!r}"
        return told({"releases": [one.to_json() for one in found]}, none)
    if not source:
        example = "thoughtlens look gpt2-small-res-jb/blocks.6.hook_resid_pre"
        raise typer.BadParameter(f"missing, as in: {example}", param_hint="SAE")
    from thoughtlens.studies.look import Ask, look

    ask = Ask(source, model, text, tokens, source_format, hook, force, overrides or [])
    place = out or ask.place
    result = look(ask, place, jobs=jobs)
    show(result, place=place, text=ending(result, place))
    if opens:
        import webbrowser

        webbrowser.open((place / "explorer" / "index.html").resolve().as_uri())
