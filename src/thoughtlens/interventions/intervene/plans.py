"""Each kind of edit as a list of runs: on which problems, changed how, beside which controls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from thoughtlens.core import ConfigError, HookError
from thoughtlens.interventions.edits import changes
from thoughtlens.interventions.edits.changes import derangement
from thoughtlens.interventions.edits.cuts import ATTENTION, Cut
from thoughtlens.interventions.edits.groups import Bundles, Group, groups_of, width_of
from thoughtlens.interventions.edits.places import Change, places_of
from thoughtlens.interventions.edits.run import Edit
from thoughtlens.interventions.effects.subject import Problems, value_donors
from thoughtlens.interventions.intervene import directions, paths
from thoughtlens.interventions.intervene.config import (
    NAMED,
    AblateConfig,
    CutConfig,
    InterveneConfig,
    LatentsConfig,
    PatchConfig,
    PathConfig,
    RankConfig,
    RouteConfig,
    SpliceConfig,
    SteerConfig,
    SwapConfig,
)
from thoughtlens.interventions.intervene.records import About
from thoughtlens.interventions.intervene.trials import (
    States,
    Trial,
    asked_groups,
    places_in,
    problems_of,
    solved_twins,
    states_at,
)
from thoughtlens.models import Place, ThoughtModel, attention, tiny
from thoughtlens.problems import answers_after


def plans(cfg: InterveneConfig, model: ThoughtModel) -> list[Trial]:
    """The runs of one kind of edit.

    Raises:
        ConfigError, DataError, HookError, MismatchError: what was asked for does not exist, cannot act,
            or lacks something that it needs; says what to give.
    """
    match cfg.edit:
        case AblateConfig():
            return _ablate(cfg, cfg.edit, model)
        case SwapConfig():
            return _swap(cfg, cfg.edit, model)
        case PatchConfig():
            return _patch(cfg, cfg.edit, model)
        case RouteConfig():
            return _route(cfg, cfg.edit, model)
        case SteerConfig():
            return directions.steer(cfg, cfg.edit, model)
        case LatentsConfig():
            return directions.edit_latents(cfg, cfg.edit, model)
        case SpliceConfig():
            return directions.splice(cfg, cfg.edit, model)
        case CutConfig():
            return _cut(cfg, cfg.edit, model)
        case PathConfig():
            return paths.path(cfg, cfg.edit, model)
        case RankConfig():
            return directions.rank(cfg, cfg.edit, model)
    return _exit(cfg, model)


def _ablate(cfg: InterveneConfig, edit: AblateConfig, model: ThoughtModel) -> list[Trial]:
    problems, groups = problems_of(cfg, model), asked_groups(cfg, model)
    states = states_at(cfg, model, problems.questions, places_in(groups))
    donor = derangement(len(problems.questions), np.random.default_rng((cfg.seed, 77)))
    ways: dict[str, Callable[[Place], Change]] = {
        "mean": lambda place: changes.mean_of(states[place]),
        "resample": lambda place: changes.given(states[place][donor]),
        "zero": lambda place: changes.zero(),
    }
    bundles = Bundles(len(problems.questions), cfg.controls, cfg.seed)
    for group in groups:
        bundles.add(f"ablate_{edit.method}", group, ways[edit.method], width_of(states))
    note = ""
    if edit.method == "zero":
        note = "zeros are no state that this model ever has, which alone may break it; use mean or resample"
    if edit.method == "resample":
        problems = Problems(problems.table, corrupted=[problems.answers[i] for i in donor])
    return [Trial(problems, bundles.chunks(), note)]


def _swap(cfg: InterveneConfig, edit: SwapConfig, model: ThoughtModel) -> list[Trial]:
    whole_set, groups = problems_of(cfg, model), asked_groups(cfg, model)
    rows, *donors = value_donors(whole_set.table, edit.column, cfg.seed)
    states = states_at(cfg, model, whole_set.questions, places_in(groups))
    values = whole_set.table[edit.column].to_pylist()
    trials = []
    for name, donor in zip(("same", "different"), donors, strict=True):
        chosen = whole_set.take(rows)
        new = [values[i] for i in donor]
        predicted = None
        if isinstance(model, tiny.TinyThoughts):
            predicted = answers_after(chosen.table, edit.column, new, p=model.modulus)
        problems = Problems(chosen.table, [whole_set.answers[i] for i in donor], predicted)
        bundles = Bundles(len(rows), cfg.controls, cfg.seed)
        for group in groups:
            change = _from(states, donor)
            bundles.add(f"swap_{name}_{edit.column}", group, change, width_of(states), donor=name)
        trials.append(Trial(problems, bundles.chunks()))
    return trials


def _from(states: States, donor: np.ndarray) -> Callable[[Place], Change]:
    return lambda place: changes.given(states[place][donor])


def _patch(cfg: InterveneConfig, edit: PatchConfig, model: ThoughtModel) -> list[Trial]:
    groups = asked_groups(cfg, model)
    problems, twins, changed = solved_twins(cfg, edit, model)
    states = states_at(cfg, model, twins, places_in(groups))
    bundles = Bundles(len(twins), cfg.controls, cfg.seed)
    for group in groups:
        bundles.add(f"patch_{changed}", group, lambda p: changes.given(states[p]), width_of(states))
    return [Trial(problems, bundles.chunks())]


def _cut(cfg: InterveneConfig, edit: CutConfig, model: ThoughtModel) -> list[Trial]:
    """Of each thought, and of the answer: the edges to what is asked for, beside as many others."""
    if "site" in cfg.model_fields_set:
        raise ConfigError("edit=cut is of attention, not of a state: leave site out")
    problems, keys = problems_of(cfg, model), edit.ranges(model.spec.n_thoughts)
    _require_edges(edit, model, problems.questions)
    places = _lookers(cfg, edit, model)
    bundles = Bundles(len(problems.questions), cfg.controls, cfg.seed)
    heads = None if edit.heads is None else " ".join(map(str, edit.heads))
    for group in groups_of(places, cfg.scope):
        about = group.about(f"cut_{'+'.join(edit.to)}", cut_heads=heads)
        cuts = [
            Cut(layer, query, keys, edit.heads)
            for hook, query in group.places
            if (layer := Place(hook).layer) is not None and query is not None
        ]
        bundle = [Edit(about, cuts=tuple(cuts))]
        if cfg.controls:
            drawn = tuple(replace(cut, seed=cfg.seed) for cut in cuts)
            bundle.append(Edit(replace(about, control="random"), cuts=drawn))
        bundles.edits.append(bundle)
    return [Trial(problems, bundles.chunks())]


def _lookers(cfg: InterveneConfig, edit: CutConfig, model: ThoughtModel) -> list[Place]:
    """The layers and positions that no longer look; the answer stands one past the last thought."""
    spec = model.spec
    asked = list(spec.thoughts) if cfg.thoughts is None else list(cfg.thoughts)
    layers = range(spec.n_layers) if cfg.layers is None else cfg.layers
    for name, given, there in (("thoughts", asked, spec.thoughts), ("layers", layers, range(spec.n_layers))):
        if strange := [one for one in given if one not in there]:
            raise HookError(f"{name}: expected {there[0]}..{there[-1]} of this model, got {strange[0]}")
    asked += [spec.n_thoughts + 1] * edit.answer
    first = min(low for low, _ in edit.ranges(spec.n_thoughts))
    places = [Place.at(ATTENTION, layer, query) for query in asked if first < query for layer in layers]
    if not places:
        raise HookError(
            f"to={','.join(edit.to)} stands before none of the positions asked for: a position looks at what "
            f"is before it"
        )
    return places


def _require_edges(edit: CutConfig, model: ThoughtModel, questions: Sequence[str]) -> None:
    """Refuse heads and positions that are not there."""
    n_heads = attention(model, questions[:1]).weights.shape[3]
    if strange := [head for head in edit.heads or () if head not in range(n_heads)]:
        raise HookError(f"heads: expected 0..{n_heads - 1} of this model, got {strange[0]}")
    longest = max(len(model.read_ids(question)) for question in questions)
    for name, (low, high) in zip(edit.to, edit.ranges(model.spec.n_thoughts), strict=True):
        if high < low:
            raise HookError(f"to={name}: a range goes from its first to its last position, such as -5..-1")
        if name not in NAMED and (low < -longest or high > model.spec.n_thoughts):
            raise HookError(
                f"to={name}: there are positions -{longest}..{model.spec.n_thoughts} (the longest of these "
                f"questions has {longest} tokens before thought 0)"
            )


def _exit(cfg: InterveneConfig, model: ThoughtModel) -> list[Trial]:
    problems = problems_of(cfg, model)
    counts = (
        [k for k in model.spec.thoughts if k < model.spec.n_thoughts]
        if cfg.thoughts is None
        else list(cfg.thoughts)
    )
    if model.spec.n_thoughts in counts:
        raise ConfigError(
            f"exit after {model.spec.n_thoughts} thoughts is the untouched run, which is always there"
        )
    if not counts:
        raise ConfigError(f"{model.name} thinks no thoughts: there is no earlier exit")
    edits = [Edit(n_thoughts=k, about=About(edit=f"exit_{k}", scope="exit", thought_idx=k)) for k in counts]
    return [Trial(problems, [edits])]


def _route(cfg: InterveneConfig, edit: RouteConfig, model: ThoughtModel) -> list[Trial]:
    """Of each thought: the twin's state with the own keys and values, the other way round, and both."""
    spec = model.spec
    thoughts = spec.thoughts if cfg.thoughts is None else cfg.thoughts
    kv = places_of(spec, "kv", tuple(thoughts), None)
    problems, twins, _ = solved_twins(cfg, edit, model)
    everything = places_of(spec, "all", tuple(thoughts), None)
    parts = [Place.at(site, p.layer, p.thought) for site in ("keys", "values") for p in kv]
    states = states_at(cfg, model, twins, [*everything, *parts])
    edits = []
    for thought in thoughts:
        own = [p for p in everything if p.thought == thought]
        arms = {
            "state": [p for p in own if p.site == "thought_out"],
            "kv": [p for p in own if p.site == "kv"],
            "keys": [p for p in parts if p.thought == thought and p.site == "keys"],
            "values": [p for p in parts if p.thought == thought and p.site == "values"],
            "both": own,
        }
        for arm, places in arms.items():
            if places:
                about = Group(tuple(places), "thought").about(f"route_{arm}", arm=arm)
                edits.append(Edit.at(about, places, lambda place: changes.given(states[place])))
    size = 20
    return [Trial(problems, [edits[i : i + size] for i in range(0, len(edits), size)])]
