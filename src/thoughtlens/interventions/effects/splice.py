"""G7: what answers cost when every thought goes through an SAE, beside an SAE with its latents shuffled
and principal components of the same number."""

from __future__ import annotations

from pathlib import Path

from thoughtlens.interventions.edits.dictionaries import (
    dictionaries,
    fit_splices,
    one_a_place,
    require_same_model,
    spliced,
)
from thoughtlens.interventions.edits.run import Edit
from thoughtlens.interventions.effects.bench import Bench
from thoughtlens.models import ThoughtModel
from thoughtlens.sae import io

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
    places = [place for dictionary in found for place in dictionary.places]
    fitted = fit_splices(found, {place: bench.batch[place] for place in places}, list(ARMS), bench.seed)
    thoughts = [place for place in places if place.thought in bench.thoughts]
    edits = [Edit.at(name, thoughts, spliced(fitted, arm)) for arm, name in ARMS.items()]
    for edit, outcome in zip(edits, bench.run(edits), strict=True):
        bench.count(edit.name, outcome)
