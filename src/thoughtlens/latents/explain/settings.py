"""The stage's settings for a run, or for a store and an SAE given by themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from thoughtlens.core import ConfigError, NotThereError, load_config
from thoughtlens.latents.explain.config import ExplainConfig


def settings(
    run: str | Path | None,
    overrides: Sequence[str] = (),
    *,
    acts: Path | None = None,
    sae: Path | None = None,
    out: Path | None = None,
) -> tuple[ExplainConfig, Path]:
    """Config and directory: inputs and place are those of the run, unless named.

    Raises:
        NotThereError: no such run.
        ConfigError: neither a run nor what would stand for it; a setting that is not known.
    """
    table: dict[str, str] = {}
    if run is not None:
        root = Path(run)
        if not root.is_dir():
            raise NotThereError(
                f"Expected a run's directory at {root}, found none; make one: thoughtlens run"
            )
        table = {"acts": str(root / "acts"), "sae": str(root / "sae")}
        if (root / "interpret" / "result.json").is_file():
            table["interpret"] = str(root / "interpret")
        out = out or root / "explain"
    table |= {name: str(path) for name, path in (("acts", acts), ("sae", sae)) if path is not None}
    if out is None or not {"acts", "sae"} <= set(table):
        raise ConfigError("Expected a run, as in: thoughtlens explain RUN; or all of --acts, --sae and --out")
    return load_config(ExplainConfig, table, overrides), out
