"""G7: what answers cost when every thought goes through an SAE, beside an SAE with its latents shuffled
and principal components of the same number."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from thoughtlens.baselines.pca import PCA
from thoughtlens.errors import MismatchError
from thoughtlens.gates.measure import Bench
from thoughtlens.models.thoughts import Hook
from thoughtlens.sae import io
from thoughtlens.sae.base import SAE

Change = Callable[[Tensor, str, int], Tensor]
"""(x, hook name, pass) -> the state that the model goes on with."""


def splice(bench: Bench, directory: Path) -> None:
    """Count answers with every thought's states replaced, hook by hook of the SAEs in `directory`.

    Adds `spliced`, `spliced_shuffled` and `spliced_pca` to the bench's counts.

    Raises:
        MismatchError: an SAE of another width, or of hooks that this model does not have.
    """
    places = _places(bench, io.load_members(directory))
    x = {(hook, p): bench.batch.x[:, p, _layer(hook)] for hook, p in places}
    k = max(1, round(sum(_l0(sae, x[place], place) for place, sae in places.items()) / len(places)))
    pca = {place: PCA.fit(rows.float(), min(k, rows.shape[1])) for place, rows in x.items()}
    shuffled = {id(sae): _shuffled(sae, bench.seed) for sae in places.values()}
    arms: dict[str, Change] = {
        "spliced": lambda h, hook, p: _through(places[hook, p], h, (hook, p)),
        "spliced_shuffled": lambda h, hook, p: _through(shuffled[id(places[hook, p])], h, (hook, p)),
        "spliced_pca": lambda h, hook, p: pca[hook, p].decode(pca[hook, p].encode(h)),
    }
    for name, change in arms.items():
        hooks = [_hook(change, hook, p) for hook, p in places]
        bench.count(name, bench.edit(name, hooks))


def _hook(change: Change, hook: str, p: int) -> Hook:
    return Hook("resid", p, _layer(hook), lambda x: change(x.float(), hook, p).to(x))


def _layer(hook: str) -> int:
    return int(hook.removeprefix("layers.").removesuffix(":out"))


def _places(bench: Bench, members: dict[str, SAE]) -> dict[tuple[str, int], SAE]:
    """Every (hook, thought) an SAE speaks for; the last block's last pass is read by nothing."""
    spec = bench.model.spec
    known = {f"layers.{i}:out" for i in range(spec.n_layers)}
    places = {}
    for name, sae in members.items():
        if strange := sorted(set(sae.hook_names) - known):
            raise MismatchError(f"SAE {name!r} reads {strange[0]}; this model has {', '.join(sorted(known))}")
        if sae.d_in != spec.d:
            raise MismatchError(f"SAE {name!r} has width {sae.d_in}; this model has {spec.d}")
        for hook in sae.hook_names:
            for p in bench.thoughts:
                unread = hook == f"layers.{spec.n_layers - 1}:out" and p == spec.n_steps
                if not unread and (sae.cells is None or (hook, p) in sae.cells):
                    places[hook, p] = sae
    return places


def _through(sae: SAE, x: Tensor, place: tuple[str, int]) -> Tensor:
    cell = None if sae.cells is None else torch.full(x.shape[:-1], sae.cells.index(place))
    return sae(x, cell)


def _l0(sae: SAE, x: Tensor, place: tuple[str, int]) -> float:
    cell = None if sae.cells is None else torch.full(x.shape[:-1], sae.cells.index(place))
    with torch.no_grad():
        return float((sae.encode(x.float(), cell) != 0).sum(-1).float().mean())


def _shuffled(sae: SAE, seed: int) -> SAE:
    """The same latents, each decoded by another one's direction."""
    other = copy.deepcopy(sae).requires_grad_(False)
    order = torch.randperm(sae.d_sae, generator=torch.Generator().manual_seed(seed))
    other.W_dec.copy_(sae.W_dec[order])
    return other
