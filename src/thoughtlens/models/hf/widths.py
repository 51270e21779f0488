"""How wide a model's activations are, from its configuration: nothing is loaded, nothing is run."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import transformers

from thoughtlens.models.hf.capture import resolve
from thoughtlens.models.hf.load import read_config
from thoughtlens.models.hf.locate import foreign, quiet


def widths(name: str, hook_names: Sequence[str], *, revision: str | None = None) -> dict[str, int | None]:
    """Numbers of a vector at each hook; None at a module of a kind that does not say it.

    Raises:
        NotThereError, CheckpointError: as of `load`.
        HookError: the model has no such module; names those that it has.
    """
    config = read_config(name, revision=revision)
    with foreign(f"{name} is no causal language model"), quiet(), torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    hidden = config.get_text_config().hidden_size
    found = {hook: resolve(model, hook) for hook in hook_names}
    return {hook: _width(one.module, one.side, hidden) for hook, one in found.items()}


def _width(module: torch.nn.Module, side: str, hidden: int) -> int | None:
    keys = ("in_features", "nx") if side == "in" else ("out_features", "nf")
    for key in (*keys, "embedding_dim" if side == "out" else ""):
        if isinstance(value := getattr(module, key, None), int):
            return value
    weight = getattr(module, "weight", None)
    if isinstance(weight, torch.Tensor):  # a norm; or a layer of a kind that is not known
        return len(weight) if weight.ndim == 1 else None
    return hidden
