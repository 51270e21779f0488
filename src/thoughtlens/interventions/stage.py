"""The intervene stage: change thoughts while the model thinks, and see what becomes of its answers.

Every edit is compared with the untouched run on the same problems, shows that it changed something at
its place and further on, and has controls: a change as large in random directions, latents of the same
density, passes that were not asked for. `docs/interventions.md` has an example of each kind.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from thoughtlens.acts.behind import open_thoughts
from thoughtlens.acts.extract.config import ExtractConfig
from thoughtlens.core import (
    NotThereError,
    Plan,
    load_config,
    progress,
    read_json,
    run_stage,
    warn,
    write_json,
)
from thoughtlens.interventions.config import InterveneConfig
from thoughtlens.interventions.dictionaries import ARMS
from thoughtlens.interventions.plans import plans
from thoughtlens.interventions.routes import DEFINITIONS as ROUTE
from thoughtlens.interventions.routes import route_shares
from thoughtlens.interventions.rows import DEFINITIONS, answers_of, rows_of, with_holm
from thoughtlens.interventions.run import run_edits
from thoughtlens.interventions.summary import headline, objections
from thoughtlens.interventions.trials import Trial
from thoughtlens.models.thought.thoughts import ThoughtModel
from thoughtlens.problems import source

__all__ = ["InterveneConfig", "intervene", "of_run", "plan"]


def intervene(cfg: InterveneConfig, out: str | Path) -> dict[str, Any]:
    """Make one kind of edit at every place asked for.

    The directory holds `effects.parquet` (a row an edit), `answers.parquet` (what was answered under
    each) and, for edit=route, `routes.parquet`.

    Raises:
        HookError: a site, pass or layer that the model does not have or that nothing reads; or no edit
            changed anything.
        ConfigError: settings that do not fit together, or a dose that overflows.
        DataError: too few problems, or answers that are not finite.
    """
    job = None if Path(out).exists() else _prepare(cfg)  # refusals leave nothing behind

    def work(tmp: Path) -> dict[str, Any]:
        return _work(cfg, *(job or _prepare(cfg)), tmp)

    return run_stage("intervene", cfg, out, work, inputs=_inputs(cfg))


def plan(cfg: InterveneConfig) -> Plan:
    """Rows and time expected, from the config alone; a row is a problem that was thought about once."""
    runs = {"exit": 6, "route": 33, "swap": 28, "steer": 12 * len(cfg.doses), "splice": 70}.get(cfg.edit, 16)
    rows = cfg.n * runs * (2 if cfg.controls and cfg.edit != "exit" else 1)
    return Plan(rows=rows, memory_bytes=8e8 + cfg.n * 60_000, disk_bytes=rows * 12.0, seconds=5 + rows * 4e-4)


def of_run(run: str | Path) -> dict[str, Any]:
    """The settings that a run's own model, problems and SAEs amount to, for `InterveneConfig`.

    Raises:
        NotThereError: no store of thoughts in the run.
    """
    acts = Path(run) / "acts"
    file = acts / "config.toml"
    if not file.is_file():
        raise NotThereError(f"Expected a run with a store of activations, found no {file}")
    cfg = load_config(ExtractConfig, file)
    table: dict[str, Any] = {"model": cfg.model.model_dump(exclude_none=True)}
    table["problems"] = {"source": str(acts / "problems.parquet")}
    table |= {k: v for k, v in (("base", cfg.base), ("remove_eos", cfg.remove_eos)) if v is not None}
    if (Path(run) / "sae").is_dir():
        table["sae"] = str(Path(run) / "sae")
    return table


def _inputs(cfg: InterveneConfig) -> dict[str, Path]:
    files = {"sae": cfg.sae, "twins": cfg.twins, "directions": cfg.directions}
    return source.inputs(cfg.problems) | {name: path for name, path in files.items() if path is not None}


def _prepare(cfg: InterveneConfig) -> tuple[ThoughtModel, list[Trial]]:
    model = open_thoughts(cfg.model, cfg)
    return model, plans(cfg, model)


def _work(cfg: InterveneConfig, model: ThoughtModel, trials: list[Trial], tmp: Path) -> dict[str, Any]:
    parts = tmp / "parts"
    parts.mkdir(exist_ok=True)
    names = _measure(cfg, model, trials, parts)
    rows = with_holm([row for name in names for row in read_json(parts / f"{name}.json")["rows"]])
    warnings = [trial.note for trial in trials if trial.note] + objections(cfg, rows)
    for line in warnings:
        warn(line)
    rows = [{"row": i, **row} for i, row in enumerate(rows)]
    pq.write_table(pa.Table.from_pylist(rows), tmp / "effects.parquet")
    answers = pa.concat_tables([pq.read_table(parts / f"{name}.parquet") for name in names])
    pq.write_table(answers, tmp / "answers.parquet")
    routes: list[dict[str, Any]] = []
    if cfg.edit == "route":
        routes = route_shares(rows, answers, trials[0].problems, cfg.seed)
        pq.write_table(pa.Table.from_pylist(routes), tmp / "routes.parquet")
    shutil.rmtree(parts)
    return {
        "model": model.name,
        "model_digest": model.digest,
        "edit": cfg.edit,
        "site": cfg.site,
        "split": cfg.split,
        "n": rows[0]["n"],
        "headline": headline(cfg, rows, routes),
        "effects": rows,
        "routes": routes,
        "definitions": DEFINITIONS
        | ({f"arm {arm}": ARMS[arm] for arm in cfg.arms} if cfg.edit == "splice" else {})
        | (ROUTE if cfg.edit == "route" else {}),
        "warnings": warnings,
    }


def _measure(cfg: InterveneConfig, model: ThoughtModel, trials: list[Trial], parts: Path) -> list[str]:
    """Every chunk of edits that is not there yet; returns the names of all of them in order."""
    chunks = [(t, c, trial, edits) for t, trial in enumerate(trials) for c, edits in enumerate(trial.chunks)]
    first, names = 0, []
    with progress(f"intervene {cfg.edit}", len(chunks), "runs") as bar:
        for t, c, trial, edits in chunks:
            names.append(f"{t}_{c}")
            if not (parts / f"{names[-1]}.json").is_file():
                problems = trial.problems
                plain, outcomes = run_edits(
                    model, problems.questions, edits, batch_size=cfg.batch_size,
                    max_new_tokens=cfg.max_new_tokens,
                )  # fmt: skip
                table = answers_of(problems, first, outcomes)
                pq.write_table(table, parts / f"{names[-1]}.parquet")
                rows = rows_of(problems, plain, edits, outcomes, cfg.seed)
                write_json(parts / f"{names[-1]}.json", {"rows": rows})
            first += len(edits)
            bar.advance(1)
    return names
