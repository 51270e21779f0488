"""Edits along directions and through SAEs: steering, changed latents, spliced reconstructions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from thoughtlens.core import ConfigError, DataError, MismatchError, NotThereError
from thoughtlens.interventions.edits import changes
from thoughtlens.interventions.edits.dictionaries import (
    Dictionary,
    densities,
    dictionaries,
    fit_splices,
    matched,
    one_a_place,
    require_latents,
    require_same_model,
    spliced,
)
from thoughtlens.interventions.edits.groups import Bundles, groups_of, width_of
from thoughtlens.interventions.edits.places import Change
from thoughtlens.interventions.effects.subject import held_out
from thoughtlens.interventions.intervene.config import (
    InterveneConfig,
    LatentsConfig,
    SpliceConfig,
    SteerConfig,
)
from thoughtlens.interventions.intervene.trials import (
    States,
    Trial,
    asked_groups,
    places_in,
    problems_of,
    states_at,
)
from thoughtlens.models import Place, ThoughtModel
from thoughtlens.sae import io

Direction = Callable[[Place], Float[Tensor, " width"]]
"""A vector for each place."""


def steer(cfg: InterveneConfig, edit: SteerConfig, model: ThoughtModel) -> list[Trial]:
    """A direction is added, of a latent or from a file, in doses."""
    problems = problems_of(cfg, model)
    if 0.0 in edit.doses:
        raise ConfigError("doses: a dose of 0 changes nothing; the untouched run is always there")
    if (edit.directions is None) == (not edit.latents):
        raise ConfigError(
            "steer needs a direction: latents=[..] with sae=DIR, or directions=FILE; one of them"
        )
    if edit.directions is not None:
        groups, named = asked_groups(cfg, model), _file_directions(edit.directions)
        states = states_at(cfg, model, problems.questions, places_in(groups))
    else:
        found = one_a_place(_dictionaries(cfg, model))
        groups = groups_of([p for d in found for p in d.places], cfg.scope)
        states = states_at(cfg, model, problems.questions, places_in(groups))
        named = _latent_directions(cfg, edit, found, states)
    bundles = Bundles(len(problems.questions), cfg.controls, cfg.seed)
    for name, control, direction in named:
        for dose in edit.doses:
            vectors = {place: _dosed(direction, states, place, dose) for place in states}
            for group in groups:
                about = {"dose": dose, "direction": name, "control": control or group.control}
                bundles.add(
                    f"steer_{name}", group, lambda p, v=vectors: changes.add(v[p]), width_of(states),
                    random=control is None, **about,
                )  # fmt: skip
    return [Trial(problems, bundles.chunks())]


def _dosed(direction: Direction, states: States, place: Place, dose: float) -> Tensor:
    unit = direction(place).double()
    if unit.shape[0] != states[place].shape[1]:
        raise MismatchError(
            f"The direction has width {unit.shape[0]}, the states at {place} have {states[place].shape[1]}"
        )
    length = float(unit.norm())
    if not 0 < length < float("inf"):
        raise DataError(f"Expected a direction with a finite length above 0, got {length}")
    vector = unit / length * (dose * changes.spread(states[place]))
    changes.require_finite(states[place], vector, dose)
    return vector


def _file_directions(file: Path) -> list[tuple[str, str | None, Direction]]:
    """Rows of a file, named by their number."""
    if not file.is_file():
        raise NotThereError(f"directions: expected a .npy or .safetensors file at {file}, found none")
    try:
        if file.suffix == ".safetensors":
            (table,) = load_file(file).values()
        else:
            table = torch.from_numpy(np.load(file, allow_pickle=False))
    except (ValueError, SafetensorError, OSError) as error:
        raise DataError(f"{file} is not one .npy array or one safetensors tensor: {error}") from None
    rows = table.double().reshape(-1, table.shape[-1]) if table.ndim else table.double().reshape(1, 1)
    return [(f"direction_{i}", None, lambda place, v=row: v) for i, row in enumerate(rows)]


def _latent_directions(
    cfg: InterveneConfig, edit: SteerConfig, found: Sequence[Dictionary], states: States
) -> list[tuple[str, str | None, Direction]]:
    """Decoder rows of the latents, and of others of about the same density."""
    require_latents(found[0].sae, edit.latents)
    at = {place: d.sae for d in found for place in d.places}
    named: list[tuple[str, str | None, list[int]]] = [(f"latent_{i}", None, [i]) for i in edit.latents]
    if cfg.controls:
        density = densities(found[0], states)
        for i in edit.latents:
            others = matched(density, [i], edit.n_control_latents)
            named += [(f"latent_{j}_for_{i}", "latents", [j]) for (j,) in others]
    return [(name, control, lambda place, i=i: at[place].W_dec[i].detach()) for name, control, (i,) in named]


def edit_latents(cfg: InterveneConfig, edit: LatentsConfig, model: ThoughtModel) -> list[Trial]:
    """Latents are set or multiplied; what the SAE does not explain stays."""
    if (edit.value is None) == (edit.scale is None):
        raise ConfigError(
            "edit_latents needs value=NUMBER or scale=NUMBER, one of them; scale=0 removes latents"
        )
    if edit.scale == 1:
        raise ConfigError("edit_latents: scale=1 changes nothing")
    problems, found = problems_of(cfg, model), one_a_place(_dictionaries(cfg, model))
    for dictionary in found:
        require_latents(dictionary.sae, edit.latents)
    at = {place: d for d in found for place in d.places}
    states = states_at(cfg, model, problems.questions, list(at))
    bundles = Bundles(len(problems.questions), cfg.controls, cfg.seed)
    sets: list[tuple[str | None, list[int]]] = [(None, list(edit.latents))]
    if cfg.controls:
        others = matched(densities(found[0], states), edit.latents, edit.n_control_latents)
        sets += [("latents", latents) for latents in others]
    for control, latents in sets:
        for group in groups_of(list(at), cfg.scope):

            def change(place: Place, latents: list[int] = latents) -> Change:
                sae = at[place].sae
                return changes.edit_latents(sae, place, latents, value=edit.value, scale=edit.scale)

            about = {"latents": " ".join(map(str, latents)), "control": control}
            bundles.add("edit_latents", group, change, width_of(states), random=control is None, **about)
    return [Trial(problems, bundles.chunks())]


def splice(cfg: InterveneConfig, edit: SpliceConfig, model: ThoughtModel) -> list[Trial]:
    """The state becomes its reconstruction by the SAE, and by each baseline."""
    problems, found = problems_of(cfg, model), one_a_place(_dictionaries(cfg, model))
    train = held_out(cfg.problems, model, split="train", n=edit.n_fit, seed=cfg.seed + 1)
    places = [p for d in found for p in d.places]
    states = states_at(cfg, model, train["question"].to_pylist(), places)
    bundles = Bundles(len(problems.questions), cfg.controls, cfg.seed)
    fitted = fit_splices(found, states, edit.arms, cfg.seed)
    for arm in edit.arms:
        for group in groups_of([p for p in places if arm in fitted[p]], cfg.scope):
            change = spliced(fitted, arm)
            bundles.add(f"splice_{arm}", group, change, width_of(states), random=arm == "sae", arm=arm)
    return [Trial(problems, bundles.chunks())]


def _dictionaries(cfg: InterveneConfig, model: ThoughtModel) -> list[Dictionary]:
    if cfg.sae is None:
        raise ConfigError(f"{cfg.edit.kind} needs sae=DIRECTORY, SAEs trained on this model's thoughts")
    members = io.load_members(cfg.sae)
    if cfg.member is not None:
        if cfg.member not in members:
            raise NotThereError(f"{cfg.sae} has no SAE {cfg.member!r}; it has {', '.join(members)}")
        members = {cfg.member: members[cfg.member]}
    require_same_model(members, model, cfg.sae)
    return dictionaries(model.spec, members, cfg.thoughts, cfg.layers)
