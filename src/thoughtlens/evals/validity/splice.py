"""G7: what answers cost when every thought goes through an SAE, beside an SAE with its latents shuffled
and principal components of the same number."""

from __future__ import annotations

from pathlib import Path

from thoughtlens.evals.validity.measure import Bench
from thoughtlens.interventions import changes
from thoughtlens.interventions.dictionaries import dictionaries, fit_arms, one_a_place, require_same_model
from thoughtlens.interventions.places import Change
from thoughtlens.interventions.run import Edit
from thoughtlens.models.thought.places import Place
from thoughtlens.models.thought.thoughts import ThoughtModel
from thoughtlens.sae.formats import io

ARMS = {"sae": "spliced", "shuffled": "spliced_shuffled", "pca": "spliced_pca"}


def require_own(model: ThoughtModel, directory: Path) -> None:
    """Refuse SAEs of another model's thoughts; those of one seed say nothing about another."""
    require_same_model(io.load_members(directory), model, directory)


def splice(bench: Bench, directory: Path) -> None:
    """Count answers with every thought's states replaced, at all places of the SAEs in `directory`.

    Adds `spliced`, `spliced_shuffled` and `spliced_pca` to the bench's counts. The components are
    fitted on the same problems, which favours them.

    Raises:
        MismatchError: an SAE of another width, or of hooks that this model does not have.
        ConfigError: several SAEs for one place.
    """
    found = one_a_place(dictionaries(bench.model.spec, io.load_members(directory), None, None))
    made: dict[str, list[tuple[Place, Change]]] = {name: [] for name in ARMS.values()}
    for dictionary in found:
        states = {place: bench.batch[place] for place in dictionary.places}
        for arm, model in fit_arms(dictionary, states, list(ARMS), bench.seed).items():
            made[ARMS[arm]] += [
                (place, changes.reconstruct(model, place))
                for place in dictionary.places
                if place.thought in bench.thoughts
            ]
    edits = [Edit(name, tuple(changed)) for name, changed in made.items()]
    for edit, outcome in zip(edits, bench.run(edits), strict=True):
        bench.count(edit.name, outcome)
