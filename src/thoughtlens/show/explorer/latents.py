"""Per latent: what its page shows, in shards of some dozens."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch

from thoughtlens.sae import load as load_sae
from thoughtlens.show.explorer.build import rounded
from thoughtlens.show.explorer.cells import Cells
from thoughtlens.show.explorer.claims import Claims
from thoughtlens.show.explorer.config import ExplorerConfig
from thoughtlens.show.explorer.effects import of_latents
from thoughtlens.show.explorer.panels import PANELS, Around
from thoughtlens.show.explorer.sources import Source
from thoughtlens.show.explorer.summary import said_of, summary, words


def member_shards(
    source: Source, cells: Cells | None, claims: Claims | None, around: Around, cfg: ExplorerConfig
) -> Iterator[tuple[str, Any]]:
    """The SAE's tables with their keys: `mN/summary`, `mN/words`, `mN/away`, and `mN/0`, ... of some latents
    each, which are many: none is kept."""
    directions = load_sae(source.sae_dir).W_dec.detach().flatten(1)
    found_in, effects = words(source), of_latents(source)
    summed = summary(source, directions, said_of(source), effects, cfg.latents_per_shard)
    yield f"{source.key}/summary", summed.to_json()
    yield f"{source.key}/words", found_in.toward
    yield f"{source.key}/away", found_in.away
    grouped = {
        name: source.by_latent(name, one.record, *one.order, only=one.only) for name, one in PANELS.items()
    }
    tables = {name: table for name, table in grouped.items() if table is not None}
    if "matches" in tables:
        every = tables["matches"].each(0, source.d_sae, PANELS["matches"].reader(source, around))
        yield f"{source.key}/matches", list(itertools.chain.from_iterable(every))
    read = {name: PANELS[name].reader(source, around) for name in tables}
    near = None if "neighbours" in tables else nearest(directions, cfg.neighbours)
    for low in range(0, source.d_sae, cfg.latents_per_shard):
        high = min(low + cfg.latents_per_shard, source.d_sae)
        parts = {name: table.each(low, high, read[name]) for name, table in tables.items()}
        shard = []
        for i in range(low, high):
            page = {name: PANELS[name].show(rows[i - low]) for name, rows in parts.items()}
            page["effects"] = [effect.line() for effect in effects.get(i, [])]
            page["cells"] = None if cells is None else cells.strip(i).to_json()
            examples = claims and claims.examples(i)
            page["claims"] = examples and examples._asdict()
            if near is not None:
                page["neighbours"] = near[i]
            shard.append(page)
        yield f"{source.key}/{low // cfg.latents_per_shard}", shard


def nearest(directions: torch.Tensor, k: int) -> list[list[list[Any]]]:
    """The k rows of highest cosine for every row, itself apart, as `Neighbour` lines; zero rows have none."""
    unit = torch.nn.functional.normalize(directions.float(), dim=1)
    k = min(k, len(unit) - 1)
    found = []
    for low in range(0, len(unit), 1024):
        cosine = unit[low : low + 1024] @ unit.T
        cosine[torch.arange(len(cosine)), torch.arange(low, low + len(cosine))] = -2.0
        values, indices = cosine.topk(k, dim=1)
        shown = zip(indices.flatten().tolist(), rounded(values.flatten().numpy()), strict=True)
        lines = [list(line) for line in shown]
        found += [lines[i * k : (i + 1) * k] for i in range(len(values))]
    return [row if norm > 0 else [] for row, norm in zip(found, unit.norm(dim=1).tolist(), strict=True)]
