"""SAEs at the places they were trained on, and the baselines that stand beside them when spliced in."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from thoughtlens.core import ConfigError, HookError, MismatchError
from thoughtlens.interventions.edits.changes import present, reconstruct
from thoughtlens.interventions.edits.places import Change
from thoughtlens.models import Place, ThoughtModel, ThoughtSpec, block_outputs, is_read
from thoughtlens.sae import SAE, Baseline, Covariance, MeanPredictor, RandomSAE

ARMS = {
    "sae": "the SAE's reconstruction",
    "pca": "principal components of training problems, as many as the SAE's l0, centred as the SAE is",
    "random_sae": "random unit directions with the SAE's kind, width, normalisation and l0; one scale fitted",
    "mean": "the mean of training problems at the same place",
    "shuffled": "the SAE with each latent decoded by another latent's direction",
}


Arms = Mapping[str, SAE | Baseline]
"""What can stand in a state's place, by name."""


@dataclass(frozen=True, eq=False)
class Dictionary:
    """An SAE and the places it speaks for."""

    name: str
    sae: SAE
    places: tuple[Place, ...]


def dictionaries(
    spec: ThoughtSpec, members: dict[str, SAE], thoughts: Sequence[int] | None, layers: Sequence[int] | None
) -> list[Dictionary]:
    """The SAEs at all their places, or at some; places that nothing reads are left out.

    Raises:
        MismatchError: an SAE of another width, of hooks that this model does not have, or of a kind that
            does not reconstruct its input.
        HookError: thoughts or layers that no SAE was trained on.
    """
    found = []
    for name, sae in members.items():
        _check(spec, name, sae)
        places = [Place(hook, p) for hook in sae.hook_names for p in _thoughts(spec, sae)]
        known = [p for p in places if sae.cells is None or p in sae.cells]
        asked = [
            p for p in known if (not thoughts or p.thought in thoughts) and (not layers or p.layer in layers)
        ]
        chosen = [p for p in asked if is_read(spec, p)]
        if chosen:
            found.append(Dictionary(name, sae, tuple(chosen)))
    there = {p for d in found for p in d.places}
    missing = set(thoughts or ()) - {p.thought for p in there}
    gone = set(layers or ()) - {p.layer for p in there}
    if not found or missing or gone:
        hooks = list(dict.fromkeys(h for sae in members.values() for h in sae.hook_names))
        trained = sorted({p for sae in members.values() for p in _thoughts(spec, sae)})
        raise HookError(
            f"No SAE was trained on thoughts {sorted(missing) or 'all'}, layers {sorted(gone) or 'all'}, "
            f"where something reads it; they were trained on {', '.join(hooks)} at thoughts {trained}"
        )
    return found


def one_a_place(found: Sequence[Dictionary]) -> Sequence[Dictionary]:
    """Refuse SAEs of which several were trained on one place.

    Raises:
        ConfigError: names them; one has to be chosen.
    """
    places = [p for d in found for p in d.places]
    if len(set(places)) < len(places):
        names = ", ".join(d.name for d in found)
        raise ConfigError(
            f"Several SAEs were trained on the same place; choose one with member=NAME: {names}"
        )
    return found


@torch.no_grad()
def fit_arms(
    dictionary: Dictionary, states: dict[Place, Float[Tensor, "n d"]], arms: Sequence[str], seed: int
) -> dict[str, SAE | Baseline]:
    """The SAE and its baselines, fitted on the states of training problems at the SAE's places."""
    sae, cells = dictionary.sae, dictionary.places
    rows = [present(states[place]).float() for place in cells]
    x, lengths = torch.cat(rows), torch.tensor([len(own) for own in rows])
    cell = torch.arange(len(cells)).repeat_interleave(lengths)
    own = sae.cell_index(cells, cell)
    l0 = float((sae.encode(x, own) != 0).sum(-1).double().mean())
    means = torch.stack([own.double().mean(0) for own in rows])
    found: dict[str, SAE | Baseline] = {}
    for arm in arms:
        if arm == "sae":
            found[arm] = sae
        elif arm == "pca":
            covariance = Covariance(sae.d_in)
            covariance.update(x.double() - (means[cell] if sae.cells is not None else x.double().mean(0)))
            k = min(max(1, round(l0)), sae.d_in)
            by_cell = sae.cells is not None
            centre = means if by_cell else x.double().mean(0, keepdim=True)
            found[arm] = covariance.pca(k, mean=centre, cells=cells if by_cell else None)
        elif arm == "random_sae" and l0 > 0:
            found[arm] = RandomSAE.like(sae, x, own, l0=l0, seed=seed)
        elif arm == "mean":
            found[arm] = MeanPredictor(means.float(), cells)
        elif arm == "shuffled":
            found[arm] = _shuffled(sae, seed)
    return found


