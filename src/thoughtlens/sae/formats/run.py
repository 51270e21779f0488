"""`thoughtlens convert`: an SAE of one format as an SAE of another, with proof."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import Field

from thoughtlens.core import Config, MismatchError, run_stage
from thoughtlens.sae.formats import formats, hooks, proof


class ConvertConfig(Config):
    """What to convert to what."""

    source: Path
    """The SAE: a folder or a file of any format; a folder of such folders converts them all."""
    to: str
    """Format to write."""
    source_format: str | None = None
    """Format of the source; unset: recognised from its files."""
    hook_name: str | None = None
    """Hook of the SAE, such as layers.8:out, where the source does not say it."""
    seed: int = Field(default=0, ge=0)
    """Of the rows that both are compared on."""


def convert(cfg: ConvertConfig, out: str | Path) -> dict[str, Any]:
    """Write the source in another format and compare what both compute.

    Returns:
        The stage's result: per SAE its rule, shape, notes, and how far the two forward passes differ.

    Raises:
        NotThereError: no SAE there.
        CheckpointError: damaged or hostile files.
        MismatchError: the target cannot express something, or the result is not the same SAE.
    """
    target = formats.require_name(cfg.to)
    sources = formats.members(cfg.source, cfg.source_format)

    def work(tmp: Path) -> dict[str, Any]:
        done = [
            _one(cfg, name, source, target, tmp / source[1].relative_to(formats.place(cfg.source)))
            for name, source in sources.items()
        ]
        worst = {key: max(m["proof"][key] for m in done) for key in ("max_delta_acts", "max_delta_x_hat")}
        return {
            "to": cfg.to,
            "n": len(done),
            "members": done,
            "headline": {key: {"value": v, "n": proof.ROWS, "split": "random"} for key, v in worst.items()},
            "definitions": proof.DEFINITIONS,
            "warnings": [note for m in done for note in m["notes"]],
        }

    return run_stage("convert", cfg, out, work, inputs={"source": Path(cfg.source)})


def _one(
    cfg: ConvertConfig, name: str, source: tuple[formats.Format, Path], target: formats.Format, out: Path
) -> dict[str, Any]:
    fmt, path = source
    plain = fmt.read(path)
    known = plain.hook is not None and hooks.is_ours(plain.hook)
    if known and cfg.hook_name not in (None, plain.hook):
        raise MismatchError(
            f"{path} says its hook is {plain.hook!r}, not {cfg.hook_name!r}; leave --hook out"
        )
    if cfg.hook_name is not None:
        plain = replace(plain, hook=cfg.hook_name)
    elif not known:
        named = (
            f"names its hook {plain.hook!r}" if plain.hook else "does not say at which hook it was trained"
        )
        plain = plain.noting(f"{path} {named}; --hook says it in this project's words")
    x = proof.rows(plain, cfg.seed)
    written = target.write(plain, out)
    about = {
        "member": name,
        "from": fmt.name,
        "rule": plain.rule,
        "d_in": plain.d_in,
        "d_sae": plain.d_sae,
        "d_out": plain.d_out,
        "dtype": str(written.dtype).removeprefix("torch."),
        "hook_name": plain.hook,
        "hook_out": plain.hook_out,
        "notes": list(written.notes),
    }
    del plain, written  # so that the SAE is in memory once
    return about | {"proof": proof.compare(fmt.forward(path, x), target.forward(out, x))}
