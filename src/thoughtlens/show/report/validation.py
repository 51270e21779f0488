"""The section on validation: reconstruction beside baselines, per cell, sparsity, the spliced model."""

from __future__ import annotations

from operator import itemgetter

import numpy as np

from thoughtlens.evals import (
    AgainstBaseline,
    Elsewhere,
    FiringRow,
    ReconstructionRow,
    Reconstructor,
    TextFidelity,
    ThoughtFidelity,
    Validated,
    ValidateOutcome,
)
from thoughtlens.show.pages import plots
from thoughtlens.show.pages.run import Run
from thoughtlens.show.pages.text import between, counts, fixed, number, percent, points
from thoughtlens.show.report.blocks import (
    MEMBER,
    Block,
    Column,
    Picture,
    Section,
    Table,
    Text,
    through,
    under,
    unique,
    verdict_of,
)

MAX_CELLS_TABLE = 60
MAX_MEMBERS = 24
SAE: Column = ("SAE", itemgetter(0))
"""The first column of (member, row)."""
EVERYTHING = "no comparison: k = d_in keeps everything"
INTERVALS = "Intervals resample whole problems. Within cells: centred on the mean of each (hook, thought)."


def validation(run: Run) -> Section | None:
    """Reconstruction beside baselines, per cell, sparsity, and the spliced model."""
    outcome = run.outcome("validate", ValidateOutcome)
    if outcome is None:
        return None
    blocks = [
        *_reconstruction(outcome),
        *_elsewhere(outcome),
        *_cells(run, outcome),
        _sparsity(outcome),
        *_firing(run, outcome.split),
        *_fidelity(outcome),
    ]
    return Section("validation", "Validation", blocks)


def _firing(run: Run, split: str) -> list[Block]:
    firing = run.table("validate", "firing.parquet", FiringRow)
    if not firing:
        return []
    names = unique(row.member for row in firing)[:MAX_MEMBERS]
    density = {m: np.array([row.density for row in firing if row.member == m]) for m in names}
    n = {m: next(row.n_rows for row in firing if row.member == m) for m in names}
    caption = (
        f"Share of the vectors of split {split} on which each live latent fires. A latent with a density "
        f"below 3 / n may look dead by chance."
    )
    return [Picture("firing_rates", plots.firing_rates(density, n), caption)]


def _reconstruction(outcome: ValidateOutcome) -> list[Block]:
    bars = [
        plots.Bar(
            m.member, name, r.n, r.explained_variance, r.explained_variance_low, r.explained_variance_high
        )
        for m in outcome.members
        for name, r in m.reconstruction.items()
    ]
    caption = f"Reconstruction of held-out vectors, split {outcome.split}"
    note = f"{caption}: SAE and baselines, 95 % intervals over problems."
    detail = _one_by_one if len(outcome.members) == 1 else _side_by_side
    figure = plots.reconstruction(bars, outcome.split)
    return [Picture("reconstruction", figure, note), *detail(outcome.members, caption)]


def _elsewhere(outcome: ValidateOutcome) -> list[Block]:
    """An SAE of another library by that library's own definitions."""
    rows = [(m.member, one) for m in outcome.members for one in m.elsewhere]
    if not rows:
        return []
    columns = through(
        itemgetter(1),
        [
            under(Elsewhere, "name", str),
            under(Elsewhere, "value", fixed),
            under(Elsewhere, "ours", str),
            under(Elsewhere, "our_value", fixed),
            under(Elsewhere, "differs", str),
        ],
    )
    caption = f"The same rows as {', '.join(unique(one.library for _, one in rows))} counts them"
    note = "Both from one pass over the same held-out rows and text; docs/metrics.md has the formulas."
    return [Table.of(caption, rows, [SAE, *columns], note=note, open=True)]


def _interval(r: Reconstructor) -> str:
    return between(r.explained_variance_low, r.explained_variance_high)


def _one_by_one(members: list[Validated], caption: str) -> list[Block]:
    """Every number of one SAE and its baselines."""
    (m,) = members
    columns = [
        ("reconstructor", lambda pair: plots.words(pair[0])),
        *through(
            itemgetter(1),
            [
                under(Reconstructor, "d_sae", number),
                under(Reconstructor, "l0", number),
                under(Reconstructor, "explained_variance", fixed),
                ("95 % interval", _interval),
                under(Reconstructor, "explained_variance_within", fixed),
                under(Reconstructor, "fvu", fixed),
                under(Reconstructor, "cosine_similarity", fixed),
                under(Reconstructor, "mse", number),
                under(Reconstructor, "n", number),
            ],
        ),
    ]
    compared = [
        ("comparison", lambda c: f"SAE against {plots.words(c.baseline)}"),
        under(AgainstBaseline, "difference", fixed),
        ("95 % interval", lambda c: between(c.low, c.high)),
        under(AgainstBaseline, "n_problems", number),
        ("verdict", lambda c: _verdict(m, c)),
    ]
    return [
        Table.of(caption, m.reconstruction.items(), columns, note=INTERVALS),
        Table.of("The SAE against its baselines, paired over problems", m.comparisons, compared),
    ]


