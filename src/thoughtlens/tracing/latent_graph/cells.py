"""Where the run's SAEs stand in the loop of thoughts, and what each latent is worth there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor

from thoughtlens.core import ConfigError, HookError
from thoughtlens.interventions import dictionaries
from thoughtlens.latents import pick
from thoughtlens.models import Place, ThoughtModel, ThoughtSpec, is_read
from thoughtlens.sae import SAE, load_members, member_names

ORDER = {"thought_in": -1.0, "heads": 0.1, "attn": 0.2, "mlp": 0.3, "resid": 0.4}
"""Within a block, or before all of them."""


@dataclass(frozen=True, eq=False)
class Cell:
    """A place with the SAE that reads it."""

    place: Place
    member: str
    sae: SAE

    @property
    def thought(self) -> int:
        """Of the place, which is of one."""
        assert self.place.thought is not None
        return self.place.thought

    def acts(self, x: Float[Tensor, "n width"]) -> Float[Tensor, "n d_sae"]:
        """Activations of all latents."""
        return self.sae.encode(x, self._index(x))

    def decode(self, acts: Float[Tensor, "n d_sae"], x: Tensor) -> Float[Tensor, "n width"]:
        """What they reconstruct."""
        return self.sae.decode(acts, self._index(x), x)

    def pre(self, x: Float[Tensor, "n width"], latents: Sequence[int]) -> Float[Tensor, "n latents"]:
        """Pre-activations of some latents."""
        return self.sae.pre_acts(self.sae.normalize(x, self._index(x)))[:, list(latents)]

    def error(self, x: Float[Tensor, "n width"]) -> Float[Tensor, "n width"]:
        """What the SAE leaves unexplained."""
        return x - self.decode(self.acts(x), x).to(x)

    def removal(self, x: Float[Tensor, "n width"], latent: int | None) -> Float[Tensor, "n width"]:
        """What is added to take a latent away, the rest of the state kept; without a latent, the error."""
        if latent is None:
            return -self.error(x)
        acts = self.acts(x)
        without = acts.clone()
        without[:, latent] = 0
        return (self.decode(without, x) - self.decode(acts, x)).to(x)

    def _index(self, x: Tensor) -> Tensor | None:
        return self.sae.cell_index([self.place], np.zeros(len(x), np.int64))


class Cover(NamedTuple):
    """The places that are read, in the order in which a run passes them."""

    cells: list[Cell]
    bare: list[Place]
    """Outputs of blocks that no SAE reads."""

    def note(self) -> str | None:
        """The places that no SAE reads, in one line."""
        thoughts = dict[str, list[int]]()
        for place in self.bare:
            thoughts.setdefault(place.hook_name, []).append(place.thought or 0)
        at = "; ".join(f"{hook} at thoughts {', '.join(map(str, own))}" for hook, own in thoughts.items())
        return (
            f"no SAE reads {at}: edges lead across these places, and what they hold beside the latents "
            f"elsewhere is counted as error"
            if at
            else None
        )


def covered(model: ThoughtModel, directory: Path, member: str | None) -> Cover:
    """The SAEs of a directory at their places, one for each: the shown one, then others where it is not.

    Raises:
        ConfigError: no member of that name.
        MismatchError: SAEs of another width or model, or of a kind that does not reconstruct its input.
        HookError: no SAE stands where anything reads it.
    """
    spec, names = model.spec, member_names(directory)
    outputs = [
        place
        for layer in range(spec.n_layers)
        for p in spec.thoughts
        if is_read(spec, place := Place.at("resid", layer, p))
    ]
    first, _ = pick(dict.fromkeys(names), member)
    found = dict[Place, Cell]()
    for name in [first, *(other for other in names if other != first and member is None)]:
        if found and found.keys() >= {*outputs}:
            break
        sae = load_members(directory, only=[name])[name]
        _require_same_model(name, sae, model)
        for place in _places(spec, name, sae):
            found.setdefault(place, Cell(place, name, sae))
    if not found:
        raise HookError(f"No SAE of {directory} reads a state of a thought that anything later looks at")
    cells = sorted(found.values(), key=lambda cell: order(spec, cell.place))
    return Cover(cells, [place for place in outputs if place not in found])


def order(spec: ThoughtSpec, place: Place) -> tuple[int, float]:
    """When a run passes a place."""
    rank = ORDER.get("heads" if place.head is not None else place.site, float(spec.n_layers))
    return place.thought or 0, rank + (place.layer or 0)


def _places(spec: ThoughtSpec, name: str, sae: SAE) -> list[Place]:
    return [place for one in dictionaries(spec, {name: sae}, None, None) for place in one.places]


def _require_same_model(name: str, sae: SAE, model: ThoughtModel) -> None:
    theirs = sae.provenance.get("model_digest")
    if theirs is not None and model.digest is not None and theirs != model.digest:
        raise ConfigError(
            f"SAE {name!r} was trained on a model with digest {theirs[:12]}, {model.name} has "
            f"{model.digest[:12]}; name the run of this model"
        )
