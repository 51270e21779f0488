"""The section on validation: reconstruction beside baselines, per cell, sparsity, the spliced model."""

from __future__ import annotations

from typing import Any

import numpy as np

from thoughtlens.show import plots
from thoughtlens.show.report.blocks import Block, Picture, Section, Table, Text, unique, verdict_of
from thoughtlens.show.report.interventions import spliced
from thoughtlens.show.run import Run
from thoughtlens.show.text import between, fixed, number, percent

MAX_CELLS_TABLE = 60
MAX_MEMBERS = 24


def validation(run: Run) -> Section | None:
    """Reconstruction beside baselines, per cell, sparsity, and the spliced model."""
    result = run.results.get("validate")
    if result is None:
        return None
    split, members = result["split"], result["members"]
    blocks: list[Block] = [*_reconstruction(members, split), *_cells(run, members, split)]
    blocks.append(_sparsity(members, split))
    firing = run.table("validate", "firing.parquet")
    if firing:
        names = unique(row["member"] for row in firing)[:MAX_MEMBERS]
        density = {m: np.array([r["density"] for r in firing if r["member"] == m]) for m in names}
        n = {m: next(r["n_rows"] for r in firing if r["member"] == m) for m in names}
        caption = (
            f"Share of the vectors of split {split} on which each live latent fires. A latent with a density "
            f"below 3 / n may look dead by chance."
        )
        blocks.append(Picture("firing_rates", plots.firing_rates(density, n), caption))
    blocks += _fidelity(members, split)
    return Section("validation", "Validation", blocks)


def _reconstruction(members: list[dict[str, Any]], split: str) -> list[Block]:
    bars = [
        {
            "member": m["member"], "reconstructor": name, "n": r["n"],
            "explained_variance": r["explained_variance"], "low": r["explained_variance_low"],
            "high": r["explained_variance_high"],
        }
        for m in members
        for name, r in m["reconstruction"].items()
    ]  # fmt: skip
    caption = f"Reconstruction of held-out vectors, split {split}"
    note = f"{caption}: SAE and baselines, 95 % intervals over problems."
    detail = _one_by_one if len(members) == 1 else _side_by_side
    return [Picture("reconstruction", plots.reconstruction(bars, split), note), *detail(members, caption)]


def _one_by_one(members: list[dict[str, Any]], caption: str) -> list[Block]:
    """Every number of one SAE and its baselines."""
    (m,) = members
    rows = [
        (
            plots.words(name), number(r["d_sae"]), number(r["l0"]), fixed(r["explained_variance"]),
            between(r["explained_variance_low"], r["explained_variance_high"]),
            fixed(r["explained_variance_within"]), fixed(r["fvu"]), fixed(r["cosine_similarity"]),
            number(r["mse"]), number(r["n"]),
        )
        for name, r in m["reconstruction"].items()
    ]  # fmt: skip
    columns = (
        "reconstructor", "width", "L0", "explained variance", "95 % interval", "within cells", "FVU",
        "cosine", "MSE (sum over d)", "n vectors",
    )  # fmt: skip
    compared = [
        (
            f"SAE against {plots.words(c['baseline'])}", fixed(c["difference"]), between(c["low"], c["high"]),
            number(c["n_problems"]), verdict_of(c),
        )
        for c in m["comparisons"]
    ]  # fmt: skip
    head = ("comparison", "difference of explained variance", "95 % interval", "n problems", "verdict")
    note = "Intervals resample whole problems. Within cells: centred on the mean of each (hook, thought)."
    return [
        Table(caption, columns, rows, note),
        Table("The SAE against its baselines, paired over problems", head, compared),
    ]


def _side_by_side(members: list[dict[str, Any]], caption: str) -> list[Block]:
    """Several SAEs, a line each; everything else stands in reconstruction.parquet."""
    others = unique(name for m in members for name in m["reconstruction"] if name != "sae")
    shown = [name for name in others if name in ("pca_l0", "random")]
    rows, compared = [], []
    for m in members:
        sae = m["reconstruction"]["sae"]
        rows.append(
            (
                m["member"], number(sae["n"]), number(sae["l0"]), fixed(sae["fvu"]),
                fixed(sae["explained_variance"]),
                between(sae["explained_variance_low"], sae["explained_variance_high"]),
                fixed(sae["explained_variance_within"]), fixed(sae["cosine_similarity"]),
                *(fixed(m["reconstruction"].get(name, {}).get("explained_variance")) for name in shown),
            )
        )  # fmt: skip
        against = {c["baseline"]: c for c in m["comparisons"]}
        cells = [against.get(name) for name in others]
        said = [
            "" if c is None else f"{fixed(c['difference'])} {between(c['low'], c['high'])} {verdict_of(c)}"
            for c in cells
        ]
        compared.append((m["member"], number(m["n_problems"]), *said))
    columns = (
        "SAE", "n vectors", "L0", "FVU", "explained variance", "95 % interval", "within cells", "cosine",
        *(f"explained variance, {plots.words(name)}" for name in shown),
    )  # fmt: skip
    head = ("SAE", "n problems", *(f"minus {plots.words(name)}" for name in others))
    note = "Intervals resample whole problems. Within cells: centred on the mean of each (hook, thought)."
    title = "Each SAE's explained variance minus its baselines', paired over problems, 95 % intervals"
    return [Table(caption, columns, rows, note), Table(title, head, compared)]


