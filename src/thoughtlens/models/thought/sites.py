"""What a thought model can be asked for: its shape, and hooks on its places.

The index convention is that of `thoughtlens.models.thought.thoughts` and docs/thoughts.md.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from thoughtlens.core import ConfigError, HookError
from thoughtlens.models.thought.places import INNER, LAYERED, SITES, Place


@dataclass(frozen=True, kw_only=True)
class ThoughtSpec:
    """The shape of a model's thinking."""

    n_thoughts: int
    """Thoughts fed back."""
    n_layers: int
    d: int
    positions_per_thought: int | None = 1
    """Positions that one thought works on; None: as many as the question has tokens."""
    axis: Literal["sequence", "iteration", "depth"] = "sequence"
    """Whether a thought is a new position, another round on the same positions, or more depth."""
    feedback_layer: int
    """The number of blocks whose output becomes `thought_out`."""
    has_projection: bool
    sites: tuple[str, ...] = SITES
    feeds_back: bool = True
    """Whether a thought's `thought_out` is what the next one takes in. Pause tokens feed nothing back."""
    reads_last: bool = False
    """Whether the answer reads the last `thought_out` itself. CODI and Coconut discard it."""
    varies: bool = False
    """Whether a problem may stop before `n_thoughts`, each at its own thought."""
    n_cue: int = 0
    """Tokens between the thoughts and the answer, behind thought n_thoughts; 0: the states of these and of
    the question's tokens are not shown."""

    def __post_init__(self) -> None:
        if self.n_thoughts < 0:
            raise ConfigError(f"Expected n_thoughts >= 0, got {self.n_thoughts}")

    @property
    def control(self) -> str | None:
        """What the model is a control for, in words; None where it thinks in vectors."""
        if self.n_thoughts == 0:
            return "no thoughts: the answer follows the begin-of-thought token"
        return None if self.feeds_back else "pause tokens: no thought is made of the one before"

    @property
    def thoughts(self) -> range:
        """All thought indices, 0..n_thoughts; 0 is the begin-of-thought position."""
        return range(self.n_thoughts + 1)

    @property
    def cue(self) -> range:
        """Positions of the answer's cue."""
        return range(self.n_thoughts + 1, self.n_thoughts + 1 + self.n_cue)

    def outside(self, position: int) -> bool:
        """Whether it is a token of the question, or of the answer's cue, whose states are shown."""
        return position in self.cue or (position < 0 and self.n_cue > 0)


@dataclass(frozen=True)
class Hook:
    """An edit: at `place`, x becomes `fn(x)`.

    x is [batch, positions, d]; at site kv it is the pair (key, value), each
    [batch, heads, positions, d_head]. An edit of kv is seen by every later position, and not by the
    attention of the thought that wrote it: that is the state's route.

    With `per_problem` (a tensor, or a pair of tensors for kv, one row per problem of the run) fn is
    called with the batch's rows of it as second argument: `fn=lambda x, donor: donor` patches.

    Where a problem has stopped before this thought, x is NaN, and what fn makes of it is dropped.
    """

    place: Place
    fn: Callable[..., Any]
    per_problem: Any = None

    def __str__(self) -> str:
        return f"Hook {self.place}"


class Tap:
    """Handed to `_step`: every site's tensor goes through it, is edited, and is recorded."""

    def __init__(
        self,
        hooks: Sequence[Hook],
        rows: Tensor,
        thinking: Tensor | None = None,
        kept: Container[tuple[str, int | None]] | None = None,
    ) -> None:
        self._hooks, self._rows, self.thinking, self._kept = hooks, rows, thinking, kept
        self.ran: set[int] = set()
        self.seen: dict[tuple[str, int | None], Any] = {}

    def __call__(self, site: str, x: Any, layer: int | None = None) -> Any:
        """Apply the hooks of this site in the order given; returns what the model goes on with."""
        for i, hook in enumerate(self._hooks):
            if (hook.place.site, hook.place.layer) == (site, layer):
                x = self._edit(hook, x)
                self.ran.add(i)
        if self._kept is None or (site, layer) in self._kept:
            self.seen[site, layer] = absent(x, self.thinking)
        return x

    def _edit(self, hook: Hook, x: Any) -> Any:
        device = (x[0] if hook.place.site == "kv" else x).device
        extra = () if hook.per_problem is None else (_take(hook.per_problem, self._rows, hook, device),)
        new = hook.fn(absent(x, self.thinking), *extra)
        if hook.place.site == "kv":
            return tuple(_checked(hook, a, b, self.thinking) for a, b in zip(new, x, strict=True))
        return _checked(hook, new, x, self.thinking)

    def layers(self, site: str) -> list[int]:
        """Layers of that site that have hooks, in order."""
        here = {hook.place.layer for hook in self._hooks if hook.place.site == site}
        return sorted(layer for layer in here if layer is not None)

    def missed(self) -> list[Hook]:
        """Hooks that never ran."""
        return [hook for i, hook in enumerate(self._hooks) if i not in self.ran]


