"""The section on latents: which fire everywhere, and what the others respond to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc

from thoughtlens.evals import ClassifyOutcome
from thoughtlens.latents import (
    AssociationRow,
    ExampleRow,
    InterpretOutcome,
    LatentRow,
    TextExample,
    ThoughtExample,
)
from thoughtlens.sae import POOLED
from thoughtlens.show.pages import plots
from thoughtlens.show.pages.by_latent import of_latents
from thoughtlens.show.pages.findings import Findings
from thoughtlens.show.pages.run import Run, read_table
from thoughtlens.show.pages.text import between, counts, number, p_text, percent, points, shorten
from thoughtlens.show.report.blocks import (
    MEMBER,
    Block,
    Column,
    Example,
    Latent,
    Latents,
    Picture,
    Section,
    Table,
    Token,
    under,
)

EXAMPLES = 4
BARS = 6
EVERYWHERE = 12
ASSOCIATIONS = "associations.parquet"
EVERY = pc.scalar(True)
"""A filter that lets all rows pass."""

Key = tuple[str, int]
R = TypeVar("R", bound=AssociationRow | ExampleRow)
E = TypeVar("E", bound=ExampleRow)


def latents(run: Run, top: int) -> Section | None:
    """Counts, all latents on one map, everywhere-latents, tested preferences, `top` latents in detail."""
    outcome = run.outcome("interpret", InterpretOutcome)
    if outcome is None:
        return None
    rows = run.latents()
    caption = (
        f"Each live latent by how often and how strongly it fires, split {outcome.split}, "
        f"n = {counts(row.n_vectors for row in rows)} vectors."
    )
    blocks: list[Block] = [_counts(outcome), Picture("latents", plots.latent_map(rows), caption)]
    blocks += [*_everywhere(rows), *_tested(outcome)]
    if run.kind == "text":
        blocks += _text_latents(run, rows, top)
    else:
        classified, shown = run.outcome("classify", ClassifyOutcome), Findings(run).member
        own = [row for row in rows if row.member == shown] or rows
        blocks += _thought_latents(run, own, f"label:{classified.target if classified else None}", top)
    return Section("latents", "Latents", blocks)


def _examples(run: Run, cls: type[E], own: Iterable[Key]) -> dict[Key, list[E]]:
    first = pc.field("rank") < EXAMPLES
    return _by_latent(run.table("interpret", "top_examples.parquet", cls, first & of_latents(own)))


def _associations(
    run: Run, own: Iterable[Key], filters: pc.Expression = EVERY
) -> dict[Key, list[AssociationRow]]:
    return _by_latent(run.table("interpret", ASSOCIATIONS, AssociationRow, filters & of_latents(own)))


def _summed_up(run: Run, column: str, how: str, filters: pc.Expression) -> dict[Key, float]:
    """Of a column over each latent's associations that `filters` let pass: its first, least or largest."""
    file = run.folder("interpret") / ASSOCIATIONS
    if not file.is_file():
        return {}
    table = read_table(file, "interpret", ["member", "latent", column], filters)
    found = table.group_by(["member", "latent"], use_threads=False).aggregate([(column, how)])
    keys = zip(found["member"].to_pylist(), found["latent"].to_pylist(), strict=True)
    return dict(zip(keys, found[f"{column}_{how}"].to_pylist(), strict=True))


def _largest_z(run: Run, filters: pc.Expression) -> dict[Key, float]:
    least, largest = (_summed_up(run, "z", how, filters) for how in ("min", "max"))
    return {key: max(-least[key], largest[key]) for key in largest}


def _counts(outcome: InterpretOutcome) -> Table:
    columns: list[Column] = [
        MEMBER,
        ("latents", lambda m: number(m.d_sae)),
        ("live", lambda m: number(m.n_alive)),
        ("everywhere", lambda m: number(m.n_everywhere)),
        ("L0", lambda m: number(m.l0)),
        ("n vectors", lambda m: number(m.n)),
        ("n problems or documents", lambda m: number(m.n_problems)),
    ]
    return Table.of(f"Latents, split {outcome.split}", outcome.members, columns)


