"""What a thought leaves behind, put into another run: by `think --test` and `trace` alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from thoughtlens.models import Hook, Place, ThoughtSpec, is_read

STATE, KEYS, BOTH = "state", "keys and values", "state, keys and values"
ROUTES = {STATE: ("thought_out",), KEYS: ("kv",), BOTH: ("thought_out", "kv")}
"""Ways from a thought to what comes later, and the sites that lie on them."""


def left_behind(spec: ThoughtSpec, thought: int, route: str) -> list[Place]:
    """The places of a route through which a thought reaches later ones; none where it has none."""
    found = [[p for p in _places(spec, site, thought) if is_read(spec, p)] for site in ROUTES[route]]
    return [place for places in found for place in places] if all(found) else []


def _places(spec: ThoughtSpec, site: str, thought: int) -> list[Place]:
    layers = range(spec.n_layers) if site == "kv" else (None,)
    return [Place.at(site, layer, thought) for layer in layers] if site in spec.sites else []


def everything(spec: ThoughtSpec, thought: int) -> list[Place]:
    """All that a thought leaves behind; none where keys and values are not shown."""
    return left_behind(spec, thought, BOTH) or left_behind(spec, thought, KEYS)


def put_in(
    places: Sequence[Place],
    states: Callable[[Place], Float[Tensor, "n width"]],
    noise: torch.Generator | None = None,
) -> list[Hook]:
    """Edits that give every problem its line of other states.

    Args:
        places: What is replaced.
        states: The other states of a place, one per problem.
        noise: Change it as much in a random direction instead.
    """
    from thoughtlens.interventions import given, hook_of, random_like  # here: only tests need it

    changes = {place: given(states(place)) for place in places}
    if noise is not None:
        changes = {at: random_like(one, *one.rows[0].shape, noise) for at, one in changes.items()}
    return [hook_of(place, change, _unseen) for place, change in changes.items()]


def _unseen(before: torch.Tensor, after: torch.Tensor) -> None:
    """Nobody asks how large a patch was."""
    del before, after
