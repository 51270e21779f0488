"""`thoughtlens serve RUN`: the explorer, and a page that asks the model.

Listens on this machine only unless told otherwise. docs/explorer.md says what is refused and why.
"""

from __future__ import annotations

from pathlib import Path

from thoughtlens.core import NotThereError, load_config, warn
from thoughtlens.show.explorer.config import ExplorerConfig
from thoughtlens.show.pages import refreshed
from thoughtlens.show.serve.config import ServeConfig
from thoughtlens.show.serve.engine import Engine
from thoughtlens.show.serve.files import Files
from thoughtlens.show.serve.guard import is_loopback
from thoughtlens.show.serve.server import Server

__all__ = ["ServeConfig", "open_server"]


def open_server(cfg: ServeConfig) -> Server:
    """A server of a run that listens already; the explorer is written first where it is not there.

    Raises:
        NotThereError: no run, no SAE, no store, or no interpret for the explorer.
        MismatchError: SAEs that do not reconstruct their input.
        ResourceError: the address cannot be listened on.
    """
    run = Path(cfg.run)
    if not run.is_dir():
        raise NotThereError(f"Expected a run directory at {run}, found none; make one with: thoughtlens run")
    folder = run / "explorer"
    shown = (
        load_config(ExplorerConfig, folder) if (folder / "config.toml").is_file() else ExplorerConfig(run=run)
    )
    refreshed(shown.model_copy(update={"run": run}), folder)
    server = Server(cfg, Engine(run, cfg.timeout_s), Files(folder))
    if not is_loopback(cfg.host):
        warn(f"serve: {server.url} can be reached from other machines, without a password")
    return server
