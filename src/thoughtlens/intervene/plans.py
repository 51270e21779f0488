"""Each kind of edit as a list of runs: on which problems, changed how, beside which controls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from thoughtlens.errors import ConfigError, DataError, MismatchError, NotThereError
from thoughtlens.intervene import changes
from thoughtlens.intervene.changes import derangement
from thoughtlens.intervene.config import InterveneConfig
from thoughtlens.intervene.dictionaries import (
    Dictionary,
    densities,
    dictionaries,
    fit_arms,
    matched,
    one_a_place,
    require_latents,
    require_same_model,
)
from thoughtlens.intervene.groups import Bundles, Group, elsewhere, groups_of, whole, width_of
from thoughtlens.intervene.places import Change, Place, places_of
from thoughtlens.intervene.run import Edit, run_edits
from thoughtlens.intervene.subject import (
    Problems,
    held_out,
    says,
    twin_tables,
    value_donors,
)
from thoughtlens.models import tiny
from thoughtlens.models.thoughts import ThoughtModel, collect
from thoughtlens.problems.counterfactual import answers_after
from thoughtlens.sae import io

States = dict[Place, Float[Tensor, "n width"]]


@dataclass(frozen=True)
class Trial:
    """Edits that are made on the same problems, and judged by the same answers."""

    problems: Problems
    chunks: list[list[Edit]]
    note: str = ""
    """A warning, where there is one."""


def plans(cfg: InterveneConfig, model: ThoughtModel) -> list[Trial]:
    """The runs of one kind of edit.

    Raises:
        ConfigError, DataError, HookError, MismatchError: what was asked for does not exist, cannot act,
            or lacks something that it needs; says what to give.
    """
    return KINDS[cfg.edit](cfg, model)


def states_at(
    cfg: InterveneConfig, model: ThoughtModel, questions: Sequence[str], places: Sequence[Place]
) -> States:
    """What the untouched model has at these places, one line a question."""
    wanted = list(dict.fromkeys(places))
    layers = sorted({place.layer for place in wanted if place.layer is not None})
    sites = sorted({place.collected for place in wanted})
    batch = collect(model, questions, sites=sites, layers=layers, batch_size=cfg.batch_size)
    return {place: place.states(batch).clone() for place in wanted}


def _problems(cfg: InterveneConfig, model: ThoughtModel) -> Problems:
    return Problems(held_out(cfg.problems, model, split=cfg.split, n=cfg.n, seed=cfg.seed))


def _groups(cfg: InterveneConfig, model: ThoughtModel) -> list[Group]:
    """The places asked for, then those that were not, as a control."""
    places = places_of(model.spec, cfg.site, cfg.steps, cfg.layers)
    found = groups_of(places, cfg.scope, whole_passes=whole(cfg.site))
    return [*found, *(elsewhere(model.spec, places) if cfg.controls else [])]


def _all_places(groups: Sequence[Group]) -> list[Place]:
    return [place for group in groups for place in group.places]


def _ablate(cfg: InterveneConfig, model: ThoughtModel) -> list[Trial]:
    problems, groups = _problems(cfg, model), _groups(cfg, model)
    states = states_at(cfg, model, problems.questions, _all_places(groups))
    donor = derangement(len(problems.questions), np.random.default_rng((cfg.seed, 77)))
    ways: dict[str, Callable[[Place], Change]] = {
        "mean": lambda place: changes.mean_of(states[place]),
        "resample": lambda place: changes.given(states[place][donor]),
        "zero": lambda place: changes.zero(),
    }
    bundles = Bundles(len(problems.questions), cfg.controls, cfg.seed)
    for group in groups:
        bundles.add(f"ablate_{cfg.method}", group, ways[cfg.method], width_of(states))
    note = ""
    if cfg.method == "zero":
        note = "zeros are no state that this model ever has, which alone may break it; use mean or resample"
    if cfg.method == "resample":
        problems = Problems(problems.table, corrupted=[problems.answers[i] for i in donor])
    return [Trial(problems, bundles.chunks(), note)]


def _swap(cfg: InterveneConfig, model: ThoughtModel) -> list[Trial]:
    whole_set, groups = _problems(cfg, model), _groups(cfg, model)
    rows, *donors = value_donors(whole_set.table, cfg.column, cfg.seed)
    states = states_at(cfg, model, whole_set.questions, _all_places(groups))
    values = whole_set.table[cfg.column].to_pylist()
    trials = []
    for name, donor in zip(("same", "different"), donors, strict=True):
        chosen = whole_set.take(rows)
        new = [values[i] for i in donor]
        predicted = None
        if isinstance(model, tiny.TinyThoughts):
            predicted = answers_after(chosen.table, cfg.column, new, p=model.modulus)
        problems = Problems(chosen.table, [whole_set.answers[i] for i in donor], predicted)
        bundles = Bundles(len(rows), cfg.controls, cfg.seed)
        for group in groups:
            change = _from(states, donor)
            bundles.add(f"swap_{name}_{cfg.column}", group, change, width_of(states), donor=name)
        trials.append(Trial(problems, bundles.chunks()))
    return trials


def _from(states: States, donor: np.ndarray) -> Callable[[Place], Change]:
    return lambda place: changes.given(states[place][donor])


def solved_twins(cfg: InterveneConfig, model: ThoughtModel) -> tuple[Problems, list[str]]:
    """Pairs of which the model solves both: the problems, and their twins' questions."""
    file = None if cfg.twins is None else str(cfg.twins)
    first, second = twin_tables(
        cfg.problems, file, model, change=cfg.change, split=cfg.split, n=cfg.n, seed=cfg.seed
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
    return Problems(first, corrupted=second["answer"].to_pylist()).take(solved), twins.questions


def _patch(cfg: InterveneConfig, model: ThoughtModel) -> list[Trial]:
    groups = _groups(cfg, model)
    problems, twins = solved_twins(cfg, model)
    states = states_at(cfg, model, twins, _all_places(groups))
    bundles = Bundles(len(twins), cfg.controls, cfg.seed)
    for group in groups:
        bundles.add(f"patch_{_changed(cfg)}", group, lambda p: changes.given(states[p]), width_of(states))
    return [Trial(problems, bundles.chunks())]


def _changed(cfg: InterveneConfig) -> str:
    return "twin" if cfg.twins is not None else cfg.change


def _exit(cfg: InterveneConfig, model: ThoughtModel) -> list[Trial]:
    problems = _problems(cfg, model)
    counts = (
        [k for k in model.spec.passes if k < model.spec.n_steps] if cfg.steps is None else list(cfg.steps)
    )
    if model.spec.n_steps in counts:
        raise ConfigError(
            f"exit after {model.spec.n_steps} thoughts is the untouched run, which is always there"
        )
    if not counts:
        raise ConfigError(f"{model.name} thinks no thoughts: there is no earlier exit")
    edits = [
        Edit(f"exit_{k}", n_steps=k, about={"scope": "exit", "thought_idx": k, "control": None})
        for k in counts
    ]
    return [Trial(problems, [edits])]


def _steer(cfg: InterveneConfig, model: ThoughtModel) -> list[Trial]:
    problems = _problems(cfg, model)
    if 0.0 in cfg.doses:
        raise ConfigError("doses: a dose of 0 changes nothing; the untouched run is always there")
    if (cfg.directions is None) == (not cfg.latents):
        raise ConfigError(
            "steer needs a direction: latents=[..] with sae=DIR, or directions=FILE; one of them"
        )
    if cfg.directions is not None:
        groups, named = _groups(cfg, model), _file_directions(cfg.directions)
        states = states_at(cfg, model, problems.questions, _all_places(groups))
    else:
        found = one_a_place(_dictionaries(cfg, model))
        groups = groups_of([p for d in found for p in d.places], cfg.scope)
        states = states_at(cfg, model, problems.questions, _all_places(groups))
        named = _latent_directions(cfg, found, states)
    bundles = Bundles(len(problems.questions), cfg.controls, cfg.seed)
    for name, control, direction in named:
        for dose in cfg.doses:
            vectors = {place: _dosed(direction, states, place, dose) for place in states}
            for group in groups:
                about = {"dose": dose, "direction": name} | ({"control": control} if control else {})
                bundles.add(
                    f"steer_{name}", group, lambda p, v=vectors: changes.add(v[p]), width_of(states),
                    random=control is None, **about,
                )  # fmt: skip
    return [Trial(problems, bundles.chunks())]


Direction = Callable[[Place], Float[Tensor, " width"]]


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
    cfg: InterveneConfig, found: Sequence[Dictionary], states: States
) -> list[tuple[str, str | None, Direction]]:
    """Decoder rows of the latents, and of others of about the same density."""
    require_latents(found[0].sae, cfg.latents)
    at = {place: d.sae for d in found for place in d.places}
    named: list[tuple[str, str | None, list[int]]] = [(f"latent_{i}", None, [i]) for i in cfg.latents]
    if cfg.controls:
        density = densities(found[0], states)
        for i in cfg.latents:
            others = matched(density, [i], cfg.n_control_latents)
            named += [(f"latent_{j}_for_{i}", "latents", [j]) for (j,) in others]
    return [(name, control, lambda place, i=i: at[place].W_dec[i].detach()) for name, control, (i,) in named]


