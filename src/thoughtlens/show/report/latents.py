"""The section on latents: which fire everywhere, and what the others respond to."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from thoughtlens.show import plots
from thoughtlens.show.report.blocks import (
    Block,
    Example,
    Latent,
    Latents,
    Picture,
    Section,
    Table,
    Token,
    unique,
)
from thoughtlens.show.run import Run
from thoughtlens.show.text import NONE, between, number, p_text, percent, points, shorten

EXAMPLES = 4
BARS = 6
EVERYWHERE = 12

Row = dict[str, Any]
Key = tuple[str, int]


def latents(run: Run, top: int) -> Section | None:
    """Counts, all latents on one map, everywhere-latents, tested preferences, `top` latents in detail."""
    result = run.results.get("interpret")
    if result is None:
        return None
    rows = run.table("interpret", "latents.parquet")
    associations = run.table("interpret", "associations.parquet")
    examples = run.table("interpret", "top_examples.parquet")
    caption = (
        f"Each live latent by how often and how strongly it fires, split {result['split']}, "
        f"n = {' or '.join(unique(number(r['n_vectors']) for r in rows))} vectors."
    )
    blocks: list[Block] = [_counts(result), Picture("latents", plots.latent_map(rows), caption)]
    blocks += _everywhere(rows)
    if tested := _tested(result):
        blocks.append(tested)
    if run.kind == "text":
        blocks += _text_latents(rows, associations, examples, top)
    else:
        classified = run.results.get("classify", {})
        used = classified.get("protocol", {}).get("l0", {})
        target = f"label:{classified.get('target')}"
        own = [r for r in rows if r["member"] in used] or rows
        blocks += _thought_latents(own, associations, examples, top, target)
    return Section("latents", "Latents", blocks)


def _counts(result: Row) -> Table:
    rows = [
        (
            m["member"], number(m["d_sae"]), number(m["n_alive"]), number(m["n_everywhere"]), number(m["l0"]),
            number(m["n"]), number(m["n_problems"]),
        )
        for m in result["members"]
    ]  # fmt: skip
    columns = ("SAE", "latents", "live", "everywhere", "L0", "n vectors", "n problems or documents")
    return Table(f"Latents, split {result['split']}", columns, rows)


def _everywhere(rows: list[Row]) -> list[Block]:
    found = sorted((r for r in rows if r["everywhere"]), key=lambda r: -r["density"])
    if not found:
        return []
    table = [
        (
            r["member"], str(r["latent"]), r["everywhere_reason"], percent(r["density"]),
            number(r["mean_active"]), percent(r["first_position_share"]),
            percent(r["first_position_examples"]), percent(r["outlier_norm_share"]),
            percent(r["outlier_norm_examples"]),
        )
        for r in found[:EVERYWHERE]
    ]  # fmt: skip
    columns = (
        "SAE",
        "latent",
        "why",
        "density",
        "mean activation",
        "fires on first rows",
        "examples on first rows",
        "fires on outliers of norm",
        "examples on outliers of norm",
    )
    more = f"{len(found) - EVERYWHERE} more are in latents.parquet." if len(found) > EVERYWHERE else ""
    return [
        Table("Everywhere-latents: they say little about any one text or problem", columns, table, more, 3)
    ]


def _tested(result: Row) -> Table | None:
    factors = unique(p["factor"] for m in result["members"] for p in m["preferences"])
    rows = []
    for m in result["members"]:
        at = {p["factor"]: p for p in m["preferences"]}
        rows.append((m["member"], number(m["n_problems"]), *(_held(at.get(factor)) for factor in factors)))
    note = (
        "Pairs of latent and level that hold at q < 0.05 (false discovery rate), in brackets those whose p "
        "over all pairs is below 0.05 (against the largest |z| of each permutation), of those tested. The "
        "problem is the unit."
    )
    columns = ("SAE", "n problems", *factors)
    return Table("Preferences: how many hold", columns, rows, note) if factors else None


def _held(tested: Row | None) -> str:
    if tested is None or not tested["n_tested"]:
        return NONE
    strict = tested["n_p_max_below_0.05"]
    inner = "" if strict is None else f" ({strict:,})"
    return f"{tested['n_q_below_0.05']:,}{inner} of {tested['n_tested']:,}"


def _text_latents(rows: list[Row], associations: list[Row], examples: list[Row], top: int) -> list[Block]:
    tokens = _by_latent(a for a in associations if a["factor"] == "token")
    shown = _by_latent(e for e in examples if e["rank"] < EXAMPLES)
    plain = [r for r in rows if r["n_fires"] and not r["everywhere"]]
    used = sorted(plain, key=lambda r: (-r["n_fires"], r["member"], r["latent"]))[: top // 2]
    lift = {key: found[0]["low"] for key, found in tokens.items()}
    specific = sorted(
        (r for r in plain if lift.get(_key(r), 0) > 1 and r not in used),
        key=lambda r: (-lift[_key(r)], r["member"], r["latent"]),
    )[: top - len(used)]
    groups = (("Most used latents", used), ("Latents most specific to a token", specific))
    return [
        Latents(title, [_text_latent(r, tokens.get(_key(r), []), shown.get(_key(r), [])) for r in group])
        for title, group in groups
        if group
    ]


def _text_latent(row: Row, tokens: list[Row], examples: list[Row]) -> Latent:
    facts = [_firing(row)]
    good = [t for t in tokens if t["low"] > 1][:5]
    if good:
        named = ", ".join(
            f"{t['level']!r} ×{number(t['estimate'])} [{number(t['low'])}, {number(t['high'])}] "
            f"(n = {t['n_fires']:,} in {t['n_problems']:,} documents)"
            for t in good
        )
        facts.append(f"Fires on these tokens more than its density says (lift, 95 % interval): {named}")
    drawn = []
    for e in examples:
        scale = max(row["max_active"], 1e-12)
        own = [
            Token(text, act, min(max(act / scale, 0.0), 1.0), i == e["peak"])
            for i, (text, act) in enumerate(zip(e["tokens"], e["acts"], strict=True))
        ]
        drawn.append(Example(f"{number(e['value'])} · {shorten(e['problem_id'], 60)} · {e['split']}", own))
    return Latent(_title(row), facts, drawn, _place(row))


def _thought_latents(
    rows: list[Row], associations: list[Row], examples: list[Row], top: int, target: str
) -> list[Block]:
    """Latents by the strength of their preference for the label that is classified (else for any)."""
    by_latent = _by_latent(associations)
    labels = unique(a["factor"] for a in associations if a["factor"].startswith("label:"))
    if target in labels:
        labels = [target]
    plain = [r for r in rows if r["n_fires"] and not r["everywhere"] and _key(r) in by_latent]

    def strength(row: Row) -> float:
        own = by_latent[_key(row)]
        wanted = [a for a in own if a["factor"] in labels] or own
        return -max(abs(a["z"]) for a in wanted)

    chosen = sorted(plain, key=lambda r: (strength(r), r["member"], r["latent"]))[:top]
    if not chosen:
        return []
    known = [{a["factor"] for a in by_latent[_key(row)]} for row in chosen]
    factors = [f for f in (*labels, "hook", "thought") if all(f in own for own in known)]
    drawn = [
        {
            "title": f"{r['latent']}" if len(unique(x["member"] for x in rows)) == 1 else _title(r),
            "factors": {
                f: [(a["level"], a["rate_in"]) for a in by_latent[_key(r)] if a["factor"] == f]
                for f in factors
            },
        }
        for r in chosen[:BARS]
    ]
    blocks: list[Block] = []
    if drawn and factors:
        caption = (
            f"Firing rate by label, layer and thought of the latents whose label preference is strongest "
            f"(blue: the highest level), n = {rows[0]['n_vectors']:,} vectors. Whether a difference is more "
            f"than chance stands in the table."
        )
        blocks.append(Picture("preferences", plots.preferences(drawn), caption))
    blocks.append(_preference_table(chosen, by_latent, factors))
    shown = _by_latent(e for e in examples if e["rank"] < EXAMPLES)
    items = [_thought_latent(r, shown.get(_key(r), [])) for r in chosen]
    return [*blocks, Latents("Strongest problems of these latents", items)]


def _preference_table(chosen: list[Row], by_latent: dict[Key, list[Row]], factors: list[str]) -> Table:
    table = []
    for row in chosen:
        for factor in factors:
            own = [a for a in by_latent[_key(row)] if a["factor"] == factor]
            if own:
                best = max(own, key=lambda a: abs(a["z"]))
                held = best["p_max"] < 0.05 and not best["low"] <= 0 <= best["high"]
                says = ("prefers" if best["estimate"] > 0 else "avoids") if held else "inconclusive"
                table.append(
                    (
                        row["member"], str(row["latent"]), factor.removeprefix("label:"), best["level"], says,
                        percent(best["rate_in"]), percent(best["rate_out"]),
                        between(best["low"], best["high"], points), p_text(best["q_value"]),
                        p_text(best["p_max"]), number(best["n_problems"]),
                    )
                )  # fmt: skip
    columns = (
        "SAE", "latent", "factor", "level", "finding", "rate there", "rate elsewhere",
        "difference, 95 % (points)", "q", "p over all pairs", "problems it fires in there",
    )  # fmt: skip
    note = (
        "The level with the largest |z| of each factor. Rates are means over problems of the share of the "
        "problem's vectors on which the latent fires; intervals are over problems and do not correct for the "
        "choice of the level, p over all pairs does."
    )
    return Table("Preferences of the strongest latents", columns, table, note, 5)


def _thought_latent(row: Row, examples: list[Row]) -> Latent:
    drawn = []
    for e in examples:
        scale = max(row["max_active"], 1e-12)
        cells = zip(e["strip_hook"], e["strip_thought"], e["acts"], strict=True)
        strip: list[Token] = []
        before = None
        for hook, thought, act in cells:
            if hook != before:
                strip.append(Token(f"{'   ' if strip else ''}{hook}", 0.0, 0.0))
            peak = hook == e["hook_name"] and thought == e["thought_idx"]
            strip += [Token(" ", 0.0, 0.0), Token(str(thought), act, min(max(act / scale, 0.0), 1.0), peak)]
            before = hook
        question = shorten(e.get("question", ""), 160)
        drawn.append(Example(f"{number(e['value'])} · {e['problem_id']} · {e['split']} · {question}", strip))
    return Latent(_title(row), [_firing(row)], drawn, _place(row))


def _firing(row: Row) -> str:
    return (
        f"fires on {percent(row['density'], 2)} of vectors ({row['n_fires']:,} of n = {row['n_vectors']:,}), "
        f"in {row['n_problems']:,} problems or documents; mean {number(row['mean_active'])} where active, "
        f"maximum {number(row['max_active'])}"
    )


def _title(row: Row) -> str:
    return (
        f"Latent {row['latent']}"
        if row["member"] == "pooled"
        else f"{row['member']} · latent {row['latent']}"
    )


def _place(row: Row) -> str:
    return f"#/l/{quote(row['member'], safe='')}/{row['latent']}"


def _by_latent(rows: Any) -> dict[Key, list[Row]]:
    found: dict[Key, list[Row]] = {}
    for row in rows:
        found.setdefault(_key(row), []).append(row)
    return found


def _key(row: Row) -> Key:
    return row["member"], row["latent"]
