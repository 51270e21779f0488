"""The intervene stage: change thoughts while the model thinks, and see what becomes of its answers.

Every edit is compared with the untouched run on the same problems, shows that it changed something at
its place and further on, and has controls: a change as large in random directions, latents of the same
density, thoughts that were not asked for. `docs/interventions.md` has an example of each kind.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from thoughtlens.acts import StoreSize, load_meta, open_thoughts
from thoughtlens.core import (
    ConfigError,
    DataError,
    HookError,
    Parts,
    Plan,
    Record,
    Result,
    progress,
    run_stage,
    to_table,
    validate_config,
    warn,
    write_rows,
)
from thoughtlens.interventions.edits.dictionaries import ARMS
from thoughtlens.interventions.edits.run import Edit, run_edits
from thoughtlens.interventions.effects.rows import DEFINITIONS, answers_of, numbered, rows_of
from thoughtlens.interventions.intervene.config import (
    CutConfig,
    EffectsConfig,
    InterveneConfig,
    PatchConfig,
    PathConfig,
    RankConfig,
    RouteConfig,
    SpliceConfig,
    SteerConfig,
    edit_of,
    of_store,
)
from thoughtlens.interventions.intervene.plans import plans
from thoughtlens.interventions.intervene.ranks import DEFINITIONS as RANKS
from thoughtlens.interventions.intervene.ranks import rank_rows
from thoughtlens.interventions.intervene.records import (
    About,
    EffectRow,
    InterveneOutcome,
    RankRow,
    RouteRow,
)
from thoughtlens.interventions.intervene.routes import DEFINITIONS as ROUTE
from thoughtlens.interventions.intervene.routes import route_shares
from thoughtlens.interventions.intervene.summary import HEADLINE, headline, objections
from thoughtlens.interventions.intervene.trials import Trial
from thoughtlens.models import Place, ThoughtModel, not_stated
from thoughtlens.problems import source

RUNS = {"exit": 6, "path": 94, "route": 33, "swap": 28, "splice": 70, "rank": 300}
"""How often a problem is thought about, about, without controls."""


def intervene(cfg: InterveneConfig, out: str | Path) -> Result:
    """Make one kind of edit at every place asked for.

    The directory holds `effects.parquet` (one row per edit), `answers.parquet` (what was answered under
    each) and, for edit=route, `routes.parquet`.

    Raises:
        HookError: a site, thought or layer that the model does not have or that nothing reads; or no edit
            changed anything.
        ConfigError: settings that do not fit together, or a dose that overflows.
        DataError: too few problems, or answers that are not finite.
    """
    job = None if Path(out).exists() else _prepare(cfg)  # refusals leave nothing behind

    def work(tmp: Path) -> InterveneOutcome:
        return _work(cfg, *(job or _prepare(cfg)), tmp)

    return run_stage("intervene", cfg, out, work, inputs=_inputs(cfg))


def effects(cfg: EffectsConfig, out: str | Path) -> Result:
    """Make several kinds of edits at each thought that a store holds, and see what becomes of the answers.

    The directory holds `effects.parquet` and `answers.parquet`, as of `intervene`.

    Raises:
        NotThereError: no such store.
        ConfigError: a store of texts.
        DataError: an answer that is not finite.
    """
    return run_stage("effects", cfg, out, lambda tmp: _several(cfg, tmp), inputs={"acts": cfg.acts})


def _several(cfg: EffectsConfig, tmp: Path) -> InterveneOutcome:
    table = of_store(cfg.acts) | cfg.model_dump(include=set(InterveneConfig.model_fields))
    meta, parts, names, left_out = load_meta(cfg.acts), Parts(tmp), [], []
    plain = validate_config(InterveneConfig, table)
    model = open_thoughts(plain.model, plain)
    layers = sorted({layer for hook in meta.hook_names if (layer := Place(hook).layer) is not None})
    table |= {"site": "resid", "layers": layers or None}
    first = 0
    for edit in cfg.edits:
        one = validate_config(InterveneConfig, table | {"edit": edit_of(edit)})
        try:
            trials = plans(one, model)
        except (ConfigError, DataError, HookError) as error:
            left_out.append(f"{edit} is left out: {error}")
            continue
        names += _measure(one, model, trials, parts, first=first)
        first += sum(len(edits) for trial in trials for edits in trial.chunks)
    if not names:
        raise DataError(f"None of the edits can be made on {cfg.acts}: {'; '.join(left_out)}")
    rows = _rows_of(parts, names)
    warnings = left_out + objections(plain, rows)
    for line in warnings:
        warn(line)
    warnings += not_stated(model.settings, model.assumed)
    _write(tmp, rows, parts, names)
    return InterveneOutcome(
        model=model.name,
        model_digest=model.digest,
        edit="effects",
        site="resid",
        split=cfg.split,
        n=max(row.n for row in rows),
        headline={"accuracy_untouched": headline(plain, rows, [])["accuracy_untouched"]},
        effects=rows,
        definitions=DEFINITIONS,
        warnings=warnings,
    )


def plan(cfg: InterveneConfig | EffectsConfig) -> Plan:
    """Rows and time expected, from the config alone; a row is a problem that was thought about once."""
    if isinstance(cfg, EffectsConfig):
        store = StoreSize.of(cfg.acts)
        rows = (
            cfg.n
            * (2 if cfg.controls else 1)
            * sum(
                (store.n_cells if store else 0) * (2 if edit.startswith("swap") else 1) for edit in cfg.edits
            )
        )
        return Plan(rows=rows, memory_bytes=8e8 + cfg.n * 60_000, disk_bytes=rows * 12.0, seconds=rows * 4e-4)
    edit = cfg.edit
    runs = 12 * len(edit.doses) if isinstance(edit, SteerConfig) else RUNS.get(edit.kind, 16)
    rows = cfg.n * runs * (2 if cfg.controls and edit.kind != "exit" else 1)
    return Plan(rows=rows, memory_bytes=8e8 + cfg.n * 60_000, disk_bytes=rows * 12.0, seconds=5 + rows * 4e-4)


@dataclass(frozen=True, kw_only=True)
class _Measured(Record):
    """What is kept of one run of the model."""

    rows: list[EffectRow]


def _inputs(cfg: InterveneConfig) -> dict[str, Path]:
    edit = cfg.edit
    twins = edit.twins if isinstance(edit, PatchConfig | PathConfig | RouteConfig) else None
    directions = edit.directions if isinstance(edit, SteerConfig) else None
    files = {"sae": cfg.sae, "twins": twins, "directions": directions}
    return source.inputs(cfg.problems) | {name: path for name, path in files.items() if path is not None}


def _prepare(cfg: InterveneConfig) -> tuple[ThoughtModel, list[Trial]]:
    model = open_thoughts(cfg.model, cfg)
    return model, plans(cfg, model)


def _work(cfg: InterveneConfig, model: ThoughtModel, trials: list[Trial], tmp: Path) -> InterveneOutcome:
    parts = Parts(tmp)
    names = _measure(cfg, model, trials, parts)
    rows = _rows_of(parts, names)
    warnings = [trial.note for trial in trials if trial.note] + objections(cfg, rows)
    for line in warnings:
        warn(line)
    warnings += not_stated(model.settings, model.assumed)
    _write(tmp, rows, parts, names)
    routes: list[RouteRow] = []
    ranks: list[RankRow] = []
    definitions = DEFINITIONS | HEADLINE
    if isinstance(cfg.edit, RankConfig):
        ranks = rank_rows(rows, pq.read_table(tmp / "answers.parquet"), trials[0].problems, cfg.seed)
        write_rows(tmp / "ranks.parquet", RankRow, ranks)
        definitions |= RANKS
    if isinstance(cfg.edit, RouteConfig):
        routes = route_shares(rows, pq.read_table(tmp / "answers.parquet"), trials[0].problems, cfg.seed)
        write_rows(tmp / "routes.parquet", RouteRow, routes)
        definitions |= ROUTE
    if isinstance(cfg.edit, SpliceConfig):
        definitions |= {f"arm {arm}": ARMS[arm] for arm in cfg.edit.arms}
    return InterveneOutcome(
        model=model.name,
        model_digest=model.digest,
        edit=cfg.edit.kind,
        site=rows[0].site or cfg.site if isinstance(cfg.edit, CutConfig) else cfg.site,
        split=cfg.split,
        n=rows[0].n,
        headline=headline(cfg, rows, routes),
        effects=rows,
        routes=routes,
        ranks=ranks,
        model_settings=dict(model.settings) or None,
        model_settings_assumed=list(model.assumed) or None,
        definitions=definitions,
        warnings=warnings,
    )


def _rows_of(parts: Parts, names: list[str]) -> list[EffectRow]:
    return numbered([row for one in parts.summaries(names, _Measured) for row in one.rows])


def _write(tmp: Path, rows: list[EffectRow], parts: Parts, names: list[str]) -> None:
    pq.write_table(_effects_table(rows), tmp / "effects.parquet")
    parts.join(names, "answers", tmp / "answers.parquet")


def _effects_table(rows: list[EffectRow]) -> pa.Table:
    """The rows, with only those columns of `About` that the kind of edit sets."""
    table = to_table(EffectRow, rows)
    optional = [one.name for one in fields(About) if one.default is None and not one.metadata.get("null")]
    return table.drop_columns([name for name in optional if table[name].null_count == len(rows)])


def _measure(
    cfg: InterveneConfig, model: ThoughtModel, trials: list[Trial], parts: Parts, *, first: int = 0
) -> list[str]:
    """Every chunk of edits that is not there yet; returns the names of all of them in order.

    Args:
        cfg: The settings.
        model: Who thinks.
        trials: The edits.
        parts: What is finished.
        first: The row of the first edit, where others stand before it.
    """
    chunks: dict[str, tuple[Trial, list[Edit], int]] = {}
    begin = f"row{first}_" if first else ""
    for t, trial in enumerate(trials):
        for c, edits in enumerate(trial.chunks):
            chunks[f"{begin}trial{t}_{c}"] = trial, edits, first
            first += len(edits)
    todo = list(parts.todo(chunks))
    with progress(f"intervene {cfg.edit.kind}", len(chunks), "runs", len(chunks) - len(todo)) as bar:
        for name in todo:
            trial, edits, first = chunks[str(name)]
            problems = trial.problems
            plain, answers = run_edits(
                model, problems.questions, edits, batch_size=cfg.batch_size, max_new_tokens=cfg.max_new_tokens
            )
            said = [answers_of(problems, first, answers)]
            if isinstance(cfg.edit, RankConfig) and first == 0:
                said.insert(0, answers_of(problems, -1, [plain]))
            parts.write_table(name, "answers", pa.concat_tables(said))
            parts.finish(name, _Measured(rows=rows_of(problems, plain, edits, answers, cfg.seed)))
            bar.advance(1)
    return list(chunks)
