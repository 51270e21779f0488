"""Places in the thought loop where a state is read and changed, each state one vector a problem.

Sites are those of docs/thoughts.md. Keys and values of a pass are flattened, heads after each other,
keys before values, so that every edit is written once, for vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from thoughtlens.core import HookError
from thoughtlens.models.thought.sites import Hook, ThoughtSpec, check_hooks
from thoughtlens.models.thought.thoughts import ThoughtBatch
from thoughtlens.sae import Cell

SiteName = Literal["thought_in", "resid", "thought_out", "kv", "keys", "values", "all"]
PARTS = {"kv": (0, 1), "keys": (0,), "values": (1,)}
LAYERED = ("resid", "kv", "keys", "values")


@dataclass(frozen=True)
class Change:
    """What becomes of a state: `fn(x, *rows)`, x [batch, width]; `rows` hold one line a problem."""

    fn: Callable[..., Float[Tensor, "batch width"]]
    rows: tuple[Tensor, ...] = ()


Seen = Callable[["Place", Float[Tensor, "batch width"], Float[Tensor, "batch width"]], None]
"""Told of every change: the place, the state before and after."""


@dataclass(frozen=True)
class Place:
    """One state of one pass: of width d, or the flattened keys and values of a block."""

    site: str
    """thought_in, resid, thought_out, kv, keys or values."""
    step: int
    layer: int | None = None

    def __str__(self) -> str:
        return f"{self.site}[{self.step if self.layer is None else f'{self.layer}, {self.step}'}]"

    @property
    def hook_name(self) -> str:
        """As stores and SAEs name it; keys and values have the site's name in it."""
        if self.layer is None:
            return self.site
        return f"layers.{self.layer}:{'out' if self.site == 'resid' else self.site}"

    @property
    def cell(self) -> Cell:
        """As SAEs count their rows."""
        return self.hook_name, self.step

    @property
    def collected(self) -> str:
        """The site that `collect` has to keep for `states`."""
        return "kv" if self.site in PARTS else self.site

    def states(self, batch: ThoughtBatch) -> Float[Tensor, "n width"]:
        """The states that were collected here, one a problem."""
        if self.site in PARTS:
            both = (batch.keys, batch.values)
            i = batch.layers.index(_layer(self))
            return torch.cat([_there(both[j])[:, self.step, 0, i].flatten(1) for j in PARTS[self.site]], 1)
        x = _there(getattr(batch, self.site))[:, self.step, 0]
        return x if self.layer is None else x[:, batch.layers.index(self.layer)]

    def hook(self, change: Change, seen: Seen) -> Hook:
        """The change as a hook of the model, which also tells `seen` what it did."""

        def edit(x: Any, rows: tuple[Tensor, ...] = ()) -> Any:
            before = self._flat(x)
            after = change.fn(before, *rows).to(before)
            seen(self, before, after)
            return self._unflat(after, x)

        return Hook(self.collected, self.step, self.layer, edit, change.rows or None)

    def _flat(self, x: Any) -> Float[Tensor, "batch width"]:
        if self.site in PARTS:
            return torch.cat([x[j].flatten(1) for j in PARTS[self.site]], 1)
        return x[:, 0]

    def _unflat(self, flat: Tensor, x: Any) -> Any:
        if self.site not in PARTS:
            return flat[:, None]
        new = list(x)
        for j, part in zip(PARTS[self.site], flat.chunk(len(PARTS[self.site]), 1), strict=True):
            new[j] = part.reshape(x[j].shape)
        return tuple(new)


def places_of(
    spec: ThoughtSpec, site: SiteName, steps: Sequence[int] | None, layers: Sequence[int] | None
) -> list[Place]:
    """Every place of a site at these passes and layers.

    Args:
        spec: The model's shape.
        site: A site of the model; `keys` or `values` alone; `all`: everything a pass leaves behind,
            its thought_out and the keys and values of every block.
        steps: Passes, 0 the begin-of-thought position; None: all thoughts that something reads there.
        layers: Blocks, 0-based; None: all.

    Raises:
        HookError: what the model does not have, or what nothing reads; says what there is.
    """
    if site == "all":
        if layers is not None:
            raise HookError("site=all is every layer of a pass: leave layers out, or edit resid or kv")
        kv = places_of(spec, "kv", steps, layers)
        states = [Place("thought_out", step) for step in dict.fromkeys(place.step for place in kv)]
        return [*(place for place in states if is_read(spec, place)), *kv]
    kept = "kv" if site in PARTS else site
    if kept not in spec.sites:
        raise HookError(f"Expected a site of this model ({', '.join(spec.sites)}), got {site!r}")
    if strange := [layer for layer in layers or () if layer not in range(spec.n_layers)]:
        raise HookError(f"layers: expected 0..{spec.n_layers - 1} of this model, got {strange[0]}")
    if layers is not None and site not in LAYERED:
        raise HookError(f"{site} has no layers: leave layers out, or edit resid, kv, keys or values")
    chosen = list(range(spec.n_layers)) if layers is None else list(layers)
    here: list[int | None] = [*chosen] if site in LAYERED else [None]
    wanted = [p for p in spec.passes if p > 0] if steps is None else list(steps)
    found = [Place(site, step, layer) for step in wanted for layer in here]
    if steps is None:
        found = [place for place in found if is_read(spec, place)]
    if not found and wanted:
        raise HookError(
            f"Nothing reads {site} of this model's thoughts: its passes are pause tokens, and nothing is fed "
            f"back; edit thought_in, resid or kv"
        )
    if not found:
        raise HookError("This model has no thoughts to edit: its only pass is 0; give steps=[0] to edit that")
    check_hooks(spec, [Hook(p.collected, p.step, p.layer, id) for p in found], spec.n_steps)
    return found


def is_read(spec: ThoughtSpec, place: Place) -> bool:
    """Whether anything reads the state there; an existing place that nothing reads cannot have an effect."""
    try:
        check_hooks(spec, [Hook(place.collected, place.step, place.layer, id)], spec.n_steps)
    except HookError:
        return False
    return True


def _layer(place: Place) -> int:
    if place.layer is None:
        raise HookError(f"{place.site} needs a layer, got none at pass {place.step}")
    return place.layer


def _there(x: Tensor | None) -> Tensor:
    if x is None:
        raise HookError("These states were not collected; ask collect for their site")
    return x
