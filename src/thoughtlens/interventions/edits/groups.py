"""Which places are edited together in one run, and the edit with its random control."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from thoughtlens.interventions.edits.changes import random_like
from thoughtlens.interventions.edits.places import Change
from thoughtlens.interventions.edits.run import Edit
from thoughtlens.interventions.intervene.records import About
from thoughtlens.models import Place, ThoughtSpec, is_read


@dataclass(frozen=True)
class Group:
    """Places that are edited together, and what tables call them."""

    places: tuple[Place, ...]
    scope: str
    control: str | None = None

    def about(self, edit: str, **more: str | float | None) -> About:
        """What tables say of an edit of this group; None where the places differ."""
        thoughts, layers = {p.thought for p in self.places}, {p.layer for p in self.places}
        sites = list(dict.fromkeys(p.site for p in self.places))
        about = About(
            edit=edit,
            scope=self.scope,
            site="+".join(sites),
            layer=layers.pop() if len(layers) == 1 else None,
            thought_idx=thoughts.pop() if len(thoughts) == 1 else None,
            control=self.control,
        )
        return replace(about, **more)


def groups_of(places: Sequence[Place], scopes: Sequence[str], *, whole_thoughts: bool = False) -> list[Group]:
    """The places as cells, as thoughts, and all at once; each set of places once.

    `whole_thoughts`: what a thought leaves behind belongs together, so that its cells are its thoughts.
    """
    keys: dict[str, Callable[[Place], Any]] = {
        "cell": lambda p: p.thought if whole_thoughts else p,
        "thought": lambda p: p.thought,
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
    """The same sites and layers at each thought that was not asked for: where the edit should do nothing."""
    asked = {place.thought for place in places}
    hooks = dict.fromkeys(place.hook_name for place in places)
    found = []
    for thought in (p for p in spec.thoughts if p not in asked):
        there = [Place(hook, thought) for hook in hooks]
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
        *, random: bool = True, **about: str | float | None,
    ) -> None:  # fmt: skip
        """An edit of a group, with a control as large in random directions unless it is one itself."""
        edit = Edit.at(group.about(name, **about), group.places, change_at)
        bundle = [edit]
        if self.controls and random and group.control is None:
            generator = torch.Generator().manual_seed(1_000_003 * self.seed + len(self.edits))
            drawn = tuple((p, random_like(c, self.n, width_at(p), generator)) for p, c in edit.changes)
            bundle.append(Edit(replace(edit.about, control="random"), drawn))
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
