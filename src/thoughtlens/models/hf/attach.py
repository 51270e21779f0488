"""An SAE as a part of a model: every plain forward pass goes through it at its hook."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, Protocol, runtime_checkable

from jaxtyping import Float
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
        """x - x_hat, detached."""


@contextmanager
def attach(
    model: nn.Module,
    sae: Reconstructor,
    *,
    hook_name: str | None = None,
    output: Literal["x_hat", "x"] = "x_hat",
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
        output: What the model goes on with. x_hat: the reconstruction. x: what was there, so that the
            pass is unchanged and only read; `x_hat + error` gives the same with gradients through acts.
        thought_idx: For SAEs that normalise each thought by itself: whose statistics to take.

    Raises:
        HookError: unknown hook, or several and none chosen, or no pass went through it.
        MismatchError: another width, or an SAE that predicts another hook than it reads.
    """
    if not getattr(sae, "reconstructs", True):
        raise MismatchError("Expected an SAE that reconstructs its own input, got one that predicts another")
    if hook_name is None and len(sae.hook_names) != 1:
        raise HookError(
            f"Expected hook_name, one of {', '.join(sae.hook_names) or 'those of the model'}: the SAE does "
            f"not stand at exactly one hook"
        )
    hook = hook_name or sae.hook_names[0]
    seen, here = Attached(hook), sae.at(hook, thought_idx)

    def through(x: Float[Tensor, "batch seq d"]) -> Float[Tensor, "batch seq d"]:
        rows = x.float()
        seen.acts = here.encode(rows)
        x_hat = here.decode(seen.acts, rows)
        seen.error = (x - x_hat).detach()
        return x_hat if output == "x_hat" else x

    with replace(model, hook, through):
        yield seen
