"""Dictionaries where they stand in a language model: what each reads, and what it writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from thoughtlens.core import HookError, MismatchError
from thoughtlens.sae import POOLED, SAE, Crosscoder, layer_of

EMBED = "embed:out"
"""The place of the words."""


@dataclass(frozen=True, eq=False)
class Site:
    """An SAE or a transcoder at a hook of the model."""

    member: str
    sae: SAE
    reads: str
    writes: str

    def encode(self, seen: Mapping[str, Tensor]) -> Float[Tensor, "*batch seq d_sae"]:
        """Activations, from what was seen at all hooks that are read."""
        return self.sae.at(self.reads).encode(seen[self.reads])

    def decode(self, acts: Tensor, x: Tensor) -> Float[Tensor, "*batch d"]:
        """What activations stand for where it writes."""
        return self.sae.at(self.reads).decode(acts, x)

    def pre(self, x: Float[Tensor, "*batch d"], latents: Sequence[int]) -> Float[Tensor, "*batch n"]:
        """Pre-activations of some latents."""
        cell = self.sae.cell_index([(self.reads, None)], np.zeros(1, np.int64))
        z = self.sae.normalize(x, None if cell is None else cell.expand(x.shape[:-1]))
        found = self.sae.centred(z.flatten(0, -2)) @ self.sae.W_enc[:, latents] + self.sae.b_enc[latents]
        return found.unflatten(0, x.shape[:-1])

    def freely(self, x: Tensor, acts: Tensor) -> Tensor:
        """Activations in a run of its own; `acts` are those of the untouched run."""
        return self.sae.at(self.reads).encode(x)

    @property
    def shares_code(self) -> bool:
        """Whether it is one of several sites of a crosscoder."""
        return False


@dataclass(frozen=True, eq=False)
class CrossSite(Site):
    """One of a crosscoder's sites: it reads a part of each pre-activation, and writes that site's decoder."""

    sae: Crosscoder
    index: int

    def encode(self, seen: Mapping[str, Tensor]) -> Float[Tensor, "*batch seq d_sae"]:
        """The code of all sites."""
        return self.sae.encode(torch.stack([seen[hook] for hook in self.sae.cfg.sites], -2))

    def decode(self, acts: Tensor, x: Tensor) -> Float[Tensor, "*batch d"]:
        """This site's part."""
        return self.sae.decode(acts)[..., self.index, :]

    def pre(self, x: Float[Tensor, "*batch d"], latents: Sequence[int]) -> Float[Tensor, "*batch n"]:
        """What this site adds to the pre-activations."""
        sae, at = self.sae, torch.full(x.shape[:-1], self.index)
        x = x.to(sae.W_enc.dtype)
        z = x if sae.normalization is None else sae.normalization.apply_to(x, at)
        z = z - sae.b_dec[self.index] if sae.cfg.pre_bias else z
        return z @ sae.W_enc[self.index][:, latents]

    def freely(self, x: Tensor, acts: Tensor) -> Tensor:
        """Those of the untouched run: its other sites may come later."""
        return acts

    @property
    def shares_code(self) -> bool:
        """It does."""
        return True


def sites_of(members: Mapping[str, SAE]) -> list[Site]:
    """Where dictionaries stand, one where several write to the same hook; in no order.

    Raises:
        MismatchError: one without pre-activations, or fewer than two hooks in all.
    """
    found: dict[str, Site] = {}
    for name in sorted(members, key=lambda one: one != POOLED):
        for site in _sites(name, members[name]):
            found.setdefault(site.writes, site)
    hooks = {hook for site in found.values() for hook in (site.reads, site.writes)}
    if len(hooks) < 2:
        raise MismatchError(
            f"A graph of a text needs dictionaries on two or more hooks, these stand on "
            f"{', '.join(hooks) or 'none'}: extract and train on more (extract.hook_names), or name "
            f"others with sae=DIR"
        )
    return [*found.values()]


def _sites(name: str, sae: SAE) -> list[Site]:
    if getattr(sae.cfg, "rule", None) == "pursuit":
        raise MismatchError(f"{name}: matching pursuit has no pre-activations that an edge could change")
    sae = sae.float().requires_grad_(False)
    if isinstance(sae, Crosscoder):
        return [CrossSite(name, sae, hook, hook, i) for i, hook in enumerate(sae.cfg.sites)]
    if sae.reconstructs:
        return [Site(name, sae, hook, hook) for hook in sae.hook_names]
    reads = getattr(sae.cfg, "hook_in", None) or (sae.hook_names or [""])[0]
    if not reads or not sae.cfg.hook_out:
        raise HookError(
            f"{name}: a transcoder that does not say which hooks it reads and predicts, so that it has no "
            f"place in the model"
        )
    return [Site(name, sae, reads, sae.cfg.hook_out)]


def uncovered(sites: Sequence[Site], n_layers: int) -> list[int]:
    """Blocks in which no dictionary reads or writes."""
    known = {layer_of(hook) for site in sites for hook in (site.reads, site.writes)}
    return [layer for layer in range(n_layers) if layer not in known]
