"""Path patching: every edge into the thoughts asked for, each tried alone with what the twin has there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from thoughtlens.core import DataError, HookError
from thoughtlens.interventions.edits import changes
from thoughtlens.interventions.edits.groups import Bundles, Group, width_of
from thoughtlens.interventions.edits.reads import Read
from thoughtlens.interventions.edits.run import Edit
from thoughtlens.interventions.intervene.config import WORDS, InterveneConfig, PathConfig
from thoughtlens.interventions.intervene.records import About
from thoughtlens.interventions.intervene.trials import Trial, solved_twins, states_at
from thoughtlens.models import Place, ThoughtModel, ThoughtSpec

KV = "kv"


def path(cfg: InterveneConfig, edit: PathConfig, model: ThoughtModel) -> list[Trial]:
    """One run per edge: the state that is fed back, or what one block left of a source, is the twin's.

    Raises:
        HookError: a model without one position per thought, or thoughts and layers that it does not have.
        DataError: fewer than two pairs with as many tokens of which the model solves both.
    """
    _require(cfg, edit, model.spec)
    edges = [*_edges(cfg, edit, model.spec)]
    if not edges:
        raise HookError("path: no edge leads from these sources into these thoughts: a source comes before")
    problems, twins, changed = solved_twins(cfg, edit, model)
    ids = [[model.read_ids(text) for text in side] for side in (problems.questions, twins)]
    alike = [i for i, (own, other) in enumerate(zip(*ids, strict=True)) if len(own) == len(other)]
    if len(alike) < 2:
        raise DataError(
            f"path: {len(alike)} of {len(twins)} pairs have as many tokens as each other, which reading the "
            f"twin's keys and values takes; give pairs that do with twins=FILE"
        )
    problems, twins = problems.take(alike), [twins[i] for i in alike]
    words = _Words.of([ids[0][i] for i in alike], [ids[1][i] for i in alike], model.spec)
    bundles = Bundles(len(twins), cfg.controls, cfg.seed)
    for source, query, layer in edges:
        if layer is None:
            place = Place.at("thought_in", None, query)
            states = states_at(cfg, model, twins, [place])
            bundles.add(
                f"path_{changed}", Group((place,), "cell"), lambda p, states=states: changes.given(states[p]),
                width_of(states), source=source,
            )  # fmt: skip
            continue
        about = About(
            edit=f"path_{changed}", scope="cell", site=KV, layer=layer, thought_idx=query, source=source
        )
        read = Read(layer, query, words.positions(source), words.begin, twins)
        bundle = [Edit(about, reads=(read,))]
        if cfg.controls:
            drawn = replace(read, seed=1_000 * cfg.seed + len(bundles.edits))
            bundle.append(Edit(replace(about, control="random"), reads=(drawn,)))
        bundles.edits.append(bundle)
    return [Trial(problems, bundles.chunks())]


def _require(cfg: InterveneConfig, edit: PathConfig, spec: ThoughtSpec) -> None:
    if "site" in cfg.model_fields_set:
        raise HookError("edit=path is of edges, not of a state: leave site out")
    if KV not in spec.sites or spec.axis != "sequence" or spec.positions_per_thought != 1 or spec.varies:
        raise HookError(
            "edit=path expects a model that adds one position per thought, as many in each problem, and "
            "whose keys and values can be seen"
        )
    numbers = [int(one) for one in edit.sources if one.isdecimal()]
    for name, given, there in (
        ("thoughts", cfg.thoughts, spec.thoughts),
        ("sources", numbers, spec.thoughts),
        ("layers", cfg.layers, range(spec.n_layers)),
    ):
        if strange := [one for one in given or () if one not in there]:
            raise HookError(f"{name}: expected {there[0]}..{there[-1]} of this model, got {strange[0]}")


def _edges(
    cfg: InterveneConfig, edit: PathConfig, spec: ThoughtSpec
) -> Iterator[tuple[str, int, int | None]]:
    """Where each edge begins, the position that reads, and the block; None: the state that is fed back."""
    asked = spec.thoughts if cfg.thoughts is None else cfg.thoughts
    named = {int(one) for one in edit.sources if one.isdecimal()}
    sources = {*spec.thoughts} if "thoughts" in edit.sources else named
    for query in [*asked, *[spec.n_thoughts + 1] * edit.answer]:
        last = query - 1
        if cfg.layers is None and last in sources and spec.feeds_back and query in spec.thoughts:
            yield f"thought {last}", query, None
        earlier = [f"thought {p}" for p in sorted(sources) if p < query]
        for source in [*(one for one in WORDS if one in edit.sources), *earlier]:
            for layer in range(spec.n_layers) if cfg.layers is None else cfg.layers:
                yield source, query, layer


class _Words(NamedTuple):
    """Which positions of each question the twin has otherwise, right-aligned before begin-of-thought."""

    there: Bool[Tensor, "n positions"]
    changed: Bool[Tensor, "n positions"]
    begin: int

    @classmethod
    def of(cls, own: Sequence[Sequence[int]], twins: Sequence[Sequence[int]], spec: ThoughtSpec) -> _Words:
        begin = max(map(len, own))
        there = torch.zeros(len(own), begin + spec.n_thoughts + 1, dtype=torch.bool)
        changed = there.clone()
        for i, (ids, others) in enumerate(zip(own, twins, strict=True)):
            there[i, begin - len(ids) : begin] = True
            changed[i, begin - len(ids) : begin] = torch.tensor(ids) != torch.tensor(others)
        return cls(there, changed, begin)

    def positions(self, source: str) -> Bool[Tensor, "n positions"]:
        """Of a source of an edge."""
        if source in WORDS:
            return self.changed if source == WORDS[0] else self.there & ~self.changed
        found = torch.zeros_like(self.there)
        found[:, self.begin + int(source.removeprefix("thought "))] = True
        return found
