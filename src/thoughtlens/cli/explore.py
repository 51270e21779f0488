"""Commands that open a run in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thoughtlens.cli.app import app, show

RunDir = Annotated[Path, typer.Argument(metavar="RUN", help="The directory of a finished run.")]


@app.command()
def explorer(
    run_dir: RunDir,
    *,
    out: Annotated[Path, typer.Option("--out", help="Folder to write; open index.html in it.")],
    single: Annotated[bool, typer.Option("--single", help="One HTML file; for small runs.")] = False,
    beside: Annotated[
        list[Path] | None, typer.Option("--beside", help="Another run, shown beside for comparison.")
    ] = None,
    problems: Annotated[int, typer.Option(help="Problems that get a page of their own.")] = 200,
) -> None:
    """Write pages that show every latent of a run."""
    from thoughtlens.core import BY_NAME
    from thoughtlens.show.explorer.config import ExplorerConfig

    cfg = ExplorerConfig(run=run_dir, others=tuple(beside or ()), single=single, n_problems=problems)
    show(BY_NAME["explorer"].run(cfg, out))


@app.command()
def view(run_dir: RunDir) -> None:
    """Open the explorer of a run in the browser; written into the run when that has changed."""
    import webbrowser

    from thoughtlens.show.explorer.config import ExplorerConfig
    from thoughtlens.show.pages import refreshed

    result = refreshed(ExplorerConfig(run=run_dir), run_dir / "explorer")
    page = (run_dir / "explorer" / "index.html").resolve()
    show({"page": str(page), "opened": webbrowser.open(page.as_uri()), "n_latents": result["n_latents"]})
