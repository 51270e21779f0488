"""The report's page: its sections in order, and what stands around them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from thoughtlens import __version__
from thoughtlens.core import require_sound
from thoughtlens.show.pages.run import OPTIONAL, STAGES, Run
from thoughtlens.show.report.blocks import Section
from thoughtlens.show.report.chains import chains
from thoughtlens.show.report.circuit import circuit
from thoughtlens.show.report.classification import classification
from thoughtlens.show.report.config import ReportConfig
from thoughtlens.show.report.directions import as_directions, said_as_ends
from thoughtlens.show.report.finetuned import finetuned
from thoughtlens.show.report.first import first
from thoughtlens.show.report.interventions import interventions
from thoughtlens.show.report.latents import latents
from thoughtlens.show.report.monitor import monitored
from thoughtlens.show.report.moves import who_moves_whom
from thoughtlens.show.report.orbits import moves
from thoughtlens.show.report.program import program
from thoughtlens.show.report.records import ReportOutcome
from thoughtlens.show.report.render import write
from thoughtlens.show.report.replay import replay
from thoughtlens.show.report.sections import at_a_glance, data, training
from thoughtlens.show.report.validation import validation


def sections_of(run: Run, top_latents: int) -> list[Section]:
    """What a run's report says; stages that are not there say nothing."""
    found = [
        first(run),
        at_a_glance(run),
        data(run),
        training(run),
        validation(run),
        finetuned(run),
        latents(run, top_latents),
        classification(run),
        chains(run),
        circuit(run),
        program(run),
        monitored(run),
        moves(run),
        interventions(run),
        who_moves_whom(run),
        replay(run),
    ]
    sections = [section for section in found if section is not None]
    return sections if (of := run.directions) is None else [as_directions(one, of) for one in sections]


def page_of(cfg: ReportConfig, run: Run, explorer: Callable[[], str | None], tmp: Path) -> ReportOutcome:
    """Write the page and its figures into `tmp`; `explorer`, asked last, gives the way to the run's own."""
    sections = sections_of(run, cfg.top_latents)
    definitions = [
        (stage, list(made.definitions.items())) for stage, made in run.made.items() if made.definitions
    ]
    if (of := run.directions) is not None:
        definitions = [
            (stage, [(key, said_as_ends(text)) for key, text in own]) for stage, own in definitions
        ]
    there = {stage for stage in STAGES if run.folder(stage).is_dir()}  # of another stage, such as convert
    missing = [stage for stage in STAGES if not of and stage not in {*run.results, *there, *OPTIONAL}]
    warnings = [(stage, line) for stage, made in run.made.items() for line in made.warnings]
    warnings += [
        ("report", f"the run has no {stage} stage; get it with: {run.command(stage)}") for stage in missing
    ]
    recipe = run.root / "config.toml"
    if recipe.is_file():
        require_sound([recipe])
    page = {
        "title": cfg.title or run.root.resolve().name,
        "subtitle": _subtitle(run),
        "explorer": explorer(),
        "warnings": warnings,
        "definitions": definitions,
        "stages": run.made,
        "provenance": _provenance(run),
        "recipe": recipe.read_text("utf-8") if recipe.is_file() else "",
        "version": __version__,
    }
    files = write(tmp, sections, page)
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
