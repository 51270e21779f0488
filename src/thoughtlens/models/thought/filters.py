"""What adaLR feeds its states back through (Ning et al. 2025, arXiv:2511.21581).

Such a checkpoint is a CODI under other names: `_base_model.*`, `recurrent_filter.*`, `<START>` and `<END>` as
the thought tokens, with its settings in config.json under `_inserted_LatentThinkingModelSettings` (class
`LatentThinkingModel` of github.com/apning/adaptive-latent-reasoning, src/modeling.py and src/settings.py).
Its stop head is two rows of the language model's own head, `<|CONTINUE|>` and `<|STOP|>`: it is not used, and
as many thoughts are thought as is said.
"""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu

from thoughtlens.core import CheckpointError, warn
from thoughtlens.models.thought.checkpoint import filled
from thoughtlens.models.thought.heard import tell
from thoughtlens.models.thought.stated import Stated

BASE, FILTER = "_base_model", "recurrent_filter"
"""Under which names the base model and the filter are kept."""
HEAD = ("continue_token_id", "stop_token_id")


class _Filter(nn.Module):
    """Linear layers, a norm, and perhaps a shift."""

    def __init__(self, mode: str, d: int) -> None:
        super().__init__()
        if mode == "MLP":
            self.input_layer, self.output_layer = nn.Linear(d, d), nn.Linear(d, d)
        else:
            self.linear_layer = nn.Linear(d, d)
        self.norm: nn.Module = nn.RMSNorm(d) if mode in ("linear", "linear_ECF") else nn.LayerNorm(d)
        self.bias = nn.Parameter(torch.zeros(d)) if mode in ("linear", "linear_ECF") else None
        self.mode = mode

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """The next thought's input, made of this one's output."""
        if self.mode == "MLP":
            return self.norm(self.output_layer(gelu(self.input_layer(x))))
        found = self.norm(self.linear_layer(x))
        return found if self.bias is None else found + self.bias


def build(tensors: dict[str, Tensor], own: Stated, d: int, where: Path) -> nn.Module:
    """The filter that the config names, with its weights; the state as it is where it names none.

    Raises:
        CheckpointError: a filter or setting that is not read, or weights that are not the filter's.
    """
    mode = own.get("recurrent_filter_mode")
    if own.get("add_latent_to_end"):
        raise CheckpointError(f"{where}: add_latent_to_end, a thought added to <END>, is not read")
    if own.get("lora_mode"):
        raise CheckpointError(
            f"{where} was saved in LoRA mode: merge it as its publisher does, and save again"
        )
    if mode not in (None, "linear", "linear_ECF", "linear_ln", "MLP"):
        raise CheckpointError(f"{where}: recurrent_filter_mode = {mode} is not read")
    if mode is None and tensors:
        raise CheckpointError(
            f"{where} has {FILTER}.{min(tensors)}, and its config names no recurrent_filter_mode"
        )
    named = {f"{FILTER}.{key}": value for key, value in tensors.items()}
    tell(layout="adaLR, a CODI with a stop head in its rows")
    return filled(_Filter(mode, d), named, where, f"{FILTER}.") if mode else nn.Identity()


def head_of(own: Stated, where: Path) -> tuple[int, ...]:
    """Ids of the stop head's two rows, which no answer says; told, as nothing decides by them."""
    ids = tuple(i for name in HEAD if (i := own.get(name)) is not None)
    if ids:
        warn(
            f"{where} has a stop head (rows {', '.join(map(str, ids))} of its head), which decides how many "
            f"thoughts to think; it is not used: n_thoughts are thought for every problem"
        )
    return ids
