"""What the overview knows of every latent: its columns, and the words that a search looks through."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from thoughtlens.show.explorer.build import rounded, significant
from thoughtlens.show.explorer.effects import of_latents
from thoughtlens.show.explorer.sources import Source

FALSE_DISCOVERIES = 0.05
"""Share of false ones among the labels that the overview names."""
COUNTS = ("n_fires", "n_problems")
NUMBERS = ("density", "mean_active", "max_active")
LONGEST = 72
"""Characters of an explanation in the overview; the whole stands on the latent's page."""
TOKENS_SHOWN = 6
"""Preferred tokens, and logit tokens of each sign, that a search looks through."""


def summary(source: Source, directions: torch.Tensor) -> dict[str, Any]:
    """Columns of numbers and of words, one entry a latent."""
    latents = source.by_latent("latents")
    rows = [found[0] for found in latents.of(0, source.d_sae)] if latents else []
    columns: dict[str, Any] = {name: [row[name] for row in rows] for name in COUNTS}
    columns |= {name: rounded((row[name] for row in rows), 4) for name in NUMBERS}
    strengths, labels = _labels(source)
    said = _said(source)
    map_, share = plane(directions)
    columns |= {"label_strength": strengths, **said.pop("columns")}
    effects = of_latents(source)
    if effects:
        columns["effect"] = [_largest(effects.get(i, [])) for i in range(source.d_sae)]
    return {
        "columns": columns | {"direction_1": map_[0], "direction_2": map_[1]},
        "direction_share": share,
        "everywhere": [row["everywhere_reason"] for row in rows],
        "label": labels,
        **said,
    }


def words(source: Source) -> list[str]:
    """Preferred tokens, whole explanations and logit tokens of every latent, for the search."""
    found: list[list[str]] = [[] for _ in range(source.d_sae)]
    for i, tokens in enumerate(preferred(source)):
        found[i] += tokens
    for table, column, keep in (
        ("explanations", "text", lambda row: True),
        ("lens_latents", "token", lambda row: row["rank"] < TOKENS_SHOWN),
    ):
        columns = [column, "latent"] + (["rank"] if table == "lens_latents" else [])
        rows = source.table(table, columns)
        for row in rows.select(columns).to_pylist() if rows is not None else []:
            if keep(row):
                found[row["latent"]].append(row[column])
    return [" ".join(dict.fromkeys(parts)) for parts in found]


def preferred(source: Source) -> list[list[str]]:
    """The tokens that each latent prefers, strongest first; none for thoughts."""
    found: list[list[str]] = [[] for _ in range(source.d_sae)]
    table = source.table("associations", ["latent", "factor", "level", "low"])
    if table is not None:
        mask = pc.and_(pc.equal(table["factor"], "token"), pc.greater(table["low"], 1.0))  # type: ignore[attr-defined]
        for row in table.filter(mask).to_pylist():
            if len(found[row["latent"]]) < TOKENS_SHOWN:
                found[row["latent"]].append(row["level"].strip())
    return found


def plane(directions: torch.Tensor) -> tuple[list[list[float | None]], float]:
    """The unit rows on their two first principal axes, and the share of their variance that these hold.

    The signs of the axes are those that make the largest coordinate positive.
    """
    unit = torch.nn.functional.normalize(directions.double(), dim=1)
    unit = unit - unit.mean(0)
    values, vectors = torch.linalg.eigh(unit.T @ unit)
    axes = vectors[:, -2:].flip(1)
    places = unit @ axes
    places = places * torch.sign(places.gather(0, places.abs().argmax(0, keepdim=True)))
    share = float(values[-2:].sum() / values.sum()) if values.sum() > 0 else 0.0
    shown = [rounded(places[:, j].tolist()) for j in range(places.shape[1])]
    return shown if len(shown) == 2 else [*shown, [0.0] * len(unit)], share


def _labels(source: Source) -> tuple[list[float | None], list[str | None]]:
    """The largest rate difference over labels, and its label where that holds at FALSE_DISCOVERIES."""
    strengths: list[float | None] = [None] * source.d_sae
    labels: list[str | None] = [None] * source.d_sae
    table = source.table("associations", ["latent", "factor", "level", "estimate", "q_value"])
    if table is None:
        return strengths, labels
    table = table.filter(pc.starts_with(table["factor"], "label:"))  # type: ignore[attr-defined]
    order = np.argsort(-np.abs(table["estimate"].to_numpy()), kind="stable")
    _, first = np.unique(table["latent"].to_numpy()[order], return_index=True)
    for row in table.take(pa.array(order[first])).to_pylist():
        strengths[row["latent"]] = significant(row["estimate"], 3)
        if row["q_value"] <= FALSE_DISCOVERIES:
            labels[row["latent"]] = f"{row['factor'][6:]} = {row['level']}"
    return strengths, labels


def _said(source: Source) -> dict[str, Any]:
    """What each latent is said to be, in short, and the scores of that; else its preferred tokens."""
    table = source.table("explanations", ["latent", "text", "chosen", "auprc", "random_auprc"])
    if table is None:
        return {"says": [" ".join(tokens)[:LONGEST] for tokens in preferred(source)], "columns": {}}
    says = [""] * source.d_sae
    columns: dict[str, list[float | None]] = {
        name: [None] * source.d_sae for name in ("auprc", "random_auprc")
    }
    for row in table.filter(table["chosen"]).to_pylist():
        says[row["latent"]] = row["text"] if len(row["text"]) <= LONGEST else row["text"][: LONGEST - 1] + "…"
        for name, column in columns.items():
            column[row["latent"]] = significant(row[name], 3)
    return {"says": says, "columns": columns}


def _largest(rows: list[list[Any]]) -> float | None:
    """The change of accuracy of largest size among a latent's interventions."""
    return max((row[3] for row in rows if row[3] is not None), key=abs, default=None)
