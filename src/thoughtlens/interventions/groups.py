"""Which places are edited together in one run, and the edit with its random control."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from thoughtlens.interventions.changes import random_like
from thoughtlens.interventions.places import Change, Place, SiteName, is_read
from thoughtlens.interventions.run import Edit
from thoughtlens.models.thought.sites import ThoughtSpec


@dataclass(frozen=True)
class Group:
    """Places that are edited together, and what tables call them."""

    places: tuple[Place, ...]
    scope: str
    control: str | None = None

    @property
    def about(self) -> dict[str, Any]:
        """Columns of the tables; null where the places differ."""
        steps, layers = {p.step for p in self.places}, {p.layer for p in self.places}
        sites = list(dict.fromkeys(p.site for p in self.places))
        return {
            "scope": self.scope,
            "site": "+".join(sites),
            "layer": layers.pop() if len(layers) == 1 else None,
            "thought_idx": steps.pop() if len(steps) == 1 else None,
            "control": self.control,
        }


def groups_of(places: Sequence[Place], scopes: Sequence[str], *, whole_passes: bool = False) -> list[Group]:
    """The places as cells, as thoughts, and all at once; each set of places once.

    `whole_passes`: what a pass leaves behind belongs together, so that its cells are its passes.
    """
    keys: dict[str, Callable[[Place], Any]] = {
        "cell": lambda p: p.step if whole_passes else p,
        "thought": lambda p: p.step,
        "all": lambda p: None,
    }
    found: dict[tuple[Place, ...], Group] = {}
    for scope in (s for s in keys if s in scopes):
        sets: dict[Any, list[Place]] = {}
        for place in places:
            sets.setdefault(keys[scope](place), []).append(place)
        for members in sets.values():
            found.setdefault(tuple(members), Group(tuple(members), scope))
    return list(found.values())


def elsewhere(spec: ThoughtSpec, places: Sequence[Place]) -> list[Group]:
    """The same sites and layers at each pass that was not asked for: where the edit should do nothing."""
    asked = {place.step for place in places}
    shapes = dict.fromkeys((place.site, place.layer) for place in places)
    found = []
    for step in (p for p in spec.passes if p not in asked):
        there = [Place(site, step, layer) for site, layer in shapes]
        there = [place for place in there if is_read(spec, place)]
        if there:
            found.append(Group(tuple(there), "thought", "elsewhere"))
    return found


@dataclass
class Bundles:
    """Edits in the order of the tables; a random control stands right behind its edit."""

    n: int
    """Problems."""
    controls: bool
    seed: int
    edits: list[list[Edit]] = field(default_factory=list)

    def add(
        self, name: str, group: Group, change_at: Callable[[Place], Change], width_at: Callable[[Place], int],
        *, random: bool = True, **about: Any,
    ) -> None:  # fmt: skip
        """An edit of a group, with a control as large in random directions unless it is one itself."""
        changes = tuple((place, change_at(place)) for place in group.places)
        bundle = [Edit(name, changes, about=group.about | about)]
        if self.controls and random and group.control is None:
            generator = torch.Generator().manual_seed(1_000_003 * self.seed + len(self.edits))
            drawn = tuple((p, random_like(c, self.n, width_at(p), generator)) for p, c in changes)
            bundle.append(Edit(name, drawn, about=group.about | about | {"control": "random"}))
        self.edits.append(bundle)

    def chunks(self, size: int = 16) -> list[list[Edit]]:
        """About `size` edits at a time, none torn from its control."""
        found: list[list[Edit]] = [[]]
        for bundle in self.edits:
            if found[-1] and len(found[-1]) + len(bundle) > size:
                found.append([])
            found[-1] += bundle
        return found


def width_of(states: dict[Place, Tensor]) -> Callable[[Place], int]:
    """How wide the states of a place are."""
    return lambda place: states[place].shape[1]


def whole(site: SiteName) -> bool:
    """Whether a site stands for everything a pass leaves behind."""
    return site == "all"