class Outside:
    """What the question's tokens and the answer's cue go through: a tap for each position asked for.

    Handed to `encode`, and carried by the state for `answer`.

    Args:
        hooks: Edits; those of thoughts are left to `step`.
        rows: Which problems of the run the batch has.
        positions: Whose states are kept.
        kept: Sites and layers that are kept there; None: all.
    """

    def __init__(
        self,
        hooks: Sequence[Hook],
        rows: Tensor,
        positions: Container[int] = (),
        kept: Container[tuple[str, int | None]] | None = None,
    ) -> None:
        self._hooks, self._rows, self._positions, self._kept = hooks, rows, positions, kept
        self.taps: dict[int, Tap] = {}
        self.memory: Callable[[int], tuple[Tensor, Tensor]] | None = None
        """Keys and values of the question's tokens in a layer."""

    def over(self, first: int, real: Bool[Tensor, "batch new"]) -> Callable[..., Any]:
        """What positions from `first` on go through together; `real` is False at padding."""
        taps: list[Tap | None] = []
        for i in range(real.shape[1]):
            here = [hook for hook in self._hooks if hook.place.thought == first + i]
            wanted = here or first + i in self._positions
            taps.append(Tap(here, self._rows, real[:, i], self._kept) if wanted else None)
        self.taps |= {first + i: tap for i, tap in enumerate(taps) if tap is not None}

        def through(site: str, x: Tensor, layer: int | None = None) -> Tensor:
            parts = list(x[:, : len(taps)].split(1, 1))
            for i, tap in enumerate(taps):
                parts[i] = parts[i] if tap is None else tap(site, parts[i], layer)
            return torch.cat([*parts, x[:, len(taps) :]], 1)

        return through


@dataclass(eq=False)
class Watch:
    """What every attention of a model goes through while it is open (`ThoughtModel.attending`)."""

    weights: dict[int, Float[Tensor, "batch heads new keys"]] = field(default_factory=dict)
    """Of the latest pass, by layer."""
    cut: dict[int, Bool[Tensor, "batch heads keys"]] = field(default_factory=dict)
    """By layer, keys from the first on that no new position looks at; heads may be 1 for all of them."""

    def masked(self, layer: int, scores: Float[Tensor, "batch heads new keys"]) -> Tensor:
        """Scores, or what is added to them, with -inf where an edge is cut."""
        if layer not in self.cut:
            return scores
        cut = self.cut[layer].to(scores.device)
        cut = F.pad(cut, (0, scores.shape[-1] - cut.shape[-1]))[:, :, None]
        return scores.masked_fill(cut, -torch.inf)

    def weighed(self, layer: int, scores: Float[Tensor, "batch heads new keys"]) -> Tensor:
        """The softmax of scores without the edges that are cut; it is kept."""
        self.weights[layer] = self.masked(layer, scores).float().softmax(-1)
        return self.weights[layer].to(scores)