def _everywhere(rows: list[LatentRow]) -> list[Block]:
    found = sorted((row for row in rows if row.everywhere), key=lambda row: -row.density)
    if not found:
        return []
    columns = [
        under(LatentRow, "member", str),
        under(LatentRow, "latent", str),
        under(LatentRow, "everywhere_reason", str),
        under(LatentRow, "density", percent),
        under(LatentRow, "mean_active", number),
        under(LatentRow, "first_position_share", percent),
        under(LatentRow, "first_position_examples", percent),
        under(LatentRow, "outlier_norm_share", percent),
        under(LatentRow, "outlier_norm_examples", percent),
    ]
    more = f"{len(found) - EVERYWHERE} more are in latents.parquet." if len(found) > EVERYWHERE else ""
    title = "Everywhere-latents: they say little about any one text or problem"
    return [Table.of(title, found[:EVERYWHERE], columns, note=more, n_words=3)]


def _tested(outcome: InterpretOutcome) -> list[Table]:
    shown = next((m for m in outcome.members if m.member == POOLED), outcome.members[0])
    tested = [one for one in shown.preferences if one.n_tested]
    if not tested:
        return []
    columns: list[Column] = [
        ("factor", lambda one: one.factor),
        ("pairs tested", lambda one: number(one.n_tested)),
        ("hold at q < 0.05", lambda one: number(one.n_q_below)),
        ("p over all pairs < 0.05", lambda one: number(one.n_p_max_below)),
    ]
    others = " Those of the other SAEs stand in interpret/result.json." if len(outcome.members) > 1 else ""
    note = (
        f"Pairs of latent and level, n = {number(shown.n_problems)}; the problem is the unit. q: false "
        f"discovery rate. p over all pairs: against the largest |z| of each permutation.{others}"
    )
    return [Table.of(f"Preferences of {shown.member}: how many hold", tested, columns, note=note)]


