"""Places in the thought loop where a state is read and changed, each state one vector per problem.

Sites are those of docs/thoughts.md. Keys and values of a thought are flattened, heads after each other,
keys before values, so that every edit is written once, for vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from thoughtlens.core import HookError
from thoughtlens.models import LAYERED, PARTS, Hook, Place, ThoughtSpec, check_places, is_read

Seen = Callable[[Float[Tensor, "batch width"], Float[Tensor, "batch width"]], None]
"""Told of every change: the state before and after; NaN in a problem that has none there, or no donor."""


@dataclass(frozen=True)
class Change:
    """What becomes of a state: `fn(x, *rows)`, x [batch, width]; `rows` hold one line per problem."""

    fn: Callable[..., Float[Tensor, "batch width"]]
    rows: tuple[Tensor, ...] = ()
    """A problem whose line has a NaN, since its donor had stopped by then, is left as it is."""


def hook_of(place: Place, change: Change, seen: Seen) -> Hook:
    """The change as a hook of the model, which also tells `seen` what it did."""

    def edit(x: Any, rows: tuple[Tensor, ...] = ()) -> Any:
        before = _flat(place, x)
        after = change.fn(before, *rows).to(before)
        gone = torch.stack([row.isnan().flatten(1).any(1) for row in rows]).any(0) if rows else None
        if gone is not None and bool(gone.any()):
            seen(before, after.masked_fill(gone[:, None], torch.nan))
            return _unflat(place, torch.where(gone[:, None], before, after), x)
        seen(before, after)
        return _unflat(place, after, x)

    return Hook(place.collected, edit, change.rows or None)


def places_of(
    spec: ThoughtSpec, site: str, thoughts: Sequence[int] | None, layers: Sequence[int] | None
) -> list[Place]:
    """Every place of a site at these thoughts and layers.

    Args:
        spec: The model's shape.
        site: A site of the model; `keys`, `values` or a head alone (`head.2`); `all`: everything a thought
            leaves behind, its thought_out and the keys and values of every block.
        thoughts: 0 the begin-of-thought position; None: all thoughts that something reads there.
        layers: Blocks, 0-based; None: all.

    Raises:
        HookError: what the model does not have, or what nothing reads; says what there is.
    """
    if site == "all":
        if layers is not None:
            raise HookError("site=all is every layer of a thought: leave layers out, or edit resid or kv")
        kv = places_of(spec, "kv", thoughts, layers)
        states = [Place("thought_out", thought) for thought in dict.fromkeys(place.thought for place in kv)]
        return [*(place for place in states if is_read(spec, place)), *kv]
    kept = "kv" if site in PARTS else "heads" if site.startswith("head.") else site
    if kept not in spec.sites:
        raise HookError(f"Expected a site of this model ({', '.join(spec.sites)}), got {site!r}")
    if strange := [layer for layer in layers or () if layer not in range(spec.n_layers)]:
        raise HookError(f"layers: expected 0..{spec.n_layers - 1} of this model, got {strange[0]}")
    if layers is not None and kept not in LAYERED:
        raise HookError(f"{site} has no layers: leave layers out, or edit resid, kv, keys or values")
    chosen = list(range(spec.n_layers)) if layers is None else list(layers)
    here: list[int | None] = [*chosen] if kept in LAYERED else [None]
    wanted = [p for p in spec.thoughts if p > 0] if thoughts is None else list(thoughts)
    found = [Place.at(site, layer, thought) for thought in wanted for layer in here]
    if thoughts is None:
        found = [place for place in found if is_read(spec, place)]
    if not found and wanted:
        raise HookError(
            f"Nothing reads {site} of this model: its thoughts are pause tokens, and nothing is fed "
            f"back; edit thought_in, resid or kv"
        )
    if not found:
        raise HookError(
            "This model has no thoughts to edit, only the begin-of-thought position; thoughts=[0] edits that"
        )
    check_places(spec, [place.collected for place in found], spec.n_thoughts)
    return found


def _flat(place: Place, x: Any) -> Float[Tensor, "batch width"]:
    if place.site in PARTS:
        return torch.cat([x[j].flatten(1) for j in PARTS[place.site]], 1)
    if place.head is not None:
        if place.head not in range(x.shape[2]):
            raise HookError(f"{place}: expected a head in 0..{x.shape[2] - 1}")
        return x[:, 0, place.head]
    return x[:, 0]


def _unflat(place: Place, flat: Tensor, x: Any) -> Any:
    if place.head is not None:
        new = x.clone()
        new[:, 0, place.head] = flat
        return new
    if place.site not in PARTS:
        return flat[:, None]
    new = list(x)
    for j, part in zip(PARTS[place.site], flat.chunk(len(PARTS[place.site]), 1), strict=True):
        new[j] = part.reshape(x[j].shape)
    return tuple(new)
