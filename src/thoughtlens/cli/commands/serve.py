"""The command that serves a run to the browser."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Annotated

import typer

from thoughtlens.cli.commands.app import RunDir, app, show


@app.command()
def serve(
    run_dir: RunDir,
    *,
    host: Annotated[
        str, typer.Option(help="Address to listen on; the default is this machine only.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0: any that is free.")] = 0,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="Another name by which browsers may ask for this server.")
    ] = None,
) -> None:
    """The explorer, and a page where you ask the model: what fires on a text, and what a latent changes."""
    from thoughtlens.core import load_config
    from thoughtlens.show import ServeConfig, open_server

    table = {"run": str(run_dir), "host": host, "port": port, "allowed_hosts": allow_host or []}
    with open_server(load_config(ServeConfig, table)) as server:
        show({"url": server.url, "stop": "Ctrl-C"})
        sys.stdout.flush()
        with suppress(KeyboardInterrupt):  # how a server ends
            server.serve_forever()
