"""From a table's rows to what a panel of a latent's page is given."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from thoughtlens.acts.store.reader import ActivationStore
from thoughtlens.core import StoreError
from thoughtlens.show.explorer.build import rounded, significant
from thoughtlens.show.explorer.sources import Row, Source

SCORES = ("auprc", "auprc_low", "auprc_high", "random_auprc", "token_auprc", "precision_at_half_recall")


@dataclass(frozen=True)
class Around:
    """What a latent's rows point to."""

    answers: dict[str, list[Any]]
    """Right answer, the model's answer, and whether it is right, by problem."""
    members: dict[tuple[Path, str], int]
    """Number of each SAE on the page, by its directory and name."""

    @classmethod
    def of(cls, source: Source, shown: Sequence[Source]) -> Around:
        """For the latents of `source`, where the SAEs `shown` have pages."""
        members = {((s.run.root / "sae").resolve(), s.name): i for i, s in enumerate(shown)}
        return cls(answers_of(source), members)


def answers_of(source: Source) -> dict[str, list[Any]]:
    """Right answer, the model's answer, and whether it is right, by problem; for thoughts."""
    if source.run.kind == "text":
        return {}
    table = ActivationStore.open(source.run.root / "acts").problems
    names = [name for name in ("answer", "model_answer", "correct") if name in table.column_names]
    columns = {name: table[name].to_pylist() for name in names}
    none = [None] * len(table)
    wanted = (columns.get(name, none) for name in ("answer", "model_answer", "correct"))
    rows = zip(*wanted, strict=True)
    return dict(zip(table["problem_id"].to_pylist(), map(list, rows), strict=True))


def _examples(rows: list[Row], source: Source, around: Around) -> list[Row]:
    return [_example(row, source, around) for row in sorted(rows, key=lambda r: r.get("rank", 0))]


def _deciles(rows: list[Row], source: Source, around: Around) -> list[Row]:
    rows = sorted(rows, key=lambda r: -r["decile"])
    return [_example(row, source, around) | {"decile": row["decile"]} for row in rows]


def _example(row: Row, source: Source, around: Around) -> Row:
    acts = rounded(row["acts"])
    common = {
        "value": significant(row["value"]),
        "problem": row["problem_id"],
        "split": row["split"],
        "hook": row["hook_name"],
    }
    if "tokens" in row:
        rest = {name: row[name] for name in ("position", "peak", "tokens")}
        return common | rest | {"acts": acts}
    # A crosscoder's one code has a place of its own, named by all of its hooks.
    hooks = list(dict.fromkeys(row["strip_hook"]))
    thoughts = source.about["thoughts"] or []
    strip = np.zeros((len(hooks), len(thoughts)))
    for hook, thought, act in zip(row["strip_hook"], row["strip_thought"], row["acts"], strict=True):
        strip[hooks.index(hook), thoughts.index(thought)] = act
    return common | {
        "hooks": hooks,
        "thought": row["thought_idx"],
        "question": row.get("question"),
        "answers": around.answers.get(row["problem_id"]),
        "strip": [rounded(line) for line in strip.tolist()],
    }


def _associations(rows: list[Row], *_: Any) -> list[list[Any]]:
    """factor, level, statistic, estimate, low, high, q, fires, problems."""
    return [
        [
            row["factor"], row["level"], row["statistic"],
            *rounded((row[k] for k in ("estimate", "low", "high", "q_value")), 4),
            row["n_fires"], row["n_problems"],
        ]
        for row in rows
    ]  # fmt: skip


def _explanations(rows: list[Row], *_: Any) -> list[Row]:
    """The one to show first, first."""
    kept = ("method", "text", "n", "n_units", "split", "chosen")
    return [
        {name: row[name] for name in kept} | dict(zip(SCORES, rounded(map(row.get, SCORES)), strict=True))
        for row in sorted(rows, key=lambda r: (not r["chosen"], -(significant(r["auprc"]) or 0)))
    ]


def _logits(rows: list[Row], *_: Any) -> list[list[Any]]:
    """sign, token, logit; strongest first."""
    rows = sorted(rows, key=lambda r: (-r["sign"], r["rank"]))
    logits = rounded(row["logit"] for row in rows)
    return [[row["sign"], row["token"], logit] for row, logit in zip(rows, logits, strict=True)]


def _graph(rows: list[Row], source: Source, _: Any) -> Any:
    return read_graph(rows[0]["graph"], source) if rows else None


def read_graph(text: str, source: Source) -> dict[str, Any]:
    """Nodes and edges of a token graph.

    Raises:
        StoreError: not a graph, or an edge between nodes that are not there.
    """
    try:
        table = json.loads(text)
        nodes = [
            {"id": n["id"], "token": str(n["token"]), "depth": _at_least_0(n["depth"])}
            | {key: significant(n.get(key), 3) for key in ("importance", "activation")}
            for n in table["nodes"]
        ]
        edges = [[a, b] for a, b in table["edges"]]
        if not {n["id"] for n in nodes}.issuperset(end for edge in edges for end in edge):
            raise ValueError("an edge without its node")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise StoreError(
            f"{source.run.root}/explain/graphs.parquet holds a damaged token graph of {source.name!r} "
            f"({error}); run explain again"
        ) from None
    return {"nodes": nodes, "edges": edges, "gaps": table.get("gaps")}


def _at_least_0(value: Any) -> int:
    if int(value) < 0:
        raise ValueError(f"{value} is negative")
    return int(value)


def _ranked(*columns: str) -> Any:
    def rows(found: list[Row], *_: Any) -> list[list[Any]]:
        found = sorted(found, key=lambda r: r.get("rank", 0))
        return [
            [row[c] if isinstance(row[c], int | str) else significant(row[c], 3) for c in columns]
            for row in found
        ]

    return rows


def matches(rows: list[Row], source: Source, around: Around) -> list[list[Any]]:
    """latent, by, the other SAE's label, its number (null: it is not shown), its latent, score, null's."""
    found = []
    for row in rows:
        place = Path(row["other_sae"]) if row["other_sae"] else source.run.root / "sae"
        label = " ".join(part for part in (row["other_sae"], row["other_member"]) if part)
        number = around.members.get((place.resolve(), row["other_member"]))
        scores = rounded((row["score"], row["null_score"]))
        found.append([row["latent"], row["by"], label, number, row["other"], *scores])
    return sorted(found, key=lambda r: (r[0], r[1], -(r[5] or 0)))


def _histogram(rows: list[Row], *_: Any) -> Row:
    row = rows[0]
    deciles = row.get("deciles")
    return {
        "counts": row.get("histogram"),
        "deciles": deciles and rounded(deciles),
    }


PANELS: dict[str, Any] = {
    "latents": _histogram,
    "top_examples": _examples,
    "decile_examples": _deciles,
    "associations": _associations,
    "coactivation": _ranked("other", "n_both", "jaccard"),
    "explanations": _explanations,
    "graphs": _graph,
    "lens_latents": _logits,
    "neighbours": _ranked("other", "cosine"),
    "matches": matches,
}
"""How the rows of each table become the part of a latent's page that bears its name."""
