"""One SAE of one run, and its rows of the run's tables."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from thoughtlens.core import NotThereError, Record, of_table, read_recipe
from thoughtlens.interventions import found_in
from thoughtlens.latents import InterpretOutcome, MemberSummary
from thoughtlens.sae import POOLED, member_path
from thoughtlens.show.pages.by_latent import Grouped, member_table
from thoughtlens.show.pages.run import Run

TABLES = {
    "latents": "interpret",
    "top_examples": "interpret",
    "associations": "interpret",
    "decile_examples": "interpret",
    "coactivation": "interpret",
    "reconstruction": "validate",
    "explanations": "explain",
    "graphs": "explain",
    "lens_latents": "lens",
    "lens_logits": "lens",
    "lens_summary": "lens",
    "readings": "lens",
    "neighbours": "geometry",
    "matches": "geometry",
    "values": "recovery",
    "moves": "influence",
    "weights": "attention",
}
"""Folder of each table that the explorer shows."""
COMMANDS = {
    "explain": "thoughtlens explain {run}",
    "lens": "thoughtlens lens {run}",
    "recovery": "thoughtlens recovery {run}",
    "geometry": "thoughtlens geometry --sae {run}/sae --sae {other}/sae --acts {run}/acts "
    "--acts {other}/acts --out {run}/geometry",
    "another": "thoughtlens run {recipe} seed={seed} --out {other}",
    "graph": "thoughtlens circuit {run} --problem <PROBLEM>",
    "intervene": "thoughtlens intervene {run} edit=ablate --out {run}/intervene/ablate",
    "edit": "thoughtlens intervene {run} edit=edit_latents member=<SAE> 'latents=[<LATENT>]' scale=0 "
    "--out {run}/intervene/<SAE>-<LATENT>",
}
"""What makes a folder that no stage of the recipe does. The page puts an SAE's and a latent's names in."""

R = TypeVar("R", bound=Record)


@dataclass(frozen=True, eq=False)
class Source:
    """One SAE of one run; `name` in tables, `label` on the page, `key` in addresses of its data."""

    run: Run
    name: str
    label: str
    key: str
    about: MemberSummary
    """Its entry in interpret's result."""

    @property
    def d_sae(self) -> int:
        return self.about.d_sae

    @property
    def sae_dir(self) -> Path:
        """Where its weights are."""
        return member_path(self.run.root / "sae", self.name)

    def table(self, name: str, columns: Sequence[str] | None = None) -> pa.Table | None:
        """Its rows of a table; None where the run has no such table."""
        return member_table(self.run, TABLES[name], place(self.run, name).name, self.name, columns)

    def rows(self, name: str, cls: type[R]) -> list[R]:
        """Its rows of a table; none where the run has no such table."""
        table = self.table(name)
        return [] if table is None else of_table(cls, table)

    def by_latent(
        self,
        name: str,
        cls: type[R],
        *order: tuple[str, str],
        only: Callable[[pa.Table], pa.Table] = lambda table: table,
    ) -> Grouped[R] | None:
        """Its rows of a table that `only` leaves, by latent and then in this order."""
        table = self.table(name)
        return None if table is None else Grouped(only(table), self.d_sae, cls, order)

    def have(self) -> dict[str, bool]:
        """Which tables the run has."""
        found = {name: place(self.run, name).is_file() for name in TABLES}
        codes = (self.run.root / "interpret" / "codes").is_dir()
        return found | {"cells": codes, "interventions": bool(found_in(self.run.root))}


def place(run: Run, table: str) -> Path:
    """The file of a table."""
    stage = TABLES[table]
    return run.folder(stage) / f"{table.removeprefix(stage + '_')}.parquet"


def sources(runs: Sequence[Run]) -> list[Source]:
    """All SAEs of the runs, those of the first run first; of each run the pooled one first."""
    found: list[Source] = []
    for run in runs:
        members = interpreted(run).members
        for about in sorted(members, key=lambda m: m.member != POOLED):
            label = about.member if run is runs[0] else f"{run.root.name}: {about.member}"
            found.append(Source(run, about.member, label, f"m{len(found)}", about))
    return found


def interpreted(run: Run) -> InterpretOutcome:
    """What interpret found.

    Raises:
        NotThereError: it is not finished, or what it was made from is not in the run.
    """
    outcome = run.outcome("interpret", InterpretOutcome)
    if outcome is None:
        steps = ("interpret",) if (run.root / "sae").is_dir() else ("train", "interpret")
        raise NotThereError(
            f"Expected a finished interpret in {run.root}, found none; run: "
            f"{' && '.join(map(run.command, steps))}"
        )
    made_from = run.result("interpret").get("inputs") or {}
    for name, place in (("acts", run.folder("extract")), ("sae", run.folder("train"))):
        if not place.exists():
            theirs = Path(made_from.get(name, {}).get("path", place))
            copied = f"; copy it there: cp -r {shlex.quote(str(theirs))} {shlex.quote(str(place))}"
            raise NotThereError(
                f"Expected at {place} what {run.folder('interpret')} was made from, found nothing there"
                f"{copied if theirs.exists() else ''}"
            )
    return outcome


def commands(run: Run, others: Sequence[Run] = ()) -> dict[str, str]:
    """By table, what makes it: commands that can be pasted where this one was given.

    Neighbours and matches stand in one folder, and matches need a second SAE: that of another run which is
    shown, or else of the recipe with the next seed.
    """
    made = {name: _filled(run, stage) for name, stage in TABLES.items() if stage != "geometry"}
    extra = {
        "cells": "interpret",
        "interventions": "intervene",
        "effects": "edit",
        "circuit": "circuit",
        "graph": "graph",
    }
    made |= {name: _filled(run, stage) for name, stage in extra.items()}
    of_two = [name for name, stage in TABLES.items() if stage == "geometry"]
    if others:
        return made | dict.fromkeys(of_two, _filled(run, "geometry", other=others[0].root))
    recipe = read_recipe(run.root) if (run.root / "config.toml").is_file() else {}
    seed = int(recipe.get("seed", 0)) + 1
    root = run.root if run.root.name else run.root.resolve()
    other = root.with_name(f"{root.name}-seed{seed}")
    steps = [_filled(run, step, other=other, seed=seed) for step in ("another", "geometry")]
    return made | dict.fromkeys(of_two, " && ".join(steps))


def _filled(run: Run, step: str, *, other: Path = Path(), seed: int = 0) -> str:
    """A command with the run's own places, quoted for a shell."""
    if step not in COMMANDS:
        return run.command(step)
    places = {"run": str(run.root), "recipe": run.recipe, "other": str(other), "seed": str(seed)}
    return COMMANDS[step].format(**{name: shlex.quote(text) for name, text in places.items()})
