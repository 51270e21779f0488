"""A sweep's runs as tables, figure and words."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from thoughtlens.core import Number, schema, to_table
from thoughtlens.show import markdown
from thoughtlens.studies.sweep.choose import Candidate, Choice, pooled_noise
from thoughtlens.studies.sweep.config import SweepConfig
from thoughtlens.studies.sweep.figures import pareto, save_both
from thoughtlens.studies.sweep.records import (
    Held,
    OverSeeds,
    OverSeedsNumber,
    Recommendation,
    Run,
    RunRow,
    SettingRow,
    Spread,
    Stability,
)

MEASURED = (
    "fvu", "fvu_within", "explained_variance", "l0", "dead_share", "fidelity", "description", "bits_which",
    "bits_values", "bits_residual", "bits_without", "recovered",
)  # fmt: skip
PRINTED = (*MEASURED[:7], "recovered")
SPLITS = ("validation", "test")
SIZES = ("d_in", "d_sae")


def candidates(cfg: SweepConfig, runs: Sequence[Run], metric: str) -> list[Candidate]:
    """The settings that were trained, as validation rows see them."""
    found = []
    for own in by_setting(runs):
        held = [run.validation for run in own if run.validation is not None]
        if held:
            found.append(
                Candidate(
                    idx=own[0].setting,
                    label=own[0].label,
                    fvu=tuple(getattr(one, metric) for one in held),
                    l0=statistics.mean(one.l0 for one in held),
                    dead_share=statistics.mean(one.dead_share for one in held),
                    d_sae=held[0].d_sae,
                    max_l0=cfg.max_l0 or held[0].d_in / 4,
                    bits=tuple(one.description for one in held if one.description is not None),
                )
            )
    return found


def by_setting(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs of each setting."""
    return [[run for run in runs if run.setting == i] for i in dict.fromkeys(run.setting for run in runs)]


def write(
    cfg: SweepConfig,
    runs: Sequence[Run],
    stable: Mapping[int, Stability],
    choice: Choice,
    metric: str,
    *,
    root: Path,
) -> list[SettingRow]:
    """Write `table.parquet` (a line per setting and seed), `table.md`, `pareto.png` and `pareto.pdf`.

    Returns:
        Per setting its values, and by split the mean and spread over seeds of each number.
    """
    pq.write_table(_lines(runs), root / "table.parquet")
    table = [replace(row, stability=stable.get(row.idx)) for row in map(_setting, by_setting(runs))]
    save_both(pareto(table, metric, choice), root / "pareto")
    (root / "table.md").write_text(_markdown(cfg, table, choice, metric), "utf-8")
    return table


def recommendation(
    table: Sequence[SettingRow], choice: Choice, metric: str, candidates: Sequence[Candidate]
) -> Recommendation:
    """The chosen setting with its numbers on both splits, and why."""
    entry = chosen(table, choice)
    described = choice.rule == "description"
    means = {c.label: c.mean_bits if described else c.mean_fvu for c in candidates if c.bits or not described}
    fvu = pooled_noise([c.fvu for c in candidates])
    return Recommendation(
        setting=None if entry is None else entry.label,
        idx=choice.idx,
        path=None if entry is None else f"settings/{choice.idx:03d}",
        rule=choice.rule,
        reason=choice.reason,
        front=list(choice.front),
        within_seed_noise=list(choice.within_noise),
        by="description" if described else metric,
        values=means,
        seed_noise_sd_ln_fvu=fvu.sd,
        seed_noise_sd_ln=choice.noise.sd,
        seed_noise_df=choice.noise.df,
        validation=None if entry is None else entry.validation,
        test=None if entry is None else entry.test,
    )


def headline(table: Sequence[SettingRow], choice: Choice, metric: str) -> dict[str, Number]:
    """The chosen setting's numbers on test rows."""
    entry = chosen(table, choice)
    if entry is None or entry.test is None:
        return {}
    found: dict[str, Number] = {}
    for name in (metric, "l0", "dead_share", "fidelity", "description"):
        spread: Spread | None = getattr(entry.test, name)
        if spread is not None:
            n = entry.test.n_fidelity if name == "fidelity" else entry.test.n
            found[name] = OverSeedsNumber(
                value=spread.mean, low=spread.low, high=spread.high, n=n, split="test"
            )
    return found


def chosen(table: Sequence[SettingRow], choice: Choice) -> SettingRow | None:
    """The recommended setting; None where none is."""
    return next((row for row in table if row.idx == choice.idx), None)


def with_axes(table: pa.Table, values: Sequence[dict[str, str]]) -> pa.Table:
    """A table of settings with a column for each axis behind the label."""
    for i, key in enumerate(values[0]):
        table = table.add_column(2 + i, key, pa.array([row[key] for row in values], pa.string()))
    return table