def _edit_latents(cfg: InterveneConfig, model: ThoughtModel) -> list[Trial]:
    if (cfg.value is None) == (cfg.scale is None):
        raise ConfigError(
            "edit_latents needs value=NUMBER or scale=NUMBER, one of them; scale=0 removes latents"
        )
    if cfg.scale == 1:
        raise ConfigError("edit_latents: scale=1 changes nothing")
    problems, found = _problems(cfg, model), one_a_place(_dictionaries(cfg, model))
    for dictionary in found:
        require_latents(dictionary.sae, cfg.latents)
    at = {place: d for d in found for place in d.places}
    states = states_at(cfg, model, problems.questions, list(at))
    bundles = Bundles(len(problems.questions), cfg.controls, cfg.seed)
    sets: list[tuple[str | None, list[int]]] = [(None, list(cfg.latents))]
    if cfg.controls:
        others = matched(densities(found[0], states), cfg.latents, cfg.n_control_latents)
        sets += [("latents", latents) for latents in others]
    for control, latents in sets:
        for group in groups_of(list(at), cfg.scope):

            def change(place: Place, latents: list[int] = latents) -> Change:
                d = at[place]
                cell = d.cell(d.sae, place)
                return changes.edit_latents(d.sae, cell, latents, value=cfg.value, scale=cfg.scale)

            about = {"latents": " ".join(map(str, latents))} | ({"control": control} if control else {})
            bundles.add("edit_latents", group, change, width_of(states), random=control is None, **about)
    return [Trial(problems, bundles.chunks())]


