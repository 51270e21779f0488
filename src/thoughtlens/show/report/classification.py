"""The section on classification: every arm, what may be said of it, and where the label is."""

from __future__ import annotations

from operator import itemgetter

import numpy as np

from thoughtlens.evals import (
    CellTests,
    ChosenRow,
    ClassifyOutcome,
    ClassReport,
    ClassRow,
    Comparison,
    PoolingLoss,
    TransferRow,
    ValueRow,
)
from thoughtlens.latents import AssociationRow
from thoughtlens.sae import POOLED
from thoughtlens.show.pages import plots
from thoughtlens.show.pages.by_latent import of_latents
from thoughtlens.show.pages.run import Run
from thoughtlens.show.pages.text import NONE, between, fixed, number, p_text, percent, points
from thoughtlens.show.report.blocks import (
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

WORDS = {"accuracy": "accuracy", "r2": "R squared"}
SHOWN_CLASSES = 12
"""Classes up to which a confusion matrix can be read."""
SIDES = {"better": "higher", "worse": "lower"}
"""What a comparison that was not named before looking may say: a side, not a judgement."""
STANDINGS = {
    "inductive": "The SAE has not seen these units.",
    "transductive": "Transductive: the SAE was trained on {n_seen_by_sae} of {n} units.",
    "unknown": "Whether the SAE has seen these units is not known.",
    "cross-fitted": "Cross-fitted: an SAE of its own for each fold, which has not seen that fold.",
}


def classification(run: Run) -> Section | None:
    """Labels from latents and from everything else, under one protocol."""
    outcome = run.outcome("classify", ClassifyOutcome)
    if outcome is None:
        return None
    blocks = [
        Text(_primary_sentence(outcome)),
        _arms_picture(outcome),
        _arms_table(outcome),
        *_transfer(outcome),
        _comparisons(outcome),
        *_single_classes(outcome),
        *_cells(run, outcome),
        *_curves(run, outcome),
        _protocol(outcome),
    ]
    return Section("classification", "Classification", blocks)


def _arms_picture(outcome: ClassifyOutcome) -> Picture:
    pooling, metric = outcome.primary_pooling, outcome.metric
    arms = list(outcome.arms)
    main = sorted(
        (row for row in outcome.table if row.pooling in (pooling, "none")),
        key=lambda row: arms.index(row.arm),
    )
    what = f"{len(outcome.classes)} classes" if outcome.classes else "a number"
    caption = (
        f"Out-of-fold {WORDS[metric]} with 95 % intervals, pooling {pooling!r}; dashed: the arm that looks "
        f"at nothing. Split {outcome.split}, n = {outcome.n:,} in {outcome.n_groups:,} groups."
    )
    title = f"{outcome.target}: {what}, n = {outcome.n:,}"
    return Picture("classification", plots.classification(main, title, metric), caption)


def _score(row: ClassRow | ValueRow) -> float:
    return row.accuracy if isinstance(row, ClassRow) else row.r2


def _single_classes(outcome: ClassifyOutcome) -> list[Block]:
    """Precision and recall of each class, and the confusion matrices."""
    if not outcome.classes:
        return []
    blocks: list[Block] = [_per_class(outcome)]
    if len(outcome.classes) <= SHOWN_CLASSES:
        found = outcome.confusion or {}
        shown = {arm: np.array(found[arm]) for arm in ("sae", "raw") if arm in found}
        text = (
            f"Out-of-fold confusion matrices at pooling {outcome.primary_pooling!r}: counts, coloured by "
            f"share of the true class. n = {outcome.n:,}."
        )
        figure = plots.confusion(shown, [c.name for c in outcome.classes])
        blocks.append(Picture("confusion", figure, text))
    return blocks


def _cells(run: Run, outcome: ClassifyOutcome) -> list[Block]:
    """The score of every cell, what the tests over cells say, and what poolings lose."""
    cls = ClassRow if outcome.metric == "accuracy" else ValueRow
    cells = [row for row in run.table("classify", "table.parquet", cls) if row.pooling == "cell"]
    if not cells:
        return []
    values: dict[str, list[tuple[str, int, float]]] = {}
    for row in cells:
        if row.hook_name is not None and row.thought_idx is not None:
            place = (row.hook_name, row.thought_idx, _score(row))
            values.setdefault(plots.words(row.arm), []).append(place)
    said = WORDS[outcome.metric]
    note = (
        f"Out-of-fold {said} from one (hook, thought) at a time, n = {outcome.n:,}. The largest of many "
        f"cells is too large by selection; selected_cell in the table above is chosen inside the training "
        f"folds."
    )
    figure = plots.cell_map(values, f"{said}, out of fold")
    blocks: list[Block] = [Picture("cells_classification", figure, note)]
    for arm, found in (outcome.cell_tests or {}).items():
        blocks.append(Text(f"{plots.words(arm)}: {found.says}"))
        if found.poolings:
            blocks.append(_lost(arm, found))
    return blocks


def _lost(arm: str, found: CellTests) -> Table:
    columns: list[Column] = [
        under(PoolingLoss, "pooling", str),
        ("against the best cell (points)", lambda r: points(r.difference)),
        ("95 % interval", lambda r: between(r.low, r.high, points)),
        ("strongest feature there", lambda r: percent(r.strongest_in_cell, 0)),
        ("after pooling", lambda r: percent(r.strongest_in_pooling, 0)),
        ("verdict", _side),
        ("why", lambda r: r.says or ""),
    ]
    note = (
        f"The best cell is chosen inside the training folds. Strongest feature: share of the label's "
        f"variance that one feature explains. n = {found.n:,}."
    )
    title = f"What poolings keep of the best cell: {plots.words(arm)}"
    return Table.of(title, found.poolings, columns, note=note)


def _curves(run: Run, outcome: ClassifyOutcome) -> list[Block]:
    """Score at k, and the latents that were chosen, with what they respond to."""
    if not outcome.curves:
        return []
    known = unique(c.pooling for c in outcome.curves)
    pooling = next((p for p in ("concat", "mean") if p in known), known[0])
    own = [c for c in outcome.curves if c.pooling == pooling]
    fewest = [f"{plots.words(a)} {outcome.fewest[f'{a} {pooling}']}" for a in unique(c.arm for c in own)]
    text = (
        f"Out-of-fold {WORDS[outcome.metric]} from k features, pooling {pooling!r}, 95 % intervals, n = "
        f"{outcome.n:,}. Features are ranked one by one in each training fold. Fewest that reach 95 % of the "
        f"curve's top: {', '.join(fewest)}."
    )
    blocks: list[Block] = [Picture("at_k", plots.at_k(own, outcome.metric), text)]
    chosen = [c for c in outcome.chosen if (c.arm, c.pooling) == ("top_latents", pooling)]
    if chosen:
        blocks.append(_chosen(chosen, outcome.protocol.folds, _explanations(run, chosen)))
    return blocks


def _chosen(chosen: list[ChosenRow], folds: int, known: dict[tuple[str, int], str]) -> Table:
    columns: list[Column] = [
        ("latent", lambda c: f"{'latent' if c.member in ('', POOLED) else c.member} {c.index}"),
        ("hooks", lambda c: ", ".join(c.hook_names)),
        ("thoughts", lambda c: ", ".join(map(str, c.thoughts)) or NONE),
        ("folds", lambda c: f"{c.n_folds} of {folds}"),
        (
            "strongest preference (interpret stage, q < 0.05)",
            lambda c: known.get((c.member or POOLED, c.index), NONE),
        ),
    ]
    title = "Latents that say most about the label, first ones first"
    return Table.of(title, chosen, columns, n_words=5)


def _explanations(run: Run, chosen: list[ChosenRow]) -> dict[tuple[str, int], str]:
    """Of each of these latents, the preference with the largest z."""
    own = of_latents((c.member or POOLED, c.index) for c in chosen)
    best: dict[tuple[str, int], AssociationRow] = {}
    for row in run.table("interpret", "associations.parquet", AssociationRow, own):
        before = best.get((row.member, row.latent))
        if row.q_value < 0.05 and abs(row.z) > (abs(before.z) if before else 0.0):
            best[row.member, row.latent] = row
    return {
        key: f"{r.factor.removeprefix('label:')} {r.level}: {_way(r)}, {r.statistic} {number(r.estimate)}"
        for key, r in best.items()
    }


def _way(row: AssociationRow) -> str:
    """Whether a latent fires more or less at a level."""
    none = 1 if row.statistic == "lift" else 0
    return "fires more" if row.estimate > none else "fires less"


def _side(row: Comparison | PoolingLoss) -> str:
    """Where a comparison lies; the primary one alone is given its verdict in the words of a judgement."""
    word = verdict_of(row)
    return word if isinstance(row, Comparison) and row.primary else SIDES.get(word, word)


def _primary_sentence(outcome: ClassifyOutcome) -> str:
    row = next(c for c in outcome.comparisons if c.primary)
    at = {r.arm: _score(r) for r in outcome.table if r.pooling == row.pooling}
    seen, mdd = outcome.transductive, row.minimal_detectable_difference
    standing = STANDINGS[seen.standing].format(n_seen_by_sae=seen.n_seen_by_sae, n=seen.n)
    power = (
        "With this n and this much disagreement, no difference would be found 4 times in 5."
        if mdd is None
        else f"With this n, a true difference of {points(mdd)} points would be found 4 times in 5."
    )
    return (
        f"Named before looking: SAE latents against raw activations at pooling {row.pooling!r}. SAE "
        f"{percent(at['sae'])}, raw {percent(at['raw'])} ({WORDS[outcome.metric]}), difference "
        f"{points(row.difference)} points {between(row.low, row.high, points)}, {row.test} p = "
        f"{p_text(row.p)}, n = {row.n:,} in {row.n_groups:,} groups: {verdict_of(row)} "
        f"(equivalent means within ±{100 * row.delta:g} points). {power} {standing}"
    )


def _arms_table(outcome: ClassifyOutcome) -> Table:
    at = {
        (row.arm, row.pooling): f"{percent(_score(row))} {between(row.low, row.high, percent)}"
        for row in outcome.table
    }
    columns: list[Column] = [
        ("arm", plots.words),
        *(
            (pooling, lambda arm, pooling=pooling: at.get((arm, pooling), ""))
            for pooling in unique(row.pooling for row in outcome.table)
        ),
    ]
    note = (
        f"{WORDS[outcome.metric].capitalize()}, out of fold, 95 % intervals; split {outcome.split}, n = "
        f"{outcome.n:,} in {outcome.n_groups:,} groups. selected: each arm's pooling chosen inside the "
        f"training folds."
    )
    arms = unique(row.arm for row in outcome.table)
    return Table.of("Every arm under every pooling", arms, columns, note=note)


def _transfer(outcome: ClassifyOutcome) -> list[Block]:
    """What probes that were fitted under another condition know."""
    found = outcome.transfer
    if found is None:
        return []
    columns: list[Column] = [
        ("arm", lambda row: plots.words(row.arm)),
        under(TransferRow, "score", percent),
        ("95 % interval", lambda row: between(row.score_low, row.score_high, percent)),
        under(TransferRow, "within_test", percent),
        under(TransferRow, "within_train", percent),
        ("difference (points)", lambda row: points(row.difference)),
        ("95 % interval of it", lambda row: between(row.low, row.high, points)),
        ("p, Holm", lambda row: p_text(row.p_holm)),
        under(TransferRow, "carries_over", str),
    ]
    fitted, scored = (" and ".join(some) for some in (found.train_where, found.test_where))
    note = (
        f"Every score on this page is that of probes fitted where {fitted} (n = {found.n_train:,} in "
        f"{found.n_train_groups:,} groups) on problems where {scored} (n = {found.n_test:,} in "
        f"{found.n_test_groups:,} groups), no group on both sides of a fit. Fitted there: the ceiling on the "
        f"same problems. {WORDS[outcome.metric].capitalize()}, pooling {outcome.primary_pooling}."
    )
    caption = f"Fitted where {fitted}, scored where {scored}"
    return [Table.of(caption, found.rows, columns, note=note, open=True)]


def _comparisons(outcome: ClassifyOutcome) -> Table:
    shown = [
        c
        for c in sorted(outcome.comparisons, key=lambda c: not c.primary)
        if c.primary or c.pooling in (outcome.primary_pooling, "none") or c.arm == "sae"
    ]
    columns: list[Column] = [
        ("comparison", lambda c: f"{plots.words(c.arm)} against {plots.words(c.against)}"),
        under(Comparison, "pooling", str),
        ("difference (points)", lambda c: points(c.difference)),
        ("95 % interval", lambda c: between(c.low, c.high, points)),
        ("right only in first / second", lambda c: f"{c.n_only_first} / {c.n_only_second}"),
        under(Comparison, "p", p_text),
        ("p, Holm", lambda c: "named before" if c.primary else p_text(c.p_holm)),
        under(Comparison, "n", number),
        ("verdict", _side),
    ]
    note = (
        f"Only the comparison named before looking is judged; of all others the table says which side is "
        f"higher, where p adjusted for their number (Holm) is at most 0.05. Equivalent: the whole interval "
        f"lies within {100 * outcome.protocol.delta:g} points of 0, adjusted for their number too. No "
        f"information: scores are alike because an arm knows nothing of the label."
    )
    return Table.of("Paired comparisons on the same units", shown, columns, note=note, n_words=2)


def _per_class(outcome: ClassifyOutcome) -> Table:
    found = outcome.per_class or {}
    rows = [(plots.words(arm), report) for arm in ("sae", "raw", "text") for report in found.get(arm, [])]
    columns: list[Column] = [
        ("arm", itemgetter(0)),
        *through(
            itemgetter(1),
            [
                under(ClassReport, "name", str),
                under(ClassReport, "precision", percent),
                ("precision, 95 %", lambda r: between(r.precision_low, r.precision_high, percent)),
                under(ClassReport, "recall", percent),
                ("recall, 95 %", lambda r: between(r.recall_low, r.recall_high, percent)),
                under(ClassReport, "f1", lambda f1: fixed(f1, 2)),
                under(ClassReport, "n", number),
            ],
        ),
    ]
    caption = f"Per class, out of fold, pooling {outcome.primary_pooling!r}, split {outcome.split}"
    return Table.of(caption, rows, columns, n_words=2)


def _protocol(outcome: ClassifyOutcome) -> Table:
    p = outcome.protocol
    units = f"{outcome.n:,} in {outcome.n_groups:,} groups ({p.group}), split {outcome.split}"
    folds = f"{p.folds} outer, {p.inner_folds} inner, stratified, groups whole (digest {p.folds_digest})"
    rows = [
        ("units", units),
        ("classes", ", ".join(f"{c.name} ({c.n:,})" for c in outcome.classes) or "none: a number"),
        ("folds", folds),
        ("learner", p.learner),
        ("C", f"{', '.join(number(c) for c in p.c_grid)}; chosen by {p.chosen_by}"),
        ("scaler", p.scaler),
        ("poolings", ", ".join(p.poolings)),
        ("the same for every arm", ", ".join(p.same_for_every_arm)),
        ("the same for every arm of vectors", ", ".join(p.same_for_every_arm_of_vectors)),
        ("seed", str(p.seed)),
    ]
    return Table.facts("Protocol, the same for every arm", rows)
