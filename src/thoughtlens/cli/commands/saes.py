"""Commands that take SAEs to other libraries, bring theirs here, and judge them on others' suites."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thoughtlens.cli.commands.app import Out, Overrides, PlanOnly, app, doing
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
