"""Where a crosscoder's latents live: at which layers, or from which thought to which."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import torch

from thoughtlens.core import column_table
from thoughtlens.latents.codes.member import Member, member_thoughts
from thoughtlens.latents.codes.statistics import LatentStats
from thoughtlens.latents.interpret.records import SiteRow
from thoughtlens.sae import Crosscoder, Persistence, placed

DEFINITIONS = {
    "sites: norm": "length of what a latent writes there per unit of activation, in the crosscoder's units",
    "sites: share": "norm over the latent's largest; norm_share: norm squared over their sum over sites",
    "sites: written": "norm times the latent's mean activation where it fires",
    "persistence": "persists: share >= present_share at all sites; appears: from some site to the last; "
    "vanishes: from the first to some site; passing: an unbroken stretch inside; returns: with a gap; "
    "silent: never fired",
}


def place(member: Member, stats: LatentStats, present_share: float) -> Persistence:
    """Where each latent is present, given how it fires."""
    assert isinstance(member.sae, Crosscoder)
    acts, density = (torch.from_numpy(np.asarray(v)) for v in (stats.mean_active, stats.density))
    return placed(member.sae, acts, density, present_share)


def table(member: Member, found: Persistence) -> pa.Table:
    """A row for each latent and site."""
    d_sae, n = found.norms.shape
    names = _sites(member)
    norms = found.norms.double()
    squares = norms.square()
    squares = squares / squares.sum(1, keepdim=True).clamp_min(torch.finfo(squares.dtype).tiny)
    numbers = {
        "norm": norms, "share": found.share.double(), "norm_share": squares,
        "written": found.written.double(), "present": found.present,
    }  # fmt: skip
    columns = {
        "member": member.name,
        "latent": np.repeat(np.arange(d_sae), n),
        "site": np.tile(np.arange(n), d_sae),
        "hook_name": [hook for hook, _ in names] * d_sae,
        "thought_idx": [thought for _, thought in names] * d_sae,
        "status": np.repeat(np.array(found.status, object), n),
    }
    return column_table(SiteRow, columns | {name: v.flatten().numpy() for name, v in numbers.items()})


def counts(found: Persistence) -> dict[str, int]:
    """Latents by status."""
    counted = Counter(found.status)
    return {
        name: counted[name] for name in ("persists", "appears", "vanishes", "passing", "returns", "silent")
    }


def _sites(member: Member) -> list[tuple[str, int | None]]:
    sae = member.sae
    if sae.cfg.over == "layers":
        return [(hook, None) for hook in sae.hook_names]
    return [(sae.hook_names[0], thought) for thought in member_thoughts(member.store, sae) or []]
