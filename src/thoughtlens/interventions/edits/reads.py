"""Path patching: one position reads the keys and values that another problem has at some places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from thoughtlens.models import State, ThoughtModel


@dataclass(frozen=True, eq=False)
class Read:
    """In one layer, one position that sees a donor's keys and values; no other position does."""

    layer: int
    query: int
    """A thought; one past the last thought: the answer's cue and all that is said after it."""
    where: Bool[Tensor, "n positions"]
    """Which positions are the donor's, by problem; begin-of-thought stands at `begin`."""
    begin: int
    donors: Sequence[str]
    """By problem, a question of as many tokens."""
    seed: int | None = None
    """As a control: as far away as the donor's, in a random direction for each position."""

    def chosen(self, state: State, begin: int) -> Bool[Tensor, "batch positions"]:
        """Which positions of a state are changed; `begin`: where its begin-of-thought position stands."""
        first = self.begin - begin
        return self.where[state.rows, first : first + state.mask.shape[1]].to(state.mask.device) & state.mask

    def seen(
        self, model: ThoughtModel, state: State, donor: State, begin: int
    ) -> tuple[State, Float[Tensor, "batch width"], Float[Tensor, "batch width"]]:
        """The state as the query sees it; what was there before, and what is there now."""
        after, length = model.clone(state), state.mask.shape[1]
        at = self.chosen(state, begin)[:, None, :, None]
        own = model._memory(state, self.layer)
        new = [
            torch.where(at, other[:, :, :length], old)
            for old, other in zip(own, model._memory(donor, self.layer), strict=True)
        ]
        if self.seed is not None:
            new = self._elsewhere(own, new, at[:, 0, :, 0], state.rows)
        model._remember(after, self.layer, *new)
        before, now = (torch.cat([torch.where(at, x, 0).flatten(1) for x in pair], 1) for pair in (own, new))
        return after, before, now

    def unseen(self, model: ThoughtModel, after: State, before: State) -> None:
        """Give later positions back, in the caller's state, what was there before the query."""
        kept = zip(model._memory(after, self.layer), model._memory(before, self.layer), strict=True)
        model._remember(after, self.layer, *(torch.cat([old, x[:, :, old.shape[2] :]], 2) for x, old in kept))

    def _elsewhere(
        self, own: Sequence[Tensor], new: Sequence[Tensor], at: Tensor, rows: Tensor
    ) -> list[Tensor]:
        """As far from the own keys and values as the new ones, drawn whatever the batch."""
        found = [x.clone() for x in own]
        for i, row in enumerate(rows.tolist()):
            drawn = torch.Generator().manual_seed(1_000_003 * (self.seed or 0) + row)
            for x, old, other in zip(found, own, new, strict=True):
                size = (other[i, :, at[i]] - old[i, :, at[i]]).norm(dim=-1, keepdim=True)
                way = torch.randn(x[i, :, at[i]].shape, generator=drawn).to(x)
                x[i, :, at[i]] += size * way / way.norm(dim=-1, keepdim=True)
        return found
