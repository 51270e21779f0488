"""An SAE as a part of a model: every plain forward pass goes through it at its hook."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from thoughtlens.core import HookError, MismatchError
from thoughtlens.models.hf.capture import replace


@runtime_checkable
class Reconstructor(Protocol):
    """What `attach` needs of an SAE."""

    hook_names: list[str]

    def at(self, hook_name: str, thought: int | None = None) -> Any:
        """What encodes and decodes rows of this (hook, thought)."""
        ...


class Attached:
    """What the latest forward pass went through; empty before the first."""

    def __init__(self, hook_name: str) -> None:
        self.hook_name = hook_name
        self.acts: Float[Tensor, "batch seq d_sae"] | None = None
        """Activations of all latents, with gradients where the pass had them."""
        self.error: Float[Tensor, "batch seq d_in"] | None = None
        """x - x_hat, a leaf of its own: what an attribution cannot give to any latent, it gives to this."""


@contextmanager
def attach(
    model: nn.Module,
    sae: Reconstructor,
    *,
    hook_name: str | None = None,
    output: Literal["x_hat", "x_hat+error", "x"] = "x_hat",
    edit: Callable[[Float[Tensor, "batch seq d_sae"]], Float[Tensor, "batch seq d_sae"]] | None = None,
    untouched: Collection[int] = (),
    thought_idx: int | None = None,
) -> Iterator[Attached]:
    """Within the block, each forward pass of the model runs through the SAE at its hook.

        with attach(lm.model, sae) as seen:
            logits = lm.model(input_ids).logits
        seen.acts  # [batch, seq, d_sae]

    Args:
        model: Any Hugging Face causal language model; the SAE has to be on its device.
        sae: An SAE that reconstructs its own input.
        hook_name: Where; unset: where the SAE was trained.
        output: What the model goes on with. x_hat: the reconstruction. x_hat+error: the same numbers as
            without the SAE, with gradients to `acts` and to `error`. x: what was there, only read.
        edit: Activations to other activations, on which the model goes on; what the SAE leaves unexplained
            stays as it is with output="x_hat+error".
        untouched: Token ids at which the model goes on with what was there, such as `lm.special_ids`: SAEs
            are rarely trained on the first token, whose norm is far from all others'.
        thought_idx: For SAEs that normalise each thought by itself: whose statistics to take.

    Raises:
        HookError: unknown hook, or several and none chosen, or no pass went through it.
            Also edit with output="x", or `untouched` in a pass that is not given token ids.
        MismatchError: another width, or an SAE that predicts another hook than it reads.
    """
    if edit is not None and output == "x":
        raise HookError('edit: with output="x" nothing is changed; take x_hat+error, or x_hat')
    if not getattr(sae, "reconstructs", True):
        raise MismatchError("Expected an SAE that reconstructs its own input, got one that predicts another")
    if hook_name is None and len(sae.hook_names) != 1:
        raise HookError(
            f"Expected hook_name, one of {', '.join(sae.hook_names) or 'those of the model'}: the SAE does "
            f"not stand at exactly one hook"
        )
    hook = hook_name or sae.hook_names[0]
    seen, here = Attached(hook), sae.at(hook, thought_idx)
    kept: list[Bool[Tensor, "batch seq"]] = []

    def look(_: nn.Module, args: tuple, kwargs: dict) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        if not isinstance(ids, Tensor) or ids.is_floating_point():
            raise HookError("untouched: this pass was not given token ids (input_ids)")
        kept[:] = [torch.isin(ids, torch.tensor(sorted(untouched), device=ids.device))]

    def through(x: Float[Tensor, "batch seq d"]) -> Float[Tensor, "batch seq d"]:
        rows = x.float()
        seen.acts = acts = here.encode(rows)
        x_hat = here.decode(acts, rows)
        seen.error = error = (x - x_hat).detach().requires_grad_(torch.is_grad_enabled())
        if output == "x":
            return x
        new = x_hat if edit is None else here.decode(edit(acts), rows)
        new = new + error if output == "x_hat+error" else new
        return torch.where(kept[0].to(x.device)[..., None], x, new.to(x)) if kept else new

    watch = model.register_forward_pre_hook(look, with_kwargs=True) if untouched else None
    try:
        with replace(model, hook, through):
            yield seen
    finally:
        if watch is not None:
            watch.remove()
