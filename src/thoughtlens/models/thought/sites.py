"""Where a thought model can be read and edited: its shape, its sites, and hooks on them.

The index convention is that of `thoughtlens.models.thought.thoughts` and docs/thoughts.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from thoughtlens.core import ConfigError, HookError

SITES = ("thought_in", "resid", "thought_out", "kv")
LAYERED = ("resid", "kv")
BLOCK = re.compile(r"layers\.(\d+):out")
CONVENTION = "thought_idx 0 is the begin-of-thought position, 1..n the thoughts fed back"
"""What a store of thoughts says about how it counts."""


@dataclass(frozen=True, kw_only=True)
class ThoughtSpec:
    """The shape of a model's thinking; `passes` are p = 0..n_steps."""

    n_steps: int
    """Thoughts fed back."""
    n_layers: int
    d: int
    positions_per_step: int | None = 1
    """Positions that one pass works on; None: as many as the question has tokens."""
    axis: Literal["sequence", "iteration", "depth"] = "sequence"
    """Whether a step is a new position, another round on the same positions, or more depth."""
    feedback_layer: int
    """The number of blocks whose output becomes `thought_out`."""
    has_projection: bool
    sites: tuple[str, ...] = SITES
    feeds_back: bool = True
    """Whether a pass's `thought_out` is what the next one takes in. Of pause tokens nothing is fed back."""
    reads_last: bool = False
    """Whether the answer reads the last `thought_out` itself. CODI and Coconut discard it."""

    def __post_init__(self) -> None:
        if self.n_steps < 0:
            raise ConfigError(f"Expected n_steps >= 0 thoughts, got {self.n_steps}")

    @property
    def passes(self) -> range:
        """All pass indices, 0..n_steps."""
        return range(self.n_steps + 1)


@dataclass(frozen=True)
class Hook:
    """An edit: at `site` of pass `step` (and `layer`), x becomes `fn(x)`.

    x is [batch, positions, d]; at site kv it is the pair (key, value), each
    [batch, heads, positions, d_head]. An edit of kv is seen by every later position, and not by the
    attention of the pass that wrote it: that is the state's route.

    With `per_problem` (a tensor, or a pair of tensors for kv, one row a problem of the run) fn is
    called with the batch's rows of it as second argument: `fn=lambda x, donor: donor` patches.
    """

    site: str
    step: int
    layer: int | None
    fn: Callable[..., Any]
    per_problem: Any = None

    def __str__(self) -> str:
        return f"{self.site}[{self.step if self.layer is None else f'{self.layer}, {self.step}'}]"


class Tap:
    """Handed to `_step`: every site's tensor goes through it, is edited, and is recorded."""

    def __init__(self, hooks: Sequence[Hook], rows: Tensor) -> None:
        self._hooks, self._rows = hooks, rows
        self.ran: set[int] = set()
        self.seen: dict[tuple[str, int | None], Any] = {}

    def __call__(self, site: str, x: Any, layer: int | None = None) -> Any:
        """Apply the hooks of this site in the order given; returns what the pass goes on with."""
        for i, hook in enumerate(self._hooks):
            if (hook.site, hook.layer) == (site, layer):
                x = self._edit(hook, x)
                self.ran.add(i)
        self.seen[site, layer] = x
        return x

    def _edit(self, hook: Hook, x: Any) -> Any:
        device = (x[0] if hook.site == "kv" else x).device
        extra = () if hook.per_problem is None else (_take(hook.per_problem, self._rows, hook, device),)
        new = hook.fn(x, *extra)
        if hook.site == "kv":
            return tuple(_checked(hook, a, b) for a, b in zip(new, x, strict=True))
        return _checked(hook, new, x)

    def missed(self) -> list[Hook]:
        """Hooks that never ran."""
        return [hook for i, hook in enumerate(self._hooks) if i not in self.ran]


