"""The report stage: everything a run found, on one page that needs nothing else."""

from __future__ import annotations

from pathlib import Path

from thoughtlens.core import Outcome, Result
from thoughtlens.interventions import found_in
from thoughtlens.show.pages.pages import pages_of
from thoughtlens.show.pages.run import Run
from thoughtlens.show.report.config import ReportConfig

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
    inputs |= {f"intervene_{name}": path for name, path in found_in(run.root).items()}

    def work(tmp: Path) -> Outcome:
        from thoughtlens.show.report.page import page_of  # here: figures and tables take seconds to load

        return page_of(cfg, run, lambda: cfg.explorer or _explorer(run, Path(out)), tmp)

    return pages_of(cfg.run, cfg, out, work, stage="report", inputs=inputs)


def _explorer(run: Run, out: Path) -> str | None:
    """From the report to the run's explorer, if the report is beside it; also one that is being written."""
    there = any((run.root / name).exists() for name in ("explorer/index.html", "explorer.tmp"))
    return "../explorer/index.html" if there and out.resolve().parent == run.root.resolve() else None
