"""Per latent: the numbers of the overview, and the shards behind the latents' pages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from thoughtlens import sae as saes
from thoughtlens.explain.member import POOLED
from thoughtlens.explorer.build import significant
from thoughtlens.report.run import Run

if TYPE_CHECKING:
    from thoughtlens.explorer import ExplorerConfig

TOKENS_SHOWN = 6
"""Preferred tokens of a latent in the overview's search."""
FALSE_DISCOVERIES = 0.05
"""Share of false ones among the labels that the overview names."""
NUMBERS = ("density", "n_fires", "n_problems", "mean_active", "max_active")


def member_shards(run: Run, name: str, number: int, cfg: ExplorerConfig) -> dict[str, Any]:
    """The member's tables by key: `mN/summary`, and `mN/0`, `mN/1`, ... of `latents_per_shard` latents."""
    root = run.root / "interpret"
    latents = _of_member(root / "latents.parquet", name)
    examples = _grouped(_of_member(root / "top_examples.parquet", name), len(latents))
    associations = _grouped(_of_member(root / "associations.parquet", name), len(latents))
    sae = saes.load(Path(run.root) / "sae" / ("" if _is_single(run) else name))
    near = nearest(sae.W_dec.detach().flatten(1), cfg.neighbours)
    strips = (list(sae.hook_names), _thoughts(run, name))
    summary = _summary(latents, associations)
    shards: dict[str, Any] = {f"m{number}/summary": summary | {"per_shard": cfg.latents_per_shard}}
    for low in range(0, len(latents), cfg.latents_per_shard):
        span = range(low, min(low + cfg.latents_per_shard, len(latents)))
        shards[f"m{number}/{low // cfg.latents_per_shard}"] = [
            {
                "examples": [_example(e, strips) for e in examples(i)],
                "associations": [_association(a) for a in associations(i)],
                "neighbours": near[i],
            }
            for i in span
        ]
    return shards


def nearest(directions: torch.Tensor, k: int) -> list[list[tuple[int, float]]]:
    """The k rows of highest cosine for every row, itself apart: (index, cosine); zero rows have none."""
    unit = torch.nn.functional.normalize(directions.float(), dim=1)
    k = min(k, len(unit) - 1)
    found = []
    for low in range(0, len(unit), 1024):
        cosine = unit[low : low + 1024] @ unit.T
        cosine[torch.arange(len(cosine)), torch.arange(low, low + len(cosine))] = -2.0
        values, indices = cosine.topk(k, dim=1)
        pairs = zip(indices.tolist(), values.tolist(), strict=True)
        found += [[(i, significant(v, 3)) for i, v in zip(*pair, strict=True)] for pair in pairs]
    return [row if norm > 0 else [] for row, norm in zip(found, unit.norm(dim=1).tolist(), strict=True)]


def _is_single(run: Run) -> bool:
    return (run.root / "sae" / "cfg.json").is_file()


def _thoughts(run: Run, name: str) -> list[int] | None:
    members = run.results["interpret"]["members"]
    return next(m["thoughts"] for m in members if m["member"] == (name or POOLED))


def _of_member(file: Path, name: str) -> pa.Table:
    table = pq.read_table(file)
    mask = pc.equal(table["member"].cast(pa.string()), name)  # type: ignore[attr-defined]
    table = table.filter(mask)
    return table.take(pa.array(np.argsort(table["latent"].to_numpy(), kind="stable")))


def _grouped(table: pa.Table, n: int) -> Any:
    """A function from latent to its rows."""
    bounds = np.searchsorted(table["latent"].to_numpy(), np.arange(n + 1))
    return lambda i: table.slice(bounds[i], bounds[i + 1] - bounds[i]).to_pylist()


def _summary(latents: pa.Table, associations: Any) -> dict[str, Any]:
    numbers = {name: [significant(v) for v in latents[name].to_pylist()] for name in NUMBERS}
    words, labels, strengths = [], [], []
    for i in range(len(latents)):
        rows = associations(i)
        tokens = [r["level"] for r in rows if r["factor"] == "token" and r["low"] > 0]
        words.append(" ".join(t.strip() for t in tokens[:TOKENS_SHOWN]))
        best = max(
            (r for r in rows if r["factor"].startswith("label:")),
            key=lambda r: abs(r["estimate"]),
            default=None,
        )
        holds = best is not None and best["q_value"] <= FALSE_DISCOVERIES
        labels.append(f"{best['factor'][6:]} = {best['level']}" if holds else None)
        strengths.append(None if best is None else significant(best["estimate"]))
    return {
        "columns": numbers | {"label_strength": strengths},
        "everywhere": latents["everywhere_reason"].to_pylist(),
        "label": labels,
        "words": words,
    }


def _example(row: dict[str, Any], strips: tuple[list[str], list[int] | None]) -> dict[str, Any]:
    acts = [significant(a, 3) for a in row["acts"]]
    common = {"value": significant(row["value"]), "problem": row["problem_id"], "split": row["split"]}
    if "tokens" in row:
        return common | {
            "hook": row["hook_name"],
            "position": row["position"],
            "peak": row["peak"],
            "tokens": row["tokens"],
            "acts": acts,
        }
    hooks, thoughts = strips[0], strips[1] or []
    strip = np.zeros((len(hooks), len(thoughts)))
    for hook, thought, act in zip(row["strip_hook"], row["strip_thought"], row["acts"], strict=True):
        strip[hooks.index(hook), thoughts.index(thought)] = act
    return common | {
        "hook": row["hook_name"],
        "thought": row["thought_idx"],
        "question": row.get("question"),
        "strip": [[significant(a, 3) for a in line] for line in strip.tolist()],
    }


def _association(row: dict[str, Any]) -> list[Any]:
    """factor, level, statistic, estimate, low, high, q, fires, problems."""
    numbers = [significant(row[k]) for k in ("estimate", "low", "high", "q_value")]
    return [row["factor"], row["level"], row["statistic"], *numbers, row["n_fires"], row["n_problems"]]