def _text_latents(run: Run, rows: list[LatentRow], top: int) -> list[Block]:
    plain = [row for row in rows if row.n_fires and not row.everywhere]
    of_tokens = pc.field("factor") == "token"
    used = sorted(plain, key=lambda row: (-row.n_fires, row.member, row.latent))[: top // 2]
    lift = _summed_up(run, "low", "first", of_tokens)
    specific = sorted(
        (row for row in plain if lift.get(_key(row), 0) > 1 and row not in used),
        key=lambda row: (-lift[_key(row)], row.member, row.latent),
    )[: top - len(used)]
    shown = [_key(row) for row in (*used, *specific)]
    tokens, examples = _associations(run, shown, of_tokens), _examples(run, TextExample, shown)
    return [
        Latents(
            title,
            [_text_latent(row, tokens.get(_key(row), []), examples.get(_key(row), [])) for row in group],
        )
        for title, group in (("Most used latents", used), ("Latents most specific to a token", specific))
        if group
    ]


def _text_latent(row: LatentRow, tokens: list[AssociationRow], examples: list[TextExample]) -> Latent:
    facts = [_firing(row)]
    named = [
        f"{t.level!r} ×{number(t.estimate)} [{number(t.low)}, {number(t.high)}] "
        f"(n = {t.n_fires:,} in {t.n_problems:,} documents)"
        for t in tokens
        if t.low > 1
    ][:5]
    if named:
        said = "Fires on these tokens more than its density says (lift, 95 % interval): "
        facts.append(said + ", ".join(named))
    drawn = [
        Example(
            f"{number(e.value)} · {shorten(e.problem_id, 60)} · {e.split}",
            [
                _token(text, act, row, i == e.peak)
                for i, (text, act) in enumerate(zip(e.tokens, e.acts, strict=True))
            ],
        )
        for e in examples
    ]
    return Latent(_title(row), facts, drawn, _place(row))


def _labels(run: Run, target: str) -> list[str]:
    """The label that is classified, or else all labels."""
    file = run.folder("interpret") / ASSOCIATIONS
    factors = (
        read_table(file, "interpret", ["factor"])["factor"].unique().to_pylist() if file.is_file() else []
    )
    labels = [factor for factor in factors if factor.startswith("label:")]
    return [target] if target in labels else labels


def _thought_latents(run: Run, rows: list[LatentRow], target: str, top: int) -> list[Block]:
    """Latents by the strength of their preference for the labels (else for any factor)."""
    labels = _labels(run, target)
    strength = _largest_z(run, EVERY) | _largest_z(
        run, pc.field("factor").isin(pa.array(labels, pa.string()))
    )
    plain = [row for row in rows if row.n_fires and not row.everywhere and _key(row) in strength]
    chosen = sorted(plain, key=lambda row: (-strength[_key(row)], row.member, row.latent))[:top]
    if not chosen:
        return []
    shown = [_key(row) for row in chosen]
    associations, examples = _associations(run, shown), _examples(run, ThoughtExample, shown)
    known = [{a.factor for a in associations[_key(row)]} for row in chosen]
    factors = [f for f in (*labels, "hook", "thought") if all(f in own for own in known)]
    alone = len({row.member for row in rows}) == 1
    drawn = [
        plots.Preference(
            str(row.latent) if alone else _title(row),
            {
                factor: [(a.level, a.rate_in or 0.0) for a in associations[_key(row)] if a.factor == factor]
                for factor in factors
            },
        )
        for row in chosen[:BARS]
    ]
    blocks: list[Block] = []
    if drawn and factors:
        caption = (
            f"Firing rate by label, layer and thought of the latents whose label preference is strongest "
            f"(blue: the highest level), n = {counts(row.n_vectors for row in chosen)} vectors. Whether a "
            f"difference is more than chance stands in the table."
        )
        blocks.append(Picture("preferences", plots.preferences(drawn), caption))
    strongest = [
        max(own, key=lambda a: abs(a.z))
        for row in chosen
        for factor in factors
        if (own := [a for a in associations[_key(row)] if a.factor == factor])
    ]
    items = [_thought_latent(row, examples.get(_key(row), [])) for row in chosen]
    return [*blocks, _preference_table(strongest), Latents("Strongest problems of these latents", items)]


def _preference_table(strongest: list[AssociationRow]) -> Table:
    columns: list[Column] = [
        under(AssociationRow, "member", str),
        under(AssociationRow, "latent", str),
        ("factor", lambda a: a.factor.removeprefix("label:")),
        under(AssociationRow, "level", str),
        ("finding", _finding),
        ("rate there", lambda a: percent(a.rate_in)),
        ("rate elsewhere", lambda a: percent(a.rate_out)),
        ("difference, 95 % (points)", lambda a: between(a.low, a.high, points)),
        ("q", lambda a: p_text(a.q_value)),
        ("p over all pairs", lambda a: p_text(a.p_max)),
        ("problems it fires in there", lambda a: number(a.n_problems)),
    ]
    note = (
        "The level with the largest |z| of each factor. Rates are means over problems of the share of the "
        "problem's vectors on which the latent fires; intervals are over problems and do not correct for the "
        "choice of the level, p over all pairs does."
    )
    title = "Preferences of the strongest latents"
    return Table.of(title, strongest, columns, note=note, n_words=5)


def _finding(a: AssociationRow) -> str:
    held = a.p_max < 0.05 and not a.low <= 0 <= a.high
    return ("prefers" if a.estimate > 0 else "avoids") if held else "inconclusive"


def _thought_latent(row: LatentRow, examples: list[ThoughtExample]) -> Latent:
    drawn = [
        Example(
            f"{number(e.value)} · {e.problem_id} · {e.split} · {shorten(e.question or '', 160)}",
            _strip(row, e),
        )
        for e in examples
    ]
    return Latent(_title(row), [_firing(row)], drawn, _place(row))


def _strip(row: LatentRow, e: ThoughtExample) -> list[Token]:
    """The thoughts of each hook in a row, by number."""
    strip: list[Token] = []
    before = None
    for hook, thought, act in zip(e.strip_hook, e.strip_thought, e.acts, strict=True):
        if hook != before:
            strip.append(Token(f"{'   ' if strip else ''}{hook}", 0.0, 0.0))
        peak = hook == e.hook_name and thought == e.thought_idx
        strip += [Token(" ", 0.0, 0.0), _token(str(thought), act, row, peak)]
        before = hook
    return strip


def _token(text: str, act: float, row: LatentRow, peak: bool) -> Token:
    return Token(text, act, min(max(act / max(row.max_active, 1e-12), 0.0), 1.0), peak)


def _firing(row: LatentRow) -> str:
    return (
        f"fires on {percent(row.density, 2)} of vectors ({row.n_fires:,} of n = {row.n_vectors:,}), "
        f"in {row.n_problems:,} problems or documents; mean {number(row.mean_active)} where active, "
        f"maximum {number(row.max_active)}"
    )


def _title(row: LatentRow) -> str:
    return f"Latent {row.latent}" if row.member == POOLED else f"{row.member} · latent {row.latent}"


def _place(row: LatentRow) -> str:
    return f"#/l/{quote(row.member, safe='')}/{row.latent}"


def _by_latent(rows: Iterable[R]) -> dict[Key, list[R]]:
    found: dict[Key, list[R]] = {}
    for row in rows:
        found.setdefault(_key(row), []).append(row)
    return found


def _key(row: LatentRow | AssociationRow | ExampleRow) -> Key:
    return row.member, row.latent
