"""What interventions found: by latent, and by problem."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from thoughtlens.core import digest, of_table, read_parquet, read_recipe, read_result
from thoughtlens.interventions import AnswerRow, EffectRow, InterveneOutcome, found_in
from thoughtlens.show.explorer.rows import Edited, Effect
from thoughtlens.show.explorer.sources import Source
from thoughtlens.show.pages.run import Run
from thoughtlens.show.pages.text import at_thought


def of_latents(source: Source) -> dict[int, list[Effect]]:
    """By latent, what editing it did: only of this run's own SAEs, and without controls."""
    found: dict[int, list[Effect]] = {}
    for path in found_in(source.run.root).values():
        if not _edits(path, source):
            continue
        outcome = InterveneOutcome.from_json(read_result(path))
        for row in outcome.effects:
            for latent in row.edited_latents if row.control is None else ():
                if latent < source.d_sae:
                    effect = _effect(row, outcome.split, latent, source.run.fed_back)
                    found.setdefault(latent, []).append(effect)
    return found


def _edits(path: Path, source: Source) -> bool:
    """Whether an intervention edits latents of this SAE."""
    recipe, inputs = read_recipe(path), read_result(path).get("inputs", {})
    if not recipe.get("edit", {}).get("latents") or recipe.get("member") not in (None, source.name):
        return False
    return inputs.get("sae", {}).get("digest") == digest(source.run.root / "sae")


def of_problems(run: Run, problem_ids: Collection[str]) -> dict[str, list[Edited]]:
    """By problem, its answer under every edit. Steering in doses and controls are left out."""
    found: dict[str, list[Edited]] = {}
    for name, path in found_in(run.root).items():
        outcome = InterveneOutcome.from_json(read_result(path))
        about = {row.row: row for row in outcome.effects if row.control is None and row.dose is None}
        table = read_parquet(path / "answers.parquet")
        wanted = pc.and_(  # type: ignore[attr-defined]
            pc.is_in(table["problem_id"], pa.array(list(problem_ids), pa.string())),  # type: ignore[attr-defined]
            pc.is_in(table["row"], pa.array(list(about), pa.int32())),  # type: ignore[attr-defined]
        )
        for answer in of_table(AnswerRow, table.filter(wanted)):
            row = about[answer.row]
            edited = Edited(
                intervention=name,
                edit=row.edit,
                place=_place(row),
                thought=row.thought_idx,
                text=answer.text,
                kind=answer.is_what,
                kl=answer.kl,
            )
            found.setdefault(answer.problem_id, []).append(edited)
    return found


def _effect(row: EffectRow, split: str, latent: int, fed_back: bool) -> Effect:
    return Effect(
        edit=row.edit,
        where=f"{_place(row)}, {at_thought(row.site, row.thought_idx, fed_back)}",
        dose=row.dose,
        difference=row.difference,
        low=row.low,
        high=row.high,
        verdict=row.verdict,
        kl=row.kl,
        n=row.n,
        split=split,
        others=[i for i in row.edited_latents if i != latent],
    )


def _place(row: EffectRow) -> str:
    return " ".join(str(at) for at in (row.site, row.layer) if at is not None) or row.scope
