"""The explorer: a folder of static pages that shows a run's latents, and opens from the disk.

Browsers refuse to fetch files of a page that was opened from `file://`, but they load classic
scripts: every table is a script that hands over gzip in base64, and is asked for when it is needed.
"""

from __future__ import annotations

from pathlib import Path

from thoughtlens.core import (
    MismatchError,
    Result,
    progress,
)
from thoughtlens.interventions import found_in
from thoughtlens.show.explorer.build import Folder, Single
from thoughtlens.show.explorer.cells import Cells
from thoughtlens.show.explorer.claims import claims_of
from thoughtlens.show.explorer.config import ExplorerConfig
from thoughtlens.show.explorer.graphs import graph_shards
from thoughtlens.show.explorer.latents import member_shards
from thoughtlens.show.explorer.overview import overview
from thoughtlens.show.explorer.panels import Around
from thoughtlens.show.explorer.problems import problem_shards
from thoughtlens.show.explorer.records import ExplorerOutcome
from thoughtlens.show.explorer.sources import TABLES, interpreted, sources
from thoughtlens.show.explorer.variables import variable_tables
from thoughtlens.show.pages.pages import pages_of
from thoughtlens.show.pages.run import Run
from thoughtlens.tracing import graphs_in


def explorer(cfg: ExplorerConfig, out: str | Path) -> Result:
    """Write the explorer of a run into the directory `out`.

    Returns:
        The stage's result: latents, problems, bytes before the first click, and in all.

    Raises:
        NotThereError: a run has no finished interpret, or `explain` no finished explain.
        MismatchError: runs of thoughts beside runs of text, or a stage that was made from another SAE or
            store than its run has now.
        StoreError: a table of a run is damaged.
    """
    runs = [Run.open(cfg.run, cfg.explain), *map(Run.open, cfg.others)]
    for run in runs:
        interpreted(run)
        if run.kind != runs[0].kind:
            raise MismatchError(
                f"{runs[0].root} holds {runs[0].kind}, {run.root} holds {run.kind}; an explorer shows runs "
                f"of one kind"
            )
    for run in runs:
        run.require_one_sae()
    return pages_of(
        cfg.run, cfg, out, lambda tmp: _work(cfg, runs, tmp), stage="explorer", inputs=_inputs(runs)
    )


def _inputs(runs: list[Run]) -> dict[str, Path]:
    """Everything that is shown: the folders that the runs have."""
    folders = ("acts", "sae", *dict.fromkeys(TABLES.values()))
    found: dict[str, Path] = {}
    for i, run in enumerate(runs):
        prefix = f"{i}_" if i else ""
        places = {name: (run.explained if name == "explain" else None) or run.root / name for name in folders}
        found |= {f"{prefix}{name}": place for name, place in places.items() if place.is_dir()}
        found |= {f"{prefix}intervene_{name}": path for name, path in found_in(run.root).items()}
    found |= {f"graph_{name}": path for name, path in graphs_in(runs[0].root).items()}
    if (circuit := runs[0].folder("circuit")).is_dir():
        found["circuit"] = circuit
    return found


def _work(cfg: ExplorerConfig, runs: list[Run], tmp: Path) -> ExplorerOutcome:
    found = sources(runs)
    pages = Single(tmp) if cfg.single else Folder(tmp, [found[0].key])
    cells, claims, known = [], {}, {}
    around = {run.root: Around.of(run, found) for run in runs}
    with progress("explorer", len(found) + 1, "parts") as bar:
        for source in found:
            cells.append(Cells.of(source))
            claims[source.key] = claims_of(source, known, around[source.run.root])
            for key, shard in member_shards(
                source, cells[-1], claims[source.key], around[source.run.root], cfg
            ):
                pages.put({key: shard})
            bar.advance(1)
        problems, listed = problem_shards(found, claims, cfg)
        graphs, drawn = graph_shards(runs[0], {one.id: i for i, one in enumerate(listed.listed)})
        pages.put(problems | variable_tables(runs[0]) | graphs)
        bar.advance(1)
    sizes = pages.finish(overview(found, cells, listed, drawn))
    return ExplorerOutcome(
        n_latents=sum(source.d_sae for source in found),
        n_problems=len(listed.listed),
        first_bytes=sizes.first,
        total_bytes=sizes.total,
        headline={"page": "index.html"},
    )
