"""From states to logits through the model's own code.

Final norm, projection, head, scale and cap of the logits have many names and orders. None of them is looked
for here: the model's own forward pass runs with its blocks (or its whole decoder) passed over, so it does
to the states asked about whatever it does to what these give.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from thoughtlens.core import HookError
from thoughtlens.models.hf.capture import blocks_path

PROBE = 3
"""Tokens of the pass on which the way is tried out."""
AGREEMENT = 0.02
"""Largest difference of the trial from the model's own logits, as a share of the largest of them."""


class OutputSide:
    """What a causal language model does after its last block, tried out on a short pass.

    Raises:
        HookError: the model has no logits, or they depend on more than the last block's output.
    """

    blocks: list[nn.Module]
    """In the order in which they run."""
    d: int
    """Width of the residual stream."""
    n_vocab: int

    def __init__(self, model: PreTrainedModel) -> None:
        path, self.model = blocks_path(model), model
        if path is None:
            raise HookError(f"{type(model).__name__} has no list of blocks: no residual stream to read out")
        self._outputs: dict[nn.Module, Any] = {}
        logits = self._run(list(model.get_submodule(path).children()))
        self.blocks = list(self._outputs)
        x = _states(self._outputs[self.blocks[-1]]) if self.blocks else logits
        if not self.blocks or x.ndim != 3 or x.shape[:2] != (1, PROBE) or logits.shape[:2] != (1, PROBE):
            raise HookError(f"{path} of {type(model).__name__} gives {list(x.shape)}: no residual stream")
        self.d, self.n_vocab = x.shape[-1], logits.shape[-1]
        if not self._agrees(x[0], logits[0]):
            raise HookError(
                f"The logits of {type(model).__name__} follow from more than the output of its last block in "
                f"{path}: states cannot be read out through it"
            )

    def __call__(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n vocab"]:
        """Logits of states as the last block gives them, in the model's place and dtype; gradients flow."""
        x = x.to(self.model.device, self.model.dtype)[:, None]
        with ExitStack() as stack:
            for block in self.blocks:
                given = x if block is self.blocks[-1] else None
                stack.enter_context(_instead(block, _passing(self._outputs[block], given)))
            return _logits(self.model, len(x), 1)[:, 0]

    def head(self, h: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch vocab"]:
        """Logits of the decoder's final states, which have passed the last norm."""
        rows = h.reshape(1, -1, h.shape[-1])
        with _instead(self.decoder, lambda *_, **__: _Decoded(last_hidden_state=rows)):
            return self.model(inputs_embeds=rows, use_cache=False).logits.view(*h.shape[:-1], -1)

    @property
    def decoder(self) -> nn.Module:
        """The part of the model that gives final states."""
        found = self.model.get_decoder()
        return self.model.base_model if found is self.model else found

    @torch.no_grad()
    def _run(self, blocks: list[nn.Module]) -> Float[Tensor, "1 seq vocab"]:
        """Logits of a pass through all blocks; keeps their outputs."""
        with ExitStack() as stack:
            for block in blocks:
                handle = block.register_forward_hook(lambda m, _, out: self._outputs.update({m: out}))
                stack.callback(handle.remove)
            return _logits(self.model, 1, PROBE)

    @torch.no_grad()
    def _agrees(self, x: Float[Tensor, "n d"], logits: Float[Tensor, "n vocab"]) -> bool:
        try:
            off = (self(x) - logits).abs().max()
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
            return False  # its code wants more of its blocks than they were given back
        return bool(off <= AGREEMENT * logits.abs().max())


class _Decoded(BaseModelOutputWithPast):
    """A decoder's output, with nothing where a model looks for more of it."""

    def __getattr__(self, name: str) -> None:
        return None


def _logits(model: PreTrainedModel, n: int, length: int) -> Float[Tensor, "n length vocab"]:
    ids = torch.arange(length, device=model.device).expand(n, -1)
    logits = getattr(model(input_ids=ids, use_cache=False), "logits", None)
    if not isinstance(logits, Tensor):
        raise HookError(f"{type(model).__name__} gives no logits: there is nothing to read states through")
    return logits


def _passing(output: Any, given: Tensor | None) -> Callable[..., Any]:
    """A forward that gives what it gets, or what is given, in the form of a block's output."""

    def forward(hidden: Tensor | None = None, *_: Any, **inputs: Any) -> Any:
        hidden = inputs.get("hidden_states") if hidden is None else hidden
        x = hidden if given is None else given
        return type(output)([x, *output[1:]]) if isinstance(output, tuple | list) else x

    return forward


def _states(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple | list) else output


@contextmanager
def _instead(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Within the block, the module runs another forward."""
    module.forward = forward  # an attribute of its own, over the class's method
    try:
        yield
    finally:
        del module.forward
