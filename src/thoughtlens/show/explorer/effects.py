"""What interventions found: by latent, and by problem."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from thoughtlens.core import digest, read_recipe, read_result
from thoughtlens.show.explorer.build import rounded, significant
from thoughtlens.show.explorer.sources import Row, Source
from thoughtlens.show.interventions import found_in
from thoughtlens.show.run import Run


def of_latents(source: Source) -> dict[int, list[list[Any]]]:
    """By latent: [edit, place, dose, difference, low, high, verdict, kl, n, split, other latents edited].

    Only interventions of this run's own SAEs, and no controls.
    """
    found: dict[int, list[list[Any]]] = {}
    for path in found_in(source.run).values():
        result, cfg = read_result(path), read_recipe(path)
        own = cfg.get("latents") and cfg.get("member") in (None, source.name)
        if not own or result["inputs"].get("sae", {}).get("digest") != digest(source.run.root / "sae"):
            continue
        for row in result["effects"]:
            for latent in _latents(row) if row["control"] is None else ():
                if latent < source.d_sae:
                    found.setdefault(latent, []).append(_effect(row, result, latent))
    return found


def of_problems(run: Run, problem_ids: Collection[str]) -> dict[str, list[list[Any]]]:
    """By problem: [intervention, edit, site and layer, thought, answer, class, kl] of every edit.

    Edits of everything at once have no thought. Steering in doses and controls are left out.
    """
    found: dict[str, list[list[Any]]] = {}
    for name, path in found_in(run).items():
        rows = [row for row in read_result(path)["effects"] if _alone(row)]
        about = {row["row"]: row for row in rows}
        table = pq.read_table(path / "answers.parquet")
        wanted = pc.and_(  # type: ignore[attr-defined]
            pc.is_in(table["problem_id"], pa.array(list(problem_ids), pa.string())),  # type: ignore[attr-defined]
            pc.is_in(table["row"], pa.array(list(about), pa.int32())),  # type: ignore[attr-defined]
        )
        for answer in table.filter(wanted).to_pylist():
            row = about[answer["row"]]
            found.setdefault(answer["problem_id"], []).append(
                [
                    name, row["edit"], _place(row), row["thought_idx"], answer["text"], answer["class"],
                    significant(answer["kl"], 3),
                ]
            )  # fmt: skip
    return found


def _alone(row: Row) -> bool:
    return row["control"] is None and row.get("dose") is None


def _latents(row: Row) -> list[int]:
    """The latents that an edit was made with."""
    if row.get("latents"):
        return [int(i) for i in row["latents"].split()]
    direction = row.get("direction") or ""
    return [int(direction.removeprefix("latent_"))] if direction.startswith("latent_") else []


def _effect(row: Row, result: Row, latent: int) -> list[Any]:
    numbers = rounded(row[name] for name in ("difference", "low", "high"))
    others = [i for i in _latents(row) if i != latent]
    thought = "all thoughts" if row["thought_idx"] is None else f"thought {row['thought_idx']}"
    return [
        row["edit"], f"{_place(row)}, {thought}", row.get("dose"), *numbers, row["verdict"],
        significant(row["kl"], 3), row["n"], result["split"], others,
    ]  # fmt: skip


def _place(row: Row) -> str:
    return " ".join(str(row[name]) for name in ("site", "layer") if row.get(name) is not None) or row["scope"]
