"""The report stage: everything a run found, on one page that needs nothing else."""

from __future__ import annotations

from pathlib import Path

from thoughtlens import __version__
from thoughtlens.core import Result
from thoughtlens.show.pages.interventions import found_in
from thoughtlens.show.pages.pages import pages_of
from thoughtlens.show.pages.run import OPTIONAL, STAGES, Run
from thoughtlens.show.report.classification import classification
from thoughtlens.show.report.config import ReportConfig
from thoughtlens.show.report.first import first
from thoughtlens.show.report.interventions import interventions
from thoughtlens.show.report.latents import latents
from thoughtlens.show.report.records import ReportOutcome
from thoughtlens.show.report.render import write
from thoughtlens.show.report.replay import replay
from thoughtlens.show.report.sections import at_a_glance, data, training
from thoughtlens.show.report.validation import validation

__all__ = ["ReportConfig", "report"]

OF_FINDINGS = ("recovery", "lens", "explain")
"""Stages that the first page reads besides."""


def report(cfg: ReportConfig, out: str | Path) -> Result:
    """Write `report.html` (one file that needs no other), `report.md`, and `figures/` as PNG and PDF.

    Stages that the run does not have are left out, and the page says how to get them.

    Raises:
        NotThereError: no run, or none of its stages is finished.
        MismatchError: a stage was made from another SAE or store than the run has now.
        StoreError: a table of the run is damaged.
    """
    run = Run.open(cfg.run)
    run.require_one_sae()
    inputs = {stage: run.folder(stage) for stage in run.results}
    inputs |= {stage: run.folder(stage) for stage in OF_FINDINGS if run.folder(stage).is_dir()}
    inputs |= {f"intervene_{name}": path for name, path in found_in(run).items()}
    address = cfg.explorer or _explorer(run, Path(out))
    return pages_of(
        cfg.run, cfg, out, lambda tmp: _work(cfg, run, address, tmp), stage="report", inputs=inputs
    )


def _explorer(run: Run, out: Path) -> str | None:
    """From the report to the run's explorer, if the report is beside it."""
    there = (run.root / "explorer" / "index.html").is_file() and out.resolve().parent == run.root.resolve()
    return "../explorer/index.html" if there else None


def _work(cfg: ReportConfig, run: Run, address: str | None, tmp: Path) -> ReportOutcome:
    found = [
        first(run),
        at_a_glance(run),
        data(run),
        training(run),
        validation(run),
        latents(run, cfg.top_latents),
        classification(run),
        interventions(run),
        replay(run),
    ]
    there = {stage for stage in STAGES if run.folder(stage).is_dir()}  # of another stage, such as convert
    missing = [stage for stage in STAGES if stage not in {*run.results, *there, *OPTIONAL}]
    warnings = [(stage, line) for stage, made in run.made.items() for line in made.warnings]
    warnings += [
        ("report", f"the run has no {stage} stage; get it with: {run.command(stage)}") for stage in missing
    ]
    recipe = run.root / "config.toml"
    page = {
        "title": cfg.title or run.root.resolve().name,
        "subtitle": _subtitle(run),
        "explorer": address,
        "warnings": warnings,
        "definitions": [
            (stage, list(made.definitions.items())) for stage, made in run.made.items() if made.definitions
        ],
        "stages": run.made,
        "provenance": _provenance(run),
        "recipe": recipe.read_text("utf-8") if recipe.is_file() else "",
        "version": __version__,
    }
    files = write(tmp, [section for section in found if section is not None], page)
    return ReportOutcome(files=files, n_warnings=len(warnings))


def _subtitle(run: Run) -> str:
    what = "Continuous thoughts" if run.kind == "thoughts" else "Token activations"
    hooks = ", ".join(run.hook_names)
    return f"{what} of {run.model or 'an unknown model'}{f' at {hooks}' if hooks else ''}"


def _provenance(run: Run) -> str:
    last = list(run.made.values())[-1]
    versions = ", ".join(f"{name} {version}" for name, version in last.versions.items())
    machine = f"{last.machine.system}, {last.machine.cpus} CPUs"
    return f"{versions}. Git commit {last.git_commit or 'unknown'}. {machine}."