def _side_by_side(members: list[Validated], caption: str) -> list[Block]:
    """Several SAEs, a line each; everything else stands in reconstruction.parquet."""
    others = unique(name for m in members for name in m.reconstruction if name != "sae")
    columns: list[Column] = [
        MEMBER,
        *through(
            lambda m: m.reconstruction["sae"],
            [
                under(Reconstructor, "n", number),
                under(Reconstructor, "l0", number),
                under(Reconstructor, "fvu", fixed),
                under(Reconstructor, "explained_variance", fixed),
                ("95 % interval", _interval),
                under(Reconstructor, "explained_variance_within", fixed),
                under(Reconstructor, "cosine_similarity", fixed),
            ],
        ),
        *(
            (f"explained variance, {plots.words(name)}", lambda m, name=name: _explained(m, name))
            for name in others
            if name in ("pca_l0", "random")
        ),
    ]
    compared = [
        MEMBER,
        ("n problems", lambda m: number(m.n_problems)),
        *((f"minus {plots.words(name)}", lambda m, name=name: _against(m, name)) for name in others),
    ]
    title = "Each SAE's explained variance minus its baselines', paired over problems, 95 % intervals"
    return [Table.of(caption, members, columns, note=INTERVALS), Table.of(title, members, compared)]


def _explained(m: Validated, name: str) -> str:
    return fixed(m.reconstruction[name].explained_variance) if name in m.reconstruction else fixed(None)


def _against(m: Validated, name: str) -> str:
    c = next((c for c in m.comparisons if c.baseline == name), None)
    return "" if c is None else f"{fixed(c.difference)} {between(c.low, c.high)} {_verdict(m, c)}"


def _verdict(m: Validated, c: AgainstBaseline) -> str:
    """Of a comparison; none against as many components as there are dimensions, which keep everything."""
    full = c.baseline in m.reconstruction and m.reconstruction[c.baseline].d_sae >= m.d_in
    return EVERYTHING if full and c.baseline.startswith("pca") else verdict_of(c)


def _cells(run: Run, outcome: ValidateOutcome) -> list[Block]:
    """Explained variance of every (hook, thought), a map for each way of dividing the cells among SAEs."""
    rows = [
        row
        for row in run.table("validate", "reconstruction.parquet", ReconstructionRow)
        if row.rows == "kept" and row.reconstructor in ("sae", "pca_l0")
    ]
    kinds = {m.member: _partition(m, outcome.members) for m in outcome.members}
    alone = {
        m.member: (m.hook_names[0], m.thoughts[0])
        for m in outcome.members
        if kinds[m.member] == "per cell" and m.thoughts
    }
    values: dict[str, list[tuple[str, int, float]]] = {}
    first = next(iter(kinds.values()))
    for row in rows:
        kind, place = kinds[row.member], (row.hook_name, row.thought_idx)
        hook, thought = alone.get(row.member, place) if row.hook_name is None else place
        if hook is None or thought is None or (row.reconstructor != "sae" and kind != first):
            continue
        title = f"{plots.words(row.reconstructor)}{'' if len(set(kinds.values())) == 1 else f', {kind}'}"
        value = np.nan if row.explained_variance is None else row.explained_variance
        values.setdefault(title, []).append((hook, thought, value))
    if not values:
        return []
    n = counts(row.n for row in rows if row.hook_name is not None or row.member in alone)
    where = f"split {outcome.split}, n = {n} vectors per cell"
    caption = "Every (hook, thought) cell, centred on its own mean: SAEs, and PCA with k = L0."
    figure = plots.cell_map(values, f"explained variance, {where}")
    at = {title: {(hook, thought): v for hook, thought, v in cells} for title, cells in values.items()}
    places = unique((hook, thought) for cells in values.values() for hook, thought, _ in cells)
    columns = [
        ("hook", lambda cell: cell[0]),
        ("thought", lambda cell: str(cell[1])),
        *((title, lambda cell, known=known: fixed(known.get(cell))) for title, known in at.items()),
    ]
    table = Table.of(f"Explained variance per cell, {where}", places, columns, n_words=2)
    return [
        Picture("cells_validation", figure, caption),
        *([table] if len(places) <= MAX_CELLS_TABLE else []),
    ]


def _partition(member: Validated, members: list[Validated]) -> str:
    """Which part of the cells a SAE is for."""
    hooks = {hook for m in members for hook in m.hook_names}
    layer = len(member.hook_names) == 1 and len(hooks) > 1
    thought = len(member.thoughts or ()) == 1
    if layer and thought:
        return "per cell"
    return "per layer" if layer else "per thought" if thought else "pooled"