def _cells(run: Run, members: list[dict[str, Any]], split: str) -> list[Block]:
    """Explained variance of every (hook, thought), a map for each way of dividing the cells among SAEs."""
    rows = [
        r
        for r in run.table("validate", "reconstruction.parquet")
        if r["rows"] == "kept" and r["reconstructor"] in ("sae", "pca_l0")
    ]
    kinds = {m["member"]: _partition(m, members) for m in members}
    alone = {
        m["member"]: (m["hook_names"][0], m["thoughts"][0])
        for m in members
        if kinds[m["member"]] == "per cell"
    }
    values: dict[str, list[tuple[str, int, float]]] = {}
    first = next(iter(kinds.values()))
    for r in rows:
        hook, thought = r["hook_name"], r["thought_idx"]
        if hook is None and r["member"] in alone:
            hook, thought = alone[r["member"]]
        kind = kinds[r["member"]]
        if hook is None or thought is None or (r["reconstructor"] != "sae" and kind != first):
            continue
        title = f"{plots.words(r['reconstructor'])}{'' if len(set(kinds.values())) == 1 else f', {kind}'}"
        value = np.nan if r["explained_variance"] is None else r["explained_variance"]
        values.setdefault(title, []).append((hook, thought, value))
    if not values:
        return []
    n = unique(f"{r['n']:,}" for r in rows if r["hook_name"] is not None) or [f"{rows[0]['n']:,}"]
    label = f"explained variance, split {split}, n = {' or '.join(n[:3])} vectors a cell"
    caption = "Every (hook, thought) cell, centred on its own mean: SAEs, and PCA with k = L0."
    at = {title: {(hook, thought): v for hook, thought, v in column} for title, column in values.items()}
    cells = unique((hook, thought) for column in values.values() for hook, thought, _ in column)
    table = [(h, str(t), *(fixed(column.get((h, t))) for column in at.values())) for h, t in cells]
    blocks: list[Block] = [Picture("cells_validation", plots.cell_map(values, label), caption)]
    if len(table) <= MAX_CELLS_TABLE:
        heading = f"Explained variance per cell, split {split}, n = {' or '.join(n[:3])} vectors a cell"
        blocks.append(Table(heading, ("hook", "thought", *at), table, n_words=2))
    return blocks


def _partition(member: dict[str, Any], members: list[dict[str, Any]]) -> str:
    """Which part of the cells a SAE is for."""
    hooks = {hook for m in members for hook in m["hook_names"]}
    layer = len(member["hook_names"]) == 1 and len(hooks) > 1
    thought = len(member["thoughts"] or ()) == 1
    if layer and thought:
        return "per cell"
    return "per layer" if layer else "per thought" if thought else "pooled"


def _sparsity(members: list[dict[str, Any]], split: str) -> Table:
    rows = []
    for m in members:
        s = m["sparsity"]
        q = s["l0_quantiles"]
        rows.append(
            (
                m["member"], number(s["l0"]), f"{number(q['q05'])} / {number(q['q50'])} / {number(q['q95'])}",
                f"{s['n_dead']:,} of {m['d_sae']:,} ({percent(s['dead_share'])})", number(s["n_dense"]),
                number(s["effective_latents"]), number(s["rule_of_three"]), number(s["n"]),
            )
        )  # fmt: skip
    columns = (
        "SAE",
        "L0",
        "L0 5 / 50 / 95 %",
        "dead on these n",
        "dense",
        "effective latents",
        "3 / n",
        "n vectors",
    )
    note = "Dead: fired on none of the n vectors; a latent of density below 3 / n can be missed by chance."
    return Table(f"Sparsity, split {split}", columns, rows, note)


def _fidelity(members: list[dict[str, Any]], split: str) -> list[Block]:
    if any("scope" in r for m in members for r in m["fidelity"] or []):
        return spliced(members, split)
    rows = []
    for m in members:
        for r in m["fidelity"] or []:
            rows.append(
                (
                    m["member"], r["hook_name"], plots.words(r["arm"]), fixed(r["delta_ce"]),
                    between(r["delta_ce_low"], r["delta_ce_high"]), fixed(r["kl"]),
                    percent(r["top1_agreement"]), fixed(r["ce_loss_score_mean"]),
                    between(r["ce_loss_score_mean_low"], r["ce_loss_score_mean_high"]),
                    fixed(r["ce_loss_score_zero"]), number(r["n"]), number(r["n_documents"]),
                )
            )  # fmt: skip
    if rows:
        columns = (
            "SAE", "hook", "replaced by", "Δ cross-entropy (nats)", "95 % interval", "KL (nats)",
            "same top token", "CE score, mean-ablated", "95 % interval", "CE score, zeroed", "n tokens",
            "n documents",
        )  # fmt: skip
        note = (
            "Every arm replaces the same positions. Score 1 costs nothing, 0 costs as much as the ablation."
        )
        return [Table(f"The model with x replaced, split {split}", columns, rows, note, 3)]
    why = unique(m["fidelity_skipped"] for m in members if m["fidelity_skipped"])
    return [Text(f"Not measured here: the model with x replaced ({'; '.join(why)}).")] if why else []
