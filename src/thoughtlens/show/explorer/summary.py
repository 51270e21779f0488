"""What the overview knows of every latent: its columns, and the words that a search looks through."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from thoughtlens.core import Record, column, of_table
from thoughtlens.show.explorer.build import rounded, significant
from thoughtlens.show.explorer.rows import Counted, Effect, Labelled, Said
from thoughtlens.show.explorer.sources import Source

FALSE_DISCOVERIES = 0.05
"""Share of false ones among the labels that the overview names."""
LONGEST = 72
"""Characters of an explanation in the overview; the whole stands on the latent's page."""
TOKENS_SHOWN = 6
"""Preferred tokens, and logit tokens of each sign, that a search looks through."""
LESS = "fires less at "
"""Before the label of a latent that avoids it."""
AWAY = re.compile(r"not \[[^\]]*\]|[^;]*\(-\d[^);]*\);?")
"""What an explanation says that a latent does not respond to: denied conditions, terms of negative weight."""
OR = "; or "
"""Between the clauses of an explanation."""
Numbers = Sequence[float | int | None]


@dataclass(frozen=True, kw_only=True)
class Columns(Record):
    """Columns of numbers, one entry for each latent; titles are what the page says of them."""

    auprc: Numbers | None = column(
        "area under the precision-recall curve of the explanation as a predictor of firing, on held-out "
        "problems or documents, at the true base rate",
        default=None,
    )
    random_auprc: Numbers | None = column(
        "the same for the explanation of a random latent of the same density", default=None
    )
    n_fires: list[int] = column("vectors on which it fires")
    n_problems: list[int] = column("problems (documents) in which it fires")
    density: Numbers = column("share of vectors on which the latent fires")
    mean_active: Numbers = column("mean activation where it fires")
    max_active: Numbers = column("largest activation")
    label_strength: Numbers = column(
        "the rate difference of largest size over all labels, below 0 where the latent fires less there; "
        "interval and test on the latent's page"
    )
    effect: Numbers | None = column(
        "change of accuracy of largest size when the latent was edited; interval on the latent's page",
        default=None,
    )
    direction_1: Numbers = column("first principal axis of the decoder directions, each of length 1")
    direction_2: Numbers = column("second principal axis of the decoder directions, each of length 1")


@dataclass(frozen=True, kw_only=True)
class Summary(Record):
    """All latents of an SAE, one entry for each in every list."""

    columns: Columns
    direction_share: float
    """Share of the directions' variance that the two axes hold."""
    everywhere: list[str | None]
    label: list[str | None]
    says: list[str]
    topic: list[str | None]
    """The role or column that its explanation speaks of, where that names one."""
    value: list[str | None]
    """Which value of it."""
    claims: list[list[Any] | None]
    """Of each clause of its explanation its words, thoughts and hooks; None where it has no clauses."""
    per_shard: int


def summary(
    source: Source,
    directions: torch.Tensor,
    said: Sequence[Said | None],
    effects: Mapping[int, Sequence[Effect]],
    per_shard: int,
) -> Summary:
    """Columns of numbers and of words."""
    latents = source.by_latent("latents", Counted)
    rows = [found[0] for found in latents.of(0, source.d_sae)] if latents else []
    strengths, labels = _labels(source)
    explained = source.have()["explanations"]
    axes, share = plane(directions)
    changes = [[effect.difference for effect in effects.get(i, [])] for i in range(source.d_sae)]
    columns = Columns(
        n_fires=[row.n_fires for row in rows],
        n_problems=[row.n_problems for row in rows],
        density=rounded((row.density for row in rows), 4),
        mean_active=rounded((row.mean_active for row in rows), 4),
        max_active=rounded((row.max_active for row in rows), 4),
        label_strength=strengths,
        auprc=rounded(row and row.auprc for row in said) if explained else None,
        random_auprc=rounded(row and row.random_auprc for row in said) if explained else None,
        effect=rounded(max(own, key=abs, default=None) for own in changes) if effects else None,
        direction_1=axes[0],
        direction_2=axes[1],
    )
    return Summary(
        columns=columns,
        direction_share=share,
        everywhere=[row.everywhere_reason for row in rows],
        label=labels,
        says=_in_short(said, [" ".join(own)[:LONGEST] for own in preferred(source)]),
        topic=[row and row.says for row in said],
        value=[row and row.value for row in said],
        claims=[row and _clauses(row) for row in said],
        per_shard=per_shard,
    )


