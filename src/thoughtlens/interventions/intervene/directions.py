"""Edits along directions and through SAEs: steering, changed latents, spliced reconstructions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
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
from thoughtlens.interventions.edits.groups import Bundles, Group, groups_of, width_of
from thoughtlens.interventions.edits.places import Change
from thoughtlens.interventions.effects.subject import Problems, held_out
from thoughtlens.interventions.intervene.config import (
    InterveneConfig,
    LatentsConfig,
    RankConfig,
    SpliceConfig,
    SteerConfig,
)
from thoughtlens.interventions.intervene.fitted import Fitting, keep, remove
from thoughtlens.interventions.intervene.trials import (
    States,
    Trial,
    asked_groups,
    places_in,
    problems_of,
    states_at,
)
from thoughtlens.models import Place, ThoughtModel, tiny
from thoughtlens.problems import answers_after
from thoughtlens.sae import Directions, io, read_directions

Direction = Callable[[Place], Float[Tensor, " width"]]
"""A vector for each place."""
Named = tuple[str, str | None, Direction]
"""A direction's name, which control it is, and the direction."""


def steer(cfg: InterveneConfig, edit: SteerConfig, model: ThoughtModel) -> list[Trial]:
    """A direction is added, of a latent, from a file, or of a label column, in doses."""
    problems = problems_of(cfg, model)
    if 0.0 in edit.doses:
        raise ConfigError("doses: a dose of 0 changes nothing; the untouched run is always there")
    if not (edit.column or edit.latents or edit.directions) or (edit.latents and edit.directions):
        raise ConfigError(
            "steer needs a direction: column=LABEL, latents=[..] with sae=DIR, or directions=FILE; of the "
            "last two only one"
        )
    if (edit.value, edit.scale) != (None, None) and (
        edit.directions is None or None not in (edit.value, edit.scale) or edit.scale == 1
    ):
        raise ConfigError(
            "steer: value=NUMBER or scale=NUMBER, one of them and scale not 1, sets the directions of "
            "directions=FILE"
        )
    own = read_directions(edit.directions) if edit.directions is not None else None
    found = one_a_place(_dictionaries(cfg, model)) if edit.latents else []
    groups = groups_of([p for d in found for p in d.places], cfg.scope) or asked_groups(cfg, model)
    states = states_at(cfg, model, problems.questions, places_in(groups))
    trials = []
    if edit.column is not None:
        trials = _toward_labels(cfg, edit, model, problems, groups, states)
    if own is not None and (edit.value, edit.scale) != (None, None):
        trials.append(Trial(problems, _set(cfg, edit, groups, states, own).chunks()))
    elif found or own is not None:
        named = _named(own) if own is not None else _latent_directions(cfg, edit, found, states)
        trials.append(Trial(problems, _steered(cfg, edit, groups, states, named).chunks()))
    return trials


def _steered(
    cfg: InterveneConfig, edit: SteerConfig, groups: Sequence[Group], states: States, named: Sequence[Named]
) -> Bundles:
    bundles = Bundles(len(next(iter(states.values()))), cfg.controls, cfg.seed)
    for name, control, direction in named:
        for dose in edit.doses:
            vectors = {place: _dosed(direction, states, place, dose) for place in places_in(groups)}
            for group in groups:
                about = {"dose": dose, "direction": name, "control": control or group.control}
                bundles.add(
                    f"steer_{name}", group, lambda p, v=vectors: changes.add(v[p]), width_of(states),
                    random=control is None, **about,
                )  # fmt: skip
    return bundles


def _toward_labels(
    cfg: InterveneConfig, edit: SteerConfig, model: ThoughtModel, problems: Problems, groups: Sequence[Group],
    states: States,
) -> list[Trial]:  # fmt: skip
    """For each value of a column the problems that have another one, steered to it."""
    column = edit.column or ""
    fitting, trials = Fitting.of(cfg, model, list(states), edit.n_fit), []
    if column not in problems.table.column_names:
        raise DataError(f"column: the problems have no {column!r}")
    has = [None if own is None else str(own) for own in problems.table[column].to_pylist()]
    for value in fitting.values(column, edit.classes):
        rows = [i for i, own in enumerate(has) if own is not None and own != value]
        if len(rows) < 2:
            continue
        chosen, predicted = problems.take(rows), None
        if isinstance(model, tiny.TinyThoughts) and value.isdigit():
            new = [int(value)] * len(rows)
            predicted = answers_after(chosen.table, column, new, p=model.modulus)
        towards = {place: fitting.towards(column, value, place) for place in states}
        named = [
            (f"{way}_{value}", None, lambda place, way=way, to=towards: to[place][way])
            for way in ("diffmean", "probe")
        ]
        here = {place: x[rows] for place, x in states.items()}
        lead = [
            group for group in groups
            if group.control is None or all(bool(towards[p]["diffmean"].any()) for p in group.places)
        ]  # fmt: skip
        bundles = _steered(cfg, edit, lead, here, named)
        trials.append(Trial(Problems(chosen.table, predicted=predicted), bundles.chunks()))
    if not trials:
        raise DataError(f"column: fewer than two problems have another value of {column!r}")
    return trials