def _sparsity(outcome: ValidateOutcome) -> Table:
    columns: list[Column] = [
        MEMBER,
        ("L0", lambda m: number(m.sparsity.l0)),
        ("L0 5 / 50 / 95 %", _quantiles),
        (
            "dead on these n",
            lambda m: f"{m.sparsity.n_dead:,} of {m.d_sae:,} ({percent(m.sparsity.dead_share)})",
        ),
        ("dense", lambda m: number(m.sparsity.n_dense)),
        ("effective latents", lambda m: number(m.sparsity.effective_latents)),
        ("3 / n", lambda m: number(m.sparsity.rule_of_three)),
        ("n vectors", lambda m: number(m.sparsity.n)),
    ]
    note = "Dead: fired on none of the n vectors; a latent of density below 3 / n can be missed by chance."
    return Table.of(f"Sparsity, split {outcome.split}", outcome.members, columns, note=note)


def _quantiles(m: Validated) -> str:
    q = m.sparsity.l0_quantiles
    return f"{number(q.q05)} / {number(q.q50)} / {number(q.q95)}"


def _fidelity(outcome: ValidateOutcome) -> list[Block]:
    rows = [(m.member, r) for m in outcome.members for r in m.fidelity or []]
    thoughts = [(name, r) for name, r in rows if isinstance(r, ThoughtFidelity)]
    if thoughts:
        return _spliced_thoughts(thoughts, outcome.split)
    texts = [(name, r) for name, r in rows if isinstance(r, TextFidelity)]
    if texts:
        return [_spliced_text(texts, outcome.split)]
    why = unique(m.fidelity_skipped for m in outcome.members if m.fidelity_skipped)
    return [Text(f"Not measured here: the model with x replaced ({'; '.join(why)}).")] if why else []


def _spliced_text(rows: list[tuple[str, TextFidelity]], split: str) -> Table:
    """A language model with x replaced by reconstructions and by ablations."""
    columns = [
        SAE,
        *through(
            itemgetter(1),
            [
                under(TextFidelity, "hook_name", str),
                under(TextFidelity, "arm", plots.words),
                under(TextFidelity, "delta_ce", fixed),
                ("Δ, 95 %", lambda r: between(r.delta_ce_low, r.delta_ce_high)),
                under(TextFidelity, "kl", fixed),
                under(TextFidelity, "top1_agreement", percent),
                under(TextFidelity, "ce_loss_score_mean", fixed),
                ("score, 95 %", lambda r: between(r.ce_loss_score_mean_low, r.ce_loss_score_mean_high)),
                under(TextFidelity, "ce_loss_score_zero", fixed),
                under(TextFidelity, "n", number),
                under(TextFidelity, "n_documents", number),
                under(TextFidelity, "n_uncovered", number),
            ],
        ),
    ]
    note = "Every arm replaces the same positions. Score 1 costs nothing, 0 costs as much as the ablation."
    return Table.of(f"The model with x replaced, split {split}", rows, columns, note=note, n_words=3)


def _spliced_thoughts(rows: list[tuple[str, ThoughtFidelity]], split: str) -> list[Block]:
    """Answers with x replaced, all places of each SAE, then cell by cell."""
    whole = {(name, r.arm): r for name, r in rows}  # the last of each is all places at once
    own = [(name, r) for (name, arm), r in whole.items() if arm == "sae"]
    rivals = unique(arm for _, arm in whole if arm != "sae")
    columns = [
        SAE,
        *through(
            itemgetter(1),
            [
                ("right answers", lambda r: percent(r.accuracy)),
                ("difference (points)", lambda r: points(r.difference)),
                ("difference, 95 %", lambda r: between(r.low, r.high, points)),
                ("verdict", verdict_of),
                ("KL (nats)", lambda r: number(r.kl)),
                ("KL, 95 %", lambda r: between(r.kl_low, r.kl_high, number)),
                ("n problems", lambda r: number(r.n)),
            ],
        ),
        *(
            (f"right with {plots.words(arm)}", lambda row, arm=arm: _right(whole.get((row[0], arm))))
            for arm in rivals
        ),
    ]
    _, first = rows[0]
    note = (
        f"Untouched {percent(first.accuracy_untouched)}. Every place of one SAE at once. All of what was put "
        f"in place stands in validate/fidelity.parquet."
    )
    caption = f"Answers with thoughts replaced by reconstructions, split {split}"
    blocks: list[Block] = [Table.of(caption, own, columns, note=note)]
    names = unique(name for name, r in rows if r.hook_name is not None)
    pooled = "pooled" if "pooled" in names else names[0]
    values: dict[str, list[tuple[str, int, float]]] = {}
    for name, r in rows:
        if name == pooled and r.hook_name is not None and r.thought_idx is not None:
            values.setdefault(plots.words(r.arm), []).append((r.hook_name, r.thought_idx, r.difference))
    if len(next(iter(values.values()))) > 1:
        n = counts(r.n for name, r in rows if name == pooled)
        caption = f"SAE {pooled!r}: accuracy lost by replacing one cell, n = {n}, split {split}."
        blocks.append(Picture("cells_spliced", plots.cell_map(values, "change of accuracy"), caption))
    return blocks


def _right(row: ThoughtFidelity | None) -> str:
    return percent(None if row is None else row.accuracy)
