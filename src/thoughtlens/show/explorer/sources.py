"""One SAE of one run, and its rows of the run's tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from thoughtlens.core import NotThereError, Record, of_table
from thoughtlens.latents.interpret.records import InterpretOutcome, MemberSummary
from thoughtlens.sae import POOLED
from thoughtlens.show.interventions import found_in
from thoughtlens.show.run import Run, read_table

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
    "lens_summary": "lens",
    "readings": "lens",
    "neighbours": "geometry",
    "matches": "geometry",
}
"""Folder of each table that the explorer shows."""
COMMANDS = {
    "interpret": "thoughtlens interpret RECIPE --out {run}",
    "validate": "thoughtlens validate RECIPE --out {run}",
    "explain": "thoughtlens explain {run}",
    "lens": "thoughtlens lens {run}",
    "geometry": "thoughtlens geometry --sae {run}/sae --acts {run}/acts --out {run}/geometry",
    "transfer": "thoughtlens geometry --sae {run}/sae --sae OTHER/sae --acts {run}/acts --acts OTHER/acts "
    "--out {run}/geometry",
    "intervene": "thoughtlens intervene {run} edit=ablate --out {run}/intervene/ablate",
    "edit": "thoughtlens intervene {run} edit=edit_latents member=SAE latents=[LATENT] scale=0 "
    "--out {run}/intervene/latent",
}
"""What makes a folder."""

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
        root = self.run.root / "sae"
        return root if (root / "cfg.json").is_file() else root / self.name

    def table(self, name: str, columns: Sequence[str] | None = None) -> pa.Table | None:
        """Its rows of a table; None where the run has no such table."""
        file = place(self.run, name)
        if not file.is_file():
            return None
        table = read_table(file, TABLES[name], ["member", *columns] if columns else None)
        return table.filter(pc.equal(table["member"].cast(pa.string()), self.name))  # type: ignore[attr-defined]

    def rows(self, name: str, cls: type[R]) -> list[R]:
        """Its rows of a table; none where the run has no such table."""
        table = self.table(name)
        return [] if table is None else of_table(cls, table)

    def by_latent(self, name: str, cls: type[R], *order: tuple[str, str]) -> Grouped[R] | None:
        """Its rows of a table, by latent and then in this order."""
        table = self.table(name)
        return None if table is None else Grouped(table, self.d_sae, cls, order)

    def have(self) -> dict[str, bool]:
        """Which tables the run has."""
        found = {name: place(self.run, name).is_file() for name in TABLES}
        codes = (self.run.root / "interpret" / "codes").is_dir()
        return found | {"cells": codes, "interventions": bool(found_in(self.run))}


class Grouped(Generic[R]):
    """Rows of a table by latent."""

    def __init__(self, table: pa.Table, n: int, cls: type[R], order: Sequence[tuple[str, str]]) -> None:
        keys = [("latent", "ascending"), *(key for key in order if key[0] in table.column_names)]
        self._table = table.sort_by(keys)
        self._cls = cls
        self._bounds = np.searchsorted(self._table["latent"].to_numpy(), np.arange(n + 1))

    def of(self, low: int, high: int) -> list[list[R]]:
        """The rows of each of the latents `low` to `high`."""
        first = self._bounds[low]
        rows = of_table(self._cls, self._table.slice(first, self._bounds[high] - first))
        return [rows[self._bounds[i] - first : self._bounds[i + 1] - first] for i in range(low, high)]


def place(run: Run, table: str) -> Path:
    """The file of a table."""
    stage = TABLES[table]
    return run.root / stage / f"{table.removeprefix(stage + '_')}.parquet"


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
        NotThereError: it is not finished.
    """
    outcome = run.outcome("interpret", InterpretOutcome)
    if outcome is None:
        raise NotThereError(
            f"Expected a finished interpret in {run.root}, found none; run: thoughtlens interpret RECIPE "
            f"--out {run.root}"
        )
    return outcome


def commands(run: Run) -> dict[str, str]:
    """By table, what makes it."""
    made = {name: COMMANDS[stage].format(run=run.root.name) for name, stage in TABLES.items()}
    extra = {"matches": "transfer", "cells": "interpret", "interventions": "intervene", "effects": "edit"}
    return made | {name: COMMANDS[stage].format(run=run.root.name) for name, stage in extra.items()}
