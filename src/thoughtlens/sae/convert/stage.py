"""`thoughtlens convert`: an SAE of one format as an SAE of another, with proof."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from thoughtlens.core import MismatchError, Number, Result, run_stage
from thoughtlens.sae.convert import proof
from thoughtlens.sae.convert.config import ConvertConfig
from thoughtlens.sae.convert.records import Converted, ConvertOutcome
from thoughtlens.sae.formats import catalogue, formats, hooks
from thoughtlens.sae.formats.portable import Portable


def convert(cfg: ConvertConfig, out: str | Path) -> Result:
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
    root = formats.place(cfg.source)

    def work(tmp: Path) -> ConvertOutcome:
        done = [
            _one(cfg, name, source, target, tmp if target.one_folder or source.path == root else tmp / name)
            for name, source in sources.items()
        ]
        worst = {
            "max_delta_acts": max(one.proof.max_delta_acts for one in done),
            "max_delta_x_hat": max(one.proof.max_delta_x_hat for one in done),
        }
        return ConvertOutcome(
            to=cfg.to,
            n=len(done),
            members=done,
            headline={name: Number(value=v, n=proof.ROWS, split="random") for name, v in worst.items()},
            definitions=proof.DEFINITIONS,
            warnings=[*(note for one in done for note in one.notes), *target.doubts(tmp)],
        )

    return run_stage("convert", cfg, out, work, inputs={"source": Path(cfg.source)})


def _one(
    cfg: ConvertConfig, name: str, source: formats.Found, target: formats.Format, out: Path
) -> Converted:
    fmt, path = source
    sae = _named(_told(fmt.read(path), cfg.release), cfg.hook_name, path)
    if target.name == "thoughtlens" != fmt.name:
        sae = replace(sae, provenance=sae.provenance | formats.came_from(fmt.name, sae))
    x = proof.rows(sae, cfg.seed)
    written, at = target.write(sae, out), target.weights_of(sae, out)
    rule, hook, hook_out, (d_in, d_sae, d_out) = (
        sae.rule,
        sae.hook,
        sae.hook_out,
        (sae.d_in, sae.d_sae, sae.d_out),
    )
    dtype, notes = str(written.dtype).removeprefix("torch."), written.notes
    del sae, written  # so that the SAE is in memory once
    return Converted(
        member=name,
        source=fmt.name,
        rule=rule,
        d_in=d_in,
        d_sae=d_sae,
        d_out=d_out,
        dtype=dtype,
        hook_name=hook,
        hook_out=hook_out,
        notes=notes,
        proof=proof.compare(fmt.forward(path, x), target.forward(at, x)),
    )


def _told(sae: Portable, release: str | None) -> Portable:
    """With what its release says of its training, where it does not say that itself."""
    return replace(sae, says=sae.says.over(catalogue.releases()[release].says)) if release else sae


def _named(sae: Portable, hook_name: str | None, path: Path) -> Portable:
    """With its hook in this project's words, or a note that it is not known."""
    known = sae.hook is not None and hooks.is_ours(sae.hook)
    same = hook_name is None or hooks.meaning(hook_name) == hooks.meaning(sae.hook or "")
    if known and not (same or sae.hook_assumed):
        raise MismatchError(f"{path} says its hook is {sae.hook!r}, not {hook_name!r}; leave --hook out")
    if hook_name is not None:
        return replace(sae, hook=hook_name)
    if known:
        return sae
    says = f"names its hook {sae.hook!r}" if sae.hook else "does not say at which hook it was trained"
    return sae.noting(f"{path} {says}; --hook says it in this project's words")