def rank(cfg: InterveneConfig, edit: RankConfig, model: ThoughtModel) -> list[Trial]:
    """Of each state k directions are kept, the rest being the mean; or k are removed."""
    problems = problems_of(cfg, model)
    there = {"pca": True, "latents": cfg.sae is not None, "probe": edit.column is not None, "random": True}
    bases = edit.bases or tuple(name for name, can in there.items() if can)
    if lacking := [name for name in bases if not there[name]]:
        needs = {"latents": "sae=DIRECTORY", "probe": "column=LABEL"}[lacking[0]]
        raise ConfigError(f"bases: {lacking[0]} needs {needs}")
    found = one_a_place(_dictionaries(cfg, model)) if "latents" in bases else []
    of = {place: d for d in found for place in d.places}
    if of:
        groups = groups_of(list(of), cfg.scope)
    else:
        groups = [group for group in asked_groups(cfg, model) if group.control is None]
    places = list(dict.fromkeys(places_in(groups)))
    fitting = Fitting.of(cfg, model, places, edit.n_fit)
    means = {place: changes.present(fitting.states[place]).mean(0) for place in places}
    lines = {
        (basis, place): fitting.subspace(
            basis, place, column=edit.column, dictionary=of.get(place), seed=1_000 * cfg.seed + i
        )
        for basis in bases
        for i, place in enumerate(places)
    }
    bundles = Bundles(len(problems.questions), controls=False, seed=cfg.seed)
    for group in groups:
        bundles.add("rank_mean", group, lambda p: changes.mean_of(means[p][None]), width_of(fitting.states))
        for basis in bases:
            most = min(len(lines[basis, place]) for place in group.places)
            for k in sorted({min(k, most) for k in edit.ks if most}):
                for name, change in (("rank_keep", keep), ("rank_remove", remove)):
                    bundles.add(
                        name, group, lambda p, b=basis, k=k, c=change: c(means[p], lines[b, p][:k]),
                        width_of(fitting.states), arm=basis, rank=k,
                    )  # fmt: skip
    return [Trial(problems, bundles.chunks())]


def _dosed(direction: Direction, states: States, place: Place, dose: float) -> Tensor:
    unit = direction(place).double()
    _require_width(unit, states, place)
    length = float(unit.norm())
    if not 0 < length < float("inf"):
        raise DataError(f"Expected a direction with a finite length above 0, got {length}")
    vector = unit / length * (dose * changes.spread(states[place]))
    changes.require_finite(states[place], vector, dose)
    return vector


def _named(found: Directions) -> list[Named]:
    """The directions of a file by their names."""
    rows = zip(found.names, torch.from_numpy(found.vectors), strict=True)
    return [(name, None, lambda place, row=row: row) for name, row in rows]


def _set(
    cfg: InterveneConfig, edit: SteerConfig, groups: Sequence[Group], states: States, found: Directions
) -> Bundles:
    """Each direction set or taken out, by itself."""
    bundles = Bundles(len(next(iter(states.values()))), cfg.controls, cfg.seed)
    offsets = np.zeros(len(found.names)) if found.offset is None else found.offset
    for name, unit, offset in zip(found.names, torch.from_numpy(found.units), offsets.tolist(), strict=True):
        for place in places_in(groups):
            _require_width(unit, states, place)

        def change(_: Place, unit: Tensor = unit, offset: float = offset) -> Change:
            return changes.along(unit, offset, value=edit.value, scale=edit.scale)

        for group in groups:
            way = "project_out" if edit.scale == 0 else "set"
            about = {"direction": name, "control": group.control}
            bundles.add(
                f"{way}_{name}", group, change, width_of(states), random=group.control is None, **about
            )
    return bundles


def _require_width(vector: Tensor, states: States, place: Place) -> None:
    if vector.shape[0] != states[place].shape[1]:
        raise MismatchError(
            f"The direction has width {vector.shape[0]}, the states at {place} have {states[place].shape[1]}"
        )


def _latent_directions(
    cfg: InterveneConfig, edit: SteerConfig, found: Sequence[Dictionary], states: States
) -> list[Named]:
    """Decoder rows of the latents, and of others of about the same density."""
    for dictionary in found:
        require_latents(dictionary.sae, edit.latents)
    at = {place: d.sae for d in found for place in d.places}
    named: list[tuple[str, str | None, list[int]]] = [(f"latent_{i}", None, [i]) for i in edit.latents]
    if cfg.controls:
        density = _densities(found, states)
        for i in edit.latents:
            others = matched(density, [i], edit.n_control_latents)
            named += [(f"latent_{j}_for_{i}", "latents", [j]) for (j,) in others]
    return [(name, control, lambda place, i=i: at[place].W_dec[i].detach()) for name, control, (i,) in named]


def _densities(found: Sequence[Dictionary], states: States) -> Tensor:
    """Those of the first SAE's latents, as far as every SAE has a latent of that number."""
    return densities(found[0], states)[: min(d.sae.d_sae for d in found)]


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
        others = matched(_densities(found, states), edit.latents, edit.n_control_latents)
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