def pipe_table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    rows = [head, ["---"] * len(head), *lines]
    return ["|" + "---|" * len(row) if row[0] == "---" else "| " + " | ".join(row) + " |" for row in rows]


def _lines(runs: Sequence[Run]) -> pa.Table:
    """One line per setting and seed; what was not measured is null."""
    table = with_axes(to_table(RunRow, runs), [run.values for run in runs])
    for split in SPLITS:
        held = _held([getattr(run, split) for run in runs])
        for name in held.column_names:
            if name not in SIZES:
                table = table.append_column(f"{name}_{split}", held[name])
    for name in SIZES:
        table = table.append_column(name, _held([run.test for run in runs])[name])
    return table


def _held(found: Sequence[Held | None]) -> pa.Table:
    return pa.Table.from_pylist([{} if one is None else one.to_json() for one in found], schema(Held))


def _setting(own: Sequence[Run]) -> SettingRow:
    """A setting's runs as one row."""
    return SettingRow(
        idx=own[0].setting,
        label=own[0].label,
        values=own[0].values,
        n_seeds=sum(run.status == "trained" for run in own),
        reasons=[run.reason for run in own if run.reason],
        validation=_over_seeds([run.validation for run in own if run.validation is not None]),
        test=_over_seeds([run.test for run in own if run.test is not None]),
        found=_mean_found([run.found for run in own if run.status == "trained"]),
    )


def _mean_found(found: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.mean(one[name] for one in found) for name in (found[0] if found else ())}


def _over_seeds(held: Sequence[Held]) -> OverSeeds | None:
    if not held:
        return None
    first = held[0]
    spreads: dict[str, Any] = {name: _spread([getattr(one, name) for one in held]) for name in MEASURED}
    return OverSeeds(
        n=first.n, n_problems=first.n_problems, n_fidelity=first.n_fidelity, d_in=first.d_in,
        d_sae=first.d_sae, **spreads,
    )  # fmt: skip


def _spread(values: Sequence[float | None]) -> Spread | None:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    mean = statistics.mean(known)
    sd = statistics.stdev(known) if len(known) > 1 else None
    return Spread(
        mean=mean, sd=sd, low=None if sd is None else mean - sd, high=None if sd is None else mean + sd
    )


def _markdown(cfg: SweepConfig, table: Sequence[SettingRow], choice: Choice, metric: str) -> str:
    """The table of settings on test rows, and the recommendation."""
    trained = [row for row in table if row.test and row.validation]
    columns = [name for name in PRINTED if any(getattr(row.test, name) for row in trained)]
    by = "description" if choice.rule == "description" else metric
    again = ["found again", "of firings"] if any(row.stability for row in table) else []
    head = [*table[0].values, "seeds", f"{by} (validation)", *columns, *again, ""]
    entry = chosen(table, choice)
    lines = [
        "# Sweep",
        "",
        f"Recommended: **{markdown('none' if entry is None else entry.label)}**. {markdown(choice.reason)}",
        "",
        *pipe_table(head, [_cells(row, columns, choice, by, len(again)) for row in table]),
    ]
    n = {split: getattr(trained[0], split).n for split in SPLITS}
    lines += [
        "",
        f"Mean ± standard deviation over seeds {', '.join(map(str, cfg.seeds))}. Settings were chosen by "
        f"{by} on {n['validation']:,} vectors of validation rows; all other columns are of "
        f"{n['test']:,} vectors of test rows.",
    ]
    return "\n".join(lines) + "\n"


def _cells(row: SettingRow, columns: Sequence[str], choice: Choice, by: str, n_again: int) -> list[str]:
    values = [markdown(value) for value in row.values.values()]
    if row.test is None:
        return [*values, "0", *[""] * (len(columns) + 1 + n_again), markdown(row.reasons[0])]
    marks = ["recommended"] if row.idx == choice.idx else []
    marks += ["front"] if row.idx in choice.front else []
    marks += [f"{len(row.reasons)} failed: {row.reasons[0]}"] if row.reasons else []
    numbers = [getattr(row.validation, by), *(getattr(row.test, name) for name in columns)]
    stable = row.stability
    shares = [stable.found_again, stable.found_again_by_firings] if stable else [None] * n_again
    again = ["" if share is None else f"{share:.0%}" for share in shares]
    return [*values, str(row.n_seeds), *map(_number, numbers), *again, markdown(", ".join(marks))]


def _number(spread: Spread | None) -> str:
    if spread is None:
        return ""
    return f"{spread.mean:.4g}" + ("" if spread.sd is None else f" ± {spread.sd:.2g}")
