"""The command that makes a store of arrays that are there already."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from shlex import join, quote
from typing import TYPE_CHECKING, Annotated

import typer

from thoughtlens.cli.commands.app import PlanOnly, app, do, show
from thoughtlens.core import BY_NAME, OF_RUNS

if TYPE_CHECKING:
    from thoughtlens.acts import ImportConfig


@app.command("import", help=BY_NAME["import"].about)
def import_(
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILE]...",
            help="Files with arrays and columns; also key=value, e.g. columns.problem=idx. Without a file, "
            "--hook and model= say what the hooks of a store that is there are.",
        ),
    ] = None,
    *,
    out: Annotated[Path, typer.Option("--out", help="The store to make: RUN/acts.")],
    first_thought: Annotated[
        int | None,
        typer.Option(help="Number that the files give the first vector that was fed back: 0 or 1."),
    ] = None,
    hook: Annotated[
        list[str] | None,
        typer.Option(help="What a hook of the files is in the model: early=layers.3:out; repeat it."),
    ] = None,
    plan: PlanOnly = False,
) -> None:
    from thoughtlens.acts import ImportConfig
    from thoughtlens.core import load_config

    words, stage = files or [], BY_NAME["import"]
    places = [one for one in words if "=" not in one or Path(one).exists()]
    first = {} if first_thought is None else {"first_thought": first_thought}
    table = {"files": places, "hook": hook or [], **first}
    cfg = load_config(ImportConfig, table, [one for one in words if one not in places])
    if plan or not _only_names(cfg, out):
        do(stage, cfg, out, plan=plan)
    else:
        _place(out, cfg.hook, cfg.model)


def _only_names(cfg: ImportConfig, out: Path) -> bool:
    """Whether a store is there that was imported so, and only its hooks or its model are called otherwise."""
    from thoughtlens.core import identity, load_config, read_recipe

    if not (out / "config.toml").is_file() or "files" not in (stated := read_recipe(out)):
        return False
    told = {"hook", "model"}
    if not cfg.files:
        return bool(cfg.model_fields_set & told) and cfg.model_fields_set <= {*told, "files"}
    made = load_config(type(cfg), stated)
    asked = {name: getattr(cfg, name) for name in told & cfg.model_fields_set if getattr(cfg, name)}
    alike = identity(cfg.model_copy(update={"hook": made.hook, "model": made.model})) == identity(made)
    return alike and identity(made.model_copy(update=asked)) != identity(made)


def _place(out: Path, hook: Sequence[str], model: str | None) -> None:
    """Name the hooks of a store, and of the SAEs of its run, and say what was made before."""
    from thoughtlens import acts, sae
    from thoughtlens.core import say

    placed = acts.place(out, hook, model)
    run, stale = out.parent, []
    if out.name == BY_NAME["extract"].directory:
        names, digests = placed.names, {"before": placed.digest_before, "now": placed.digest}
        kept = sae.place(run / BY_NAME["train"].directory, names, **digests, model=placed.model)
        of_names = {BY_NAME["extract"].directory, *([BY_NAME["train"].directory] if kept else [])}
        stale = [str(run / stage.directory) for stage in OF_RUNS if stage.directory not in of_names]
        stale = [folder for folder in dict.fromkeys(stale) if Path(folder).is_dir()]
    if stale:
        say(
            f"made before, with the names of then: {', '.join(stale)}; do them again: rm -r {join(stale)} && "
            f"thoughtlens run {quote(str(run))}"
        )
    show(placed.to_json(), place=out)
