"""What the kinds of edits share: on which problems, at which places, from which states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from thoughtlens.core import DataError
from thoughtlens.interventions.edits.groups import Group, elsewhere, groups_of
from thoughtlens.interventions.edits.places import places_of
from thoughtlens.interventions.edits.run import Edit, run_edits
from thoughtlens.interventions.effects.subject import Problems, held_out, says, twin_tables
from thoughtlens.interventions.intervene.config import InterveneConfig, PatchConfig, PathConfig, RouteConfig
from thoughtlens.models import Place, ThoughtModel, collect

States = dict[Place, Float[Tensor, "n width"]]


@dataclass(frozen=True)
class Trial:
    """Edits that are made on the same problems, and judged by the same answers."""

    problems: Problems
    chunks: list[list[Edit]]
    note: str = ""
    """A warning, where there is one."""


def states_at(
    cfg: InterveneConfig, model: ThoughtModel, questions: Sequence[str], places: Sequence[Place]
) -> States:
    """What the untouched model has at these places, one line per question."""
    wanted = list(dict.fromkeys(places))
    batch = collect(model, questions, places=wanted, batch_size=cfg.batch_size)
    return {place: batch[place].clone() for place in wanted}


def problems_of(cfg: InterveneConfig, model: ThoughtModel) -> Problems:
    """The problems asked for."""
    return Problems(held_out(cfg.problems, model, split=cfg.split, n=cfg.n, seed=cfg.seed))


def asked_groups(cfg: InterveneConfig, model: ThoughtModel) -> list[Group]:
    """The places asked for, then those that were not, as a control."""
    places = places_of(model.spec, cfg.site, cfg.thoughts, cfg.layers)
    found = groups_of(places, cfg.scope, whole_thoughts=cfg.site == "all")
    return [*found, *(elsewhere(model.spec, places) if cfg.controls else [])]


def places_in(groups: Sequence[Group]) -> list[Place]:
    """All places of these groups."""
    return [place for group in groups for place in group.places]


def solved_twins(
    cfg: InterveneConfig, edit: PatchConfig | PathConfig | RouteConfig, model: ThoughtModel
) -> tuple[Problems, list[str], str]:
    """Pairs of which the model solves both: the problems, their twins' questions, and what differs."""
    file = None if edit.twins is None else str(edit.twins)
    first, second, change = twin_tables(
        cfg.problems, file, model, change=edit.change, split=cfg.split, n=cfg.n, seed=cfg.seed
    )
    right = []
    for table in (first, second):
        side = Problems(table)
        plain, _ = run_edits(
            model, side.questions, [], batch_size=cfg.batch_size, max_new_tokens=cfg.max_new_tokens
        )
        right.append(says(plain, side.answers))
    solved = np.flatnonzero(right[0] & right[1])
    if len(solved) < 2:
        raise DataError(
            f"The model solves both twins of {len(solved)} of {len(first)} pairs, and only such pairs count. "
            f"Use more problems, or easier ones"
        )
    twins = Problems(second).take(solved)
    return Problems(first, corrupted=second["answer"].to_pylist()).take(solved), twins.questions, change