def check_places(spec: ThoughtSpec, places: Iterable[Place], last: int) -> None:
    """Refuse places that do not exist, or where an edit cannot act in a run whose last thought is `last`.

    Raises:
        HookError: says which sites, thoughts and layers exist, or why the edit is without effect.
    """
    for place in places:
        if place.site not in spec.sites:
            raise HookError(f"Expected a site of this model ({', '.join(spec.sites)}), got {place.site!r}")
        if place.thought not in range(last + 1) and not spec.outside(place.thought or 0):
            more = f", {spec.cue[0]}..{spec.cue[-1]} the answer's cue, -1 the question's last token"
            raise HookError(
                f"Hook {place}: thought {place.thought} does not exist here; this run has thoughts 0..{last} "
                f"(0 is the begin-of-thought position{more * (spec.n_cue > 0)})"
            )
        if place.site in LAYERED and place.layer not in range(spec.n_layers):
            raise HookError(f"Hook {place}: expected a layer in 0..{spec.n_layers - 1}, got {place.layer}")
        if place.site not in LAYERED and place.layer is not None:
            raise HookError(f"Hook {place}: {place.site} has no layers; give its name alone")
        _require_effect(spec, place, last)


def is_read(spec: ThoughtSpec, place: Place) -> bool:
    """Whether anything reads the state there; an existing place that nothing reads cannot have an effect."""
    try:
        check_places(spec, [place.collected], spec.n_thoughts)
    except HookError:
        return False
    return True


def check_rows(hooks: Sequence[Hook], n: int) -> None:
    """Refuse hooks whose `per_problem` has not one row for each of `n` problems."""
    for hook in hooks:
        pair = hook.per_problem if isinstance(hook.per_problem, tuple | list) else (hook.per_problem,)
        for values in pair:
            if values is not None and len(values) != n:
                raise HookError(f"{hook}: per_problem has {len(values)} rows for {n} problems")


def _require_effect(spec: ThoughtSpec, place: Place, last: int) -> None:
    out_is_read = (place.thought != last and spec.feeds_back) or spec.reads_last
    if spec.outside(p := place.thought or 0):
        out_is_read = p == spec.cue[-1]
        if p > 0 and place.site == "kv":
            raise HookError(
                f"Hook {place} cannot act: the answer's cue writes its keys and values while it reads them. "
                f"Edit thought_in or an inner layer"
            )
        if place.site == "thought_out" and not out_is_read:
            raise HookError(
                f"Hook {place} cannot act: nothing reads thought_out of a token of the question, or of the "
                f"cue before its last. Edit thought_in or an inner layer"
            )
    if place.site == "thought_out" and not out_is_read:
        which = f"thought {last} is the last, and" if spec.feeds_back else "its thoughts are pause tokens:"
        raise HookError(
            f"Hook {place} cannot act: {which} its thought_out is fed to nothing. Such a thought reaches the "
            f"answer through keys and values: edit kv, thought_in or an inner layer"
        )
    final = place.site in ("resid", *INNER) and place.layer == spec.n_layers - 1
    if final and not (out_is_read and spec.feedback_layer == spec.n_layers):
        raise HookError(
            f"Hook {place} cannot act: nothing reads the output of the last block at this thought. "
            f"Edit kv, thought_in or an inner layer"
        )


def _take(values: Any, rows: Tensor, hook: Hook, device: torch.device) -> Any:
    if isinstance(values, tuple | list):
        return tuple(_take(v, rows, hook, device) for v in values)
    if int(rows.max()) >= len(values):
        raise HookError(
            f"{hook}: per_problem has {len(values)} rows, but the run has problem {int(rows.max())}"
        )
    return values[rows.to(values.device)].to(device)


def absent(x: Any, thinking: Tensor | None) -> Any:
    """NaN in place of what a pair of tensors, or one, holds of problems that have stopped."""
    if thinking is None:
        return x
    if isinstance(x, tuple | list):
        return tuple(absent(part, thinking) for part in x)
    return x.masked_fill(~_like(thinking, x), torch.nan)


def _like(thinking: Tensor, x: Tensor) -> Tensor:
    return thinking.to(x.device).view(-1, *[1] * (x.ndim - 1))


def _checked(hook: Hook, new: Any, old: Tensor, thinking: Tensor | None) -> Tensor:
    if not isinstance(new, Tensor) or new.shape != old.shape:
        got = tuple(new.shape) if isinstance(new, Tensor) else type(new).__name__
        raise HookError(f"{hook}: fn must return a tensor of shape {tuple(old.shape)}, got {got}")
    if thinking is not None:
        new = torch.where(_like(thinking, old), new.to(old), old)
    if not bool(torch.isfinite(new).all()):
        raise HookError(f"{hook}: fn returned values that are not finite")
    return new.to(old)