@torch.no_grad()
def densities(dictionary: Dictionary, states: dict[Place, Float[Tensor, "n d"]]) -> Float[Tensor, " d_sae"]:
    """Share of the states at the SAE's places on which each latent fires."""
    total = torch.zeros(dictionary.sae.d_sae, dtype=torch.float64)
    for place in dictionary.places:
        acts = dictionary.sae.at(*place).encode(present(states[place]).float())
        total += (acts != 0).double().mean(0)
    return total / len(dictionary.places)


def matched(density: Float[Tensor, " d_sae"], latents: Sequence[int], n: int) -> list[list[int]]:
    """`n` sets of other live latents to stand for `latents`, whose densities are nearest to theirs."""
    taken, found = set(latents), []
    for _ in range(n):
        others = []
        for latent in latents:
            free = [j for j in torch.nonzero(density > 0)[:, 0].tolist() if j not in taken]
            if not free:
                return found
            nearest = min(free, key=lambda j: abs(float(density[j] - density[latent])))
            taken.add(nearest)
            others.append(nearest)
        found.append(others)
    return found


def require_latents(sae: SAE, latents: Sequence[int]) -> None:
    """Raise ConfigError unless these latents exist."""
    if not latents:
        raise ConfigError("latents: expected at least one latent, as in latents=[3,17]")
    if strange := [i for i in latents if not 0 <= i < sae.d_sae]:
        raise ConfigError(f"latents: expected 0..{sae.d_sae - 1} of this SAE, got {strange[0]}")


def require_same_model(members: Mapping[str, SAE], model: ThoughtModel, directory: Path) -> None:
    """Refuse SAEs that say they were trained on other weights than the model's.

    Raises:
        MismatchError: says both digests.
    """
    for sae in members.values():
        theirs = sae.provenance.get("model_digest")
        if theirs is not None and model.digest is not None and theirs != model.digest:
            raise MismatchError(
                f"{directory} was trained on a model with digest {theirs[:12]}, {model.name} has "
                f"{model.digest[:12]}; name the model, and the seed, that it was trained on"
            )


def _check(spec: ThoughtSpec, name: str, sae: SAE) -> None:
    if not sae.reconstructs:
        raise MismatchError(f"SAE {name!r} is a {sae.kind}, which does not reconstruct its own input")
    if sae.d_in != spec.d:
        raise MismatchError(f"SAE {name!r} has width {sae.d_in}; this model has {spec.d}")
    try:
        block_outputs(sae.hook_names, spec.n_layers)
    except HookError as error:
        raise MismatchError(f"SAE {name!r} belongs to another model: {error}") from None


def _thoughts(spec: ThoughtSpec, sae: SAE) -> list[int]:
    own = sae.provenance.get("thoughts")
    return [p for p in spec.thoughts if own is None or p in own]


def fit_splices(
    found: Sequence[Dictionary], states: dict[Place, Float[Tensor, "n d"]], arms: Sequence[str], seed: int
) -> dict[Place, Arms]:
    """By place, the SAE and its baselines, which are fitted on these states of the SAEs' places."""
    return {
        place: fitted
        for dictionary in found
        for fitted in [fit_arms(dictionary, states, arms, seed)]
        for place in dictionary.places
    }


def spliced(fitted: Mapping[Place, Arms], arm: str) -> Callable[[Place], Change]:
    """The state of a place becomes what that arm's model reconstructs of it."""
    return lambda place: reconstruct(fitted[place][arm], place)


def _shuffled(sae: SAE, seed: int) -> SAE:
    other = copy.deepcopy(sae).requires_grad_(False)
    order = torch.randperm(sae.d_sae, generator=torch.Generator().manual_seed(seed))
    other.W_dec.copy_(sae.W_dec[order])
    return other
