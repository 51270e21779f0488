"""What a tuned lens does to a state before the model's output side reads it, and the file of a lens stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from thoughtlens.core import whole

TRANSLATORS = "translators.safetensors"
"""Name of the file: `layers.8:out/3/weight` [d, d] and `.../bias` [d] of hook and thought."""


@dataclass(frozen=True)
class Translator:
    """`h + h @ weight + bias`."""

    weight: Float[Tensor, "d d"]
    bias: Float[Tensor, " d"]

    def __call__(self, h: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        return h + h @ self.weight + self.bias

    @property
    def is_identity(self) -> bool:
        """Whether it changes nothing."""
        return not bool(self.weight.any() or self.bias.any())


def save_translators(translators: Mapping[tuple[str, int | None], Translator], file: Path) -> None:
    """Write those of each hook and thought."""
    tensors = {
        f"{hook}/{thought}/{name}": tensor
        for (hook, thought), one in translators.items()
        for name, tensor in vars(one).items()
    }
    with whole(file) as part:
        save_file(tensors, part)


def read_translators(file: Path) -> dict[tuple[str, int], Translator]:
    """What `save_translators` wrote."""
    tensors = load_file(file)
    places = dict.fromkeys(name.rpartition("/")[0] for name in tensors)
    return {
        (place.rpartition("/")[0], int(place.rpartition("/")[2])): Translator(
            tensors[f"{place}/weight"], tensors[f"{place}/bias"]
        )
        for place in places
    }
