"""What to look at first, and what to be warned of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from thoughtlens.core import HookError, Number
from thoughtlens.interventions.intervene.config import InterveneConfig
from thoughtlens.interventions.intervene.records import EffectRow, LargestEffect, RouteNumber, RouteRow
from thoughtlens.numerics import too_narrow

LOW_ACCURACY = 0.2
HEADLINE = {
    "largest_effect": "of the edits of a cell or thought, the one with the largest fall of accuracy (patch: "
    "the most answers of the twin); edit, site, layer and thought_idx say which, n_edits among how many, for "
    "which its verdict is adjusted (p_holm)",
    "moved_both_*": "share of problems whose answer becomes the twin's when everything that this thought "
    "leaves behind is the twin's",
}


def headline(
    cfg: InterveneConfig, rows: Sequence[EffectRow], routes: Sequence[RouteRow]
) -> dict[str, Number]:
    """The untouched accuracy, the edit of everything at once, and the place with the largest effect."""
    numbers: dict[str, Number] = {
        "accuracy_untouched": Number(value=rows[0].accuracy_untouched, n=rows[0].n, split=cfg.split)
    }
    own = [row for row in rows if row.control is None]
    for row in own:
        if row.scope == "all":
            numbers[f"difference_{row.edit}_all"] = replace(row.change, split=cfg.split)
    cells = [row for row in own if row.scope != "all"]
    if cells and not routes:
        numbers["largest_effect"] = _largest(cells, cfg)
    for route in routes:
        numbers[f"moved_both_{route.thought_idx}"] = RouteNumber(
            value=route.moved_both,
            low=route.moved_both_low,
            high=route.moved_both_high,
            n=route.n,
            split=cfg.split,
            thought_idx=route.thought_idx,
            carried_by=route.carried_by,
        )
    return numbers


def objections(cfg: InterveneConfig, rows: Sequence[EffectRow]) -> list[str]:
    """What the numbers should not be believed for.

    Raises:
        HookError: not one of the edits changed anything.
    """
    edited = [row for row in rows if row.changed_site is not None]
    idle = [row for row in edited if row.changed_site == 0]
    own = [row for row in edited if row.control is None]
    found = []
    if own and all(row.changed_site == 0 for row in own) and cfg.edit.kind != "splice":
        raise HookError(
            f"No edit changed anything ({own[0].where()}{' ..' if len(own) > 1 else ''}): every state is the "
            f"same before and after, in all {own[0].n} problems. Edit another site, thought or latent"
        )
    if idle:
        found.append(f"changed nothing at their place, so that they say nothing: {_list(idle)}")
    unread = [row for row in edited if row.changed_site and row.moved == 0]
    if unread:
        found.append(f"changed the state, and no logit of any answer moved (unread?): {_list(unread)}")
    if short := [row for row in edited if row.n_edited is not None and row.n_edited < row.n]:
        found.append(
            f"not made in all problems, since some had stopped thinking by then (n_edited says in how many): "
            f"{_list(short)}"
        )
    found += too_narrow("kl", [(_named(row), row.kl_doubt) for row in edited])
    found += too_narrow("delta_logprob", [(_named(row), row.delta_logprob_doubt) for row in edited])
    if rows[0].accuracy_untouched < LOW_ACCURACY:
        found.append(
            f"the untouched model is right in {rows[0].accuracy_untouched:.1%} of the problems; no edit "
            f"can lower that by much; look at kl and answer_logprob"
        )
    return found


def _largest(cells: Sequence[EffectRow], cfg: InterveneConfig) -> LargestEffect:
    by_twin = cfg.edit.kind == "patch"
    best = max(cells, key=lambda row: row.corrupted if by_twin else -row.difference)
    change = Number(value=best.corrupted, n=best.n) if by_twin else best.change
    return LargestEffect(
        **vars(replace(change, split=cfg.split)),
        edit=best.edit,
        site=best.site,
        layer=best.layer,
        thought_idx=best.thought_idx,
        dose=best.dose,
        n_edits=len(cells),
    )


def _named(row: EffectRow) -> str:
    return row.where() + (f" ({row.control})" if row.control else "")


def _list(rows: Sequence[EffectRow], most: int = 6) -> str:
    shown = [_named(row) for row in rows[:most]]
    return ", ".join(shown) + (f" and {len(rows) - most} more" if len(rows) > most else "")