def _clauses(said: Said) -> list[Any] | None:
    """(words, thoughts, hooks) of each clause."""
    clauses, words = json.loads(said.clauses or "[]"), said.text.split(OR)
    if not clauses or len(clauses) != len(words):
        return None
    return [
        [text.rsplit(" (", 1)[0] if text.endswith(")") else text, clause["thoughts"], clause["hooks"]]
        for text, clause in zip(words, clauses, strict=True)
    ]


class Words(NamedTuple):
    """What a search looks through, a text per latent."""

    toward: list[str]
    """Preferred tokens, explanations, and tokens that it speaks for."""
    away: list[str]
    """What it avoids, denies and speaks against: no hits, unless a search asks for `less:WORD`."""


def words(source: Source) -> Words:
    """The words of every latent, apart by what it does at them."""
    toward = preferred(source)
    away: list[list[str]] = [[] for _ in toward]
    if (table := source.table("explanations", ["latent", "text"])) is not None:
        for latent, said in zip(table["latent"].to_pylist(), table["text"].to_pylist(), strict=True):
            toward[latent].append(AWAY.sub("", said))
            away[latent] += AWAY.findall(said)
    if (table := source.table("lens_latents", ["latent", "rank", "sign", "token"])) is not None:
        for row in table.filter(pc.less(table["rank"], TOKENS_SHOWN)).to_pylist():  # type: ignore[attr-defined]
            (toward if row["sign"] > 0 else away)[row["latent"]].append(row["token"])
    return Words(*([" ".join(dict.fromkeys(parts)) for parts in side] for side in (toward, away)))


def preferred(source: Source) -> list[list[str]]:
    """The tokens that each latent prefers, strongest first; none for thoughts."""
    found: list[list[str]] = [[] for _ in range(source.d_sae)]
    columns = ["latent", "factor", "level", "low"]
    table = source.table("associations", columns) if source.run.kind == "text" else None
    if table is not None:
        mask = pc.and_(pc.equal(table["factor"], "token"), pc.greater(table["low"], 1.0))  # type: ignore[attr-defined]
        own = table.filter(mask)
        for latent, level in zip(own["latent"].to_pylist(), own["level"].to_pylist(), strict=True):
            if len(found[latent]) < TOKENS_SHOWN:
                found[latent].append(level.strip())
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
    for row in of_table(Labelled, table.take(pa.array(order[first]))):
        strengths[row.latent] = significant(row.estimate, 3)
        if row.q_value <= FALSE_DISCOVERIES:
            sign = LESS if row.estimate < 0 else ""
            labels[row.latent] = f"{sign}{row.factor.removeprefix('label:')} = {row.level}"
    return strengths, labels


def said_of(source: Source) -> list[Said | None]:
    """The chosen explanation of each latent."""
    table = source.by_latent("explanations", Said, ("chosen", "descending"))
    every = [[]] * source.d_sae if table is None else table.of(0, source.d_sae)
    return [next((row for row in rows if row.chosen), None) for rows in every]


def _in_short(said: Sequence[Said | None], tokens: Sequence[str]) -> list[str]:
    """What each latent is said to be, else its preferred tokens."""
    texts = [row.text if row else other for row, other in zip(said, tokens, strict=True)]
    return [text if len(text) <= LONGEST else text[: LONGEST - 1] + "…" for text in texts]
