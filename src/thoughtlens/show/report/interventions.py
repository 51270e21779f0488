"""The section on interventions: what became of the answers when thoughts were changed."""

from __future__ import annotations

from thoughtlens.interventions import EffectRow, InterveneOutcome, RankRow, RouteRow
from thoughtlens.show.pages import plots
from thoughtlens.show.pages.interventions import outcomes_of, strips_of, what_of
from thoughtlens.show.pages.run import Run
from thoughtlens.show.pages.text import at_thought, between, counts, fixed, number, percent, points
from thoughtlens.show.report.blocks import Block, Column, Picture, Section, Table, Text, under, verdict_of

MAX_ROWS = 60
BASES = {
    "pca": "principal components",
    "latents": "the SAE's latents, strongest first",
    "probe": "a ridge probe's",
    "random": "random",
}
"""Whose directions, in words."""


def interventions(run: Run) -> Section | None:
    """Every intervention of the run: strips over layers and thoughts, effects beside their controls."""
    blocks = [block for name, outcome in outcomes_of(run).items() for block in _one(run, name, outcome)]
    if blocks and run.thoughts_are:
        blocks = [Text(run.thoughts_are), *blocks]
    return Section("interventions", "Interventions", blocks) if blocks else None


def _one(run: Run, name: str, outcome: InterveneOutcome) -> list[Block]:
    rows = outcome.effects
    n = counts(row.n for row in rows)
    said = (
        f"{name}: {plots.words(outcome.edit)} on {outcome.model}, split {outcome.split}; "
        f"untouched: {percent(rows[0].accuracy_untouched)} right, n = {n}. Each edit is held against the "
        f"untouched run on the same problems; a control stands below the edit that it belongs to."
    )
    blocks: list[Block] = [Text(said), *(Text(f"Warning: {line}") for line in outcome.warnings)]
    strips, what = strips_of(outcome), what_of(outcome)
    if strips:
        caption = f"{name}: {what}, by layer and thought, n = {n}."
        blocks.append(Picture(f"intervene_{name}", plots.cell_map(strips, what), caption))
    doses = [row for row in rows if row.dose is not None and row.scope != "all"]
    if doses:
        caption = f"{name}: change of accuracy by dose (standard deviations of the states), 95 %, n = {n}."
        blocks.append(Picture(f"intervene_{name}_doses", plots.dose_response(doses), caption))
    if outcome.ranks:
        blocks += curves_of(name, outcome.ranks)
    if outcome.routes:
        blocks.append(_routes(name, outcome.routes))
    return [*blocks, _effects(name, rows, run.fed_back)]


def _effects(name: str, rows: list[EffectRow], fed_back: bool) -> Table:
    columns: list[Column] = [
        under(EffectRow, "edit", str),
        ("place", lambda row: _place(row, fed_back)),
        ("control", lambda row: row.control or ""),
        under(EffectRow, "n", number),
        under(EffectRow, "accuracy", percent),
        ("difference (points)", lambda row: points(row.difference)),
        ("95 % interval", lambda row: between(row.low, row.high, points)),
        ("verdict", verdict_of),
        under(EffectRow, "kl", number),
        ("own / predicted / twin's or donor's / other / none (%)", _answers),
        under(EffectRow, "changed_site", number),
        under(EffectRow, "changed_thoughts", number),
        under(EffectRow, "moved", lambda share: percent(share, 0)),
    ]
    rest = f" The other {len(rows) - MAX_ROWS} rows stand in effects.parquet." if len(rows) > MAX_ROWS else ""
    note = (
        f"Changes are relative to the length of the state; 0: the edit did nothing. Verdicts are adjusted "
        f"for the number of edits.{rest}"
    )
    title = f"{name}: every edit and control"
    return Table.of(title, rows[:MAX_ROWS], columns, note=note, n_words=3)


def _answers(row: EffectRow) -> str:
    shares = (row.clean, row.predicted, row.corrupted, row.other, row.unparsable)
    return " / ".join(f"{100 * share:.0f}" for share in shares)


def _routes(name: str, rows: list[RouteRow]) -> Table:
    columns: list[Column] = [
        ("thought", lambda r: str(r.thought_idx)),
        ("carried by", lambda r: r.carried_by),
        *(
            (head, lambda r, part=part: _moved(r, part))
            for head, part in (
                ("twin's answer: state", "state"),
                ("keys and values", "kv"),
                ("keys", "keys"),
                ("values", "values"),
                ("both", "both"),
            )
        ),
        ("state's share, first", lambda r: fixed(r.state_first, 2)),
        ("state's share, last", lambda r: fixed(r.state_last, 2)),
        ("keys' and values' share, first", lambda r: fixed(r.kv_first, 2)),
        ("keys' and values' share, last", lambda r: fixed(r.kv_last, 2)),
        ("n", lambda r: number(r.n)),
    ]
    title = f"{name}: state route and key-value route of each thought"
    note = "Everything that the thought leaves behind: what it wrote, and its keys and values in every block."
    return Table.of(title, rows, columns, n_words=2, note=note)


def curves_of(name: str, rows: list[RankRow]) -> list[Block]:
    """How few directions do, as curves and as ranks."""
    columns: list[Column] = [
        ("place", lambda r: " ".join(str(at) for at in (r.site, r.layer) if at is not None) or r.scope),
        ("thought", lambda r: "all" if r.thought_idx is None else str(r.thought_idx)),
        under(RankRow, "arm", lambda arm: BASES[arm]),
        ("accuracy lost with the mean (points)", lambda r: points(r.cost_of_mean)),
        ("95 % interval", lambda r: between(r.cost_of_mean_low, r.cost_of_mean_high, points)),
        ("rank that keeps 90 %", lambda r: number(r.keep_rank)),
        ("rank whose removal costs 90 %", lambda r: number(r.remove_rank)),
        ("n", lambda r: number(r.n)),
    ]
    note = (
        "No rank: not with as many directions as were tried, or the mean in the state's place costs nothing."
    )
    table = Table.of(f"{name}: how few directions do", rows, columns, n_words=3, note=note)
    shown = [row for row in rows if any(share is not None for share in row.kept)]
    if not shown:
        return [table]
    caption = (
        f"{name}: share of the effect that k directions hold alone (solid) and that is lost without them "
        f"(dashed), 95 %, n = {counts(row.n for row in rows)}."
    )
    return [Picture(f"intervene_{name}_ranks", plots.rank_curves(shown), caption), table]


def _moved(row: RouteRow, part: str) -> str:
    share, low, high = (getattr(row, f"moved_{part}{end}") for end in ("", "_low", "_high"))
    return f"{percent(share)} {between(low, high, percent)}"


def _place(row: EffectRow, fed_back: bool) -> str:
    if row.scope == "exit":
        return f"after {row.thought_idx} thoughts"
    site = " ".join(str(one) for one in (row.site or row.scope, row.layer) if one is not None)
    dose = "" if row.dose is None else f", dose {row.dose:g}"
    return f"{site}, {at_thought(row.site, row.thought_idx, fed_back)}{dose}"