def check_hooks(spec: ThoughtSpec, hooks: Sequence[Hook], last: int) -> None:
    """Refuse hooks that do not exist, or that cannot act in a run whose last pass is `last`.

    Raises:
        HookError: says which sites, passes and layers exist, or why the edit is without effect.
    """
    for hook in hooks:
        if hook.site not in spec.sites:
            raise HookError(f"Expected a site of this model ({', '.join(spec.sites)}), got {hook.site!r}")
        if hook.step not in range(last + 1):
            raise HookError(
                f"Hook {hook}: pass {hook.step} does not exist here; this run has passes 0..{last} "
                f"(0 is the begin-of-thought position)"
            )
        if hook.site in LAYERED and hook.layer not in range(spec.n_layers):
            raise HookError(f"Hook {hook}: expected a layer in 0..{spec.n_layers - 1}, got {hook.layer}")
        if hook.site not in LAYERED and hook.layer is not None:
            raise HookError(f"Hook {hook}: {hook.site} has no layers; give layer=None")
        _require_effect(spec, hook, last)


def check_rows(hooks: Sequence[Hook], n: int) -> None:
    """Refuse hooks whose `per_problem` has not one row for each of `n` problems."""
    for hook in hooks:
        pair = hook.per_problem if isinstance(hook.per_problem, tuple | list) else (hook.per_problem,)
        for values in pair:
            if values is not None and len(values) != n:
                raise HookError(f"Hook {hook}: per_problem has {len(values)} rows for {n} problems")


def _require_effect(spec: ThoughtSpec, hook: Hook, last: int) -> None:
    out_is_read = (hook.step < last and spec.feeds_back) or spec.reads_last
    if hook.site == "thought_out" and not out_is_read:
        which = f"pass {last} is the last, and" if spec.feeds_back else "its passes are pause tokens:"
        raise HookError(
            f"Hook {hook} cannot act: {which} its thought_out is fed to nothing. Such a pass reaches the "
            f"answer through keys and values: edit kv, thought_in or an inner layer"
        )
    final = hook.site == "resid" and hook.layer == spec.n_layers - 1
    if final and not (out_is_read and spec.feedback_layer == spec.n_layers):
        raise HookError(
            f"Hook {hook} cannot act: nothing reads the output of the last block at this pass. "
            f"Edit kv, thought_in or an inner layer"
        )


def _take(values: Any, rows: Tensor, hook: Hook, device: torch.device) -> Any:
    if isinstance(values, tuple | list):
        return tuple(_take(v, rows, hook, device) for v in values)
    if int(rows.max()) >= len(values):
        raise HookError(
            f"Hook {hook}: per_problem has {len(values)} rows, but the run has problem {int(rows.max())}"
        )
    return values[rows.to(values.device)].to(device)


def _checked(hook: Hook, new: Any, old: Tensor) -> Tensor:
    if not isinstance(new, Tensor) or new.shape != old.shape:
        got = tuple(new.shape) if isinstance(new, Tensor) else type(new).__name__
        raise HookError(f"Hook {hook}: fn must return a tensor of shape {tuple(old.shape)}, got {got}")
    if not bool(torch.isfinite(new).all()):
        raise HookError(f"Hook {hook}: fn returned values that are not finite")
    return new.to(old)


def sites_of(hook_names: tuple[str, ...] | None, spec: ThoughtSpec) -> dict[str, tuple[str, int | None]]:
    """hook_name -> (site, layer); without names, every block's output.

    Raises:
        HookError: a name that this model does not have; says which there are.
    """
    if hook_names is None:
        return {f"layers.{layer}:out": ("resid", layer) for layer in range(spec.n_layers)}
    found: dict[str, tuple[str, int | None]] = {}
    for name in hook_names:
        block = BLOCK.fullmatch(name)
        if name in ("thought_in", "thought_out"):
            found[name] = (name, None)
        elif block and int(block[1]) < spec.n_layers:
            found[name] = ("resid", int(block[1]))
        else:
            raise HookError(
                f"hook_names: expected layers.0:out .. layers.{spec.n_layers - 1}:out, thought_in or "
                f"thought_out of this thought model, got {name!r}"
            )
    return found
