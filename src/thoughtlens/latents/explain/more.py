"""Explaining more latents of a run; knows nothing of how, so that what is done already is said at once."""

from __future__ import annotations

import shutil
from pathlib import Path

from thoughtlens.core import BY_NAME, Result, load_config, read_recipe
from thoughtlens.latents.explain.config import ExplainConfig


def explain_more(cfg: ExplainConfig, out: Path) -> Result:
    """The stage `explain`; where other latents were explained alike, the new result has both in its place.

    A killed call leaves the old result, or the new one beside it, which the next call puts there.
    """
    stage = BY_NAME["explain"]
    fresh, old = (out.with_name(f"{out.name}.{name}") for name in ("more", "old"))
    if not out.exists() and (fresh / "result.json").is_file():
        fresh.rename(out)
    if (out / "result.json").is_file():
        there = load_config(ExplainConfig, read_recipe(out))
        cfg = cfg.beside(there)
        if cfg.covers(there) and not there.covers(cfg):
            stage.run(cfg, fresh)
            shutil.rmtree(old, ignore_errors=True)
            out.rename(old)
            fresh.rename(out)
    shutil.rmtree(old, ignore_errors=True)
    return stage.run(cfg, out)