def _splice(cfg: InterveneConfig, model: ThoughtModel) -> list[Trial]:
    problems, found = _problems(cfg, model), one_a_place(_dictionaries(cfg, model))
    train = held_out(cfg.problems, model, split="train", n=cfg.n_fit, seed=cfg.seed + 1)
    places = [p for d in found for p in d.places]
    states = states_at(cfg, model, train["question"].to_pylist(), places)
    bundles = Bundles(len(problems.questions), cfg.controls, cfg.seed)
    fitted = {
        place: (d, arms)
        for d in found
        for arms in [fit_arms(d, states, cfg.arms, cfg.seed)]
        for place in d.places
    }
    for arm in cfg.arms:
        for group in groups_of([p for p in places if arm in fitted[p][1]], cfg.scope):

            def change(place: Place, arm: str = arm) -> Change:
                d, arms = fitted[place]
                return changes.reconstruct(arms[arm], d.cell(arms[arm], place))

            bundles.add(f"splice_{arm}", group, change, width_of(states), random=arm == "sae", arm=arm)
    return [Trial(problems, bundles.chunks())]


def _dictionaries(cfg: InterveneConfig, model: ThoughtModel) -> list[Dictionary]:
    if cfg.sae is None:
        raise ConfigError(f"{cfg.edit} needs sae=DIRECTORY, SAEs trained on this model's thoughts")
    members = io.load_members(cfg.sae)
    if cfg.member is not None:
        names = {name or "pooled": name for name in members}
        if cfg.member not in names:
            raise NotThereError(f"{cfg.sae} has no SAE {cfg.member!r}; it has {', '.join(names)}")
        members = {names[cfg.member]: members[names[cfg.member]]}
    require_same_model(members, model, cfg.sae)
    return dictionaries(model.spec, members, cfg.steps, cfg.layers)


def _route(cfg: InterveneConfig, model: ThoughtModel) -> list[Trial]:
    """Of each pass: the twin's state with the own keys and values, the other way round, and both."""
    spec = model.spec
    steps = spec.passes if cfg.steps is None else cfg.steps
    kv = places_of(spec, "kv", tuple(steps), None)
    problems, twins = solved_twins(cfg, model)
    everything = places_of(spec, "all", tuple(steps), None)
    parts = [Place(site, p.step, p.layer) for site in ("keys", "values") for p in kv]  # type: ignore[arg-type]
    states = states_at(cfg, model, twins, [*everything, *parts])
    edits = []
    for step in steps:
        own = [p for p in everything if p.step == step]
        arms = {
            "state": [p for p in own if p.site == "thought_out"],
            "kv": [p for p in own if p.site == "kv"],
            "keys": [p for p in parts if p.step == step and p.site == "keys"],
            "values": [p for p in parts if p.step == step and p.site == "values"],
            "both": own,
        }
        for arm, places in arms.items():
            if places:
                group = Group(tuple(places), "thought")
                made = tuple((place, changes.given(states[place])) for place in places)
                edits.append(Edit(f"route_{arm}", made, about=group.about | {"arm": arm}))
    size = 20
    return [Trial(problems, [edits[i : i + size] for i in range(0, len(edits), size)])]


KINDS: dict[str, Callable[[InterveneConfig, ThoughtModel], list[Trial]]] = {
    "ablate": _ablate,
    "swap": _swap,
    "patch": _patch,
    "steer": _steer,
    "edit_latents": _edit_latents,
    "exit": _exit,
    "splice": _splice,
    "route": _route,
}
